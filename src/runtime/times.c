/* The time of an execution: its trace replayed, or the replay of the same trace lately. */
#include "runtime/times.h"

#include "runtime/ranks.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int find_timing(const runtime_program *l) {
    for (int i = 0; i < l->n_timings; i++) {
        const runtime_timing *t = &l->timings[i];
        if (t->n == l->run.n_block_trace &&
            memcmp(t->trace, l->run.block_trace, t->n * sizeof *t->trace) == 0)
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
    free(l->timings[oldest].trace);
    return oldest;
}

vtrn_status times_run(runtime_program *l, const runtime_call *calls, uint32_t n_ranks) {
    (void)calls, (void)n_ranks;
    double start = now_seconds();
    int i = find_timing(l);
    if (i < 0) {
        timing_result result = {0};
        uint32_t n = l->run.n_block_trace;
        if (!l->model) /* by the first execution: what is loaded and never run costs less */
            VTRN_RETURN_IF_ERROR(timing_prepare(&l->device->chip, l->program, &l->model));
        VTRN_RETURN_IF_ERROR(timing_run(l->model, l->run.block_trace, n, NULL, &result));
        uint32_t *trace = malloc((n + 1) * sizeof *trace);
        if (!trace) {
            timing_result_free(&result);
            return VTRN_OUT_OF_MEMORY(n * sizeof *trace);
        }
        if (n)
            memcpy(trace, l->run.block_trace, n * sizeof *trace);
        i = claim_timing(l);
        l->timings[i] = (runtime_timing){.summary = result.summary, .trace = trace, .n = n};
        timing_result_free(&result);
    }
    l->timings[i].last_used = l->n_executions;
    l->last_timing = i;
    l->total_simulated_ns += l->timings[i].summary.total_ns;
    l->timing_seconds = now_seconds() - start;
    return NULL;
}
