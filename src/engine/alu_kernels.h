/* Tables of the fp32 loops of the Vector and GpSimd engines, one a level (base/cpu.h). Elementwise
 * kernels allow dst to be exactly an operand. Max and min give NaN when either operand is one. */
#ifndef VTRN_ENGINE_ALU_KERNELS_H
#define VTRN_ENGINE_ALU_KERNELS_H

#include "base/cpu.h"
#include "isa/isa.h"

enum {
    ALU_LANES = 16,  /* partial results of a reduction, whatever the vector width */
    ALU_BLOCK = 256, /* elements of a row that are reduced among themselves first */
};

/* Rows of one instruction, steps in elements. */
typedef struct alu_rows {
    const float *x, *y;
    float *dst;
    size_t x_step, y_step, dst_step;
    size_t n_rows, n; /* n elements a row */
} alu_rows;

typedef struct alu_kernels {
    /* class A and C, fp32; ts: x op s, st: s op x */
    void (*tt[VTRN_ALU_COUNT])(const float *x, const float *y, float *dst, size_t n);
    void (*ts[VTRN_ALU_COUNT])(const float *x, float s, float *dst, size_t n);
    void (*st[VTRN_ALU_COUNT])(const float *x, float s, float *dst, size_t n);
    /* the same row by row; ts and st: y has one number a row, which dst does not overlap */
    void (*tt_rows[VTRN_ALU_COUNT])(alu_rows r);
    void (*ts_rows[VTRN_ALU_COUNT])(alu_rows r);
    void (*st_rows[VTRN_ALU_COUNT])(alu_rows r);
    /* rows of n 32-bit integers, row_bytes apart -> dst[n_rows][n] */
    void (*int32_rows)(const uint8_t *src, size_t row_bytes, size_t n_rows, size_t n, float *dst);
    /* Reductions; NULL where the op has none. Element i of a row belongs to lane i % ALU_LANES. Of
     * a block of ALU_BLOCK elements, or what is left of the row, a lane has four parts: its
     * elements k, k+4, k+8, k+12 are part k. Parts are joined as ((0, 2), (1, 3)), four blocks as
     * ((0, 1), (2, 3)), then to what the lane has of the row before; where there is nothing the
     * identity stands. So the error of a sum grows with a thousandth of its terms. At the end lane
     * l takes lane l+8, l+4, l+2, l+1. begin fills the lanes with the identity; add takes n
     * elements that start at a multiple of 4 * ALU_BLOCK of the row. */
    void (*reduce_begin[VTRN_ALU_COUNT])(float lanes[ALU_LANES]);
    void (*reduce_add[VTRN_ALU_COUNT])(float lanes[ALU_LANES], const float *x, size_t n);
    float (*reduce_end[VTRN_ALU_COUNT])(const float lanes[ALU_LANES]);
    /* out[b] = reduction of x[b*step .. b*step+n), b < n_rows: the same bits as begin, add, end */
    void (*reduce_rows[VTRN_ALU_COUNT])(const float *x, size_t n_rows, size_t step, size_t n,
                                        float *out);
    void (*reciprocal)(const float *x, float *dst, size_t n);
    void (*negate)(const float *x, float *dst, size_t n);
    /* dst[i] = x[i] where mask[i] != 0 (inverse: == 0) */
    void (*select32)(const uint32_t *mask, int inverse, const uint32_t *x, uint32_t *dst, size_t n);
    void (*select32_by8)(const uint8_t *mask, int inverse, const uint32_t *x, uint32_t *dst,
                         size_t n);
    /* the same where every x[i] is one number */
    void (*select32_one)(const uint32_t *mask, int inverse, uint32_t x, uint32_t *dst, size_t n);
    void (*select32_one_by8)(const uint8_t *mask, int inverse, uint32_t x, uint32_t *dst, size_t n);
    void (*select16)(const uint32_t *mask, int inverse, const uint16_t *x, uint16_t *dst, size_t n);
    void (*select8)(const uint32_t *mask, int inverse, const uint8_t *x, uint8_t *dst, size_t n);
} alu_kernels;

CPU_DECLARE_TABLES(alu_kernels, alu_kernel_table)

#endif
