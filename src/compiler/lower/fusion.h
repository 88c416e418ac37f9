/* Open fusions: how they grow, and when they become kernels (plan/fusion_nodes.h). */
#ifndef VTRN_COMPILER_LOWER_FUSION_H
#define VTRN_COMPILER_LOWER_FUSION_H

#include "compiler/lower/lower.h"
#include "compiler/plan/fusion_nodes.h"

vtrn_status fusion_open(lower *l, int64_t n, fusion **out);
/* A load of n (or n/cols: is_reduced) elements. */
vtrn_status fusion_add_load(lower *l, fusion *f, const view *v, bool is_reduced, fusion_in *out);
/* The rows of a result that is made in tiles: their columns, the rows of a tile, and of a batch
 * whose last tile has fewer (0: none has). */
typedef struct fusion_rows {
    int64_t cols, step, batch;
} fusion_rows;

/* A fusion that begins with a contraction's tiles of dtype, as `result`. The spec outlives the
 * fusion. */
vtrn_status fusion_contract(lower *l, const struct contract_spec *spec, graph_value result,
                            vtrn_dtype dtype, fusion_rows rows);
/* A fusion that begins with a convolution's or a pooling's tiles of dtype, as `result`: rows are
 * channels, columns pixels. It takes no reductions. */
vtrn_status fusion_convolve(lower *l, const struct conv_spec *spec, graph_value result,
                            vtrn_dtype dtype);
/* An operand for a node in f: a node of f, a new load, or an immediate. */
vtrn_status fusion_operand(lower *l, fusion *f, graph_value v, int64_t n, fusion_in *out);
vtrn_status fusion_name(lower *l, fusion *f, graph_value v, int node, const graph_op *alias_of);
/* A reshape or broadcast of a fusion's value joins it as another name; *is_done: whether it did. */
vtrn_status fusion_alias(lower *l, const graph_op *op, bool *is_done);
/* A reduction joins a fusion or becomes kernels of its own; *is_done: whether it did. */
vtrn_status fusion_reduce(lower *l, const graph_op *op, bool *is_done);
/* Records its kernel; nodes with is_stored are written to their store_view. */
vtrn_status fusion_close(lower *l, fusion *f);
bool fusion_is_identity(graph_reducer r, vtrn_dtype t, double init);
/* The view of a reduction's operand with the reduced dims behind the kept ones; false: make it
 * dense first. */
bool fusion_reduced_last(const lower *l, const graph_op *op, const view *operand, view *out);
/* Into how many shares to cut the columns of a reduction for a first step; 1: no need. */
int64_t fusion_first_share(const lower *l, int64_t rows, int64_t cols);

#endif
