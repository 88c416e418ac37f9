/* The passes of a contraction in the order in which they run: the loops of plan/contract_cut.h. */
#ifndef VTRN_COMPILER_PLAN_CONTRACT_PASSES_H
#define VTRN_COMPILER_PLAN_CONTRACT_PASSES_H

#include "compiler/plan/contract.h"

/* A pass: where each of its loops is. */
typedef struct contract_pass {
    uint64_t number; /* from 1 on */
    int64_t batch, group, turn, row, col, k;
} contract_pass;

contract_pass contract_first_pass(void);
/* False behind the last pass. */
bool contract_next_pass(const contraction *c, contract_pass *p);
/* Where the rows of the group end. */
int64_t contract_group_end(const contraction *c, const contract_pass *p);
/* Row tiles, columns and k of the pass; rows of its tile i. */
int64_t contract_pass_tiles(const contraction *c, const contract_pass *p);
int64_t contract_pass_rows(const contraction *c, const contract_pass *p, int64_t tile_i);
int64_t contract_pass_cols(const contraction *c, const contract_pass *p);
int64_t contract_pass_k(const contraction *c, const contract_pass *p);

#endif
