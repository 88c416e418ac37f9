/* A profiler's session: which executables ran while it listened, and what the chip did in them. */
#include "api/api.h"
#include "profile/profile_xspace.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* One block trace of an executable, which the session keeps alive. */
typedef struct traced {
    vtrn_executable *executable;
    uint32_t *trace; /* [n] */
    uint32_t n;
    timing_meeting *meetings; /* [n_meetings] of its collectives */
    size_t n_meetings;
} traced;

struct api_session {
    traced *traced;
    size_t n_traced, traced_capacity;
    profile_run *runs;
    size_t n_runs, run_capacity;
    uint64_t start_ns;
    bool is_short; /* an execution was not recorded: the host ran out of memory */
    api_session *next;
};

static pthread_mutex_t sessions_lock = PTHREAD_MUTEX_INITIALIZER;
static api_session *sessions; /* those that listen, under the lock */
static atomic_int n_listening;

uint64_t api_session_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

bool api_session_is_listening(void) {
    return atomic_load_explicit(&n_listening, memory_order_relaxed) > 0;
}

vtrn_status api_session_create(api_session **out) {
    *out = calloc(1, sizeof **out);
    return *out ? NULL : VTRN_OUT_OF_MEMORY(sizeof **out);
}

static bool take_out(api_session *s) {
    api_session **at = &sessions;
    while (*at && *at != s)
        at = &(*at)->next;
    bool found = *at != NULL;
    if (found) {
        *at = s->next;
        atomic_fetch_sub(&n_listening, 1);
    }
    return found;
}

void api_session_start(api_session *s) {
    pthread_mutex_lock(&sessions_lock);
    take_out(s);
    if (s->start_ns == 0)
        s->start_ns = api_session_now_ns();
    s->next = sessions;
    sessions = s;
    atomic_fetch_add(&n_listening, 1);
    pthread_mutex_unlock(&sessions_lock);
}

void api_session_stop(api_session *s) {
    pthread_mutex_lock(&sessions_lock);
    take_out(s);
    pthread_mutex_unlock(&sessions_lock);
}

void api_session_destroy(api_session *s) {
    if (!s)
        return;
    api_session_stop(s);
    for (size_t i = 0; i < s->n_traced; i++) {
        vtrn_executable_destroy(s->traced[i].executable);
        free(s->traced[i].trace);
        free(s->traced[i].meetings);
    }
    free(s->traced);
    free(s->runs);
    free(s);
}

/* Room for one more of `size` bytes each. */
static bool reserve(void **array, size_t n, size_t *capacity, size_t size) {
    if (n < *capacity)
        return true;
    size_t wanted = *capacity ? 2 * *capacity : 64;
    void *grown = realloc(*array, wanted * size);
    if (!grown)
        return false;
    *array = grown;
    *capacity = wanted;
    return true;
}

static bool are_meetings_equal(const traced *x, const runtime_timing *t) {
    size_t n = t ? t->n_meetings : 0;
    return x->n_meetings == n &&
           (n == 0 || memcmp(x->meetings, t->meetings, n * sizeof *x->meetings) == 0);
}

/* Index of the block trace among the session's; false when memory is short. */
static bool find_traced(api_session *s, vtrn_executable *e, const runtime_timing *t,
                        uint32_t *index) {
    uint32_t n = t ? t->n : 0;
    for (size_t i = s->n_traced; i-- > 0;) {
        const traced *x = &s->traced[i];
        if (x->executable == e && x->n == n &&
            (n == 0 || memcmp(x->trace, t->trace, n * sizeof *t->trace) == 0) &&
            are_meetings_equal(x, t)) {
            *index = (uint32_t)i;
            return true;
        }
    }
    if (!reserve((void **)&s->traced, s->n_traced, &s->traced_capacity, sizeof *s->traced))
        return false;
    traced *x = &s->traced[s->n_traced];
    *x = (traced){.executable = e, .n = n, .trace = malloc((n + 1) * sizeof *x->trace)};
    x->n_meetings = t ? t->n_meetings : 0;
    x->meetings = malloc((x->n_meetings + 1) * sizeof *x->meetings);
    if (!x->trace || !x->meetings) {
        free(x->trace);
        free(x->meetings);
        return false;
    }
    if (n)
        memcpy(x->trace, t->trace, n * sizeof *x->trace);
    if (x->n_meetings)
        memcpy(x->meetings, t->meetings, x->n_meetings * sizeof *x->meetings);
    api_executable_retain_live(e); /* the caller holds it */
    *index = (uint32_t)s->n_traced++;
    return true;
}

static bool note(api_session *s, vtrn_executable *e, int core_i, uint64_t host_ns,
                 const runtime_timing *t) {
    uint32_t index;
    if (!find_traced(s, e, t, &index) ||
        !reserve((void **)&s->runs, s->n_runs, &s->run_capacity, sizeof *s->runs))
        return false;
    s->runs[s->n_runs++] = (profile_run){.traced_i = index,
                                         .core_i = core_i,
                                         .host_ns = host_ns,
                                         .simulated_ns = t ? t->summary.total_ns : 0};
    return true;
}

void api_session_note(vtrn_executable *e, int core_i, uint64_t host_ns, int timing_i) {
    const runtime_program *l = e->loaded;
    pthread_mutex_lock(&sessions_lock);
    pthread_mutex_lock(&l->device->run_lock); /* the timings are other threads', too */
    const runtime_timing *t = timing_i < 0 ? NULL : &l->timings[timing_i];
    for (api_session *s = sessions; s; s = s->next)
        s->is_short |= !note(s, e, core_i, host_ns, t);
    pthread_mutex_unlock(&l->device->run_lock);
    pthread_mutex_unlock(&sessions_lock);
}

static vtrn_status trace_again(const traced *x, timing_result *out) {
    const runtime_program *l = x->executable->loaded;
    const timing_options options = {
        .want_intervals = true, .meetings = x->meetings, .n_meetings = x->n_meetings};
    *out = (timing_result){0};
    return x->n ? timing_run(l->model, x->trace, x->n, &options, out) : NULL;
}

static int n_cores(const api_session *s) {
    int n = 0;
    for (size_t i = 0; i < s->n_runs; i++)
        n = s->runs[i].core_i >= n ? s->runs[i].core_i + 1 : n;
    return n;
}

vtrn_status api_session_xspace(const api_session *s, uint8_t **bytes, size_t *size) {
    *bytes = NULL;
    *size = 0;
    if (s->is_short)
        return VTRN_OUT_OF_MEMORY((s->n_runs + 1) * sizeof *s->runs);
    profile_traced *programs = calloc(s->n_traced + 1, sizeof *programs);
    timing_result *timings = calloc(s->n_traced + 1, sizeof *timings);
    vtrn_status status =
        programs && timings ? NULL : VTRN_OUT_OF_MEMORY((s->n_traced + 1) * sizeof *timings);
    for (size_t i = 0; i < s->n_traced && !status; i++) {
        const vtrn_executable *e = s->traced[i].executable;
        programs[i] = (profile_traced){e->name, e->loaded->program, &timings[i]};
        status = trace_again(&s->traced[i], &timings[i]);
    }
    if (!status) {
        const profile_session session = {
            .traced = programs,
            .n_traced = s->n_traced,
            .runs = s->runs,
            .n_runs = s->n_runs,
            .chip_name = s->n_traced ? s->traced[0].executable->loaded->device->chip.name : "",
            .start_ns = s->start_ns,
            .n_cores = n_cores(s)};
        profile_buffer out = {0};
        status = profile_xspace(&session, &out);
        if (status)
            profile_buffer_free(&out);
        *bytes = out.data;
        *size = out.size;
    }
    for (size_t i = 0; timings && i < s->n_traced; i++)
        timing_result_free(&timings[i]);
    free(timings);
    free(programs);
    return status;
}
