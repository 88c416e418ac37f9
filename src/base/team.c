/* Thread team: persistent threads that spin briefly, then sleep, at a barrier and between runs. */
#include "base/team.h"

#include "base/float_env.h"
#include "base/process.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    TEAM_MAX_THREADS = 64,
    TEAM_SPINS = 2000, /* some 20 to 100 us: a barrier within a program seldom takes longer */
    LEAST_SPINS = 16,
    CACHE_LINE_BYTES = 64,
};

/* A counter that threads wait on. Sleepers are counted so that raising it costs a system call only
 * when somebody sleeps. */
typedef struct gate {
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t value;
    _Atomic uint32_t n_sleepers;
    pthread_mutex_t mutex;
    pthread_cond_t raised;
} gate;

typedef struct member {
    struct team *team;
    int thread_i, n_threads;
    pthread_t thread;
} member;

/* A job in shares: each idle thread of the team takes the next, so the caller does not wait for a
 * thread that has no core. taken[i] is the number of the last job whose share i a thread took. */
typedef struct job {
    void (*fn)(void *arg, int share_i);
    void *arg;
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t number; /* of the job that was posted last */
    _Atomic int n_shares;
    _Alignas(CACHE_LINE_BYTES) _Atomic uint32_t taken[TEAM_MAX_SHARES];
    _Alignas(CACHE_LINE_BYTES) _Atomic int n_done; /* shares that others than the caller did */
} job;

struct team {
    int n_threads, max_spins;
    _Atomic int n_spins; /* at a barrier: fewer after waits that were longer, more after others */
    _Atomic uint32_t n_sleeps;
    uint32_t n_forks; /* of the process whose threads they are */
    atomic_bool is_stopping;
    void (*fn)(void *arg, int thread_i);
    void *arg;
    _Atomic uint32_t n_runs;
    job job;
    gate start;   /* raised once a run, and once a job */
    gate barrier; /* raised when the last thread arrives */
    _Alignas(CACHE_LINE_BYTES) _Atomic int n_arrived;
    pthread_mutex_t one_run; /* callers take turns */
    member members[];
};

static void gate_init(gate *g) {
    atomic_init(&g->value, 0);
    atomic_init(&g->n_sleepers, 0);
    pthread_mutex_init(&g->mutex, NULL);
    pthread_cond_init(&g->raised, NULL);
}

static void job_init(job *j) {
    atomic_init(&j->number, 0);
    atomic_init(&j->n_shares, 0);
    atomic_init(&j->n_done, 0);
    for (int i = 0; i < TEAM_MAX_SHARES; i++)
        atomic_init(&j->taken[i], 0);
}

static void gate_close(gate *g) {
    pthread_mutex_destroy(&g->mutex);
    pthread_cond_destroy(&g->raised);
}

/* Either the sleeper sees the new value before it sleeps, or we see the sleeper: both sides write
 * one of the two variables and then read the other, sequentially consistent. */
static void gate_raise(gate *g) {
    atomic_fetch_add(&g->value, 1);
    if (!atomic_load(&g->n_sleepers))
        return;
    pthread_mutex_lock(&g->mutex);
    pthread_cond_broadcast(&g->raised);
    pthread_mutex_unlock(&g->mutex);
}

static void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Waits while the gate still has the value `seen`; says whether the thread slept. */
static bool gate_wait(gate *g, uint32_t seen, int n_spins) {
    bool has_slept = false;
    for (int i = 0; i < n_spins; i++) {
        if (atomic_load_explicit(&g->value, memory_order_acquire) != seen)
            return false;
        pause_briefly();
    }
    pthread_mutex_lock(&g->mutex);
    atomic_fetch_add(&g->n_sleepers, 1);
    for (; atomic_load(&g->value) == seen; has_slept = true)
        pthread_cond_wait(&g->raised, &g->mutex);
    atomic_fetch_sub(&g->n_sleepers, 1);
    pthread_mutex_unlock(&g->mutex);
    return has_slept;
}

/* Where other processes have the cores, the thread that is waited for does not run, and spinning
 * keeps it from running. */
static void adapt_spins(team *t, bool has_slept) {
    int n = atomic_load_explicit(&t->n_spins, memory_order_relaxed);
    int next = has_slept ? n / 2 : 2 * n;
    next = next > LEAST_SPINS ? next : LEAST_SPINS;
    next = next < t->max_spins ? next : t->max_spins;
    if (next != n)
        atomic_store_explicit(&t->n_spins, next, memory_order_relaxed);
    if (has_slept)
        atomic_fetch_add_explicit(&t->n_sleeps, 1, memory_order_relaxed);
}

void team_barrier(team *t) {
    if (t->n_threads == 1)
        return;
    uint32_t seen = atomic_load_explicit(&t->barrier.value, memory_order_relaxed);
    if (atomic_fetch_add(&t->n_arrived, 1) == t->n_threads - 1) {
        atomic_store_explicit(&t->n_arrived, 0, memory_order_relaxed);
        gate_raise(&t->barrier);
        return;
    }
    int n_spins = atomic_load_explicit(&t->n_spins, memory_order_relaxed);
    adapt_spins(t, gate_wait(&t->barrier, seen, n_spins));
}

/* Does shares of job `number` until all are taken, from the thread's own part on: threads touch the
 * same rows from job to job. Where the job is over, all of them are. Returns how many it did. */
static int take_shares(job *j, uint32_t number, int thread_i, int n_threads) {
    const int n = atomic_load_explicit(&j->n_shares, memory_order_relaxed);
    int n_taken = 0;
    for (int k = 0, i = n * thread_i / n_threads; k < n; k++, i = i + 1 < n ? i + 1 : 0) {
        uint32_t before = number - 1;
        if (!atomic_compare_exchange_strong(&j->taken[i], &before, number))
            continue;
        j->fn(j->arg, i); /* those of this job: it is not over before this share is done */
        n_taken++;
    }
    return n_taken;
}

static void *member_main(void *arg) {
    member *m = arg;
    team *t = m->team;
    uint32_t seen = 0, n_runs = 0;
    float_env_default(); /* not that of the thread that made the team */
    for (;;) {
        gate_wait(&t->start, seen, t->max_spins);
        seen = atomic_load_explicit(&t->start.value, memory_order_acquire);
        if (atomic_load_explicit(&t->is_stopping, memory_order_relaxed))
            return NULL;
        uint32_t number = atomic_load_explicit(&t->job.number, memory_order_acquire);
        int n_taken = take_shares(&t->job, number, m->thread_i, m->n_threads);
        if (n_taken)
            atomic_fetch_add_explicit(&t->job.n_done, n_taken, memory_order_release);
        if (atomic_load_explicit(&t->n_runs, memory_order_acquire) == n_runs)
            continue;
        n_runs++; /* a run has all threads, so none is missed */
        t->fn(t->arg, m->thread_i);
        team_barrier(t);
    }
}

void team_post(team *t, void (*fn)(void *arg, int share_i), void *arg, int n_shares) {
    job *j = &t->job;
    const uint32_t number = atomic_load_explicit(&j->number, memory_order_relaxed) + 1;
    j->fn = fn;
    j->arg = arg;
    atomic_store_explicit(&j->n_done, 0, memory_order_relaxed);
    atomic_store_explicit(&j->n_shares, n_shares, memory_order_relaxed);
    for (int i = n_shares; i < TEAM_MAX_SHARES; i++)
        atomic_store_explicit(&j->taken[i], number, memory_order_relaxed);
    atomic_store_explicit(&j->number, number, memory_order_release);
    if (t->n_threads > 1 && n_shares > 1)
        gate_raise(&t->start);
}

bool team_finish(team *t) {
    job *j = &t->job;
    if (t->n_threads > 1 && t->n_forks != process_n_forks())
        return false;
    const uint32_t number = atomic_load_explicit(&j->number, memory_order_relaxed);
    const int n = atomic_load_explicit(&j->n_shares, memory_order_relaxed);
    const int n_others = n - take_shares(j, number, 0, t->n_threads);
    for (int n_waits = 0; atomic_load_explicit(&j->n_done, memory_order_acquire) != n_others;
         n_waits++) {
        if (n_waits < TEAM_SPINS)
            pause_briefly();
        else
            sched_yield();
    }
    return true;
}

void team_run(team *t, void (*fn)(void *arg, int thread_i), void *arg) {
    pthread_mutex_lock(&t->one_run);
    t->fn = fn;
    t->arg = arg;
    atomic_fetch_add_explicit(&t->n_runs, 1, memory_order_release);
    if (t->n_threads > 1)
        gate_raise(&t->start);
    fn(arg, 0);
    team_barrier(t);
    pthread_mutex_unlock(&t->one_run);
}

int team_size(const team *t) {
    return t->n_threads;
}

uint32_t team_n_sleeps(team *t) {
    return atomic_load_explicit(&t->n_sleeps, memory_order_relaxed);
}

int team_usable_cores(void) {
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set))
        return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

static vtrn_status decide_size(int *n_threads) {
    const char *wanted = getenv("VTRN_THREADS");
    if (!wanted || !*wanted) {
        int n = team_usable_cores();
        *n_threads = n < TEAM_MAX_THREADS ? n : TEAM_MAX_THREADS;
        return NULL;
    }
    char *end;
    long n = strtol(wanted, &end, 10);
    if (*end || n < 1 || n > TEAM_MAX_THREADS)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "VTRN_THREADS: '%s' is not a number of threads from 1 to %d", wanted,
                          TEAM_MAX_THREADS);
    *n_threads = (int)n;
    return NULL;
}

/* Signals belong to the program that uses us: the team's threads take none. */
static vtrn_status start_members(team *t, int n_threads) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    vtrn_status status = NULL;
    for (int i = 1; i < n_threads && !status; i++) {
        t->members[i] = (member){.team = t, .thread_i = i, .n_threads = n_threads};
        int failed = pthread_create(&t->members[i].thread, NULL, member_main, &t->members[i]);
        if (failed)
            status = VTRN_ERROR(VTRN_RESOURCE, "thread team: cannot start thread %d of %d", i + 1,
                                n_threads);
        else
            t->n_threads = i + 1;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

vtrn_status team_create(int n_threads, team **out) {
    *out = NULL;
    if (n_threads == 0)
        VTRN_RETURN_IF_ERROR(decide_size(&n_threads));
    if (n_threads < 1 || n_threads > TEAM_MAX_THREADS)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "thread team: %d threads; give 1 to %d", n_threads,
                          TEAM_MAX_THREADS);
    size_t size = sizeof(team) + (size_t)n_threads * sizeof(member);
    size = (size + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES * CACHE_LINE_BYTES;
    team *t = aligned_alloc(CACHE_LINE_BYTES, size);
    if (!t)
        return VTRN_OUT_OF_MEMORY(size);
    t->n_threads = 1;
    t->n_forks = process_n_forks();
    t->max_spins = n_threads <= team_usable_cores() ? TEAM_SPINS : 0;
    atomic_init(&t->n_spins, t->max_spins);
    atomic_init(&t->n_sleeps, 0);
    atomic_init(&t->is_stopping, false);
    atomic_init(&t->n_runs, 0);
    job_init(&t->job);
    atomic_init(&t->n_arrived, 0);
    gate_init(&t->start);
    gate_init(&t->barrier);
    pthread_mutex_init(&t->one_run, NULL);
    vtrn_status status = start_members(t, n_threads);
    if (status) {
        team_destroy(t);
        return status;
    }
    *out = t;
    return NULL;
}

void team_destroy(team *t) {
    if (!t ||
        t->n_forks != process_n_forks()) /* a fork has nothing to stop, and locks as they were */
        return;
    atomic_store(&t->is_stopping, true);
    if (t->n_threads > 1)
        gate_raise(&t->start);
    for (int i = 1; i < t->n_threads; i++)
        pthread_join(t->members[i].thread, NULL);
    gate_close(&t->start);
    gate_close(&t->barrier);
    pthread_mutex_destroy(&t->one_run);
    free(t);
}
