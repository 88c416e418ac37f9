/* How a contraction is cut: blocks of its three indices, what stays in SBUF for how long, and how
 * many buffers there are. Numbers only: nothing is emitted or allocated here.
 *
 *     for each batch
 *       for each group of rows             group_rows of m
 *         for each turn of columns         turn_cols of n
 *           for each set of row tiles      n_together tiles of tile_rows
 *             for each block of columns    block_cols of n, in PSUM
 *               for each chunk of k        chunk_k: a pass
 *
 * An operand's part for a pass is in a slot: k on the partitions, a tile for each 128 of k. Slots
 * are used again while they hold what a pass needs, so a group's rows stay in SBUF for all its
 * columns where the stationary operand has a slot for each, and a block of columns stays for all
 * rows of the group.
 *
 * In strips, chunks of k are outermost, and their slots of the moving operand have all columns, so
 * that HBM is read in whole rows. Each chunk's sums are added up in SBUF:
 *
 *     for each batch
 *       for each chunk of k
 *         for each tile of rows
 *           for each block of columns */
#ifndef VTRN_COMPILER_PLAN_CONTRACT_CUT_H
#define VTRN_COMPILER_PLAN_CONTRACT_CUT_H

#include "chip/chip.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    CONTRACT_MAX_SLOTS = 64,
    CONTRACT_MAX_TOGETHER = 8,    /* row tiles */
    CONTRACT_MAX_BLOCK_BANKS = 8, /* PSUM banks of a block of columns */
};

typedef struct contract_side {
    int64_t n_x;       /* m of the stationary operand, n of the moving one */
    bool turns;        /* loaded with x on the partitions and transposed on the PE array */
    bool turns_by_dma; /* transposed on its way from HBM */
    bool is_resident;  /* in SBUF already, nothing is loaded */
    /* In HBM, of what is loaded as rows and columns of a tile: elements side by side along the
     * columns, and from one row to the next. */
    int64_t run, pitch;
    uint8_t dtype; /* in HBM */
} contract_side;

typedef struct contract_shape {
    int64_t n_batch, n_k;
    contract_side a, b; /* stationary, moving */
    uint8_t dtype;      /* of the matmuls */
    uint8_t out_dtype;
    int64_t tile_rows;  /* of m, that one matmul makes */
    int sum_banks;      /* of PSUM, for sums */
    bool is_stored;     /* the contraction stores its result: it is a kernel of its own */
    bool keeps_whole_k; /* no chunks: each tile is complete when it is asked for */
} contract_shape;

typedef struct contract_cut {
    int64_t group_rows, turn_cols, block_cols, chunk_k;
    int n_together;       /* row tiles that share a chunk of the moving operand */
    int64_t a_span;       /* rows of m in a slot */
    int64_t b_span;       /* columns of n in a slot: several blocks where wide loads are faster */
    int n_a, n_b;         /* slots; 0: read where the resident is */
    int n_natural, n_out; /* buffers of what is loaded for transposing, and of results */
    int n_sums;           /* in strips: tiles of rows whose sums are in SBUF; else 0 */
    int64_t natural_cols; /* of k */
    uint32_t a_bytes, b_bytes, natural_bytes, out_bytes,
        sums_bytes; /* of one of each, a partition */
    double ns;      /* what it takes, by the costs of the chip */
    double pass_ns; /* from one pass to the next */
} contract_cut;

/* Rows and columns of a full tile of weights. */
int64_t contract_pe_size(const vtrn_chip *chip);

/* SBUF of a partition for the bytes of n packed values that are on their way to a tile: those that
 * are loaded, and as many to work in. 0 of types that are not packed. */
uint32_t contract_packed_bytes(uint8_t dtype, int64_t n);

/* SBUF of a partition. */
uint64_t contract_cut_bytes(const contract_cut *cut);

/* The cheapest cut that fits limit_bytes of a partition, or the least one where none does.
 * group_rows and turn_cols: those of the loop that takes the tiles, 0: any. */
contract_cut contract_choose_cut(const vtrn_chip *chip, const contract_shape *shape,
                                 int64_t group_rows, int64_t turn_cols, uint64_t limit_bytes);

#endif
