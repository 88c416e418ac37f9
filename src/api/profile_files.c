/* The files of an executable's profile: its last execution is timed again, with intervals. */
#include "api/api.h"
#include "collective/collective.h"
#include "profile/profile.h"

#include <stdlib.h>

vtrn_status api_samples_per_step(uint64_t *out) {
    const char *text = getenv("VTRN_SAMPLES_PER_STEP");
    char *end;
    *out = 0;
    if (!text || !*text)
        return NULL;
    long long n = strtoll(text, &end, 10);
    if (n < 1 || *end)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "VTRN_SAMPLES_PER_STEP: '%s' is no number of samples of 1 or more", text);
    *out = (uint64_t)n;
    return NULL;
}

/* Timelines of the ranks, kept up to so many intervals together. */
enum { MAX_INTERVALS = 2000000 };

typedef struct rank_list {
    profile_rank *ranks;   /* [n] */
    timing_result *timing; /* [n] those that were replayed have intervals */
    uint32_t n;
} rank_list;

static void free_ranks(rank_list *list) {
    for (uint32_t r = 0; list->timing && r < list->n; r++)
        timing_result_free(&list->timing[r]);
    free(list->timing);
    free(list->ranks);
}

/* The timeline of each rank; that of the shown one is there already. */
static vtrn_status replay_ranks(const runtime_program *l, const runtime_timing *t,
                                const timing_result *shown, rank_list *list) {
    size_t n_intervals = shown->n_intervals;
    for (uint32_t r = 0; r < list->n; r++) {
        const runtime_replay of = runtime_replay_of(t, r);
        profile_rank *rank = &list->ranks[r];
        rank->meetings = of.meetings;
        rank->n_meetings = of.n_meetings;
        rank->timing = r == t->rank || t->n_walks == 1 ? shown : NULL;
        if (rank->timing || n_intervals > MAX_INTERVALS)
            continue;
        const timing_options options = {
            .want_intervals = true, .meetings = of.meetings, .n_meetings = of.n_meetings};
        VTRN_RETURN_IF_ERROR(timing_run(l->model, of.trace, of.n, &options, &list->timing[r]));
        rank->timing = &list->timing[r];
        n_intervals += list->timing[r].n_intervals;
    }
    return NULL;
}

/* *out is to be freed, also on error. */
static vtrn_status list_ranks(const vtrn_executable *executable, const runtime_timing *t,
                              rank_list *out, profile_input *input) {
    if (!t->ranks)
        return NULL;
    const runtime_program *l = executable->loaded;
    profile_rank *ranks = out->ranks = calloc(t->n_ranks, sizeof *ranks);
    out->timing = calloc(t->n_ranks, sizeof *out->timing);
    if (!ranks || !out->timing)
        return VTRN_OUT_OF_MEMORY(t->n_ranks * sizeof *ranks);
    out->n = t->n_ranks;
    for (uint32_t r = 0; r < t->n_ranks; r++)
        ranks[r] = (profile_rank){.core_i = l->estimated_cores[r],
                                  .step_ns = t->ranks[r].total_ns,
                                  .collective_ns = t->ranks[r].collective_ns,
                                  .skew_ns = t->ranks[r].skew_ns};
    VTRN_RETURN_IF_ERROR(replay_ranks(l, t, input->timing, out));
    input->topology = l->device->topology;
    input->ranks = ranks;
    input->n_ranks = t->n_ranks;
    input->shown_rank = t->rank;
    input->n_whole_ops = executable->n_whole_ops;
    input->whole_reason = executable->whole_reason;
    return NULL;
}

static vtrn_status time_without_collectives(const runtime_program *l, const runtime_timing *t,
                                            double *step_ns) {
    timing_result timing;
    VTRN_RETURN_IF_ERROR(timing_run(l->model, t->trace, t->n, NULL, &timing));
    *step_ns = timing.summary.total_ns;
    timing_result_free(&timing);
    return NULL;
}

/* Under run_lock. */
static vtrn_status write_files(const vtrn_executable *executable, const char *directory) {
    const runtime_program *l = executable->loaded;
    uint64_t samples_per_step;
    VTRN_RETURN_IF_ERROR(api_samples_per_step(&samples_per_step));
    if (l->last_timing < 0)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s has no profile: it has not run yet, or VTRN_TIMING is off; "
                          "execute it once",
                          executable->name);
    const runtime_timing *last = &l->timings[l->last_timing];
    timing_result timing;
    const timing_options options = {
        .want_intervals = true, .meetings = last->meetings, .n_meetings = last->n_meetings};
    VTRN_RETURN_IF_ERROR(timing_run(l->model, last->trace, last->n, &options, &timing));
    timing_reliances reliances;
    vtrn_status status = timing_rely(&l->device->chip, l->program, last->trace, last->n,
                                     timing.summary.total_ns, &reliances);
    if (status) {
        timing_result_free(&timing);
        return status;
    }
    profile_input input = {.name = executable->name,
                           .program = l->program,
                           .chip = &l->device->chip,
                           .instance = &l->device->instance,
                           .timing = &timing,
                           .reliances = &reliances,
                           .counters = {.host_seconds = l->host_seconds,
                                        .functional_seconds = l->functional_seconds,
                                        .timing_seconds = l->timing_seconds,
                                        .custom_seconds = l->custom_seconds,
                                        .n_executions = l->n_executions,
                                        .hbm_peak_bytes = l->hbm_peak_bytes,
                                        .samples_per_step = samples_per_step}};
    const runtime_device *d = l->device;
    input.values.are_left_out = !d->has_values;
    if (last->n_ranks > 1) {
        input.values.ranks = d->value_ranks;
        input.values.n = d->n_value_ranks;
        while (input.values.n && d->value_ranks[input.values.n - 1] >= last->n_ranks)
            input.values.n--;
        if (input.values.n == last->n_ranks)
            input.values.n = 0;
    }
    rank_list ranks = {.n = 0};
    status = list_ranks(executable, last, &ranks, &input);
    if (!status && ranks.n)
        status = time_without_collectives(l, last, &input.free_step_ns);
    if (!status)
        status = profile_write(&input, directory);
    free_ranks(&ranks);
    timing_result_free(&timing);
    return status;
}

vtrn_status vtrn_executable_profile_write(const vtrn_executable *executable,
                                          const char *directory) {
    pthread_mutex_t *lock = &executable->loaded->device->run_lock;
    pthread_mutex_lock(lock);
    vtrn_status status = write_files(executable, directory);
    pthread_mutex_unlock(lock);
    return status;
}
