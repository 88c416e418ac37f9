#include "compiler/passes/alone.h"

#include "compiler/passes/rewrite.h"

#include <string.h>

static vtrn_status become_zero(rewriter *r, graph_op *op) {
    const graph_type *t = &r->g->types[op->results[0]];
    void *zero = arena_alloc(&r->g->arena, 1, dtype_size((vtrn_dtype)t->dtype));
    if (!zero)
        return VTRN_OUT_OF_MEMORY(16);
    *op = (graph_op){.kind = GRAPH_CONSTANT,
                     .name = "stablehlo.constant",
                     .place = op->place,
                     .n_results = 1,
                     .results = op->results};
    op->attrs.constant.data = zero;
    op->attrs.constant.is_splat = true;
    return NULL;
}

static vtrn_status refuse(const graph_op *op, int64_t n) {
    return VTRN_ERROR(VTRN_UNSUPPORTED,
                      "%s%s%s among %lld devices: the program runs on one; NeuronCores do not "
                      "exchange data yet",
                      op->name, *op->place ? " at " : "", op->place, (long long)n);
}

/* Device 0 receives from itself, or nothing: then it has zeros. */
static vtrn_status permute(rewriter *r, graph_op *op, bool *is_dropped) {
    bool receives = false;
    for (int64_t i = 0; i < op->attrs.collective.n_groups; i++) {
        const int64_t *pair = &op->attrs.collective.groups[2 * i];
        if (pair[0] != 0 || pair[1] != 0)
            return refuse(op, 1 + (pair[0] > pair[1] ? pair[0] : pair[1]));
        receives = true;
    }
    if (!receives)
        return become_zero(r, op);
    rewrite_replace(r, op->results[0], op->operands[0]);
    *is_dropped = true;
    return NULL;
}

static vtrn_status simplify(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    (void)ctx;
    if (op->kind == GRAPH_PARTITION_ID || op->kind == GRAPH_REPLICA_ID)
        return become_zero(r, op);
    if (!graph_kind_is_collective(op->kind))
        return NULL;
    if (op->kind == GRAPH_COLLECTIVE_PERMUTE && op->n_results == 1)
        return permute(r, op, is_dropped);
    int64_t n = op->attrs.collective.n_groups * op->attrs.collective.group_size;
    if (n > 1)
        return refuse(op, n);
    for (uint32_t i = 0; i < op->n_results; i++) {
        if (!graph_type_equal(&r->g->types[op->operands[i]], &r->g->types[op->results[i]]))
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "%s%s%s: result %u is no larger or smaller than operand %u on one "
                              "device; declare the same type",
                              op->name, *op->place ? " at " : "", op->place, i, i);
        rewrite_replace(r, op->results[i], op->operands[i]);
    }
    *is_dropped = true;
    return NULL;
}

vtrn_status alone_simplify(graph *g) {
    return rewrite_graph(g, simplify, NULL);
}
