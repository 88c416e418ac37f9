/* Rules on the shapes of operations: what the two files of the verifier share. Private. */
#ifndef VTRN_COMPILER_GRAPH_GRAPH_RULES_H
#define VTRN_COMPILER_GRAPH_GRAPH_RULES_H

#include "compiler/graph/graph.h"

#define RULE(cond, ...)                                                                            \
    do {                                                                                           \
        if (!(cond))                                                                               \
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, __VA_ARGS__);                                     \
    } while (0)

/* Types of the operands and results of the operation `op` of the graph `g` at hand. */
#define OPERAND(i) (&g->types[op->operands[i]])
#define RESULT(i)  (&g->types[op->results[i]])

bool rules_same_dims(const graph_type *a, const graph_type *b);
/* Every item lies in [0, rank) and none comes twice. */
bool rules_are_dims(graph_ints dims, int rank);
bool rules_has_dim(graph_ints dims, int64_t dim);
/* n items, all in [low, 2^46]: sums and products of two then fit 128 bits. */
bool rules_are_bounded(graph_ints ints, int64_t n, int64_t low);
/* A region with so many scalar arguments and results. */
bool rules_is_scalar_region(const graph *g, const graph_region *r, uint32_t n_args,
                            uint32_t n_results);

/* A region that folds: of n accumulators and n elements, typed as operands 0..n-1, to accumulators.
 */
vtrn_status rules_is_reducer(const graph *g, const graph_op *op, const graph_region *r, uint32_t n);

vtrn_status rules_dot(const graph *g, const graph_op *op);
vtrn_status rules_conv(const graph *g, const graph_op *op);
vtrn_status rules_reduce_window(const graph *g, const graph_op *op);
vtrn_status rules_select_and_scatter(const graph *g, const graph_op *op);
vtrn_status rules_gather(const graph *g, const graph_op *op);
vtrn_status rules_scatter(const graph *g, const graph_op *op);

#endif
