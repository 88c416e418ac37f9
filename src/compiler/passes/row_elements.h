/* Gathers and scatters of one element of each row, as the loss of a classifier has them: they leave
 * the operations on whole rows. */
#ifndef VTRN_COMPILER_PASSES_ROW_ELEMENTS_H
#define VTRN_COMPILER_PASSES_ROW_ELEMENTS_H

#include "compiler/graph/graph.h"

/* Whether a gather or scatter moves one element of each row of its operand: in linear order,
 * element i is that of row i. *n_cols (may be NULL): of a row. */
bool row_elements_of(const graph *g, const graph_op *op, int64_t *n_cols);

/* Of long rows,
 *   - a gather from what elementwise operations make gathers from their operands instead;
 *   - the sum over the row of what is scattered into zeros is what was scattered;
 *   - a sum with what is scattered into zeros is computed for the elements that are there, and
 * those replace the others'. */
vtrn_status row_elements_move(graph *g);

#endif
