#include "compiler/passes/early.h"

#include "compiler/passes/uses.h"

#include <stdlib.h>

enum { NONE = UINT32_MAX };

typedef struct mover {
    const graph_region *body;
    uint32_t *maker;   /* by value: the operation of the body, or NONE */
    value_use *uses;   /* by value */
    uint32_t *n_moved; /* by value: of them by operations that move */
    bool *is_output;   /* by value */
    bool *moves;       /* by operation */
    uint32_t *ready;   /* by operation: behind which one it can be placed */
    uint32_t n_values;
} mover;

static bool is_view(const graph_op *op) {
    return op->kind == GRAPH_SLICE || op->kind == GRAPH_RESHAPE || op->kind == GRAPH_TRANSPOSE ||
           op->kind == GRAPH_BROADCAST_IN_DIM;
}

/* Whether the operation costs nothing on its own or joins the kernel of its operands. */
static bool is_light(const graph_op *op) {
    return op->n_results == 1 &&
           (op->kind <= GRAPH_CONVERT || is_view(op) || op->kind == GRAPH_CONSTANT);
}

/* Outputs that are put together of parts, and what only these need. */
static void mark_moving(mover *m) {
    for (uint32_t i = m->body->n_ops; i-- > 0;) {
        const graph_op *op = &m->body->ops[i];
        bool is_stack = op->kind == GRAPH_CONCATENATE && m->is_output[op->results[0]] &&
                        m->uses[op->results[0]].n == 1;
        m->moves[i] = !is_stack && is_light(op) && m->uses[op->results[0]].n > 0 &&
                      m->n_moved[op->results[0]] == m->uses[op->results[0]].n;
        for (uint32_t k = 0; k < op->n_operands && (is_stack || m->moves[i]); k++)
            m->n_moved[op->operands[k]]++;
    }
}

/* Whether two slices of a value have elements in common. */
static bool overlap(const graph_op *a, const graph_op *b) {
    for (int64_t d = 0; d < a->attrs.slice.start.n; d++)
        if (a->attrs.slice.limit.v[d] <= b->attrs.slice.start.v[d] ||
            b->attrs.slice.limit.v[d] <= a->attrs.slice.start.v[d])
            return false;
    return true;
}

/* The last operation that does not move and reads one of the marked values, or a view of one. */
static uint32_t last_reader(const mover *m, bool *is_marked) {
    uint32_t last = 0;
    for (uint32_t i = 0; i < m->body->n_ops; i++) {
        const graph_op *op = &m->body->ops[i];
        bool is_reader = false;
        for (uint32_t k = 0; k < op->n_operands; k++)
            is_reader |= is_marked[op->operands[k]];
        if (!is_reader || m->moves[i])
            continue;
        last = i;
        if (is_view(op) && op->kind != GRAPH_SLICE)
            is_marked[op->results[0]] = true;
    }
    return last;
}

/* The operation behind which a slice of an argument, which the update may overwrite, can be placed:
 * all others that read those elements. */
static vtrn_status last_reader_of_slice(const mover *m, const graph_op *slice, uint32_t *out) {
    bool *is_marked = calloc((size_t)m->n_values + 1, sizeof *is_marked);
    if (!is_marked)
        return VTRN_OUT_OF_MEMORY((size_t)m->n_values + 1);
    *out = 0;
    for (uint32_t i = 0; i < m->body->n_ops; i++) {
        const graph_op *op = &m->body->ops[i];
        if (m->moves[i])
            continue;
        for (uint32_t k = 0; k < op->n_operands; k++) {
            if (op->operands[k] != slice->operands[0])
                continue;
            bool is_slice = op->kind == GRAPH_SLICE;
            if (is_slice && !overlap(op, slice))
                continue;
            if (is_view(op))
                is_marked[op->results[0]] = true;
            *out = i > *out ? i : *out;
        }
    }
    uint32_t last = last_reader(m, is_marked);
    *out = last > *out ? last : *out;
    free(is_marked);
    return NULL;
}

static vtrn_status find_ready(mover *m) {
    for (uint32_t i = 0; i < m->body->n_ops; i++) {
        const graph_op *op = &m->body->ops[i];
        m->ready[i] = i;
        if (!m->moves[i])
            continue;
        m->ready[i] = 0;
        if (op->kind == GRAPH_SLICE && m->maker[op->operands[0]] == NONE)
            VTRN_RETURN_IF_ERROR(last_reader_of_slice(m, op, &m->ready[i]));
        for (uint32_t k = 0; k < op->n_operands; k++) {
            uint32_t maker = m->maker[op->operands[k]];
            if (maker != NONE && m->ready[maker] > m->ready[i])
                m->ready[i] = m->ready[maker];
        }
        if (m->ready[i] > i) /* never later than it was: its readers may follow at once */
            m->ready[i] = i;
    }
    return NULL;
}

/* What moves is placed behind the operation for which it is ready, in the order in which it was. */
static vtrn_status reorder(graph *g, const mover *m) {
    uint32_t n_ops = g->body.n_ops, n = 0;
    graph_op *ops = ARENA_NEW(&g->arena, graph_op, n_ops);
    uint32_t *first = malloc(((size_t)n_ops + 1) * sizeof *first); /* lists of those that move */
    uint32_t *next = malloc(((size_t)n_ops + 1) * sizeof *next);
    if (ops && first && next) {
        for (uint32_t i = 0; i < n_ops; i++)
            first[i] = NONE;
        for (uint32_t i = n_ops; i-- > 0;) {
            if (!m->moves[i])
                continue;
            next[i] = first[m->ready[i]];
            first[m->ready[i]] = i;
        }
        for (uint32_t i = 0; i < n_ops; i++) {
            if (!m->moves[i])
                ops[n++] = g->body.ops[i];
            for (uint32_t k = first[i]; k != NONE; k = next[k])
                ops[n++] = g->body.ops[k];
        }
        g->body.ops = ops;
    }
    bool is_done = ops && first && next;
    free(first);
    free(next);
    return is_done ? NULL : VTRN_OUT_OF_MEMORY(n_ops * sizeof *ops);
}

static vtrn_status move(graph *g, mover *m) {
    if (!m->maker || !m->uses || !m->n_moved || !m->is_output || !m->moves || !m->ready)
        return VTRN_OUT_OF_MEMORY((size_t)g->n_values * sizeof *m->maker);
    for (uint32_t i = 0; i < g->n_values; i++)
        m->maker[i] = NONE;
    for (uint32_t i = 0; i < g->body.n_ops; i++)
        for (uint32_t k = 0; k < g->body.ops[i].n_results; k++)
            m->maker[g->body.ops[i].results[k]] = i;
    for (uint32_t i = 0; i < g->body.n_results; i++)
        m->is_output[g->body.results[i]] = true;
    mark_moving(m);
    VTRN_RETURN_IF_ERROR(find_ready(m));
    return reorder(g, m);
}

vtrn_status early_updates(graph *g) {
    size_t n = (size_t)g->n_values + 1, n_ops = (size_t)g->body.n_ops + 1;
    mover m = {.body = &g->body, .n_values = g->n_values};
    m.maker = calloc(n, sizeof *m.maker);
    m.n_moved = calloc(n, sizeof *m.n_moved);
    m.is_output = calloc(n, sizeof *m.is_output);
    m.moves = calloc(n_ops, sizeof *m.moves);
    m.ready = calloc(n_ops, sizeof *m.ready);
    vtrn_status status = uses_count(g, &m.uses);
    if (!status)
        status = move(g, &m);
    free(m.maker);
    free(m.uses);
    free(m.n_moved);
    free(m.is_output);
    free(m.moves);
    free(m.ready);
    return status;
}
