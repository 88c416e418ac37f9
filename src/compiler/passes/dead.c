#include "compiler/passes/dead.h"

#include "compiler/passes/rewrite.h"

#include <stdlib.h>

static void mark_all(uint8_t *is_read, const graph_value *values, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        is_read[values[i]] = true;
}

/* Without a result an operation runs for its effect. */
static bool is_live(const uint8_t *is_read, const graph_op *op) {
    bool is_needed = op->n_results == 0 || graph_op_has_effect(op);
    for (uint32_t i = 0; i < op->n_results; i++)
        is_needed |= is_read[op->results[i]];
    return is_needed;
}

/* Uses are behind definitions: one walk backwards. */
static void mark_region(uint8_t *is_read, const graph_region *region) {
    mark_all(is_read, region->results, region->n_results);
    for (uint32_t i = region->n_ops; i-- > 0;) {
        const graph_op *op = &region->ops[i];
        if (!is_live(is_read, op))
            continue;
        mark_all(is_read, op->operands, op->n_operands);
        for (uint32_t k = 0; k < op->n_regions; k++)
            mark_region(is_read, op->regions[k]);
    }
}

static vtrn_status drop(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    (void)r;
    *is_dropped = !is_live(ctx, op);
    return NULL;
}

vtrn_status dead_remove(graph *g) {
    uint8_t *is_read = calloc(g->n_values + 1, 1);
    if (!is_read)
        return VTRN_OUT_OF_MEMORY(g->n_values);
    mark_region(is_read, &g->body);
    vtrn_status status = rewrite_graph(g, drop, is_read);
    free(is_read);
    return status;
}
