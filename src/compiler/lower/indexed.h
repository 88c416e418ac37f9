/* What gathers and scatters of rows and of elements share. */
#ifndef VTRN_COMPILER_LOWER_INDEXED_H
#define VTRN_COMPILER_LOWER_INDEXED_H

#include "compiler/lower/address.h"

bool indexed_is_index_type(const graph_type *t);
bool indexed_is_table_type(const graph_type *t);
/* Each index vector is one number, and they lie side by side. */
bool indexed_is_innermost(const graph_type *indices, int64_t index_vector_dim);
/* Whether updates may be infinite or NaN. */
bool indexed_may_be_non_finite(lower *l, graph_value updates);

/* row_scatter.c: adds slices of the updates to a table at indices of one dim, which may meet. */
bool row_scatter_supports(const lower *l, const graph_op *op);
vtrn_status row_scatter(lower *l, const graph_op *op);
/* The same at windows of any dims of the dense table of n_elements, which consist of whole rows of
 * a matrix that has the table's elements in order. How many times 128 updates are multiplied, -1:
 * the table's type, its rows or the number of updates do not allow it; and the sums. Both change
 * the windows. */
int64_t row_scatter_steps(const lower *l, address_spec *windows, int64_t n_elements);
vtrn_status row_scatter_windows(lower *l, const graph_op *op, address_spec *windows);

#endif
