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
};

typedef struct tensor_kernels {
    /* c[8][n] (+)= panel[k][8]^T @ b[k][n], n = 16, 32 or 48 by index 0, 1, 2; strides in floats */
    void (*multiply[3])(const float *panel, int n_k, const float *b, size_t b_stride, float *c,
                        size_t c_stride, bool is_adding);
    /* n_rows rows of n bf16 or fp32 numbers, row_bytes apart -> fp32 out[n_rows][out_stride] */
    void (*load_bf16)(const uint8_t *src, size_t row_bytes, int n_rows, int n, float *out,
                      size_t out_stride);
    void (*load_fp32)(const uint8_t *src, size_t row_bytes, int n_rows, int n, float *out,
                      size_t out_stride);
} tensor_kernels;

CPU_DECLARE_TABLES(tensor_kernels, tensor_kernel_table)

#endif
