#include "compiler/passes/widen_late.h"

#include <stdlib.h>

enum { NONE = UINT32_MAX };

typedef struct readers {
    uint32_t *first; /* by value: the first operation of the body that reads it, or NONE */
    uint32_t *n;     /* by value: how often it is read as it is, conversions left out */
} readers;

static bool widens(const graph *g, const graph_op *op) {
    if (op->kind != GRAPH_CONVERT)
        return false;
    vtrn_dtype from = (vtrn_dtype)g->types[op->operands[0]].dtype;
    vtrn_dtype to = (vtrn_dtype)g->types[op->results[0]].dtype;
    return dtype_is_float(from) && dtype_is_float(to) && dtype_size(to) > dtype_size(from);
}

static void note(readers *r, graph_value v, uint32_t op_i, bool is_conversion) {
    if (r->first[v] == NONE)
        r->first[v] = op_i;
    r->n[v] += !is_conversion;
}

static void note_region(readers *r, const graph_region *region, uint32_t op_i) {
    for (uint32_t i = 0; i < region->n_ops; i++) {
        const graph_op *op = &region->ops[i];
        for (uint32_t k = 0; k < op->n_operands; k++)
            note(r, op->operands[k], op_i, false);
        for (uint32_t k = 0; k < op->n_regions; k++)
            note_region(r, op->regions[k], op_i);
    }
    for (uint32_t i = 0; i < region->n_results; i++)
        note(r, region->results[i], op_i, false);
}

static void find_readers(const graph *g, readers *r) {
    const graph_region *body = &g->body;
    for (uint32_t i = 0; i < g->n_values; i++)
        r->first[i] = NONE;
    for (uint32_t i = 0; i < body->n_ops; i++) {
        const graph_op *op = &body->ops[i];
        for (uint32_t k = 0; k < op->n_operands; k++)
            note(r, op->operands[k], i, op->kind == GRAPH_CONVERT);
        for (uint32_t k = 0; k < op->n_regions; k++)
            note_region(r, op->regions[k], i);
    }
}

/* The body with the marked operations before those that first read them. */
static void order(const graph *g, const readers *r, uint32_t *head, uint32_t *next, graph_op *ops) {
    const graph_region *body = &g->body;
    for (uint32_t i = 0; i < body->n_ops; i++)
        head[i] = NONE;
    for (uint32_t i = body->n_ops; i-- > 0;) {
        const graph_op *op = &body->ops[i];
        bool is_late = widens(g, op) && r->n[op->operands[0]] > 0;
        uint32_t reader = is_late ? r->first[op->results[0]] : NONE;
        next[i] = reader == NONE ? i : head[reader]; /* itself: it stays */
        if (reader != NONE)
            head[reader] = i;
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < body->n_ops; i++) {
        for (uint32_t late = head[i]; late != NONE; late = next[late])
            ops[n++] = body->ops[late];
        if (next[i] == i)
            ops[n++] = body->ops[i];
    }
}

vtrn_status widen_late(graph *g) {
    graph_region *body = &g->body;
    uint32_t *by_value = calloc(2 * (size_t)g->n_values + 1, sizeof *by_value);
    uint32_t *by_op = calloc(2 * (size_t)body->n_ops + 1, sizeof *by_op);
    graph_op *ops = ARENA_NEW(&g->arena, graph_op, body->n_ops);
    bool is_ready = by_value && by_op && ops;
    if (is_ready) {
        readers r = {by_value, by_value + g->n_values};
        find_readers(g, &r);
        order(g, &r, by_op, by_op + body->n_ops, ops);
        body->ops = ops;
    }
    free(by_value);
    free(by_op);
    return is_ready ? NULL : VTRN_OUT_OF_MEMORY(body->n_ops * sizeof *ops);
}
