/* When the engines of a step work together, and what the busiest one waits for when it does not. */
#include "profile/profile_idle.h"

#include "profile/profile_ops.h"

#include <stdlib.h>
#include <string.h>

int profile_worker_of(const timing_interval *interval) {
    return profile_is_dma_lane(interval) ? PROFILE_WORKER_DMA : interval->lane;
}

const char *profile_worker_name(int worker) {
    return worker == PROFILE_WORKER_DMA ? "DMA" : isa_engine_name((vtrn_engine)worker);
}

/* A known instruction at work, on an engine or a ring. */
static bool is_at_work(const vtrn_program *program, const timing_interval *v) {
    return v->instr < program->n_instrs && profile_worker_of(v) < PROFILE_N_WORKERS &&
           profile_is_work(&program->instrs[v->instr], v);
}

typedef struct named_source {
    const char *name;
    uint32_t source;
} named_source;

static int compare_names(const void *a, const void *b) {
    const named_source *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->source > y->source) - (x->source < y->source);
}

static const char *line_name(const vtrn_source *source) {
    if (source->place && source->place[0])
        return source->place;
    return source->op && source->op[0] ? source->op : "no source line";
}

vtrn_status profile_lines_create(const vtrn_program *program, profile_lines *out) {
    uint32_t n = program->n_sources;
    *out = (profile_lines){.names = calloc((size_t)n + 1, sizeof *out->names),
                           .of_source = calloc((size_t)n + 1, sizeof *out->of_source)};
    named_source *keys = calloc((size_t)n + 1, sizeof *keys);
    if (!out->names || !out->of_source || !keys) {
        free(keys);
        profile_lines_free(out);
        return VTRN_OUT_OF_MEMORY(n * sizeof *keys);
    }
    for (uint32_t i = 0; i < n; i++)
        keys[i] = (named_source){line_name(&program->sources[i]), i};
    qsort(keys, n, sizeof *keys, compare_names);
    for (uint32_t i = 0; i < n; i++) {
        if (i == 0 || strcmp(keys[i].name, keys[i - 1].name) != 0)
            out->names[out->n++] = keys[i].name;
        out->of_source[keys[i].source] = out->n - 1;
    }
    out->of_source[n] = out->n;
    out->names[out->n++] = "no source line";
    free(keys);
    return NULL;
}

void profile_lines_free(profile_lines *lines) {
    free(lines->names);
    free(lines->of_source);
    *lines = (profile_lines){0};
}

uint32_t profile_line_of(const profile_lines *lines, const vtrn_program *program,
                         const timing_interval *interval) {
    uint32_t source = program->n_sources;
    if (interval->instr < program->n_instrs &&
        program->instrs[interval->instr].source < program->n_sources)
        source = program->instrs[interval->instr].source;
    return lines->of_source[source];
}

/* A worker begins or ends an instruction. */
typedef struct edge {
    double t_ns;
    int worker, by;
} edge;

static int compare_edges(const void *a, const void *b) {
    const edge *x = a, *y = b;
    if (x->t_ns != y->t_ns)
        return x->t_ns < y->t_ns ? -1 : 1;
    return x->by - y->by; /* ends first: neighbours that touch do not overlap */
}

vtrn_status profile_overlap_measure(const vtrn_program *program, const timing_result *timing,
                                    profile_overlap *out) {
    *out = (profile_overlap){0};
    edge *edges = calloc(2 * timing->n_intervals + 1, sizeof *edges);
    if (!edges)
        return VTRN_OUT_OF_MEMORY(2 * timing->n_intervals * sizeof *edges);
    size_t n = 0;
    for (size_t i = 0; i < timing->n_intervals; i++) {
        const timing_interval *v = &timing->intervals[i];
        if (!is_at_work(program, v) || v->end_ns <= v->start_ns)
            continue;
        edges[n++] = (edge){v->start_ns, profile_worker_of(v), 1};
        edges[n++] = (edge){v->end_ns, profile_worker_of(v), -1};
    }
    qsort(edges, n, sizeof *edges, compare_edges);
    int running[PROFILE_N_WORKERS] = {0}, n_workers = 0;
    double t_ns = 0;
    for (size_t i = 0; i < n; i++) {
        out->ns[n_workers] += edges[i].t_ns - t_ns;
        t_ns = edges[i].t_ns;
        int before = running[edges[i].worker];
        running[edges[i].worker] += edges[i].by;
        n_workers += (before + edges[i].by > 0) - (before > 0);
    }
    if (timing->summary.total_ns > t_ns)
        out->ns[0] += timing->summary.total_ns - t_ns;
    free(edges);
    return NULL;
}

/* What ended the gap before interval i. Control and triggers of the engine itself are passed over,
 * as long as they are in the gap: they may have waited. */
static uint32_t wait_in_gap(const vtrn_program *program, const timing_result *timing,
                            const profile_path *path, uint32_t i, double from_ns) {
    while (path->links[i].cause == PROFILE_CAUSE_QUEUE) {
        uint32_t before = path->links[i].interval;
        const timing_interval *v = &timing->intervals[before];
        if (is_at_work(program, v) || v->start_ns < from_ns)
            break;
        i = before;
    }
    return i;
}

static profile_wait wait_of(const vtrn_program *program, const timing_result *timing,
                            const profile_path *path, const profile_lines *lines, uint32_t i) {
    profile_link link = path->links[i];
    profile_wait wait = {.n = 1,
                         .line = profile_line_of(lines, program, &timing->intervals[i]),
                         .interval = i,
                         .cause_interval = link.interval,
                         .semaphore = link.semaphore,
                         .cause = link.cause};
    if (link.cause == PROFILE_CAUSE_SEMAPHORE) {
        const timing_interval *raiser = &timing->intervals[link.interval];
        wait.cause_line = profile_line_of(lines, program, raiser);
        wait.worker = (uint8_t)profile_worker_of(raiser);
    }
    return wait;
}

static int compare_kinds(const void *a, const void *b) {
    const profile_wait *x = a, *y = b;
    if (x->line != y->line)
        return x->line < y->line ? -1 : 1;
    if (x->cause != y->cause)
        return x->cause < y->cause ? -1 : 1;
    if (x->cause_line != y->cause_line)
        return x->cause_line < y->cause_line ? -1 : 1;
    if (x->worker != y->worker)
        return x->worker < y->worker ? -1 : 1;
    return (x->interval > y->interval) - (x->interval < y->interval);
}

static bool is_same_kind(const profile_wait *x, const profile_wait *y) {
    return x->line == y->line && x->cause == y->cause && x->cause_line == y->cause_line &&
           x->worker == y->worker;
}

static int compare_times(const void *a, const void *b) {
    const profile_wait *x = a, *y = b;
    if (x->ns != y->ns)
        return x->ns < y->ns ? 1 : -1;
    return (x->interval > y->interval) - (x->interval < y->interval);
}

/* Gaps of the same kind become one. */
static size_t merge_kinds(profile_wait *waits, size_t n) {
    qsort(waits, n, sizeof *waits, compare_kinds);
    size_t out = 0;
    for (size_t i = 0; i < n; i++) {
        profile_wait *last = out ? &waits[out - 1] : NULL;
        if (!last || !is_same_kind(last, &waits[i])) {
            waits[out++] = waits[i];
            continue;
        }
        double ns = last->ns + waits[i].ns;
        uint32_t count = last->n + 1;
        if (waits[i].longest_ns > last->longest_ns)
            *last = waits[i];
        last->ns = ns;
        last->n = count;
    }
    qsort(waits, out, sizeof *waits, compare_times);
    return out;
}

vtrn_status profile_idle_create(const vtrn_program *program, const timing_result *timing,
                                const profile_path *path, const profile_lines *lines, int engine,
                                profile_idle *out) {
    *out = (profile_idle){.waits = calloc(timing->n_intervals + 1, sizeof *out->waits)};
    if (!out->waits)
        return VTRN_OUT_OF_MEMORY(timing->n_intervals * sizeof *out->waits);
    double busy_until_ns = 0;
    for (uint32_t i = 0; i < timing->n_intervals; i++) {
        const timing_interval *v = &timing->intervals[i];
        if (v->lane != engine || !is_at_work(program, v))
            continue;
        double gap_ns = v->start_ns - busy_until_ns;
        if (gap_ns > 0) {
            uint32_t waiting = wait_in_gap(program, timing, path, i, busy_until_ns);
            profile_wait wait = wait_of(program, timing, path, lines, waiting);
            wait.ns = wait.longest_ns = gap_ns;
            out->waits[out->n_waits++] = wait;
            out->idle_ns += gap_ns;
            out->n_gaps++;
        }
        if (v->end_ns > busy_until_ns)
            busy_until_ns = v->end_ns;
    }
    if (timing->summary.total_ns > busy_until_ns)
        out->after_ns = timing->summary.total_ns - busy_until_ns;
    out->idle_ns += out->after_ns;
    out->n_waits = merge_kinds(out->waits, out->n_waits);
    return NULL;
}

void profile_idle_free(profile_idle *idle) {
    free(idle->waits);
    *idle = (profile_idle){0};
}
