/* The time of an execution: its traces replayed, or the replay of the same traces lately. */
#include "runtime/times.h"

#include "collective/collective.h"
#include "runtime/ranks.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void times_free(runtime_timing *t) {
    free(t->trace);
    free(t->first_copy);
    free(t->others);
    for (uint32_t i = 0; i < t->n_walks; i++)
        free(t->walks[i].list);
    free(t->walks);
    free(t->ranks);
    *t = (runtime_timing){.trace = NULL};
}

/* --- the same traces again ---------------------------------------------------------------------
 */

static bool is_trace_equal(const engine_run *a, const uint32_t *trace, uint32_t n) {
    return a->n_block_trace == n &&
           (a->block_trace == trace || !n || !memcmp(a->block_trace, trace, n * sizeof *trace));
}

/* Whether every rank ran the blocks that the first one ran. */
static bool is_uniform(runtime_program *l, uint32_t n_ranks) {
    for (uint32_t r = 1; r < n_ranks; r++)
        if (!is_trace_equal(ranks_run_of(l, r), l->run.block_trace, l->run.n_block_trace))
            return false;
    return true;
}

static size_t others_size(runtime_program *l, uint32_t n_ranks) {
    size_t n = 0;
    for (uint32_t r = 1; r < n_ranks; r++)
        n += 1 + (size_t)ranks_run_of(l, r)->n_block_trace;
    return n;
}

/* Traces of the ranks behind the first, each after its length. */
static void list_others(runtime_program *l, uint32_t n_ranks, uint32_t *out) {
    for (uint32_t r = 1; r < n_ranks; r++) {
        const engine_run *run = ranks_run_of(l, r);
        *out++ = run->n_block_trace;
        if (run->n_block_trace)
            memcpy(out, run->block_trace, run->n_block_trace * sizeof *out);
        out += run->n_block_trace;
    }
}

static bool are_others_equal(runtime_program *l, uint32_t n_ranks, const runtime_timing *t) {
    const uint32_t *at = t->others;
    if (others_size(l, n_ranks) != t->n_others)
        return false;
    for (uint32_t r = 1; r < n_ranks; at += 1 + *at, r++)
        if (!is_trace_equal(ranks_run_of(l, r), at + 1, *at))
            return false;
    return true;
}

static int find_timing(runtime_program *l, uint32_t n_ranks) {
    const bool is_same = is_uniform(l, n_ranks);
    for (int i = 0; i < l->n_timings; i++) {
        const runtime_timing *t = &l->timings[i];
        if (is_trace_equal(&l->run, t->first, t->n_first) && t->n_ranks == n_ranks &&
            (is_same ? !t->others : t->others && are_others_equal(l, n_ranks, t)))
            return i;
    }
    return -1;
}

/* A place for a new timing: a free one, or that of the trace seen longest ago. */
static int claim_timing(runtime_program *l) {
    if (l->n_timings < RUNTIME_MAX_TIMINGS)
        return l->n_timings++;
    int oldest = 0;
    for (int i = 1; i < l->n_timings; i++)
        if (l->timings[i].last_used < l->timings[oldest].last_used)
            oldest = i;
    times_free(&l->timings[oldest]);
    return oldest;
}

/* --- ranks that meet ---------------------------------------------------------------------------
 */

/* A rank's replay, and what it was told of its collectives. */
typedef struct rank_walk {
    timing_walk *walk;
    timing_stop stop;
    timing_meeting *meetings;
    size_t n_meetings, max_meetings;
} rank_walk;

typedef struct meet_state {
    runtime_program *l;
    uint32_t n_ranks, n_walks; /* one walk for all ranks that do the same, or one each */
    rank_walk *walks;
    const runtime_call *calls;
} meet_state;

/* The bytes that collective_request asks for. */
static uint64_t request_bytes(const vtrn_program *p, const vtrn_custom *custom) {
    const bool is_gather = custom->collective->kind == VTRN_COLLECTIVE_ALL_GATHER;
    uint64_t n = 0;
    for (uint32_t i = 0; i < custom->n_inputs; i++)
        n += p->slots[custom->slots[i + (is_gather ? custom->n_inputs : 0)]].size_bytes;
    return n;
}

/* How long a collective takes from its last member's arrival; worked out once for the cores that
 * the program runs on. */
static vtrn_status estimate(runtime_program *l, const runtime_call *calls, uint32_t custom_i) {
    const vtrn_custom *custom = &l->program->customs[custom_i];
    const vtrn_collective *c = custom->collective;
    if (l->collective_ns[custom_i] >= 0)
        return NULL;
    if (!l->device->topology)
        VTRN_RETURN_IF_ERROR(collective_topology_create(&l->device->instance, &l->device->chip, 1,
                                                        1, &l->device->topology));
    size_t n = (size_t)c->n_groups * c->group_size;
    int *devices = calloc(n + 1, sizeof *devices);
    if (!devices)
        return VTRN_OUT_OF_MEMORY(n * sizeof *devices);
    for (size_t i = 0; i < n; i++)
        devices[i] = c->groups[i] < 0 ? -1 : calls[c->groups[i]].core_i;
    collective_time time = {0};
    vtrn_status status = NULL;
    if (n)
        status =
            collective_estimate(l->device->topology,
                                &(collective_request){.op = (collective_op)c->kind,
                                                      .bytes = request_bytes(l->program, custom),
                                                      .devices = devices,
                                                      .n_groups = (int)c->n_groups,
                                                      .group_size = (int)c->group_size},
                                &time);
    free(devices);
    if (!status)
        l->collective_ns[custom_i] = time.duration_ns;
    return status;
}

/* The durations are those of these cores. */
static vtrn_status estimate_all(runtime_program *l, const runtime_call *calls, uint32_t n_ranks) {
    const vtrn_program *p = l->program;
    if (!l->collective_ns) {
        l->collective_ns = calloc((size_t)p->n_customs + 1, sizeof *l->collective_ns);
        l->estimated_cores = calloc(n_ranks, sizeof *l->estimated_cores);
        if (!l->collective_ns || !l->estimated_cores)
            return VTRN_OUT_OF_MEMORY(p->n_customs * sizeof *l->collective_ns);
        l->estimated_cores[0] = -1;
    }
    bool is_same = true;
    for (uint32_t r = 0; r < n_ranks; r++)
        is_same &= l->estimated_cores[r] == calls[r].core_i;
    for (uint32_t r = 0; r < n_ranks; r++)
        l->estimated_cores[r] = calls[r].core_i;
    while (!is_same && l->n_timings) /* they were those of other cores */
        times_free(&l->timings[--l->n_timings]);
    for (uint32_t i = 0; i < p->n_customs; i++) {
        if (!is_same)
            l->collective_ns[i] = -1;
        if (p->customs[i].collective)
            VTRN_RETURN_IF_ERROR(estimate(l, calls, i));
    }
    return NULL;
}

/* Whether all ranks are in a group of each collective, so that they differ in nothing. */
static bool is_symmetric(const runtime_program *l, uint32_t n_ranks) {
    for (uint32_t i = 0; l->groups && i < l->program->n_customs; i++)
        for (uint32_t r = 0; l->groups[i].group_of && r < n_ranks; r++)
            if (l->groups[i].group_of[r] < 0)
                return false;
    return true;
}

static vtrn_status meet(rank_walk *w, timing_meeting meeting) {
    if (w->n_meetings == w->max_meetings) {
        size_t max = w->max_meetings ? 2 * w->max_meetings : 16;
        timing_meeting *grown = realloc(w->meetings, max * sizeof *grown);
        if (!grown)
            return VTRN_OUT_OF_MEMORY(max * sizeof *grown);
        w->meetings = grown;
        w->max_meetings = max;
    }
    w->meetings[w->n_meetings++] = meeting;
    timing_walk_meet(w->walk, meeting);
    return timing_walk_next(w->walk, &w->stop);
}

/* The latest arrival of the group that the rank waits for; false: not all have arrived. */
static bool latest_arrival(const meet_state *m, uint32_t rank, double *out) {
    const timing_stop *own = &m->walks[rank].stop;
    const runtime_groups *g = &m->l->groups[own->custom_i];
    *out = own->arrival_ns;
    if (m->n_walks == 1 || g->group_of[rank] < 0)
        return true;
    for (uint32_t r = 0; r < m->n_ranks; r++) {
        const timing_stop *other = &m->walks[r].stop;
        if (g->group_of[r] != g->group_of[rank])
            continue;
        if (other->is_over || other->custom_i != own->custom_i)
            return false;
        *out = other->arrival_ns > *out ? other->arrival_ns : *out;
    }
    return true;
}

/* Lets the group of the rank meet, if all of it has come. */
static vtrn_status meet_group(meet_state *m, uint32_t rank, bool *has_met) {
    double latest_ns;
    const timing_stop own = m->walks[rank].stop;
    if (!latest_arrival(m, rank, &latest_ns))
        return NULL;
    *has_met = true;
    const runtime_groups *g = &m->l->groups[own.custom_i];
    const int32_t group = g->group_of[rank];
    for (uint32_t r = 0; r < m->n_walks; r++) {
        if (group >= 0 ? m->n_walks > 1 && g->group_of[r] != group : r != rank)
            continue;
        rank_walk *w = &m->walks[r];
        double run_ns = group >= 0 ? m->l->collective_ns[own.custom_i] : 0;
        VTRN_RETURN_IF_ERROR(meet(w, (timing_meeting){latest_ns - w->stop.arrival_ns, run_ns}));
    }
    return NULL;
}

static vtrn_status walk_all(meet_state *m) {
    const timing_options options = {.kept = &m->l->kept_blocks};
    for (uint32_t r = 0; r < m->n_walks; r++) {
        const engine_run *run = ranks_run_of(m->l, r);
        VTRN_RETURN_IF_ERROR(timing_walk_begin(m->l->model, run->block_trace, run->n_block_trace,
                                               &options, &m->walks[r].walk));
        VTRN_RETURN_IF_ERROR(timing_walk_next(m->walks[r].walk, &m->walks[r].stop));
    }
    for (;;) {
        bool has_met = false, is_over = true;
        for (uint32_t r = 0; r < m->n_walks; r++) {
            if (m->walks[r].stop.is_over)
                continue;
            is_over = false;
            VTRN_RETURN_IF_ERROR(meet_group(m, r, &has_met));
        }
        if (is_over)
            return NULL;
        if (!has_met)
            return VTRN_ERROR(VTRN_DEADLOCK,
                              "%s: the ranks' traces do not meet in their collectives",
                              m->l->program->name);
    }
}

/* Of the rank that ends last, all; of the others, how long they took. */
static vtrn_status keep_results(meet_state *m, runtime_timing *out) {
    out->ranks = calloc(m->n_ranks, sizeof *out->ranks);
    if (!out->ranks)
        return VTRN_OUT_OF_MEMORY(m->n_ranks * sizeof *out->ranks);
    uint32_t last = 0;
    for (uint32_t r = 0; r < m->n_ranks; r++) {
        if (m->n_walks == 1 && r > 0) {
            out->ranks[r] = out->ranks[0];
            continue;
        }
        timing_result result;
        timing_walk_take(m->walks[r].walk, &result);
        const timing_summary *s = &result.summary;
        out->ranks[r] = (runtime_rank_time){s->total_ns, s->collective_ns, s->skew_ns};
        if (r == 0 || s->total_ns > out->ranks[last].total_ns) {
            out->summary = *s;
            last = r;
        }
        timing_result_free(&result);
    }
    out->walks = calloc(m->n_walks, sizeof *out->walks);
    if (!out->walks)
        return VTRN_OUT_OF_MEMORY(m->n_walks * sizeof *out->walks);
    out->n_walks = m->n_walks;
    for (uint32_t r = 0; r < m->n_walks; r++) {
        out->walks[r].list = m->walks[r].meetings;
        out->walks[r].n = m->walks[r].n_meetings;
        m->walks[r].meetings = NULL;
    }
    out->rank = last;
    out->meetings = out->walks[last].list;
    out->n_meetings = out->walks[last].n;
    return NULL;
}

static vtrn_status time_ranks(runtime_program *l, const runtime_call *calls, uint32_t n_ranks,
                              runtime_timing *out) {
    const bool is_one = is_uniform(l, n_ranks) && is_symmetric(l, n_ranks);
    meet_state m = {.l = l, .n_ranks = n_ranks, .n_walks = is_one ? 1 : n_ranks, .calls = calls};
    m.walks = calloc(m.n_walks, sizeof *m.walks);
    if (!m.walks)
        return VTRN_OUT_OF_MEMORY(m.n_walks * sizeof *m.walks);
    vtrn_status status = walk_all(&m);
    if (!status)
        status = keep_results(&m, out);
    for (uint32_t r = 0; r < m.n_walks; r++) {
        timing_walk_destroy(m.walks[r].walk);
        free(m.walks[r].meetings);
    }
    free(m.walks);
    return status;
}

/* --- an execution ------------------------------------------------------------------------------
 */

static uint32_t *copy_trace(const uint32_t *trace, uint32_t n) {
    uint32_t *copy = malloc(((size_t)n + 1) * sizeof *copy);
    if (copy && n)
        memcpy(copy, trace, n * sizeof *copy);
    return copy;
}

static vtrn_status keep_traces(runtime_program *l, uint32_t n_ranks, runtime_timing *t) {
    const engine_run *shown = ranks_run_of(l, t->rank);
    t->n_ranks = n_ranks;
    t->n = shown->n_block_trace;
    t->trace = copy_trace(shown->block_trace, t->n);
    t->n_first = l->run.n_block_trace;
    t->first = t->trace;
    if (t->rank) {
        t->first = t->first_copy = copy_trace(l->run.block_trace, t->n_first);
    }
    if (!t->trace || !t->first)
        return VTRN_OUT_OF_MEMORY(t->n * sizeof *t->trace);
    if (is_uniform(l, n_ranks))
        return NULL;
    t->n_others = others_size(l, n_ranks);
    t->others = malloc(t->n_others * sizeof *t->others);
    if (!t->others)
        return VTRN_OUT_OF_MEMORY(t->n_others * sizeof *t->others);
    list_others(l, n_ranks, t->others);
    return NULL;
}

runtime_replay runtime_replay_of(const runtime_timing *t, uint32_t rank) {
    const uint32_t walk = rank < t->n_walks ? rank : 0;
    runtime_replay of = {.trace = t->first, .n = t->n_first};
    const uint32_t *at = t->others;
    for (uint32_t r = 1; at && r <= rank; at += 1 + *at, r++) {
        of.trace = at + 1;
        of.n = *at;
    }
    if (walk < t->n_walks) {
        of.meetings = t->walks[walk].list;
        of.n_meetings = t->walks[walk].n;
    }
    return of;
}

static vtrn_status time_new(runtime_program *l, const runtime_call *calls, uint32_t n_ranks,
                            runtime_timing *out) {
    if (!l->model) /* by the first execution: what is loaded and never run costs less */
        VTRN_RETURN_IF_ERROR(timing_prepare(&l->device->chip, l->program, &l->model));
    if (n_ranks > 1) {
        VTRN_RETURN_IF_ERROR(time_ranks(l, calls, n_ranks, out));
    } else {
        timing_result result = {0};
        const timing_options options = {.kept = &l->kept_blocks};
        VTRN_RETURN_IF_ERROR(
            timing_run(l->model, l->run.block_trace, l->run.n_block_trace, &options, &result));
        out->summary = result.summary;
        timing_result_free(&result);
    }
    return keep_traces(l, n_ranks, out);
}

vtrn_status times_run(runtime_program *l, const runtime_call *calls, uint32_t n_ranks) {
    double start = now_seconds();
    if (n_ranks > 1)
        VTRN_RETURN_IF_ERROR(estimate_all(l, calls, n_ranks));
    int i = find_timing(l, n_ranks);
    if (i < 0) {
        runtime_timing fresh = {.trace = NULL};
        vtrn_status status = time_new(l, calls, n_ranks, &fresh);
        if (status) {
            times_free(&fresh);
            return status;
        }
        i = claim_timing(l);
        l->timings[i] = fresh;
    }
    l->timings[i].last_used = l->n_executions;
    l->last_timing = i;
    l->total_simulated_ns += l->timings[i].summary.total_ns;
    l->timing_seconds = now_seconds() - start;
    return NULL;
}
