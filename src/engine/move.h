/* Strided moves of raw elements: nested loops with a byte step on either side. */
#ifndef VTRN_ENGINE_MOVE_H
#define VTRN_ENGINE_MOVE_H

#include "isa/isa.h"

enum { MOVE_MAX_LEVELS = 2 * VTRN_MAX_FREE_DIMS + 1 };

/* A loop of n turns; steps in bytes. */
typedef struct move_level {
    uint64_t n;
    int64_t src_step, dst_step;
} move_level;

/* Loops, outermost first, over elements of one size. */
typedef struct move {
    int n_levels;
    size_t size;   /* bytes of an element; after move_prepare of an innermost run */
    size_t block1; /* set by move_prepare: 0, or the loop next to the innermost is tiled */
    move_level level[MOVE_MAX_LEVELS];
} move;

/* The loops of one row: both patterns have the same number of elements, in row-major order, but
 * maybe cut into dimensions differently. False: no common cut exists. */
bool move_of_rows(const vtrn_ap *src, const vtrn_ap *dst, move *out);

/* Adds a loop around the others. n 1 adds nothing. At most one more than move_of_rows gives. */
void move_add_outer(move *m, uint64_t n, int64_t src_step, int64_t dst_step);

/* Merges loops, makes runs of adjacent elements one copy, orders loops for the cache. */
void move_prepare(move *m);

/* Carries out. src and dst do not overlap. */
void move_run(const move *m, const uint8_t *src, uint8_t *dst);

/* Elements that change their type, one of the two fp32. Instead of move_prepare; true: the
 * innermost loop runs over enough adjacent elements on both sides for move_run_cast. */
bool move_prepare_cast(move *m, vtrn_dtype src_type, vtrn_dtype dst_type);
void move_run_cast(const move *m, vtrn_dtype src_type, vtrn_dtype dst_type, const uint8_t *src,
                   uint8_t *dst);

#endif
