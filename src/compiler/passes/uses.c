#include "compiler/passes/uses.h"

#include <stdlib.h>

static void count_region(value_use *uses, const graph_region *region) {
    for (uint32_t i = 0; i < region->n_ops; i++) {
        const graph_op *op = &region->ops[i];
        for (uint32_t k = 0; k < op->n_operands; k++) {
            uses[op->operands[k]].n++;
            uses[op->operands[k]].user = op;
        }
        for (uint32_t k = 0; k < op->n_regions; k++)
            count_region(uses, op->regions[k]);
    }
    for (uint32_t i = 0; i < region->n_results; i++) {
        uses[region->results[i]].n++;
        uses[region->results[i]].user = NULL;
    }
}

vtrn_status uses_count(const graph *g, value_use **out) {
    *out = calloc((size_t)g->n_values + 1, sizeof **out);
    if (!*out)
        return VTRN_OUT_OF_MEMORY(((size_t)g->n_values + 1) * sizeof **out);
    count_region(*out, &g->body);
    return NULL;
}
