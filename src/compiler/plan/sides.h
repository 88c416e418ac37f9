/* Small batches of a contraction side by side. A batch of ten rows and ten columns fills a tenth of
 * the partitions, and each instruction on it costs more than its work. So a tile of the map kernel
 * has the columns of several batches:
 *
 *                 batch 0      batch 1      batch 2
 *     row 0    | c0 ... c9 | c0 ... c9 | c0 ... c9 |
 *     row 1    | ...
 *
 * Values of one a row are one a row and batch, columns of a tile of theirs. Operands are loaded for
 * all batches of a tile by one transfer, and transposed into one bank of PSUM. */
#ifndef VTRN_COMPILER_PLAN_SIDES_H
#define VTRN_COMPILER_PLAN_SIDES_H

#include "compiler/plan/contract.h"

enum {
    SIDES_AHEAD = 3,  /* tiles whose operands are on their way from HBM: assumed */
    SIDES_TURNED = 2, /* tiles that are transposed, or in use */
};

/* An operand of the tiles of batches: [k, batches x n_x] in SBUF. */
typedef struct sides_operand {
    bool turns;             /* loaded as [n_x, batches x k] and transposed on the PE array */
    int64_t n_x;            /* of a batch */
    int n_loaded, n_turned; /* buffers of what is loaded, and of what is transposed */
    uint32_t loaded_bytes, turned_bytes; /* of one of each, a partition */
} sides_operand;

typedef struct map_sides {
    int64_t n; /* batches of a tile, of which the last may have fewer; 0: each has one */
    sides_operand a, b;
} map_sides;

/* Factors that make [batches, rows, columns] of what is loaded or stored. */
typedef struct sides_view {
    uint32_t slot;
    uint8_t dtype;
    int64_t offset;
    int64_t n_rows, n_cols; /* of a batch */
    int n_batch_factors, n_row_factors, n_col_factors;
    const view_factor *batch, *rows, *cols;
} sides_view;

#endif
