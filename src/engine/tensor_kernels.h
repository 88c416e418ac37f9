/* The inner loops of the tensor engine, compiled once for each instruction-set level.
 *
 * A product of the PE array is one chain of fused multiply-adds an element, k ascending, from 0;
 * the sum enters PSUM afterwards. Every level does just that, so the bits are the same at each. */
#ifndef VTRN_ENGINE_TENSOR_KERNELS_H
#define VTRN_ENGINE_TENSOR_KERNELS_H

#include "base/cpu.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TENSOR_BLOCK_ROWS = 8,  /* of dst: columns of the stationary tile in one panel */
    TENSOR_STRIP_COLS = 48, /* of the moving tile: 128 rows of it fit a first-level cache */
    TENSOR_VECTOR_COLS = 16,
    /* floats from panel to panel: 128 rows of 8, and a cache line more, so that the same row of all
     * panels does not fall into one cache set */
    TENSOR_PANEL_STRIDE = 128 * TENSOR_BLOCK_ROWS + 16,
};

typedef struct tensor_kernels {
    /* c[8 * n_blocks][n] (+)= panels[k][8 * n_blocks]^T @ b[k][n], n = 16, 32 or 48 by index 0, 1,
     * 2; strides in floats; n_blocks at least 1 */
    void (*multiply[3])(const float *panels, int n_blocks, int n_k, const float *b, size_t b_stride,
                        float *c, size_t c_stride, bool is_adding);
    /* the same with b[k][n] read as fp32 or bf16 from rows row_bytes apart, and left as fp32 in
     * strip[k][48] for blocks that follow */
    void (*multiply_fp32[3])(const float *panels, int n_blocks, int n_k, const uint8_t *b,
                             size_t row_bytes, float *strip, float *c, size_t c_stride,
                             bool is_adding);
    void (*multiply_bf16[3])(const float *panels, int n_blocks, int n_k, const uint8_t *b,
                             size_t row_bytes, float *strip, float *c, size_t c_stride,
                             bool is_adding);
    /* n_rows rows of n bf16 or fp32 numbers, row_bytes apart -> fp32 out[n_rows][48] */
    void (*strip_bf16)(const uint8_t *src, size_t row_bytes, int n_rows, int n, float *out);
    void (*strip_fp32)(const uint8_t *src, size_t row_bytes, int n_rows, int n, float *out);
    /* the same -> panels of 8 columns, out[(n + 7) / 8][n_rows][8], TENSOR_PANEL_STRIDE apart */
    void (*panels_bf16)(const uint8_t *src, size_t row_bytes, int n_rows, int n, float *out);
    void (*panels_fp32)(const uint8_t *src, size_t row_bytes, int n_rows, int n, float *out);
} tensor_kernels;

CPU_DECLARE_TABLES(tensor_kernels, tensor_kernel_table)

#endif
