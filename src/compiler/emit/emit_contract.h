/* Contractions as matmuls, whole or a tile at a time. */
#ifndef VTRN_COMPILER_EMIT_EMIT_CONTRACT_H
#define VTRN_COMPILER_EMIT_EMIT_CONTRACT_H

#include "compiler/emit/psum.h"
#include "compiler/plan/contract_passes.h"

/* The part of an operand that is in a slot, or on its way there. */
typedef struct contract_slot {
    int64_t batch, x, k;
    uint64_t needed; /* number of the last pass known to need it, from 1 on */
} contract_slot;

/* The slots of an operand. */
typedef struct contract_ring {
    const contract_operand *o;
    const struct resident *from; /* where the operand is in SBUF, or NULL */
    bool turns, turns_by_dma;    /* transposed on the PE array, or on the way from HBM */
    int64_t n_x, span;           /* of x in all, in a slot */
    uint32_t addr, slot_bytes;
    int n; /* 0: read where the resident is */
    contract_slot slots[CONTRACT_MAX_SLOTS];
} contract_ring;

/* A slot that is being filled: `items` are loads, each then transposed bank by bank where the
 * operand is. */
typedef struct contract_fill {
    contract_ring *ring;
    int slot;
    uint64_t pass; /* that needs it first */
    int n_items, n_loaded, n_turned;
    int64_t turned_cols; /* of item n_turned */
} contract_fill;

enum { CONTRACT_MAX_FILLS = 2 * CONTRACT_MAX_SLOTS };

/* A contraction that is being emitted. Passes run in order; slots are filled for later passes
 * while the PE array works on the one at hand. */
typedef struct contract_work {
    emitter *e;
    const contraction *c;
    contract_ring a, b;
    contract_pass next;                 /* to run */
    contract_pass assigned, b_assigned; /* the first without slots, or without that of b */
    bool is_all_assigned, is_b_all_assigned;
    contract_fill fills[CONTRACT_MAX_FILLS]; /* those transposed in the order of their passes */
    uint32_t n_fills;
    uint32_t natural_addr, out_addr, sums_addr;
    uint32_t n_natural_loaded, n_natural_turned, flip_out;
    uint64_t load_ahead, turn_ahead; /* passes between a load, a transpose and their use */
    psum_banks sums, turns;
    tile psum[CONTRACT_MAX_TOGETHER][CONTRACT_MAX_BLOCK_BANKS];
} contract_work;

/* For a fusion that uses each tile at once: takes SBUF and PSUM of the kernel that is being
 * emitted. */
vtrn_status contract_work_begin(emitter *e, const contraction *c, contract_banks banks,
                                contract_work *w);
/* Rows of [batch * m] and columns of the result. */
typedef struct contract_part {
    int64_t row, n_rows, col, n_cols;
} contract_part;

/* The sums of a tile of rows: each bank has bank_cols columns, the last one what is left. */
typedef struct contract_sums {
    const tile *banks;
    uint32_t n_rows, n_cols, bank_cols;
} contract_sums;

/* Makes the sums of the part's next columns, `done` of which were made before. Parts are asked for
 * in the order of the cut's loops, and sums are read before the next ones are made. */
vtrn_status contract_work_sums(contract_work *w, const contract_part *part, int64_t done,
                               contract_sums *sums);
/* The part into dst. */
vtrn_status contract_work_tile(contract_work *w, const contract_part *part, const tile *dst);

#endif
