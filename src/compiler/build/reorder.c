#include "compiler/build/reorder.h"

#include "compiler/build/core_model.h"
#include "compiler/build/joint_exchange.h"
#include "compiler/build/order_graph.h"
#include "compiler/build/twins.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    /* How far behind the first instruction that is not scheduled yet others may be: what is far
     * ahead fills memory that is needed sooner. Assumed; 1,024 to 65,536 make no difference to the
     * chars step. */
    LOOK_AHEAD = 4096,
    NONE = ORDER_NONE,
};

/* An engine that can run a task. */
typedef struct option {
    instr_cost cost;
    double ready_ns; /* the task's operands are there for this engine, by what has run so far */
    uint8_t engine;
} option;

enum { MAX_OPTIONS = 1 + TWINS_MAX };

typedef struct task {
    option options[MAX_OPTIONS]; /* the first as the instruction is listed */
    transfer_cost transfer;      /* of a DMA */
    double priority_ns;          /* the longest way from its start to the block's end */
    uint32_t n_unmet;            /* what it must follow and has not run */
    uint8_t n_options;
    uint8_t chosen;  /* the option that it runs with */
    uint8_t offered; /* engines, a bit each, that have it in their heaps */
    bool is_done;
    bool joins;     /* a collective, part of the one before it in the order */
    bool is_placed; /* the list has what belongs at this task's place */
} task;

typedef struct heap {
    uint32_t *at;
    uint32_t n;
} heap;

typedef struct reorderer {
    const granules_input *in;
    const struct collective_topology *topology;
    order_graph graph;
    task *tasks; /* by list index */
    core_model core;
    /* By engine: tasks whose operands are there, by priority; tasks whose will be, by time. A task
     * is in the heaps of each engine that can run it. */
    heap now[VTRN_ENGINE_COUNT], later[VTRN_ENGINE_COUNT];
    heap beyond;                      /* too far ahead, by list index */
    uint32_t next[VTRN_ENGINE_COUNT]; /* the rest of its unit, or NONE */
    uint32_t oldest;                  /* the first that is not done */
    uint32_t *order, *spare;
    double *exchange_ns; /* by list index: of a collective, without its trigger */
    uint32_t n_done;
    double end_ns;
} reorderer;

static double later_of(double a_ns, double b_ns) {
    return a_ns > b_ns ? a_ns : b_ns;
}

/* --- queues ---------------------------------------------------------------------------------- */

static option *option_on(task *t, int engine) {
    option *o = t->options;
    while (o->engine != engine)
        o++;
    return o;
}

/* Whether a task leaves the heap of an engine before another one. */
typedef bool before_fn(task *tasks, int engine, uint32_t a, uint32_t b);

static bool by_priority(task *tasks, int engine, uint32_t a, uint32_t b) {
    (void)engine;
    double p = tasks[a].priority_ns, q = tasks[b].priority_ns;
    return p > q || (p == q && a < b);
}

static bool by_time(task *tasks, int engine, uint32_t a, uint32_t b) {
    double p = option_on(&tasks[a], engine)->ready_ns, q = option_on(&tasks[b], engine)->ready_ns;
    return p < q || (p == q && by_priority(tasks, engine, a, b));
}

static bool by_index(task *tasks, int engine, uint32_t a, uint32_t b) {
    (void)tasks;
    (void)engine;
    return a < b;
}

typedef struct ranking {
    task *tasks;
    int engine;
    before_fn *before;
} ranking;

static void push(heap *h, ranking by, uint32_t i) {
    uint32_t k = h->n++;
    for (; k && by.before(by.tasks, by.engine, i, h->at[(k - 1) / 2]); k = (k - 1) / 2)
        h->at[k] = h->at[(k - 1) / 2];
    h->at[k] = i;
}

static uint32_t pop(heap *h, ranking by) {
    uint32_t top = h->at[0], i = h->at[--h->n], k = 0;
    for (uint32_t c; (c = 2 * k + 1) < h->n; k = c) {
        if (c + 1 < h->n && by.before(by.tasks, by.engine, h->at[c + 1], h->at[c]))
            c++;
        if (!by.before(by.tasks, by.engine, h->at[c], i))
            break;
        h->at[k] = h->at[c];
    }
    h->at[k] = i;
    return top;
}

static ranking ranked(const reorderer *r, int engine, before_fn *before) {
    return (ranking){r->tasks, engine, before};
}

static void make_ready(reorderer *r, uint32_t i) {
    task *t = &r->tasks[i];
    if (r->graph.nodes[i].is_unit_member)
        return; /* run_next() takes it behind the one before */
    if (i >= r->oldest + LOOK_AHEAD) {
        push(&r->beyond, ranked(r, 0, by_index), i);
        return;
    }
    for (int k = 0; k < t->n_options; k++) {
        int e = t->options[k].engine;
        push(&r->later[e], ranked(r, e, by_time), i);
        t->offered |= (uint8_t)(1u << e);
    }
}

/* When the task would be over on the engine, as things are, and later if others are ready there,
 * n of them at least, which it would hold up. */
static double finish_ns(const reorderer *r, const option *o, uint32_t n) {
    const double HELD_UP = 2; /* what a ns of others is worth: assumed, 1 to 8 differ little */
    double ns = later_of(r->core.free_ns[o->engine], o->ready_ns) + o->cost.latency_ns;
    /* triggers of static rings take next to no time */
    bool holds_up = o->cost.kind != COST_KIND_DMA || r->in->chip->dma.uses_dge;
    return ns + (holds_up && r->now[o->engine].n >= n ? HELD_UP * o->cost.ii_ns : 0);
}

/* Whether another engine that may take the task, the first in this one's heap, is better. */
static bool is_better_elsewhere(const reorderer *r, task *t, int engine) {
    const option *here = option_on(t, engine);
    for (int k = 0; k < t->n_options; k++) {
        const option *o = &t->options[k];
        if (o != here && (t->offered & (1u << o->engine)) &&
            finish_ns(r, o, 1) < finish_ns(r, here, 2))
            return true;
    }
    return false;
}

/* What the engine would take next, and when; NONE: nothing is ready. */
static uint32_t head_of(reorderer *r, int e, double *start_ns) {
    double free_ns = r->core.free_ns[e];
    if (r->next[e] != NONE) {
        const task *t = &r->tasks[r->next[e]];
        *start_ns = later_of(free_ns, t->options[0].ready_ns);
        return t->n_unmet ? NONE : r->next[e];
    }
    heap *now = &r->now[e], *later = &r->later[e];
    for (;;) {
        while (later->n && r->tasks[later->at[0]].is_done)
            pop(later, ranked(r, e, by_time));
        while (now->n && r->tasks[now->at[0]].is_done)
            pop(now, ranked(r, e, by_priority));
        double until_ns = free_ns;
        if (!now->n && later->n)
            until_ns = later_of(until_ns, option_on(&r->tasks[later->at[0]], e)->ready_ns);
        while (later->n && option_on(&r->tasks[later->at[0]], e)->ready_ns <= until_ns)
            push(now, ranked(r, e, by_priority), pop(later, ranked(r, e, by_time)));
        if (!now->n)
            return NONE;
        task *t = &r->tasks[now->at[0]];
        if (!t->is_done && !is_better_elsewhere(r, t, e)) {
            *start_ns = later_of(free_ns, option_on(t, e)->ready_ns);
            return now->at[0];
        }
        pop(now, ranked(r, e, by_priority));
        t->offered &= (uint8_t) ~(1u << e);
    }
}

/* --- running --------------------------------------------------------------------------------- */

/* What must follow a task learns when it may start. */
static void release(reorderer *r, uint32_t i, double start_ns, double done_ns) {
    const option *ran = &r->tasks[i].options[r->tasks[i].chosen];
    double known_ns = done_ns + r->in->chip->cost.semaphore_wake_ns;
    for (uint32_t k = r->graph.nodes[i].first_edge; k != NONE; k = r->graph.edges[k].next) {
        const order_edge *edge = &r->graph.edges[k];
        task *to = &r->tasks[edge->to];
        /* Results of the same queue need no semaphore, and the PE array adds up in order. */
        bool needs_result = edge->is_of_data && ran->engine != VTRN_ENGINE_TENSOR;
        double own_ns = needs_result ? done_ns : start_ns;
        for (int o = 0; o < to->n_options; o++) {
            option *on = &to->options[o];
            bool is_own = on->engine == ran->engine && ran->cost.kind != COST_KIND_DMA;
            on->ready_ns = later_of(on->ready_ns, is_own ? own_ns : known_ns);
        }
        to->n_unmet--;
    }
}

/* Runs a task with its chosen option from start_ns at the earliest, until when it says. */
static double run(reorderer *r, uint32_t i, double start_ns) {
    task *t = &r->tasks[i];
    const option *o = &t->options[t->chosen];
    double done_ns = core_run(&r->core, o->engine, &o->cost, &t->transfer, &start_ns);
    r->end_ns = later_of(r->end_ns, done_ns);
    release(r, i, start_ns, done_ns);
    return done_ns;
}

static void reset(reorderer *r) {
    r->core = (core_model){.chip = r->in->chip};
    r->end_ns = 0;
    for (uint32_t i = 0; i < r->in->n; i++) {
        r->tasks[i].n_unmet = r->graph.nodes[i].n_before;
        for (int k = 0; k < r->tasks[i].n_options; k++)
            r->tasks[i].options[k].ready_ns = 0;
    }
}

/* How long the block takes as it is listed. */
static double listed_ns(reorderer *r) {
    reset(r);
    for (uint32_t i = 0; i < r->in->n; i++)
        run(r, i, r->tasks[i].options[0].ready_ns);
    return r->end_ns;
}

static const vtrn_custom *custom_of(const reorderer *r, uint32_t i) {
    return &r->in->customs[r->in->list[i].arg[0]];
}

/* Places the ready collectives that one can be joined with behind it in the order, and gives it the
 * time of all. */
static void join_ready(reorderer *r, uint32_t first, double start_ns) {
    heap *now = &r->now[VTRN_ENGINE_CC];
    const uint64_t most = r->in->chip->collective.bucket_bytes;
    uint64_t bytes = exchange_bytes(custom_of(r, first), r->in->slots);
    uint32_t n_kept = 0, n_joined = 0;
    for (uint32_t n = now->n; n; n--) {
        uint32_t i = pop(now, ranked(r, VTRN_ENGINE_CC, by_priority));
        task *t = &r->tasks[i];
        uint64_t more = exchange_bytes(custom_of(r, i), r->in->slots);
        if (t->is_done)
            continue;
        if (t->options[0].ready_ns > start_ns || bytes + more > most ||
            !exchange_can_join(custom_of(r, first), custom_of(r, i))) {
            r->spare[n_kept++] = i;
            continue;
        }
        bytes += more;
        n_joined++;
        t->is_done = t->joins = true;
        r->order[r->n_done++] = i;
    }
    while (n_kept)
        push(now, ranked(r, VTRN_ENGINE_CC, by_priority), r->spare[--n_kept]);
    if (!n_joined)
        return;
    instr_cost *cost = &r->tasks[first].options[0].cost;
    cost->latency_ns = cost->ii_ns =
        cost->latency_ns - r->exchange_ns[first] +
        exchange_ns(r->topology, r->in->chip, custom_of(r, first), bytes);
}

static void make_followers_ready(reorderer *r, uint32_t i) {
    for (uint32_t k = r->graph.nodes[i].first_edge; k != NONE; k = r->graph.edges[k].next)
        if (r->tasks[r->graph.edges[k].to].n_unmet == 0)
            make_ready(r, r->graph.edges[k].to);
}

static void run_next(reorderer *r, int e, uint32_t i, double start_ns) {
    task *t = &r->tasks[i];
    const uint32_t place = r->n_done;
    if (r->next[e] == NONE)
        pop(&r->now[e], ranked(r, e, by_priority));
    r->next[e] = r->graph.nodes[i].unit_next;
    r->order[r->n_done++] = i;
    t->is_done = true;
    t->chosen = (uint8_t)(option_on(t, e) - t->options);
    if (e == VTRN_ENGINE_CC)
        join_ready(r, i, start_ns);
    while (r->oldest < r->in->n && r->tasks[r->oldest].is_done)
        r->oldest++;
    double done_ns = run(r, i, start_ns);
    for (uint32_t k = place + 1; k < r->n_done; k++)
        release(r, r->order[k], start_ns, done_ns);
    for (uint32_t k = place; k < r->n_done; k++)
        make_followers_ready(r, r->order[k]);
    while (r->beyond.n && r->beyond.at[0] < r->oldest + LOOK_AHEAD)
        make_ready(r, pop(&r->beyond, ranked(r, 0, by_index)));
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

static void find_options(reorderer *r, uint32_t n_on[VTRN_ENGINE_COUNT]) {
    const vtrn_chip *chip = r->in->chip;
    for (uint32_t i = 0; i < r->in->n; i++) {
        task *t = &r->tasks[i];
        vtrn_instr as[MAX_OPTIONS] = {r->in->list[i]};
        t->n_options = (uint8_t)(1 + twins_of(chip, &as[0], &as[1]));
        int last = t->n_options - 1;
        if (r->in->is_plain && last > 0 && as[last].engine == VTRN_ENGINE_GPSIMD &&
            !isa_is_dma(as[0].opcode))
            t->n_options--;
        for (int k = 0; k < t->n_options; k++) {
            t->options[k] =
                (option){.cost = cost_instr(chip, &as[k]), .engine = (uint8_t)as[k].engine};
            n_on[as[k].engine]++;
        }
        if (t->options[0].cost.kind == COST_KIND_COLLECTIVE) {
            r->exchange_ns[i] = exchange_ns(r->topology, chip, custom_of(r, i),
                                            exchange_bytes(custom_of(r, i), r->in->slots));
            t->options[0].cost.ii_ns = t->options[0].cost.latency_ns += r->exchange_ns[i];
        }
        if (t->options[0].cost.kind == COST_KIND_DMA)
            t->transfer = cost_transfer(chip, &as[0]);
    }
}

static vtrn_status prepare(reorderer *r) {
    uint32_t n = r->in->n, n_on[VTRN_ENGINE_COUNT] = {0};
    arena *tmp = &r->graph.tmp;
    r->tasks = ARENA_NEW(tmp, task, n);
    r->order = ARENA_NEW(tmp, uint32_t, n);
    r->beyond.at = ARENA_NEW(tmp, uint32_t, n);
    r->exchange_ns = ARENA_NEW(tmp, double, n);
    r->spare = ARENA_NEW(tmp, uint32_t, n);
    bool is_ok = r->tasks && r->order && r->beyond.at && r->exchange_ns && r->spare;
    if (is_ok)
        find_options(r, n_on);
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        r->now[e].at = ARENA_NEW(tmp, uint32_t, n_on[e]);
        r->later[e].at = ARENA_NEW(tmp, uint32_t, n_on[e]);
        r->next[e] = NONE;
        is_ok = is_ok && r->now[e].at && r->later[e].at;
    }
    return is_ok ? NULL : VTRN_OUT_OF_MEMORY(n * sizeof *r->tasks);
}

/* Edges point forwards in the list. */
static void find_priorities(reorderer *r) {
    for (uint32_t i = r->in->n; i-- > 0;) {
        task *t = &r->tasks[i];
        const instr_cost *cost = &t->options[0].cost;
        double latency_ns = core_latency_ns(r->in->chip, cost, &t->transfer);
        t->priority_ns = latency_ns;
        for (uint32_t k = r->graph.nodes[i].first_edge; k != NONE; k = r->graph.edges[k].next) {
            const order_edge *edge = &r->graph.edges[k];
            double ns = r->tasks[edge->to].priority_ns;
            ns += edge->is_of_data ? latency_ns : cost->ii_ns;
            t->priority_ns = later_of(t->priority_ns, ns);
        }
    }
    for (uint32_t i = 0; i < r->in->n && r->in->is_plain; i++)
        if (r->tasks[i].options[0].cost.kind == COST_KIND_DMA)
            r->tasks[i].priority_ns = INFINITY; /* of equal ones the first in the list runs */
}

/* Instruction i as the task runs it. */
static vtrn_instr chosen_of(const reorderer *r, const vtrn_instr *instr, uint32_t i) {
    vtrn_instr as[MAX_OPTIONS] = {*instr};
    if (r->tasks[i].chosen)
        twins_of(r->in->chip, instr, &as[1]);
    return as[r->tasks[i].chosen];
}

/* Cycle after cycle, in place: a copy of a long list takes more memory than all else. */
static void permute(reorderer *r, vtrn_instr *list) {
    for (uint32_t begin = 0; begin < r->in->n; begin++) {
        if (r->tasks[begin].is_placed)
            continue;
        vtrn_instr first = chosen_of(r, &list[begin], begin);
        uint32_t k = begin;
        for (uint32_t i; (i = r->order[k]) != begin; k = i) {
            list[k] = chosen_of(r, &list[i], i);
            r->tasks[k].is_placed = true;
        }
        list[k] = first;
        r->tasks[k].is_placed = true;
    }
}

static vtrn_status reorder(reorderer *r, vtrn_instr *list, bool *joins) {
    VTRN_RETURN_IF_ERROR(order_graph_make(r->in, &r->graph));
    VTRN_RETURN_IF_ERROR(prepare(r));
    find_priorities(r);
    double before_ns = listed_ns(r);
    VTRN_RETURN_IF_ERROR(run_all(r));
    if (r->end_ns >= before_ns)
        return NULL;
    permute(r, list);
    for (uint32_t k = 0; k < r->in->n; k++)
        joins[k] = r->tasks[r->order[k]].joins;
    return NULL;
}

vtrn_status reorder_block(const granules_input *in, const struct collective_topology *topology,
                          vtrn_instr *list, bool *joins) {
    if (in->n < 2)
        return NULL;
    reorderer r = {.in = in, .topology = topology};
    vtrn_status status = reorder(&r, list, joins);
    order_graph_free(&r.graph);
    return status;
}
