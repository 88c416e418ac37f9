/* The inner loops of strided moves, compiled once for each instruction-set level. */
#ifndef VTRN_ENGINE_MOVE_KERNELS_H
#define VTRN_ENGINE_MOVE_KERNELS_H

#include "base/cpu.h"

#include <stddef.h>
#include <stdint.h>

/* Two loops, one in the other; steps in bytes. */
typedef struct move_box {
    uint64_t n_outer, n_inner;
    int64_t outer_src_step, outer_dst_step, inner_src_step, inner_dst_step;
} move_box;

typedef struct move_kernels {
    /* elements of 1, 2, 4, 8 bytes at any byte address */
    void (*box1)(const move_box *box, const uint8_t *src, uint8_t *dst);
    void (*box2)(const move_box *box, const uint8_t *src, uint8_t *dst);
    void (*box4)(const move_box *box, const uint8_t *src, uint8_t *dst);
    void (*box8)(const move_box *box, const uint8_t *src, uint8_t *dst);
    /* runs of n_bytes */
    void (*runs)(const move_box *box, size_t n_bytes, const uint8_t *src, uint8_t *dst);
    /* src[n_rows][n_cols] of 2 or 4 bytes -> dst[n_cols][n_rows]; rows src_row, dst_row bytes apart
     */
    void (*transpose2)(const uint8_t *src, int64_t src_row, uint8_t *dst, int64_t dst_row,
                       uint64_t n_rows, uint64_t n_cols);
    void (*transpose4)(const uint8_t *src, int64_t src_row, uint8_t *dst, int64_t dst_row,
                       uint64_t n_rows, uint64_t n_cols);
} move_kernels;

CPU_DECLARE_TABLES(move_kernels, move_kernel_table)

#endif
