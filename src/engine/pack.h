/* Elements that are strewn over a memory, gathered to lie side by side and scattered back: operands
 * of few elements a partition, or of elements apart. */
#ifndef VTRN_ENGINE_PACK_H
#define VTRN_ENGINE_PACK_H

#include "isa/isa.h"

enum {
    PACK_MAX_ELEMENTS = 2048,
    PACK_MAX_BYTES = 8192,
};

/* n_blocks times n_runs runs of n elements; steps in bytes. */
typedef struct packing {
    uint32_t n_blocks, n_runs, n;
    uint32_t run_bytes; /* of a run of adjacent elements; 0: they are apart, or one over and over */
    int64_t block_step, run_step, step;
    uint8_t size; /* bytes of an element: 1, 2, 4 or 8 */
} packing;

/* All elements of the operand in row-major order; partitions are partition_bytes apart. False: more
 * loops, elements or bytes than fit, or an element's size is another. */
bool pack_of(const vtrn_ap *ap, int64_t partition_bytes, packing *out);

/* The elements are adjacent already. */
bool pack_is_dense(const packing *p);

/* The first element of each partition, n times over. */
packing pack_of_scalars(const vtrn_ap *ap, int64_t partition_bytes, uint32_t n);

/* dst has room for PACK_MAX_BYTES. */
void pack_gather(const packing *p, const uint8_t *src, void *dst);
/* Elements are written in ascending order. */
void pack_scatter(const packing *p, uint8_t *dst, const void *src);

#endif
