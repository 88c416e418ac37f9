#include "compiler/passes/scatter_into.h"

#include "compiler/passes/rewrite.h"
#include "compiler/passes/row_elements.h"
#include "compiler/passes/same.h"
#include "compiler/passes/uses.h"

#include <stdlib.h>

/* What makes v adds updates to zeros, and the sum at hand is all that reads v. */
static const graph_op *scatter_into_zeros(const rewriter *r, const value_use *uses, uint32_t n_uses,
                                          graph_value v) {
    const graph_op *op = r->maker[v];
    double base;
    if (!op || op->kind != GRAPH_SCATTER || op->n_results != 1 || op->n_operands != 3 ||
        op->reducer != GRAPH_REDUCER_ADD || v >= n_uses || uses[v].n != 1 ||
        !rewrite_splat(r, op->operands[0], &base) || base != 0 ||
        row_elements_of(r->g, op, NULL)) /* a map kernel compares columns with the index */
        return NULL;
    return op;
}

typedef struct sums {
    value_use *uses;
    uint32_t n_uses;
} sums;

/* A sum that a product, another scatter or the like is in memory for. Elementwise operations would
 * have to leave their kernel. */
static bool is_in_memory(const rewriter *r, graph_value v) {
    const graph_op *op = r->maker[v];
    return op && op->kind > GRAPH_CONVERT && op->kind != GRAPH_CONSTANT && op->kind != GRAPH_IOTA &&
           op->kind != GRAPH_BROADCAST_IN_DIM && same_is_pure(op);
}

static vtrn_status join(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    const sums *s = ctx;
    *is_dropped = false;
    for (int k = 0; k < 2 && op->kind == GRAPH_ADD; k++) {
        graph_value v = op->operands[k], base = op->operands[1 - k];
        const graph_op *scatter = scatter_into_zeros(r, s->uses, s->n_uses, v);
        if (!scatter || base >= s->n_uses || s->uses[base].n != 1 || !is_in_memory(r, base))
            continue;
        graph_value *operands = ARENA_NEW(&r->g->arena, graph_value, 3);
        if (!operands)
            return VTRN_OUT_OF_MEMORY(3 * sizeof *operands);
        operands[0] = base;
        operands[1] = scatter->operands[1];
        operands[2] = scatter->operands[2];
        graph_value *results = op->results;
        *op = *scatter;
        op->operands = operands;
        op->results = results;
        break;
    }
    return NULL;
}

vtrn_status scatter_into_sum(graph *g) {
    sums s = {.n_uses = g->n_values};
    VTRN_RETURN_IF_ERROR(uses_count(g, &s.uses));
    vtrn_status status = rewrite_graph(g, join, &s);
    free(s.uses);
    return status;
}
