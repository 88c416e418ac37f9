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
    TENSOR_MAX_ROWS = 128,  /* of a stationary tile */
    TENSOR_NARROW_COLS = 8, /* of the moving tile: so few are multiplied one by one */
    TENSOR_STRIP_COLS = 48, /* of the moving tile: 128 rows of it fit a first-level cache */
    TENSOR_VECTOR_COLS = 16,
    /* floats from panel to panel: 128 rows of 8, and a cache line more, so that the same row of all
     * panels does not fall into one cache set */
    TENSOR_PANEL_STRIDE = 128 * TENSOR_BLOCK_ROWS + 16,
    TENSOR_MX_PANEL_STRIDE = 4 * 128 * TENSOR_BLOCK_ROWS + 16,
};

/* Columns of the stationary tile: panels[n_blocks][n_k][8], TENSOR_PANEL_STRIDE apart. */
typedef struct tensor_stationary {
    const float *panels;
    int n_blocks, n_k; /* n_blocks at least 1 */
} tensor_stationary;

/* Rows asked for while a strip is multiplied, some with each block: rows that lie a partition apart
 * are followed by no hardware prefetcher. Addresses need not be valid. */
typedef struct tensor_ahead {
    uintptr_t rows; /* an address, since what it points at may be nothing */
    size_t row_bytes;
    int n_rows, n_lines; /* left to be asked for; cache lines of each */
    int n_rows_each;     /* with each block */
} tensor_ahead;

/* How many rows the next block asks for. */
static inline int tensor_ahead_now(const tensor_ahead *a) {
    return a->n_rows < a->n_rows_each ? a->n_rows : a->n_rows_each;
}

/* What is left to be asked for behind n_blocks blocks. */
static inline tensor_ahead tensor_ahead_behind(tensor_ahead a, int n_blocks) {
    int n = n_blocks * a.n_rows_each;
    n = n < a.n_rows ? n : a.n_rows;
    a.n_rows -= n;
    a.rows += (size_t)n * a.row_bytes;
    return a;
}

/* What a strip asks for: the rows that move next, and the next stationary tile. */
typedef struct tensor_coming {
    tensor_ahead moving, weights;
} tensor_coming;

static inline tensor_coming tensor_coming_behind(tensor_coming c, int n_blocks) {
    return (tensor_coming){tensor_ahead_behind(c.moving, n_blocks),
                           tensor_ahead_behind(c.weights, n_blocks)};
}

/* The same asked for in n_parts parts of a block. */
static inline tensor_coming tensor_coming_split(tensor_coming c, int n_parts) {
    c.moving.n_rows = tensor_ahead_now(&c.moving);
    c.weights.n_rows = tensor_ahead_now(&c.weights);
    c.moving.n_rows_each = (c.moving.n_rows + n_parts - 1) / n_parts;
    c.weights.n_rows_each = (c.weights.n_rows + n_parts - 1) / n_parts;
    return c;
}

/* Columns of the moving tile, as many as fit a strip: n_k rows, row_bytes apart. */
typedef struct tensor_moving {
    const uint8_t *rows;
    size_t row_bytes;
    float *strip; /* [n_k][48]: where a kernel that converts leaves the rows as fp32 */
    tensor_coming coming;
} tensor_moving;

/* Rows that are fp32 already, stride floats apart. */
static inline tensor_moving tensor_moving_of(const float *rows, size_t stride) {
    return (tensor_moving){.rows = (const uint8_t *)rows, .row_bytes = stride * sizeof *rows};
}

/* Where the sums of a product go. */
typedef struct tensor_sums {
    float *c;
    size_t stride;  /* floats from row to row */
    bool is_adding; /* to what is there */
} tensor_sums;

/* Elements of a strip that follow each other in memory too, at the same step. */
typedef struct tensor_run {
    int at, n;    /* first column of the strip, columns: 1 to 16 */
    int64_t byte; /* of the first, from the first byte of a row */
} tensor_run;

/* How a row's elements make a strip. */
typedef struct tensor_runs {
    tensor_run run[TENSOR_STRIP_COLS];
    int n_runs, n_cols; /* of the strip */
    int step;           /* elements from one to the next within a run */
} tensor_runs;

/* A panel of zeros and few ones, as a tile has that takes rows by their numbers: which rows of each
 * column are 1, ascending. */
typedef struct tensor_ones {
    bool is_valid; /* the panel is such a one */
    uint8_t n[TENSOR_BLOCK_ROWS];
    uint8_t row[TENSOR_BLOCK_ROWS][TENSOR_MAX_ROWS];
} tensor_ones;

typedef void (*tensor_multiply)(tensor_stationary a, tensor_moving b, tensor_sums to);

/* c[n] (+)= a[k][8]^T @ b[k][n] for the first column of a panel, any n. rows: n_k rows of numbers,
 * row_bytes apart, read as they lie and once. */
typedef void (*tensor_multiply_row)(const float *panel, int n_k, tensor_moving b, int n,
                                    tensor_sums to);

typedef struct tensor_kernels {
    /* c[8 * n_blocks][n] (+)= a[k][8 * n_blocks]^T @ b[k][n], n = 16, 32 or 48 by index 0, 1, 2; b
     * is fp32 */
    tensor_multiply multiply[3];
    /* the same with b read as fp32 or bf16, and left in the strip for blocks that follow */
    tensor_multiply multiply_fp32[3], multiply_bf16[3];
    tensor_multiply_row multiply_row_fp32, multiply_row_bf16;
    /* c[n_rows][n] (+)= a[k][n_rows]^T @ b[k][n] for n up to TENSOR_NARROW_COLS; b is fp32, and the
     * last block may have fewer rows than 8 */
    void (*multiply_narrow)(tensor_stationary a, int n_rows, tensor_moving b, int n,
                            tensor_sums to);
    /* whether a panel is zeros and at most n_k ones */
    void (*find_ones)(const float *panel, int n_k, tensor_ones *out);
    /* c[n_rows][n] (+)= a^T @ strip, n_rows <= 8: the same bits as a product where the strip is
     * finite, since a sum that begins with 0 never becomes -0 by ones, and a zero adds nothing */
    void (*add_ones)(const tensor_ones *a, int n_rows, const float *strip, int n, tensor_sums to);
    /* no NaN or infinity in columns up to the next multiple of 16 behind n */
    bool (*is_finite)(const float *strip, int n_rows, int n);
    /* n_rows rows of n bf16 or fp32 numbers, row_bytes apart -> fp32 out[n_rows][48]; columns up to
     * the next multiple of 16 become 0 */
    void (*strip_bf16)(const uint8_t *src, size_t row_bytes, int n_rows, int n, float *out);
    void (*strip_fp32)(const uint8_t *src, size_t row_bytes, int n_rows, int n, float *out);
    /* the same of elements that lie in runs; columns up to the next multiple of 16 become 0 */
    void (*runs_bf16)(const uint8_t *src, size_t row_bytes, int n_rows, const tensor_runs *runs,
                      float *out);
    void (*runs_fp32)(const uint8_t *src, size_t row_bytes, int n_rows, const tensor_runs *runs,
                      float *out);
    /* sums[n_rows][48] (+)= into fp32 rows whose elements lie in runs of step 1 */
    void (*put_runs)(const float *sums, int n_rows, const tensor_runs *runs, tensor_sums to);
    /* n_rows rows of n bf16 or fp32 numbers -> panels of 8 columns, out[(n + 7) / 8][n_rows][8],
     * TENSOR_PANEL_STRIDE apart */
    void (*panels_bf16)(const uint8_t *src, size_t row_bytes, int n_rows, int n, float *out);
    void (*panels_fp32)(const uint8_t *src, size_t row_bytes, int n_rows, int n, float *out);
} tensor_kernels;

CPU_DECLARE_TABLES(tensor_kernels, tensor_kernel_table)

#endif
