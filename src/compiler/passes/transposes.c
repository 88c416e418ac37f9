#include "compiler/passes/transposes.h"

#include "compiler/passes/rewrite.h"

/* transpose(convert(transpose(x))) -> convert(x), where the two undo each other */
static vtrn_status join_around(rewriter *r, graph_op *op, const graph_op *convert) {
    const graph_op *inner = r->maker[convert->operands[0]];
    if (!inner || inner->kind != GRAPH_TRANSPOSE)
        return NULL;
    graph_ints outer = op->attrs.dims.dims;
    for (int64_t i = 0; i < outer.n; i++)
        if (inner->attrs.dims.dims.v[outer.v[i]] != i)
            return NULL;
    graph_value *results = op->results, *operands = ARENA_NEW(&r->g->arena, graph_value, 1);
    if (!operands)
        return VTRN_OUT_OF_MEMORY(sizeof *operands);
    operands[0] = inner->operands[0];
    *op = *convert;
    op->operands = operands;
    op->results = results;
    return NULL;
}

/* The gradient of a product with a transposed matrix is a product, transposed twice: neither the
 * product nor its reader has a reason to work across the rows of memory. */
static vtrn_status join(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    (void)ctx;
    const graph_op *inner = op->kind == GRAPH_TRANSPOSE ? r->maker[op->operands[0]] : NULL;
    if (inner && inner->kind == GRAPH_CONVERT)
        return join_around(r, op, inner);
    if (!inner || inner->kind != GRAPH_TRANSPOSE)
        return NULL;
    int64_t n = op->attrs.dims.dims.n;
    int64_t *dims = ARENA_NEW(&r->g->arena, int64_t, (size_t)n);
    if (!dims)
        return VTRN_OUT_OF_MEMORY((size_t)n * sizeof *dims);
    bool is_identity = true;
    for (int64_t i = 0; i < n; i++) {
        dims[i] = inner->attrs.dims.dims.v[op->attrs.dims.dims.v[i]];
        is_identity = is_identity && dims[i] == i;
    }
    *is_dropped = is_identity;
    if (is_identity)
        rewrite_replace(r, op->results[0], inner->operands[0]);
    op->operands[0] = inner->operands[0];
    op->attrs.dims.dims = (graph_ints){.n = n, .v = dims};
    return NULL;
}

vtrn_status transposes_join(graph *g) {
    return rewrite_graph(g, join, NULL);
}
