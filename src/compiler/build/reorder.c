#include "compiler/build/reorder.h"

#include "compiler/build/core_model.h"
#include "compiler/build/order_graph.h"

#include <stdlib.h>
#include <string.h>

enum {
    /* How far behind the first instruction that is not scheduled yet others may be: what is far
     * ahead fills memory that is needed sooner. Assumed; 1,024 to 65,536 make no difference to the
     * chars step. */
    LOOK_AHEAD = 4096,
    NONE = ORDER_NONE,
};

typedef struct task {
    core_cost cost;
    double ready_ns;    /* its operands are there, by what has run so far */
    double priority_ns; /* the longest way from its start to the block's end */
    uint32_t n_unmet;   /* what it must follow and has not run */
} task;

typedef struct heap {
    uint32_t *at;
    uint32_t n;
} heap;

typedef struct reorderer {
    const granules_input *in;
    order_graph graph;
    task *tasks; /* by list index */
    core_model core;
    /* By engine: tasks whose operands are there, by priority; tasks whose will be, by time. */
    heap now[VTRN_ENGINE_COUNT], later[VTRN_ENGINE_COUNT];
    heap beyond;                      /* too far ahead, by list index */
    uint32_t next[VTRN_ENGINE_COUNT]; /* what must come next, or NONE */
    bool *is_done;
    uint32_t oldest; /* the first that is not done */
    uint32_t *order;
    uint32_t n_done;
    double end_ns;
} reorderer;

static double later_of(double a_ns, double b_ns) {
    return a_ns > b_ns ? a_ns : b_ns;
}

/* --- queues ---------------------------------------------------------------------------------- */

typedef bool before_fn(const task *tasks, uint32_t a, uint32_t b);

static bool by_priority(const task *tasks, uint32_t a, uint32_t b) {
    double p = tasks[a].priority_ns, q = tasks[b].priority_ns;
    return p > q || (p == q && a < b);
}

static bool by_time(const task *tasks, uint32_t a, uint32_t b) {
    double p = tasks[a].ready_ns, q = tasks[b].ready_ns;
    return p < q || (p == q && by_priority(tasks, a, b));
}

static bool by_index(const task *tasks, uint32_t a, uint32_t b) {
    (void)tasks;
    return a < b;
}

static void push(heap *h, const task *tasks, before_fn *before, uint32_t i) {
    uint32_t k = h->n++;
    for (; k && before(tasks, i, h->at[(k - 1) / 2]); k = (k - 1) / 2)
        h->at[k] = h->at[(k - 1) / 2];
    h->at[k] = i;
}

static uint32_t pop(heap *h, const task *tasks, before_fn *before) {
    uint32_t top = h->at[0], i = h->at[--h->n], k = 0;
    for (uint32_t c; (c = 2 * k + 1) < h->n; k = c) {
        if (c + 1 < h->n && before(tasks, h->at[c + 1], h->at[c]))
            c++;
        if (!before(tasks, h->at[c], i))
            break;
        h->at[k] = h->at[c];
    }
    h->at[k] = i;
    return top;
}

static void make_ready(reorderer *r, uint32_t i) {
    if (r->graph.nodes[i].is_unit_member)
        return; /* its turn comes behind the one before */
    if (i >= r->oldest + LOOK_AHEAD)
        push(&r->beyond, r->tasks, by_index, i);
    else
        push(&r->later[r->in->list[i].engine], r->tasks, by_time, i);
}

/* What the engine would take next, and when; NONE: nothing is ready. */
static uint32_t head_of(reorderer *r, int e, double *start_ns) {
    double free_ns = r->core.free_ns[e];
    if (r->next[e] != NONE) {
        const task *t = &r->tasks[r->next[e]];
        *start_ns = later_of(free_ns, t->ready_ns);
        return t->n_unmet ? NONE : r->next[e];
    }
    heap *now = &r->now[e], *later = &r->later[e];
    double until_ns = free_ns;
    if (!now->n && later->n)
        until_ns = later_of(until_ns, r->tasks[later->at[0]].ready_ns);
    while (later->n && r->tasks[later->at[0]].ready_ns <= until_ns)
        push(now, r->tasks, by_priority, pop(later, r->tasks, by_time));
    if (!now->n)
        return NONE;
    *start_ns = later_of(free_ns, r->tasks[now->at[0]].ready_ns);
    return now->at[0];
}

/* --- running --------------------------------------------------------------------------------- */

/* Runs a task from start_ns at the earliest; what must follow it learns when it may start. */
static void run(reorderer *r, uint32_t i, double start_ns) {
    int e = r->in->list[i].engine;
    bool is_dma = r->tasks[i].cost.instr.kind == COST_KIND_DMA;
    double done_ns = core_run(&r->core, e, &r->tasks[i].cost, &start_ns);
    double known_ns = done_ns + r->in->chip->cost.semaphore_wake_ns;
    r->end_ns = later_of(r->end_ns, done_ns);
    for (uint32_t k = r->graph.nodes[i].first_edge; k != NONE; k = r->graph.edges[k].next) {
        const order_edge *edge = &r->graph.edges[k];
        /* A queue knows its own results without a semaphore, and the PE array adds up in order. */
        bool is_own = r->in->list[edge->to].engine == e && !is_dma;
        double own_ns = edge->is_of_data && e != VTRN_ENGINE_TENSOR ? done_ns : start_ns;
        task *to = &r->tasks[edge->to];
        to->ready_ns = later_of(to->ready_ns, is_own ? own_ns : known_ns);
        to->n_unmet--;
    }
}

static void reset(reorderer *r) {
    r->core = (core_model){.chip = r->in->chip};
    r->end_ns = 0;
    for (uint32_t i = 0; i < r->in->n; i++) {
        r->tasks[i].ready_ns = 0;
        r->tasks[i].n_unmet = r->graph.nodes[i].n_before;
    }
}

/* How long the block takes as it is listed. */
static double listed_ns(reorderer *r) {
    reset(r);
    for (uint32_t i = 0; i < r->in->n; i++)
        run(r, i, r->tasks[i].ready_ns);
    return r->end_ns;
}

static void run_next(reorderer *r, int e, uint32_t i, double start_ns) {
    if (r->next[e] == NONE)
        pop(&r->now[e], r->tasks, by_priority);
    r->next[e] = r->graph.nodes[i].unit_next;
    r->order[r->n_done++] = i;
    r->is_done[i] = true;
    while (r->oldest < r->in->n && r->is_done[r->oldest])
        r->oldest++;
    run(r, i, start_ns);
    for (uint32_t k = r->graph.nodes[i].first_edge; k != NONE; k = r->graph.edges[k].next)
        if (r->tasks[r->graph.edges[k].to].n_unmet == 0)
            make_ready(r, r->graph.edges[k].to);
    while (r->beyond.n && r->beyond.at[0] < r->oldest + LOOK_AHEAD)
        make_ready(r, pop(&r->beyond, r->tasks, by_index));
}

static vtrn_status run_all(reorderer *r) {
    reset(r);
    for (uint32_t i = 0; i < r->in->n; i++)
        if (r->tasks[i].n_unmet == 0)
            make_ready(r, i);
    while (r->n_done < r->in->n) {
        uint32_t best = NONE;
        int engine = 0;
        double best_ns = 0;
        for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
            double start_ns;
            uint32_t i = head_of(r, e, &start_ns);
            if (i != NONE && (best == NONE || start_ns < best_ns)) {
                best = i;
                engine = e;
                best_ns = start_ns;
            }
        }
        VTRN_CHECK(best != NONE, "an instruction can run while some have not");
        run_next(r, engine, best, best_ns);
    }
    return NULL;
}

/* --- preparing ------------------------------------------------------------------------------- */

static vtrn_status prepare(reorderer *r) {
    uint32_t n = r->in->n, n_of[VTRN_ENGINE_COUNT] = {0};
    arena *tmp = &r->graph.tmp;
    r->tasks = ARENA_NEW(tmp, task, n);
    r->is_done = ARENA_NEW(tmp, bool, n);
    r->order = ARENA_NEW(tmp, uint32_t, n);
    r->beyond.at = ARENA_NEW(tmp, uint32_t, n);
    bool is_ok = r->tasks && r->is_done && r->order && r->beyond.at;
    for (uint32_t i = 0; i < n; i++)
        n_of[r->in->list[i].engine]++;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        r->now[e].at = ARENA_NEW(tmp, uint32_t, n_of[e]);
        r->later[e].at = ARENA_NEW(tmp, uint32_t, n_of[e]);
        r->next[e] = NONE;
        is_ok = is_ok && r->now[e].at && r->later[e].at;
    }
    return is_ok ? NULL : VTRN_OUT_OF_MEMORY(n * sizeof *r->tasks);
}

/* Edges point forwards in the list. */
static void find_priorities(reorderer *r) {
    for (uint32_t i = r->in->n; i-- > 0;) {
        task *t = &r->tasks[i];
        t->cost = core_cost_of(r->in->chip, &r->in->list[i]);
        t->priority_ns = core_latency_ns(r->in->chip, &t->cost);
        double latency_ns = t->priority_ns;
        for (uint32_t k = r->graph.nodes[i].first_edge; k != NONE; k = r->graph.edges[k].next) {
            const order_edge *edge = &r->graph.edges[k];
            double ns = r->tasks[edge->to].priority_ns;
            ns += edge->is_of_data ? latency_ns : t->cost.instr.ii_ns;
            t->priority_ns = later_of(t->priority_ns, ns);
        }
    }
}

static vtrn_status permute(const reorderer *r, vtrn_instr *list) {
    vtrn_instr *copy = malloc(r->in->n * sizeof *copy);
    if (!copy)
        return VTRN_OUT_OF_MEMORY(r->in->n * sizeof *copy);
    memcpy(copy, list, r->in->n * sizeof *copy);
    for (uint32_t k = 0; k < r->in->n; k++)
        list[k] = copy[r->order[k]];
    free(copy);
    return NULL;
}

static vtrn_status reorder(reorderer *r, vtrn_instr *list) {
    VTRN_RETURN_IF_ERROR(order_graph_make(r->in, &r->graph));
    VTRN_RETURN_IF_ERROR(prepare(r));
    find_priorities(r);
    double before_ns = listed_ns(r);
    VTRN_RETURN_IF_ERROR(run_all(r));
    return r->end_ns < before_ns ? permute(r, list) : NULL;
}

vtrn_status reorder_block(const granules_input *in, vtrn_instr *list) {
    if (in->n < 2)
        return NULL;
    reorderer r = {.in = in};
    vtrn_status status = reorder(&r, list);
    order_graph_free(&r.graph);
    return status;
}
