#include "compiler/passes/defer.h"

#include <stdlib.h>
#include <string.h>

static bool is_on_single_values(const graph *g, const graph_op *op) {
    bool is_plain = op->kind <= GRAPH_CONVERT || op->kind == GRAPH_RESHAPE ||
                    op->kind == GRAPH_BROADCAST_IN_DIM;
    if (op->n_results != 1 || !is_plain || graph_type_count(&g->types[op->results[0]]) != 1)
        return false;
    for (uint32_t i = 0; i < op->n_operands; i++)
        if (graph_type_count(&g->types[op->operands[i]]) != 1)
            return false;
    return true;
}

static void mark_read(bool *is_read, const graph_op *op) {
    for (uint32_t i = 0; i < op->n_operands; i++)
        is_read[op->operands[i]] = true;
}

/* What a region reads, captured values included: its operations, and the region itself where it
 * gives a value back. */
static void mark_region(bool *is_read, const graph_region *region) {
    for (uint32_t i = 0; i < region->n_ops; i++) {
        mark_read(is_read, &region->ops[i]);
        for (uint32_t k = 0; k < region->ops[i].n_regions; k++)
            mark_region(is_read, region->ops[i].regions[k]);
    }
    for (uint32_t i = 0; i < region->n_results; i++)
        is_read[region->results[i]] = true;
}

vtrn_status defer_single_values(graph *g) {
    graph_region *body = &g->body;
    bool *is_read = calloc((size_t)g->n_values + 1, sizeof *is_read); /* before the end */
    bool *is_deferred = calloc((size_t)body->n_ops + 1, sizeof *is_deferred);
    graph_op *ops = ARENA_NEW(&g->arena, graph_op, body->n_ops);
    if (!is_read || !is_deferred || !ops) {
        free(is_read);
        free(is_deferred);
        return VTRN_OUT_OF_MEMORY(body->n_ops * sizeof *ops);
    }
    for (uint32_t i = body->n_ops; i-- > 0;) {
        const graph_op *op = &body->ops[i];
        is_deferred[i] = is_on_single_values(g, op) && !is_read[op->results[0]];
        if (is_deferred[i])
            continue;
        mark_read(is_read, op);
        for (uint32_t k = 0; k < op->n_regions; k++)
            mark_region(is_read, op->regions[k]);
    }
    uint32_t n = 0;
    for (int late = 0; late < 2; late++)
        for (uint32_t i = 0; i < body->n_ops; i++)
            if (is_deferred[i] == late)
                ops[n++] = body->ops[i];
    body->ops = ops;
    free(is_read);
    free(is_deferred);
    return NULL;
}
