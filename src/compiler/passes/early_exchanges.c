#include "compiler/passes/early_exchanges.h"

#include "compiler/passes/uses.h"

#include <stdlib.h>

enum { NONE = UINT32_MAX };

typedef struct mover {
    const graph_region *body;
    uint32_t *maker, *n_moved; /* by value: as its operation moves, so many uses do */
    value_use *uses;           /* by value */
    bool *moves;               /* by operation */
    uint32_t *behind;          /* by operation: that behind which it is placed */
} mover;

/* What moves by itself: its operand is a result, and others wait for no part of it. */
static bool is_sum(const graph_op *op) {
    return op->kind == GRAPH_ALL_REDUCE || op->kind == GRAPH_REDUCE_SCATTER;
}

static bool is_light(const graph_op *op) {
    return op->n_results == 1 &&
           (op->kind <= GRAPH_CONVERT || op->kind == GRAPH_CONSTANT || op->kind == GRAPH_RESHAPE ||
            op->kind == GRAPH_TRANSPOSE || op->kind == GRAPH_BROADCAST_IN_DIM);
}

/* Ends the kernels before it. */
static bool is_heavy(const graph_op *op) {
    return op->kind == GRAPH_DOT_GENERAL || op->kind == GRAPH_CONVOLUTION || op->n_regions > 0;
}

/* Sums, and light operations that nothing but these needs. False: there are no sums. */
static bool mark_moving(mover *m) {
    bool is_any = false;
    for (uint32_t i = m->body->n_ops; i-- > 0;) {
        const graph_op *op = &m->body->ops[i];
        uint32_t n = op->n_results == 1 ? m->uses[op->results[0]].n : 0;
        m->moves[i] = is_sum(op) || (is_light(op) && n && m->n_moved[op->results[0]] == n);
        is_any |= is_sum(op);
        for (uint32_t k = 0; k < op->n_operands && m->moves[i]; k++)
            m->n_moved[op->operands[k]]++;
    }
    return is_any;
}

/* The first heavy operation behind one, or that one where there is none before `end`. */
static uint32_t next_heavy(const mover *m, uint32_t after, uint32_t end) {
    for (uint32_t i = after + 1; i < end; i++)
        if (!m->moves[i] && is_heavy(&m->body->ops[i]))
            return i;
    return end;
}

static void find_places(mover *m) {
    for (uint32_t i = 0; i < m->body->n_ops; i++) {
        const graph_op *op = &m->body->ops[i];
        m->behind[i] = i;
        if (!m->moves[i])
            continue;
        uint32_t ready = 0;
        for (uint32_t k = 0; k < op->n_operands; k++) {
            uint32_t maker = m->maker[op->operands[k]];
            if (maker != NONE && m->behind[maker] > ready)
                ready = m->behind[maker];
        }
        m->behind[i] = is_sum(op) ? next_heavy(m, ready, i) : ready < i ? ready : i;
    }
}

/* What moves is placed in the order in which it was. */
static vtrn_status reorder(graph *g, const mover *m) {
    const uint32_t n_ops = g->body.n_ops;
    graph_op *ops = ARENA_NEW(&g->arena, graph_op, n_ops);
    uint32_t *lists = malloc((2 * (size_t)n_ops + 1) * sizeof *lists);
    bool is_ready = ops && lists;
    uint32_t *first = lists, *next = lists ? lists + n_ops : NULL, n = 0;
    for (uint32_t i = 0; is_ready && i < n_ops; i++)
        first[i] = NONE;
    for (uint32_t i = n_ops; is_ready && i-- > 0;) {
        if (m->behind[i] == i)
            continue;
        next[i] = first[m->behind[i]];
        first[m->behind[i]] = i;
    }
    for (uint32_t i = 0; is_ready && i < n_ops; i++) {
        if (m->behind[i] == i)
            ops[n++] = g->body.ops[i];
        for (uint32_t k = first[i]; k != NONE; k = next[k])
            ops[n++] = g->body.ops[k];
    }
    if (is_ready)
        g->body.ops = ops;
    free(lists);
    return is_ready ? NULL : VTRN_OUT_OF_MEMORY(n_ops * sizeof *ops);
}

vtrn_status early_exchanges(graph *g) {
    const size_t n = (size_t)g->n_values + 1, n_ops = (size_t)g->body.n_ops + 1;
    uint32_t *by_value = calloc(2 * n, sizeof *by_value), *by_op = calloc(n_ops, sizeof *by_op);
    bool *moves = calloc(n_ops, sizeof *moves);
    mover m = {.body = &g->body, .moves = moves, .behind = by_op};
    vtrn_status status =
        by_value && by_op && moves ? NULL : VTRN_OUT_OF_MEMORY(2 * n * sizeof *by_value);
    if (!status)
        status = uses_count(g, &m.uses);
    if (!status) {
        m.maker = by_value;
        m.n_moved = by_value + n;
        for (size_t v = 0; v < n; v++)
            m.maker[v] = NONE;
        for (uint32_t i = 0; i < g->body.n_ops; i++)
            for (uint32_t k = 0; k < g->body.ops[i].n_results; k++)
                m.maker[g->body.ops[i].results[k]] = i;
        if (mark_moving(&m)) {
            find_places(&m);
            status = reorder(g, &m);
        }
    }
    free(m.uses);
    free(by_value);
    free(by_op);
    free(moves);
    return status;
}
