#include "compiler/passes/narrow_products.h"

#include "compiler/passes/make_op.h"

enum { MAX_VIEWS = 8 /* between a conversion and the product: assumed */ };

static bool is_view(const graph_op *op) {
    return op->kind == GRAPH_RESHAPE || op->kind == GRAPH_TRANSPOSE ||
           op->kind == GRAPH_BROADCAST_IN_DIM || op->kind == GRAPH_SLICE;
}

/* The conversion that a value is a view of; NULL: none from bf16 or fp16 to fp32. */
static const graph_op *conversion_of(const rewriter *r, graph_value v) {
    const graph_op *op = r->maker[v];
    for (int i = 0; op && is_view(op) && i < MAX_VIEWS; i++)
        op = r->maker[op->operands[0]];
    if (!op || op->kind != GRAPH_CONVERT || r->g->types[op->results[0]].dtype != VTRN_DTYPE_FP32)
        return NULL;
    uint8_t from = r->g->types[op->operands[0]].dtype;
    return from == VTRN_DTYPE_BF16 || from == VTRN_DTYPE_FP16 ? op : NULL;
}

/* The value before its conversion, in the views behind it. */
static vtrn_status narrow_of(rewriter *r, const graph_op *like, graph_value v, graph_value *out) {
    const graph_op *views[MAX_VIEWS + 1];
    int n = 0;
    for (const graph_op *op = r->maker[v]; op->kind != GRAPH_CONVERT;
         op = r->maker[op->operands[0]])
        views[n++] = op;
    *out = conversion_of(r, v)->operands[0];
    uint8_t dtype = r->g->types[*out].dtype;
    while (n > 0) {
        graph_op view = *views[--n];
        graph_type type = r->g->types[view.results[0]];
        graph_value in = *out;
        type.dtype = dtype;
        view.operands = &in;
        VTRN_RETURN_IF_ERROR(make_op(r, like, &view, &type, out));
    }
    return NULL;
}

static vtrn_status narrow(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    (void)ctx;
    *is_dropped = false;
    if (op->kind != GRAPH_DOT_GENERAL || r->g->types[op->results[0]].dtype != VTRN_DTYPE_FP32)
        return NULL;
    const graph_op *from[2];
    for (int i = 0; i < 2; i++)
        if (!(from[i] = conversion_of(r, op->operands[i])))
            return NULL;
    if (r->g->types[from[0]->operands[0]].dtype != r->g->types[from[1]->operands[0]].dtype)
        return NULL;
    graph_value *operands = ARENA_NEW(&r->g->arena, graph_value, 2);
    if (!operands)
        return VTRN_OUT_OF_MEMORY(2 * sizeof *operands);
    for (int i = 0; i < 2; i++)
        VTRN_RETURN_IF_ERROR(narrow_of(r, op, op->operands[i], &operands[i]));
    op->operands = operands;
    return NULL;
}

vtrn_status narrow_products(graph *g) {
    return rewrite_graph(g, narrow, NULL);
}
