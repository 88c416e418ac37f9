/* What contractions of dot_general and of convolution have in common. */
#ifndef VTRN_COMPILER_LOWER_DOT_H
#define VTRN_COMPILER_LOWER_DOT_H

#include "compiler/lower/lower.h"
#include "compiler/plan/contract.h"

/* Offset and slot of an operand; the caller appends its factors. */
void contract_operand_start(contract_operand *o, const view *v);
/* Records the contraction, or gives its tiles to a fusion when the result is in row-major order
 * of (batch, m, n). */
vtrn_status contract_finish(lower *l, graph_value result, contract_spec *spec, bool is_row_major);

/* Where an operand has no elements, all sums are 0: gives op's result this value. False where both
 * have. */
bool contract_nothing(lower *l, const graph_op *op);

/* The dtype of a product's tiles: fp32 where it only becomes fp32, as XLA then does not round
 * either.
 */
vtrn_dtype contract_result_dtype(const lower *l, graph_value v);

/* Matmul input type for operands of two types; false when the tensor engine has none. */
bool contract_dtype(const vtrn_chip *chip, vtrn_dtype a, vtrn_dtype b, vtrn_dtype *out);

#endif
