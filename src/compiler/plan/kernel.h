/* What each kind of kernel is told: tensors as views, sizes, operations. The kinds with much to say
 * have a header of their own: map (map_plan.h), contract (contract.h), windows and
 * addresses (windows.h), scatter_add (scatter_sums.h). */
#ifndef VTRN_COMPILER_PLAN_KERNEL_H
#define VTRN_COMPILER_PLAN_KERNEL_H

#include "compiler/plan/view.h"
#include "isa/isa.h"
#include "isa/program.h"

/* Equal element counts; the i-th element of `from` becomes the i-th of `to`, cast when the dtypes
 * differ. */
typedef struct kernel_copy {
    view from, to;
} kernel_copy;

/* The same where each side is contiguous along a dim of its own: rows of `from` are its first
 * factor, and the last one of `to`. */
typedef struct kernel_turn {
    view from, to;
    int64_t n_rows, n_cols;
    int n_col_factors; /* the innermost ones of `from`, which are one stretch of a row there */
    /* Neighbouring rows that share a partition on the way in: their columns are stored as one
     * stretch. Or columns that share one on the way out, with all their rows. One of them is 1. */
    int row_group, col_group;
} kernel_turn;

/* n elements of `out`, in its dtype, dense: all equal. */
typedef struct kernel_fill {
    view out;
    uint64_t bits;   /* of an element */
    int64_t n, cols; /* columns of the tile that is stored again and again */
} kernel_fill;

/* n int32 words from element `at` of `out` on: first, first + step, ... */
typedef struct kernel_count {
    view out;
    int64_t at, first, step, n;
    int64_t cols; /* of a tile */
} kernel_count;

/* Rows of `cols` elements; the factors of a row come before n_outer. */
typedef struct kernel_rows {
    view map;
    int n_outer;
} kernel_rows;

enum { SCAN_TILES = 4 /* of a scan in SBUF: two pairs */ };

/* result[r][i] = x[r][0] alu ... alu x[r][i] */
typedef struct kernel_scan {
    kernel_rows from, to;
    int64_t n_rows;
    uint32_t cols;
    uint32_t tile_cols; /* cols, or a block of them and one that the block before has left */
    uint8_t dtype;      /* of the tiles */
    vtrn_alu alu;
    float init; /* identity of alu */
} kernel_scan;

enum { SORT_MAX_OPERANDS = 4 };

/* Rows of n elements sorted by the first operand; equal keys keep their order. */
typedef struct kernel_sort {
    kernel_rows from[SORT_MAX_OPERANDS], to[SORT_MAX_OPERANDS];
    int n_operands;
    int64_t n_rows;
    uint32_t n;    /* elements of a row */
    uint32_t cols; /* the power of two that n is filled up to */
    bool is_descending;
    bool is_total; /* -0 before 0, NaNs outside; else zeros are equal, and NaNs, behind all */
} kernel_sort;

/* out[i] = table[clamp(indices[i])], rows of `width` elements, all dense. */
typedef struct kernel_row_gather {
    view table, indices, out;
    int64_t n, n_table_rows, width;
    int64_t cols; /* of a row, moved at a time */
} kernel_row_gather;

/* Row v of `out` becomes row v of `old` (if there is one) plus the updates whose index is v. Each
 * is a matrix; a long table is updated in place by gathering and scattering rows of it. */
typedef struct kernel_row_scatter {
    view indices, updates, out, old;
    int n_update_rows; /* factors of the updates that make their rows */
    bool is_long;      /* out holds the old rows */
    bool has_old;      /* of a short table */
    bool is_finite;    /* no update is infinite or NaN */
    bool is_int;
    int n_parts;          /* summed up by themselves: bytes of an integer, parts of a float */
    uint8_t moving_dtype; /* of the parts, as matmuls take them */
    int64_t n;            /* updates */
    int64_t rows, width;
    int64_t cols;      /* of a tile */
    int64_t n_numbers; /* of rows of a short table that are in SBUF at a time: all, or 128 */
} kernel_row_scatter;

enum {
    ROW_PAIRS_MAX_BLOCKS = 16, /* of updates, summed up at a time */
    ROW_PAIRS_BUFFERS = 4,     /* of blocks of updates on their way */
};

/* Row v of `out`, which holds its old rows, gets the sum of the updates whose index is v, in one
 * rounding: the sum is of all updates, for as many rows at a time as PSUM has banks. */
typedef struct kernel_row_pairs {
    view indices, updates, out;
    int n_update_rows; /* factors of the updates that make their rows */
    bool is_finite;    /* no update is infinite or NaN */
    int n_parts;       /* of a float, summed up by themselves (plan/sum_parts.h) */
    int64_t n;         /* updates */
    int64_t rows, width;
    int64_t cols;       /* that a PSUM bank sums up */
    int64_t panel_cols; /* of a row, moved at a time */
    int n_blocks;       /* of 128 updates, summed up at a time */
} kernel_row_pairs;

typedef struct kernel_custom {
    uint32_t custom_i; /* of the program */
} kernel_custom;

/* A kernel that was written by hand, in NKI for instance. Its list is the body's: block after
 * block, and in a block engine after engine. Addresses in SBUF and PSUM count from what the kernel
 * gets. */
typedef struct kernel_native {
    const vtrn_program *body;   /* the form stage's, until the program is finished */
    const uint32_t *slots;      /* of the program, by slot of the body */
    const vtrn_source *sources; /* the body's, in the scope of the call; kept until then, too */
    int psum_banks;
} kernel_native;

#endif
