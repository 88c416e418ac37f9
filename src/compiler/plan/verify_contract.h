/* Contractions against the index arithmetic of the op that they compute. */
#ifndef VTRN_COMPILER_PLAN_VERIFY_CONTRACT_H
#define VTRN_COMPILER_PLAN_VERIFY_CONTRACT_H

#include "compiler/plan/contract.h"
#include "compiler/plan/sides.h"

/* Internal errors name operand, index and elements. */
vtrn_status verify_contraction(const plan *p, const graph *g, const kernel *k,
                               const contract_spec *s);
/* verify_cut.c: the passes take each product once, and have the slots and banks that they need. */
vtrn_status verify_cut(const plan *p, const kernel *k, const contraction *c);
/* There, too: the buffers of batches side by side hold what is loaded, transposed and summed up. */
vtrn_status verify_sides(const plan *p, const kernel *k, const contraction *c, const map_sides *s);

#endif
