#include "compiler/build/order_graph.h"

#include "base/array.h"
#include "isa/access.h"

#include <stdlib.h>
#include <string.h>

enum { NONE = ORDER_NONE };

static vtrn_status add_edge(order_graph *g, uint32_t from, uint32_t to, bool is_of_data) {
    if (!array_grow((void **)&g->edges, g->n_edges, &g->cap_edges, sizeof *g->edges))
        return VTRN_OUT_OF_MEMORY(g->n_edges * sizeof *g->edges);
    g->edges[g->n_edges] = (order_edge){to, g->nodes[from].first_edge, is_of_data};
    g->nodes[from].first_edge = g->n_edges++;
    g->nodes[to].n_before++;
    return NULL;
}

static vtrn_status add_memory_edges(order_graph *g) {
    granules *memory;
    VTRN_RETURN_IF_ERROR(granules_create(g->in, &g->tmp, &memory));
    vtrn_status status = NULL;
    for (uint32_t i = 0; i < g->in->n && !status; i++) {
        const dependence *deps;
        uint32_t n = 0;
        status = granules_next(memory, &deps, &n);
        for (uint32_t k = 0; k < n && !status; k++)
            status = add_edge(g, deps[k].instr, i, deps[k].is_of_data);
    }
    granules_destroy(memory);
    return status;
}

/* What reads a state follows what wrote it, and what writes it follows all since. */
static vtrn_status add_state_edges(order_graph *g, uint8_t state) {
    uint32_t writer[VTRN_ENGINE_COUNT], since[VTRN_ENGINE_COUNT];
    uint32_t *previous = ARENA_NEW(&g->tmp, uint32_t, g->in->n); /* of the readers since */
    if (!previous)
        return VTRN_OUT_OF_MEMORY(g->in->n * sizeof *previous);
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        writer[e] = since[e] = NONE;
    for (uint32_t i = 0; i < g->in->n; i++) {
        access_states s = access_states_of(&g->in->list[i]);
        uint32_t e = g->in->list[i].engine;
        if (!((s.read | s.written) & state))
            continue;
        if (writer[e] != NONE)
            VTRN_RETURN_IF_ERROR(add_edge(g, writer[e], i, s.read & state));
        if (!(s.written & state)) {
            previous[i] = since[e];
            since[e] = i;
            continue;
        }
        for (uint32_t k = since[e]; k != NONE; k = previous[k])
            VTRN_RETURN_IF_ERROR(add_edge(g, k, i, false));
        since[e] = NONE;
        writer[e] = i;
    }
    return NULL;
}

/* Edges by where they end. */
typedef struct backwards {
    uint32_t *first, *next, *from; /* by instruction; by edge; by edge */
    uint32_t *stack, *seen_by;     /* by instruction: the unit that found it, from 1 */
} backwards;

static vtrn_status turn_edges(order_graph *g, backwards *b) {
    size_t n = g->in->n, n_edges = g->n_edges;
    *b = (backwards){.first = ARENA_NEW(&g->tmp, uint32_t, n),
                     .next = ARENA_NEW(&g->tmp, uint32_t, n_edges),
                     .from = ARENA_NEW(&g->tmp, uint32_t, n_edges),
                     .stack = ARENA_NEW(&g->tmp, uint32_t, n),
                     .seen_by = ARENA_NEW(&g->tmp, uint32_t, n)};
    if (!b->first || !b->next || !b->from || !b->stack || !b->seen_by)
        return VTRN_OUT_OF_MEMORY((n + n_edges) * sizeof(uint32_t));
    for (size_t i = 0; i < n; i++)
        b->first[i] = NONE;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t e = g->nodes[i].first_edge; e != NONE; e = g->edges[e].next) {
            b->from[e] = i;
            b->next[e] = b->first[g->edges[e].to];
            b->first[g->edges[e].to] = e;
        }
    return NULL;
}

/* A unit blocks its queue until its last member ran. So all that its members need, directly or not,
 * and that stands before its first one in the list, must be under way before that one: what remains
 * is not on the queue. */
static vtrn_status close_unit(order_graph *g, backwards *b, uint32_t head) {
    uint32_t n = 0;
    for (uint32_t m = g->nodes[head].unit_next; m != NONE; m = g->nodes[m].unit_next) {
        b->seen_by[m] = head + 1;
        b->stack[n++] = m;
    }
    while (n) {
        uint32_t i = b->stack[--n];
        for (uint32_t e = b->first[i]; e != NONE; e = b->next[e]) {
            uint32_t from = b->from[e];
            if (from == head || b->seen_by[from] == head + 1)
                continue;
            b->seen_by[from] = head + 1;
            if (from < head)
                VTRN_RETURN_IF_ERROR(add_edge(g, from, head, false));
            else
                b->stack[n++] = from;
        }
    }
    return NULL;
}

/* A load of weights and the matmuls until the next one are a unit. */
static vtrn_status add_units(order_graph *g) {
    backwards b;
    VTRN_RETURN_IF_ERROR(turn_edges(g, &b));
    uint32_t head = NONE, last = NONE;
    for (uint32_t i = 0; i < g->in->n; i++) {
        const vtrn_instr *instr = &g->in->list[i];
        if (instr->engine != VTRN_ENGINE_TENSOR)
            continue;
        if (head != NONE && access_reads_weights(instr)) {
            g->nodes[last].unit_next = i;
            g->nodes[i].is_unit_member = true;
        } else {
            if (head != NONE)
                VTRN_RETURN_IF_ERROR(close_unit(g, &b, head));
            head = i;
        }
        last = i;
    }
    return head == NONE ? NULL : close_unit(g, &b, head);
}

vtrn_status order_graph_make(const granules_input *in, order_graph *out) {
    *out = (order_graph){.in = in};
    out->nodes = ARENA_NEW(&out->tmp, order_node, in->n);
    if (!out->nodes)
        return VTRN_OUT_OF_MEMORY(in->n * sizeof *out->nodes);
    for (uint32_t i = 0; i < in->n; i++)
        out->nodes[i].first_edge = out->nodes[i].unit_next = NONE;
    VTRN_RETURN_IF_ERROR(add_memory_edges(out));
    VTRN_RETURN_IF_ERROR(add_state_edges(out, ACCESS_ACT_TABLE));
    VTRN_RETURN_IF_ERROR(add_state_edges(out, ACCESS_REDUCE_REGS));
    VTRN_RETURN_IF_ERROR(add_state_edges(out, ACCESS_VECTOR_REGS));
    VTRN_RETURN_IF_ERROR(add_state_edges(out, ACCESS_GENERATOR));
    return add_units(out);
}

void order_graph_free(order_graph *g) {
    free(g->edges);
    arena_free(&g->tmp);
    *g = (order_graph){0};
}
