/* Small helpers on graphs and their types. */
#include "compiler/graph/graph.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t DTYPE_SIZES[] = {
#define DTYPE(e, name, size, kind) size,
    VTRN_DTYPES(DTYPE)
#undef DTYPE
};

const char *graph_kind_name(graph_kind kind) {
    static const char *const NAMES[] = {
#define G(e, name, attrs) name,
#include "compiler/graph/graph_ops.def"
#undef G
    };
    return (unsigned)kind < GRAPH_KIND_COUNT ? NAMES[kind] : "unknown";
}

int64_t graph_type_count(const graph_type *t) {
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++)
        n *= t->dims[i];
    return n;
}

uint64_t graph_type_bytes(const graph_type *t) {
    return (uint64_t)graph_type_count(t) * DTYPE_SIZES[t->dtype];
}

bool graph_type_equal(const graph_type *a, const graph_type *b) {
    return a->dtype == b->dtype && a->rank == b->rank && a->is_token == b->is_token &&
           memcmp(a->dims, b->dims, a->rank * sizeof *a->dims) == 0;
}

bool graph_op_has_effect(const graph_op *op) {
    if (op->kind == GRAPH_CUSTOM_CALL && op->attrs.custom_call.has_side_effect)
        return true;
    for (uint32_t k = 0; k < op->n_regions; k++)
        for (uint32_t i = 0; i < op->regions[k]->n_ops; i++)
            if (graph_op_has_effect(&op->regions[k]->ops[i]))
                return true;
    return false;
}

vtrn_status graph_reserve_values(graph *g, uint32_t n) {
    if (n <= g->max_values)
        return NULL;
    uint32_t max = n > 128 ? 2 * n : 256;
    graph_type *types = ARENA_NEW(&g->arena, graph_type, max);
    if (!types)
        return VTRN_OUT_OF_MEMORY(max * sizeof *types);
    if (g->n_values)
        memcpy(types, g->types, g->n_values * sizeof *types);
    g->types = types;
    g->max_values = max;
    return NULL;
}

void graph_destroy(graph *g) {
    if (!g)
        return;
    arena_free(&g->arena);
    free(g);
}
