/* Contractions as matmuls, whole or a tile at a time. */
#ifndef VTRN_COMPILER_EMIT_EMIT_CONTRACT_H
#define VTRN_COMPILER_EMIT_EMIT_CONTRACT_H

#include "compiler/emit/psum.h"
#include "compiler/plan/contract.h"

/* An operand's part, k on the partitions: a tile for each 128 of k. */
typedef struct contract_tiles {
    tile k[CONTRACT_MAX_K_TILES];
} contract_tiles;

/* A contraction that is being emitted: its tiles, and which of them are next. */
typedef struct contract_work {
    emitter *e;
    const contraction *c;
    contract_tiles a[CONTRACT_MAX_BUFFERS], b[CONTRACT_MAX_BUFFERS];
    tile natural[CONTRACT_MAX_BUFFERS], out[2];
    int flip_a, flip_b, flip_natural, flip_out;
    int n_tiles;                    /* made so far */
    int b_of[CONTRACT_MAX_BUFFERS]; /* by buffer of a: the buffer of b that goes with it */
    psum_banks sums, turns;         /* for sums, and for what is transposed */
    int64_t loaded_batch;           /* whose moving operand is in SBUF, or -1 */
} contract_work;

/* For a fusion that uses each tile at once: takes SBUF and PSUM of the kernel that is being
 * emitted. */
vtrn_status contract_work_begin(emitter *e, const contraction *c, contract_banks banks,
                                contract_work *w);
/* Loads what rows [row, row + n_rows) of [batch * m, n] need. */
vtrn_status contract_work_load(contract_work *w, int64_t row, uint32_t n_rows);
/* The rows loaded first of those not yet made, into dst. */
vtrn_status contract_work_tile(contract_work *w, uint32_t n_rows, const tile *dst);

#endif
