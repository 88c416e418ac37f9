/* Several ranks of one program: each goes on alone up to its next collective; where all members of
 * a group have come, they exchange and go on.
 *
 * Rounds are the same for any number of threads: what a rank does between two collectives does not
 * depend on the others. */
#include "runtime/ranks.h"

#include "base/process.h"
#include "engine/exchange.h"
#include "runtime/peers.h"
#include "runtime/stand_ins.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --- who meets ---------------------------------------------------------------------------------
 */

/* The first rank of the set that a rank is in, of ranks linked so far. */
static int32_t root_of(const int32_t *link, int32_t rank) {
    while (link[rank] != rank)
        rank = link[rank];
    return rank;
}

/* Pairs link ranks: a source is not to overwrite what its target has not taken. */
static void link_pairs(const vtrn_collective *c, int32_t *link) {
    for (uint32_t g = 0; g < c->n_groups; g++) {
        int32_t a = root_of(link, c->groups[2 * g]), b = root_of(link, c->groups[2 * g + 1]);
        link[a < b ? b : a] = a < b ? a : b;
    }
}

static void find_groups(const runtime_program *l, const vtrn_collective *c, int32_t *scratch,
                        runtime_groups *out) {
    const uint32_t n_ranks = (uint32_t)program_n_ranks(l->program);
    for (uint32_t r = 0; r < n_ranks; r++)
        out->group_of[r] = -1;
    if (c->kind != VTRN_COLLECTIVE_PERMUTE) {
        for (size_t i = 0; i < (size_t)c->n_groups * c->group_size; i++)
            if (c->groups[i] >= 0)
                out->group_of[c->groups[i]] = (int32_t)(i / c->group_size);
    } else {
        for (uint32_t r = 0; r < n_ranks; r++)
            scratch[r] = (int32_t)r;
        link_pairs(c, scratch);
        for (size_t i = 0; i < (size_t)c->n_groups * 2; i++)
            out->group_of[c->groups[i]] = root_of(scratch, c->groups[i]);
    }
    for (uint32_t r = 0; r < n_ranks; r++)
        if (out->group_of[r] >= 0 && ranks_is_executed(l, r))
            out->size[out->group_of[r]]++;
}

vtrn_status ranks_prepare(runtime_program *l) {
    const vtrn_program *p = l->program;
    uint32_t n = (uint32_t)program_n_ranks(p);
    if (n > 1) {
        l->rank_runs = calloc(n - 1, sizeof *l->rank_runs);
        if (!l->rank_runs)
            return VTRN_OUT_OF_MEMORY(n * sizeof *l->rank_runs);
    }
    VTRN_RETURN_IF_ERROR(stand_ins_choose(l));
    if (!program_has_collectives(p))
        return NULL;
    l->groups = calloc(p->n_customs, sizeof *l->groups);
    int32_t *scratch = calloc(n, sizeof *scratch);
    bool is_short = !l->groups || !scratch;
    for (uint32_t i = 0; i < p->n_customs && !is_short; i++) {
        const vtrn_collective *c = p->customs[i].collective;
        runtime_groups *g = &l->groups[i];
        if (!c)
            continue;
        uint32_t n_groups = c->n_groups > n ? c->n_groups : n;
        g->group_of = calloc(n, sizeof *g->group_of);
        g->size = calloc(n_groups, sizeof *g->size);
        g->arrived = calloc(n_groups, sizeof *g->arrived);
        is_short = !g->group_of || !g->size || !g->arrived;
        if (!is_short)
            find_groups(l, c, scratch, g);
    }
    free(scratch);
    return is_short ? VTRN_OUT_OF_MEMORY(n * sizeof *scratch) : stand_ins_find_sources(l);
}

void ranks_release(runtime_program *l) {
    for (uint32_t i = 0; l->groups && i < l->program->n_customs; i++) {
        free(l->groups[i].group_of);
        free(l->groups[i].size);
        free(l->groups[i].arrived);
        free(l->groups[i].sources);
        free(l->groups[i].times);
    }
    free(l->groups);
    free(l->stand_in);
    for (uint32_t r = 1; l->rank_runs && r < program_n_ranks(l->program); r++)
        free(l->rank_runs[r - 1].block_trace);
    free(l->rank_runs);
}

/* --- an execution ------------------------------------------------------------------------------
 */

typedef struct rank_state {
    engine_walk walk;
    vtrn_status status;
    uint32_t *n_done; /* by custom: collectives that it has been through */
    bool goes_on;
} rank_state;

typedef struct ranks {
    runtime_program *l;
    const runtime_call *calls;
    uint32_t n, n_threads;
    rank_state *state;      /* [n] */
    engine_member *members; /* [n] */
    atomic_uint next;       /* the next of `live` that no thread has taken */
    atomic_uint n_busy;     /* threads but the first that may execute ranks in this round */
    atomic_bool is_stopped; /* by the user, whom the first thread hears */
    pthread_mutex_t lock;   /* with `idle`: the first thread waits until n_busy is 0 */
    pthread_cond_t idle;
    uint32_t *live, n_live; /* ranks that go on in this round */
    engine_exchange *ready; /* of this round */
    int32_t *silent;        /* [n][2] pairs of -1 and a rank */
    runtime_peers *peers;   /* processes that have the other ranks; NULL: this one has all */
    uint32_t *places; /* [n] with peers: the instructions of the collectives that ranks are at */
    uint32_t n_ready, max_ready;
    bool is_over;
    vtrn_status status; /* of the first rank that failed */
    vtrn_status thread_status[ENGINE_MAX_THREADS];
} ranks;

static uint32_t custom_of(const ranks *x, uint32_t rank) {
    return (uint32_t)x->l->program->instrs[x->state[rank].walk.instr].arg[0];
}

static const vtrn_source *source_of(const ranks *x, uint32_t rank) {
    static const vtrn_source none = {"", ""};
    const vtrn_program *p = x->l->program;
    uint32_t source = p->instrs[x->state[rank].walk.instr].source;
    return source < p->n_sources ? &p->sources[source] : &none;
}

/* "stablehlo.all_reduce at model.py:42, execution 3" */
static void print_place(const ranks *x, uint32_t rank, char *text, size_t size) {
    const vtrn_source *s = source_of(x, rank);
    uint32_t custom_i = custom_of(x, rank);
    const char *op = s->op && *s->op ? s->op : x->l->program->customs[custom_i].name;
    bool has_place = s->place && *s->place;
    snprintf(text, size, "%s%s%s, execution %u", op, has_place ? " at " : "",
             has_place ? s->place : "", x->state[rank].n_done[custom_i] + 1);
}

static bool is_remote(const ranks *x, uint32_t rank) {
    return x->peers && runtime_core_is_remote(x->l->device, x->calls[rank].core_i);
}

/* Where the first ranks are that a group waits for. */
static vtrn_status describe_others(const ranks *x, uint32_t waiting, vtrn_status status) {
    enum { MOST = 4 };
    const runtime_groups *g = &x->l->groups[custom_of(x, waiting)];
    int n = 0;
    for (uint32_t r = 0; r < x->n; r++) {
        const engine_walk *w = &x->state[r].walk;
        bool is_there = w->is_at_collective && custom_of(x, r) == custom_of(x, waiting);
        if (g->group_of[r] != g->group_of[waiting] || is_there || !ranks_is_executed(x->l, r))
            continue;
        if (n++ == MOST)
            return vtrn_status_annotate(status, "  and more");
        char place[300] = "has ended";
        if (w->is_at_collective) {
            memcpy(place, "waits in ", 10);
            print_place(x, r, place + 9, sizeof place - 9);
        }
        status =
            vtrn_status_annotate(status, "  rank %u (core %d) %s", r, x->calls[r].core_i, place);
    }
    return status;
}

/* Who waits here, and whom for, when another process is lost. */
static vtrn_status describe_loss(const ranks *x, vtrn_status status) {
    enum { MOST = 4 };
    uint32_t n_waiting = 0, n_lost = 0;
    for (uint32_t r = 0; r < x->n; r++) {
        const engine_walk *w = &x->state[r].walk;
        char place[300];
        if (is_remote(x, r) || !w->is_at_collective || n_waiting++ >= MOST)
            continue;
        print_place(x, r, place, sizeof place);
        status = vtrn_status_annotate(status, "  rank %u (core %d) waits in %s", r,
                                      x->calls[r].core_i, place);
    }
    for (uint32_t r = 0; r < x->n; r++) {
        char place[300] = "its first collective";
        if (!peers_lack(x->peers, r) || n_lost++ >= MOST)
            continue;
        if (x->state[r].walk.is_at_collective)
            print_place(x, r, place, sizeof place);
        status =
            vtrn_status_annotate(status, "  rank %u (core %d, %s) did not %s %s", r,
                                 x->calls[r].core_i, peers_process_of(x->peers, r),
                                 x->state[r].walk.is_at_collective ? "get beyond" : "reach", place);
    }
    return status;
}

/* Ranks wait in collectives, and no group is complete. */
static vtrn_status diverged(const ranks *x) {
    char place[300], waiting[120];
    uint32_t first = 0, n = 0;
    int len = 0;
    while (!x->state[first].walk.is_at_collective)
        first++;
    const runtime_groups *g = &x->l->groups[custom_of(x, first)];
    for (uint32_t r = first; r < x->n; r++) {
        if (!x->state[r].walk.is_at_collective || custom_of(x, r) != custom_of(x, first) ||
            g->group_of[r] != g->group_of[first])
            continue;
        if (len < (int)sizeof waiting - 16)
            len += snprintf(waiting + len, sizeof waiting - (size_t)len, "%s%u", n ? ", " : "", r);
        n++;
    }
    print_place(x, first, place, sizeof place);
    vtrn_status status = VTRN_ERROR(
        VTRN_DEADLOCK,
        "%s: rank%s %s wait%s for the other members of the group for ever: data sent them another "
        "way; let all ranks of a group run the same collectives in the same order",
        place, n == 1 ? "" : "s", waiting, n == 1 ? "s" : "");
    return describe_others(x, first, status);
}

static engine_exchange exchange_of(const runtime_program *l, const engine_member *members,
                                   uint32_t custom_i) {
    return (engine_exchange){.program = l->program,
                             .custom_i = custom_i,
                             .members = members,
                             .custom = l->custom,
                             .custom_ctx = l->custom_ctx};
}

/* What the first `n` places from place `at` of the collective's groups exchange. */
static void set_places(const runtime_program *l, size_t at, uint32_t n, engine_exchange *out) {
    const runtime_groups *g = &l->groups[out->custom_i];
    out->ranks = &l->program->customs[out->custom_i].collective->groups[at];
    out->sources = g->sources ? &g->sources[at] : NULL;
    out->times = g->times ? &g->times[at] : NULL;
    out->n = n;
}

/* What is sent to the rank, whose group is complete. False: it is part of the exchange of the first
 * member that is executed. silent: -1 and the rank. */
static bool find_exchange(const runtime_program *l, uint32_t rank, const int32_t *silent,
                          engine_exchange *out) {
    const vtrn_collective *c = l->program->customs[out->custom_i].collective;
    const int32_t group = l->groups[out->custom_i].group_of[rank];
    const bool is_permute = c->kind == VTRN_COLLECTIVE_PERMUTE;
    for (uint32_t i = 0; is_permute && i < c->n_groups; i++)
        if (c->groups[2 * i + 1] == (int32_t)rank) {
            set_places(l, 2 * (size_t)i, 2, out);
            return true;
        }
    if (is_permute || group < 0) {
        out->ranks = silent;
        out->n = 2;
        return true;
    }
    const size_t at = (size_t)group * c->group_size;
    uint32_t n = 0, first = 0;
    while (n < c->group_size && c->groups[at + n] >= 0)
        n++;
    while (!ranks_is_executed(l, (uint32_t)c->groups[at + first]))
        first++;
    set_places(l, at, n, out);
    return c->groups[at + first] == (int32_t)rank;
}

/* Names the first rank that gives a NaN to the exchange, where the user asks for that. */
static vtrn_status check_nans(const runtime_program *l, const runtime_call *calls,
                              const engine_exchange *e, const char *place, int32_t *rank) {
    engine_nan nan;
    if (!l->device->refuses_nans || e->ranks[0] < 0 || !engine_exchange_find_nan(e, &nan))
        return NULL;
    *rank = nan.rank;
    return VTRN_ERROR(
        VTRN_UNDEFINED,
        "%s: rank %d (core %d) gives NaN, in element %llu of operand %u, and its group "
        "all would get it; look at what that rank computes before (VTRN_NAN=ignore "
        "lets it pass)",
        place, nan.rank, calls[nan.rank].core_i, (unsigned long long)nan.element, nan.operand_i);
}

static void add_exchanges_of(ranks *x, uint32_t rank) {
    engine_exchange *e = &x->ready[x->n_ready];
    *e = exchange_of(x->l, x->members, custom_of(x, rank));
    if (!find_exchange(x->l, rank, &x->silent[2 * (size_t)rank], e))
        return;
    x->n_ready++;
    if (!x->l->device->refuses_nans)
        return;
    char place[300];
    int32_t culprit = 0;
    print_place(x, rank, place, sizeof place);
    vtrn_status status = check_nans(x->l, x->calls, e, place, &culprit);
    if (status && x->state[culprit].status)
        vtrn_status_free(status);
    else if (status) /* known to all processes in the next round */
        x->state[culprit].status = status;
}

/* The failure of the lowest rank of this process, if any; another thread's exchange counts as that
 * of its first rank. */
static vtrn_status take_failure(ranks *x, uint32_t *rank) {
    vtrn_status status = NULL;
    for (uint32_t r = 0; r < x->n; r++) {
        if (status)
            vtrn_status_free(x->state[r].status);
        else if (x->state[r].status) {
            status = vtrn_status_annotate(x->state[r].status, "on rank %u (core %d)",
                                          x->calls[r].rank, x->calls[r].core_i);
            *rank = r;
        }
        x->state[r].status = NULL;
    }
    for (uint32_t t = 0; t < x->n_threads; t++) {
        if (status)
            vtrn_status_free(x->thread_status[t]);
        else
            status = x->thread_status[t];
        x->thread_status[t] = NULL;
    }
    return status;
}

/* Tells the other processes where the ranks are, and learns where theirs are. */
static void share_places(ranks *x, vtrn_status own, uint32_t own_rank) {
    for (uint32_t r = 0; r < x->n; r++)
        x->places[r] =
            x->state[r].walk.is_at_collective ? x->state[r].walk.instr : (uint32_t)PEERS_AT_END;
    x->status = peers_share_places(x->peers, x->places, own, own_rank);
    if (x->status) {
        x->status = describe_loss(x, x->status);
        return;
    }
    for (uint32_t r = 0; r < x->n; r++) {
        if (!is_remote(x, r))
            continue;
        x->state[r].walk.is_at_collective = x->places[r] != PEERS_AT_END;
        if (x->state[r].walk.is_at_collective)
            x->state[r].walk.instr = x->places[r];
    }
}

/* How many members of each group are there; whether any rank waits. */
static bool count_arrivals(ranks *x) {
    bool is_any_waiting = false;
    for (int count = 0; count < 2; count++)
        for (uint32_t r = 0; r < x->n; r++) {
            if (!x->state[r].walk.is_at_collective)
                continue;
            const runtime_groups *g = &x->l->groups[custom_of(x, r)];
            is_any_waiting = true;
            if (g->group_of[r] >= 0)
                g->arrived[g->group_of[r]] = count ? g->arrived[g->group_of[r]] + 1 : 0;
        }
    return is_any_waiting;
}

/* Between two rounds, by thread 0: finds the groups that are complete. */
static void settle(ranks *x) {
    uint32_t failed_rank = 0, n_met = 0;
    x->n_ready = x->n_live = 0;
    atomic_store(&x->next, 0);
    atomic_store(&x->n_busy, x->n_threads - 1);
    x->is_over = true;
    x->status = take_failure(x, &failed_rank);
    if (x->peers)
        share_places(x, x->status, failed_rank);
    if (x->status)
        return;
    bool is_any_waiting = count_arrivals(x);
    for (uint32_t r = 0; r < x->n; r++) {
        if (!x->state[r].walk.is_at_collective)
            continue;
        uint32_t custom_i = custom_of(x, r);
        const runtime_groups *g = &x->l->groups[custom_i];
        int32_t group = g->group_of[r];
        if (group >= 0 && g->arrived[group] != g->size[group])
            continue;
        add_exchanges_of(x, r);
        x->state[r].n_done[custom_i]++;
        n_met++;
        if (!is_remote(x, r))
            x->live[x->n_live++] = r;
    }
    x->is_over = !n_met;
    if (is_any_waiting && !n_met)
        x->status = diverged(x);
    if (x->peers && n_met)
        x->status = peers_share_operands(x->peers, x->ready, x->n_ready, x->members);
    if (x->peers && n_met && x->status) {
        x->status = describe_loss(x, x->status);
        x->is_over = true;
    }
}

static void meet(const ranks *x) {
    if (x->n_threads > 1)
        team_barrier(x->l->device->team);
}

/* By the first thread, which has no rank left to execute while others may never end. */
static void listen(ranks *x) {
    enum { ASK_NS = 20000000, SECOND_NS = 1000000000 };
    pthread_mutex_lock(&x->lock);
    while (atomic_load(&x->n_busy)) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += ASK_NS;
        until.tv_sec += until.tv_nsec / SECOND_NS;
        until.tv_nsec %= SECOND_NS;
        pthread_cond_timedwait(&x->idle, &x->lock, &until);
        if (process_is_interrupted())
            atomic_store(&x->is_stopped, true);
    }
    pthread_mutex_unlock(&x->lock);
}

static void go_on(ranks *x, uint32_t rank, int thread_i) {
    engine_run *run = ranks_run_of(x->l, rank);
    if (x->state[rank].status) /* it gave a NaN */
        return;
    run->is_stopped = thread_i ? &x->is_stopped : NULL;
    x->state[rank].status = engine_resume(&x->l->device->cores[x->calls[rank].core_i].engine, run,
                                          &x->state[rank].walk);
    run->is_stopped = NULL;
}

/* Executes ranks that no other thread has taken. */
static void take_ranks(ranks *x, int thread_i) {
    uint32_t i;
    while ((i = atomic_fetch_add(&x->next, 1)) < x->n_live)
        go_on(x, x->live[i], thread_i);
    if (thread_i && atomic_fetch_sub(&x->n_busy, 1) == 1) {
        pthread_mutex_lock(&x->lock); /* not between the first thread's look and its sleep */
        pthread_cond_signal(&x->idle);
        pthread_mutex_unlock(&x->lock);
    }
    if (!thread_i)
        listen(x);
}

static void thread_main(void *arg, int thread_i) {
    ranks *x = arg;
    for (;;) {
        take_ranks(x, thread_i);
        meet(x);
        if (thread_i == 0)
            settle(x);
        meet(x);
        if (x->is_over)
            return;
        for (uint32_t e = 0; e < x->n_ready; e++) {
            vtrn_status status =
                engine_exchange_run(&x->ready[e], (uint32_t)thread_i, x->n_threads);
            if (status && x->thread_status[thread_i])
                vtrn_status_free(status);
            else if (status)
                x->thread_status[thread_i] = status;
        }
        meet(x);
    }
}

static bool has_callbacks(const vtrn_program *p) {
    for (uint32_t i = 0; i < p->n_customs; i++)
        if (program_is_callback(&p->customs[i]))
            return true;
    return false;
}

static vtrn_status start(ranks *x) {
    const vtrn_program *p = x->l->program;
    uint32_t *n_done = calloc((size_t)x->n * p->n_customs + 1, sizeof *n_done);
    x->state = calloc(x->n, sizeof *x->state);
    x->members = calloc(x->n, sizeof *x->members);
    x->live = calloc(x->n, sizeof *x->live);
    x->silent = calloc(2 * (size_t)x->n, sizeof *x->silent);
    x->ready = calloc(x->n, sizeof *x->ready); /* a rank receives one exchange at a time */
    x->places = calloc(x->n, sizeof *x->places);
    if (x->state)
        x->state[0].n_done = n_done;
    else
        free(n_done);
    if (!n_done || !x->state || !x->members || !x->live || !x->silent || !x->ready || !x->places)
        return VTRN_OUT_OF_MEMORY(x->n * sizeof *x->state);
    for (uint32_t r = 0; r < x->n; r++) {
        const engine_core *core = &x->l->device->cores[x->calls[r].core_i].engine;
        x->state[r].n_done = n_done + (size_t)r * p->n_customs;
        x->members[r] = (engine_member){core->hbm, ranks_run_of(x->l, r)->slot_base,
                                        is_remote(x, r) || !ranks_is_executed(x->l, r)};
        if (!x->members[r].is_remote)
            x->live[x->n_live++] = r;
        x->silent[2 * (size_t)r] = -1;
        x->silent[2 * (size_t)r + 1] = (int32_t)r;
    }
    return NULL;
}

/* A rank that is executed alone, as far as an exchange is concerned. */
typedef struct alone {
    runtime_program *l;
    const runtime_call *calls;
    engine_member *members; /* [n ranks] */
    int32_t silent[2];
} alone;

static vtrn_status exchange_alone(void *ctx, uint32_t custom_i) {
    const alone *a = ctx;
    engine_exchange e = exchange_of(a->l, a->members, custom_i);
    find_exchange(a->l, 0, a->silent, &e);
    int32_t rank;
    VTRN_RETURN_IF_ERROR(
        check_nans(a->l, a->calls, &e, a->l->program->customs[custom_i].name, &rank));
    return engine_exchange_run(&e, 0, 1);
}

vtrn_status ranks_run_alone(runtime_program *l, const runtime_call *calls, uint32_t n) {
    engine_run *run = ranks_run_of(l, 0);
    engine_core *core = &l->device->cores[calls[0].core_i].engine;
    alone a = {.l = l, .calls = calls, .members = calloc(n, sizeof *a.members), .silent = {-1, 0}};
    if (!a.members)
        return VTRN_OUT_OF_MEMORY(n * sizeof *a.members);
    for (uint32_t r = 0; r < n; r++)
        a.members[r] = (engine_member){core->hbm, run->slot_base, r > 0};
    run->exchange = l->groups ? exchange_alone : NULL;
    run->exchange_ctx = &a;
    vtrn_status status = engine_execute(core, run);
    run->exchange = NULL;
    free(a.members);
    return status;
}

vtrn_status ranks_run(runtime_program *l, const runtime_call *calls, uint32_t n,
                      runtime_peers *peers) {
    ranks x = {.l = l, .calls = calls, .n = n, .peers = peers};
    /* Only the calling thread may call back into the host. */
    x.n_threads = has_callbacks(l->program) ? 1 : (uint32_t)team_size(l->device->team);
    atomic_init(&x.n_busy, x.n_threads - 1);
    pthread_mutex_init(&x.lock, NULL);
    pthread_cond_init(&x.idle, NULL);
    vtrn_status status = start(&x);
    if (!status) {
        if (x.n_threads > 1)
            team_run(l->device->team, thread_main, &x);
        else
            thread_main(&x, 0);
        status = x.status;
    }
    pthread_mutex_destroy(&x.lock);
    pthread_cond_destroy(&x.idle);
    if (x.state)
        free(x.state[0].n_done);
    free(x.state);
    free(x.members);
    free(x.live);
    free(x.silent);
    free(x.ready);
    free(x.places);
    return status;
}
