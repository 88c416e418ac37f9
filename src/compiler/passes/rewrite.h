/* Walks the operations of a graph in program order and rebuilds its regions from what a pass makes
 * of each. */
#ifndef VTRN_COMPILER_PASSES_REWRITE_H
#define VTRN_COMPILER_PASSES_REWRITE_H

#include "compiler/graph/graph.h"

enum { REWRITE_MAX_DEPTH = 256 };

typedef struct rewriter {
    graph *g;
    graph_op **maker;     /* by value: what makes it in the new graph; NULL: an argument */
    graph_value *same_as; /* by value: what is read in its place, or GRAPH_NO_VALUE */
    uint32_t max_values;
    arena tmp;      /* the new operations, until their region is closed */
    graph_op **ops; /* stack: the new operations of the open regions */
    size_t n_ops, max_ops;
    uint32_t open[REWRITE_MAX_DEPTH]; /* serial numbers of the open regions, outermost first */
    uint32_t depth, n_regions;
} rewriter;

/* Says what becomes of an operation, whose operands are those of the new graph already.
 * *is_dropped: it is left out, as every result was replaced or is made by what the pass appended.
 */
typedef vtrn_status rewrite_fn(rewriter *r, void *ctx, graph_op *op, bool *is_dropped);

/* The regions of control flow are rewritten too, those that say what a reduction or a comparator
 * does stay as they are. g is changed; on an error it is to be destroyed. */
vtrn_status rewrite_graph(graph *g, rewrite_fn *fn, void *ctx);

vtrn_status rewrite_new_value(rewriter *r, const graph_type *type, graph_value *out);
/* Appends a copy of op before the operation at hand. */
vtrn_status rewrite_append(rewriter *r, const graph_op *op);
/* From here on `by` is read in place of v. */
void rewrite_replace(rewriter *r, graph_value v, graph_value by);
/* Whether the region of that serial number is open: its values can be read. */
bool rewrite_is_open(const rewriter *r, uint32_t region);

/* The one value of all elements, where a constant is behind v and views of it. */
bool rewrite_splat(const rewriter *r, graph_value v, double *out);

#endif
