/* Carries out instructions of a kernel, several together, by the team. See nki_queue.h. */
#include "nki/nki_queue.h"

#include "base/float_env.h"
#include "engine/plan_parts.h"
#include "isa/access.h"
#include "nki/nki_epoch.h"

#include <stdlib.h>
#include <string.h>

enum {
    N_GATHERING = 2, /* epochs: what one prepares, the other reads across partitions */
    /* A thread with this number of so many owns no partition. */
    IDLE_THREAD = ENGINE_MAX_THREADS - 1,
    /* Elements of an instruction, or of an epoch, that are worth several calls of its function:
     * some 2 us of one core. */
    LEAST_ELEMENTS = 16 << 10,
    /* Of a share, so that its tiles stay in a second-level cache of 1 MiB. */
    MAX_SHARE_BYTES = 256 << 10,
};
_Static_assert(ENGINE_MAX_PARTITIONS / ENGINE_OWNER_ROWS < IDLE_THREAD, "no group has this owner");
_Static_assert((int)NKI_EPOCH_SHARES <= (int)TEAM_MAX_SHARES, "a job has a share for each group");
_Static_assert((int)NKI_EPOCH_SHARES <= (int)ENGINE_LEAST_SCRATCHES,
               "a share has scratch of its own");

struct nki_queue {
    engine_core *core;
    engine_core idle;  /* the core as a thread sees it that has no rows */
    engine_core alone; /* and one that has all */
    /* In the order in which they will run: an instruction is added to the first that it may be in.
     */
    nki_epoch *gathering[N_GATHERING];
    nki_epoch *running; /* n 0: none is */
    bool is_posted;     /* the team has the running one */
    struct {            /* the last instruction, a load, which may begin the next epoch */
        bool is_there;
        vtrn_instr instr;
        uint64_t base[VTRN_MAX_AP]; /* by slot of instr */
        uint64_t *epoch_of[VTRN_MAX_AP];
        uint64_t before[VTRN_MAX_AP]; /* the numbers there */
    } held;
    uint64_t n_over;   /* epochs up to this number are */
    vtrn_status error; /* to be told; NULL: none */
};

vtrn_status nki_queue_create(engine_core *core, nki_queue **out) {
    *out = NULL;
    nki_queue *q = calloc(1, sizeof *q);
    if (!q)
        return VTRN_OUT_OF_MEMORY(sizeof *q);
    q->core = core;
    bool has_all = (q->running = calloc(1, sizeof *q->running)) != NULL;
    for (int i = 0; i < N_GATHERING && has_all; i++) {
        q->gathering[i] = calloc(1, sizeof *q->gathering[i]);
        has_all = q->gathering[i] != NULL;
        if (has_all)
            q->gathering[i]->number = 1 + (uint64_t)i;
    }
    if (!has_all) {
        nki_queue_destroy(q);
        return VTRN_OUT_OF_MEMORY((1 + N_GATHERING) * sizeof *q->running);
    }
    *out = q;
    return NULL;
}

void nki_queue_destroy(nki_queue *q) {
    if (!q)
        return;
    vtrn_status_free(q->error);
    for (int i = 0; i < N_GATHERING; i++)
        free(q->gathering[i]);
    free(q->running);
    free(q);
}

void nki_queue_keep_error(nki_queue *q, vtrn_status status) {
    if (q->error)
        vtrn_status_free(status);
    else
        q->error = status;
}

bool nki_queue_is_over(const nki_queue *q, uint64_t number) {
    return number <= q->n_over;
}

void nki_queue_release(nki_queue *q, uint64_t number, const nki_released *tile) {
    for (int i = 0; i < N_GATHERING; i++) {
        nki_epoch *e = q->gathering[i];
        if (e->number == number && e->n_dead < NKI_EPOCH_INSTRS)
            e->dead[e->n_dead++] = *tile;
    }
}

static bool is_empty(const nki_queue *q) {
    return !q->gathering[0]->n && !q->running->n && !q->held.is_there && !q->error;
}

/* The caller's floating-point environment, as far as it is not that of the team's threads. */
typedef struct environment {
    bool is_other;
    fenv_t saved;
} environment;

static environment enter(void) {
    environment outside = {.is_other = !float_env_is_default()};
    if (outside.is_other)
        float_env_enter(&outside.saved);
    return outside;
}

static void leave(const environment *outside) {
    if (outside->is_other)
        float_env_leave(&outside->saved);
}

/* Whether the function of the instruction does nothing for a thread without rows but check it, and
 * fails for no other reason afterwards. */
static bool may_wait(const vtrn_instr *instr) {
    switch (instr->opcode) {
    case VTRN_OP_LDWEIGHTS:
    case VTRN_OP_MATMUL:
    case VTRN_OP_PE_TRANSPOSE:
    case VTRN_OP_TENSOR_TENSOR:
    case VTRN_OP_TENSOR_SCALAR:
    case VTRN_OP_SCALAR_TENSOR_TENSOR:
    case VTRN_OP_TENSOR_REDUCE:
    case VTRN_OP_TENSOR_COPY:
    case VTRN_OP_COPY_PREDICATED:
    case VTRN_OP_MEMSET:
    case VTRN_OP_RECIPROCAL:
    case VTRN_OP_TENSOR_TENSOR_SCAN:
    case VTRN_OP_BN_STATS:
    case VTRN_OP_BN_AGGR:
    case VTRN_OP_MAX8:
    case VTRN_OP_FIND_INDEX8:
    case VTRN_OP_MATCH_REPLACE8:
    case VTRN_OP_TENSOR_SCALAR_REDUCE:
    case VTRN_OP_TENSOR_SCALAR_CUMULATIVE:
    case VTRN_OP_RANGE_SELECT:
    case VTRN_OP_SELECT_REDUCE:
    case VTRN_OP_EXPONENTIAL:
    case VTRN_OP_VECTOR_READ_ACCUMULATOR:
    case VTRN_OP_ACTIVATE:
    case VTRN_OP_ACT_READ_ACCUMULATOR:
    case VTRN_OP_ACT_TABLE_LOAD:
    case VTRN_OP_IOTA:
    case VTRN_OP_AFFINE_SELECT:
        return true;
    case VTRN_OP_DMA_COPY:
        return dma_split_of(instr) != DMA_SPLIT_ROWS;
    default:
        return false;
    }
}

/* --- what an instruction touches, beside what its epoch does --- */

static nki_tile_use tile_use_of(const vtrn_instr *instr, int i) {
    const vtrn_ap *ap = &instr->ap[i];
    int n = ap->partition_step ? ap->n_partitions : 1;
    nki_tile_use use = {.space = ap->space,
                        .kind = (uint8_t)share_kind_of(instr, i),
                        .groups = share_groups_of(ap->partition, n)};
    isa_ap_extent(ap, &use.lo, &use.hi);
    return use;
}

/* An operand in HBM: where its tensor begins in the host's memory, which tells tensors apart. */
static nki_hbm_use hbm_use_of(const nki_work *work, int i) {
    return (nki_hbm_use){work->slot_base[work->instr->ap[i].slot], share_hbm_of(work->instr, i, 0)};
}

static bool crosses_weights(const vtrn_instr *instr) {
    return access_reads_weights(instr) && instr->ap[0].partition != 0;
}

static bool tiles_meet(const nki_tile_use *a, const nki_tile_use *b) {
    return a->lo < b->hi && b->lo < a->hi && a->space == b->space && a->groups & b->groups;
}

/* Whether rows of one depend on rows of the other in other partitions. */
static bool tiles_cross(const nki_tile_use *a, const nki_tile_use *b) {
    bool may = (a->kind == SHARE_OWNER_WRITE && b->kind == SHARE_CROSSING_READ) ||
               (b->kind == SHARE_OWNER_WRITE && a->kind == SHARE_CROSSING_READ);
    return may && tiles_meet(a, b);
}

/* Whether they touch the same bytes, and one writes. */
static bool hbm_meets(const nki_hbm_use *a, const nki_hbm_use *b) {
    return a->base == b->base && (a->access.is_write || b->access.is_write) &&
           a->access.base < b->access.end && b->access.base < a->access.end;
}

static bool hbm_crosses(const nki_hbm_use *a, const nki_hbm_use *b) {
    return hbm_meets(a, b) && share_hbm_races(&a->access, &b->access);
}

/* What the operands of an instruction do, as an epoch keeps it. */
typedef struct uses {
    nki_tile_use tile[VTRN_MAX_AP];
    nki_hbm_use hbm[VTRN_MAX_AP];
    int n_tiles, n_hbm;
} uses;

static void find_uses(const nki_work *work, uses *out) {
    out->n_tiles = out->n_hbm = 0;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (!access_is_memory(work->instr, i))
            continue;
        if (work->instr->ap[i].space == VTRN_SPACE_HBM)
            out->hbm[out->n_hbm++] = hbm_use_of(work, i);
        else
            out->tile[out->n_tiles++] = tile_use_of(work->instr, i);
    }
}

static bool any_meets(const nki_epoch *e, share_kind kind, const nki_tile_use *use) {
    for (uint32_t k = 0; k < e->tiles[kind].n; k++)
        if (tiles_meet(&e->tiles[kind].of[k], use))
            return true;
    return false;
}

/* Whether rows of the instruction depend on rows of the epoch in other partitions: it is in a later
 * one. */
static bool crosses(const nki_epoch *e, const vtrn_instr *instr, const uses *u) {
    if ((access_writes_weights(instr) && e->crosses_weights) ||
        (crosses_weights(instr) && e->states.written & ACCESS_PE_WEIGHTS))
        return true;
    for (int i = 0; i < u->n_tiles; i++) {
        share_kind kind = (share_kind)u->tile[i].kind;
        if ((kind == SHARE_OWNER_WRITE && any_meets(e, SHARE_CROSSING_READ, &u->tile[i])) ||
            (kind == SHARE_CROSSING_READ && any_meets(e, SHARE_OWNER_WRITE, &u->tile[i])))
            return true;
    }
    for (int i = 0; i < u->n_hbm; i++)
        for (uint32_t k = 0; k < e->n_hbm; k++)
            if (hbm_crosses(&u->hbm[i], &e->hbm[k]))
                return true;
    return false;
}

/* Whether rows depend on rows of the epoch in the same partitions, or on states of engines: it may
 * be in this epoch, and in none before. */
static bool is_behind(const nki_epoch *e, const vtrn_instr *instr, const uses *u) {
    const access_states states = access_states_of(instr);
    if (e->states.written & (states.read | states.written) || e->states.read & states.written)
        return true;
    for (int i = 0; i < u->n_tiles; i++)
        if (any_meets(e, SHARE_OWNER_WRITE, &u->tile[i]) ||
            (u->tile[i].kind == SHARE_OWNER_WRITE && any_meets(e, SHARE_OWNER_READ, &u->tile[i])))
            return true;
    for (int i = 0; i < u->n_hbm; i++)
        for (uint32_t k = 0; k < e->n_hbm; k++)
            if (hbm_meets(&u->hbm[i], &e->hbm[k]))
                return true;
    return false;
}

/* Whether rows of the instruction depend on each other: it reads across partitions what it writes,
 * or two operands in HBM meet. */
static bool depends_on_itself(const uses *u) {
    for (int i = 1; i < u->n_tiles; i++)
        if (tiles_cross(&u->tile[0], &u->tile[i]))
            return true;
    return u->n_hbm > 1 && hbm_crosses(&u->hbm[0], &u->hbm[1]);
}

/* --- an epoch --- */

static uint64_t elements_of(const vtrn_ap *ap) {
    return isa_ap_free_size(ap) * ap->n_partitions;
}

/* Elements of the largest operand, as a measure of what the instruction takes. */
static uint64_t size_of(const vtrn_instr *instr) {
    uint64_t most = 0;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        uint64_t n = access_is_memory(instr, i) ? elements_of(&instr->ap[i]) : 0;
        most = n > most ? n : most;
    }
    return most;
}

static void add(nki_epoch *e, const nki_work *work, const uses *u) {
    vtrn_instr *instr = &e->instr[e->n++];
    *instr = *work->instr;
    for (int i = 0; i < u->n_tiles; i++) {
        const share_kind kind = (share_kind)u->tile[i].kind;
        e->tiles[kind].of[e->tiles[kind].n++] = u->tile[i];
    }
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        vtrn_ap *ap = &instr->ap[i];
        if (!access_is_memory(instr, i))
            continue;
        e->n_bytes += elements_of(ap) * dtype_size((vtrn_dtype)ap->dtype);
        if (ap->space != VTRN_SPACE_HBM) {
            int n = ap->n_partitions;
            e->n_partitions = n > e->n_partitions ? n : e->n_partitions;
            continue;
        }
        e->hbm[e->n_hbm] = hbm_use_of(work, i);
        e->hbm[e->n_hbm++].access.shape = ap; /* which stays */
        ap->slot = e->n_bases;
        e->base[e->n_bases] = work->slot_base[work->instr->ap[i].slot];
        e->tensor[e->n_bases] = e->base[e->n_bases];
        e->n_bases++;
    }
    const access_states states = access_states_of(instr);
    e->states.read |= states.read;
    e->states.written |= states.written;
    e->crosses_weights |= crosses_weights(instr);
    e->n_elements += size_of(instr);
}

static void clear(nki_epoch *e) {
    e->n = e->n_bases = e->n_hbm = e->n_dead = 0;
    for (int kind = 0; kind < SHARE_KINDS; kind++)
        e->tiles[kind].n = 0;
    memset(e->is_left_out, 0, sizeof e->is_left_out);
    e->states = (access_states){0};
    e->crosses_weights = false;
    e->n_partitions = 0;
    e->n_elements = e->n_bytes = 0;
}

/* In how many shares the epoch is done, a power of 2: more than there are threads, since the caller
 * joins late, from the kernel, and other processes may have a thread's core. A matmul converts the
 * moving tile once a share, which takes 2 % of its time for two shares and 7 % for four. */
static int count_shares(const nki_epoch *e, int n_threads) {
    int n = 1;
    if (e->n_elements < LEAST_ELEMENTS)
        return 1;
    bool multiplies = e->states.read & ACCESS_PE_WEIGHTS;
    if (multiplies && n_threads == 1)
        return 1;
    while (n < 2 * n_threads && n < NKI_EPOCH_SHARES)
        n *= 2;
    while (!multiplies && n < NKI_EPOCH_SHARES && e->n_bytes / (uint64_t)n > MAX_SHARE_BYTES)
        n *= 2;
    return n;
}

/* Whole runs of partitions, as large as leave each share one. */
static int owner_shift_of(const nki_epoch *e, int n_shares) {
    int shift = ENGINE_OWNER_SHIFT;
    while (n_shares << shift < e->n_partitions)
        shift++;
    return shift;
}

static void do_share(void *arg, int share_i) {
    nki_epoch *e = arg;
    for (uint32_t i = 0; i < e->n; i++) {
        if (e->is_left_out[i])
            continue;
        vtrn_status status =
            engine_table[e->instr[i].opcode](&e->core, &e->instr[i], e->base, share_i);
        if (!status)
            continue;
        e->failure[share_i].instr_i = i;
        e->failure[share_i].status = status;
        return;
    }
}

/* What a matmul checks, for shares of later epochs. That of IDLE_THREAD is of the instruction that
 * was issued last, and may be ahead. */
static void pass_on_weights(engine_registers *regs) {
    for (int i = 1; i < NKI_EPOCH_SHARES; i++)
        regs->pe[i] = regs->pe[0];
}

/* The first failure in the order of issue, whatever the number of shares. */
static vtrn_status first_failure(nki_epoch *e) {
    int first = -1;
    for (int i = 0; i < NKI_EPOCH_SHARES; i++)
        if (e->failure[i].status &&
            (first < 0 || e->failure[i].instr_i < e->failure[first].instr_i))
            first = i;
    vtrn_status status = first < 0 ? NULL : e->failure[first].status;
    for (int i = 0; i < NKI_EPOCH_SHARES; i++) {
        if (i != first)
            vtrn_status_free(e->failure[i].status);
        e->failure[i].status = NULL;
    }
    return status;
}

static vtrn_status finish(nki_queue *q) {
    nki_epoch *e = q->running;
    vtrn_status before = q->error;
    q->error = NULL;
    if (before || !e->n)
        return before;
    bool is_done = true;
    if (q->is_posted) {
        environment outside = enter();
        is_done = team_finish(q->core->team);
        leave(&outside);
    }
    if (e->states.written & ACCESS_PE_WEIGHTS)
        pass_on_weights(q->core->regs);
    q->is_posted = false;
    q->n_over = e->number;
    clear(e);
    vtrn_status failure = first_failure(e);
    if (is_done)
        return failure;
    vtrn_status_free(failure);
    return VTRN_ERROR(
        VTRN_UNSUPPORTED,
        "this process is a fork of the one that began the kernel, and has none of its "
        "threads; fork before a kernel, or behind it");
}

/* Begins to carry out the first epoch that gathers. */
static vtrn_status run_first(nki_queue *q) {
    VTRN_RETURN_IF_ERROR(finish(q));
    nki_epoch *e = q->gathering[0], *next = q->running;
    if (!e->n)
        return NULL;
    memmove(q->gathering, q->gathering + 1, (N_GATHERING - 1) * sizeof(nki_epoch *));
    q->gathering[N_GATHERING - 1] = next;
    next->number = e->number + N_GATHERING;
    q->running = e;
    nki_forward(e);
    e->core = *q->core;
    e->core.n_threads = count_shares(e, team_size(q->core->team));
    e->core.owner_shift = owner_shift_of(e, e->core.n_threads);
    q->is_posted = e->core.n_threads > 1;
    if (q->is_posted) {
        team_post(q->core->team, do_share, e, e->core.n_threads);
        return NULL;
    }
    environment outside = enter();
    do_share(e, 0);
    leave(&outside);
    return finish(q);
}

vtrn_status nki_queue_close(nki_queue *q) {
    for (int i = 0; i < N_GATHERING; i++)
        VTRN_RETURN_IF_ERROR(run_first(q));
    return NULL;
}

/* The first epoch that the instruction may be in; N_GATHERING: one behind them. */
static int place_of(const nki_queue *q, const vtrn_instr *instr, const uses *u) {
    int first = 0;
    for (int i = N_GATHERING - 1; i >= 0; i--) {
        if (!q->gathering[i]->n)
            continue;
        first = crosses(q->gathering[i], instr, u) ? i + 1 : i;
        if (first > i || (i > 0 && is_behind(q->gathering[i], instr, u)))
            break;
    }
    while (first < N_GATHERING && q->gathering[first]->n == NKI_EPOCH_INSTRS)
        first++;
    return first;
}

/* Puts an instruction that was checked into the first epoch that it may be in. */
static vtrn_status place(nki_queue *q, const nki_work *work, const uses *u) {
    int i = place_of(q, work->instr, u);
    for (; i == N_GATHERING; i = place_of(q, work->instr, u))
        VTRN_RETURN_IF_ERROR(run_first(q));
    add(q->gathering[i], work, u);
    const uint64_t number = q->gathering[i]->number;
    for (int k = 0; k < VTRN_MAX_AP; k++)
        if (work->epoch_of[k] && *work->epoch_of[k] < number)
            *work->epoch_of[k] = number;
    return NULL;
}

/* A load is often the first instruction of a loop's turn, and what it overwrites in the kernel's
 * variables is the tile of the turn before, which is released then. So it is held until the next
 * instruction: an epoch that ends with that release has whole turns, and copies of nki_forward.c.
 */
static void hold(nki_queue *q, const nki_work *work) {
    q->held.is_there = true;
    q->held.instr = *work->instr;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        vtrn_ap *ap = &q->held.instr.ap[i];
        q->held.epoch_of[i] = work->epoch_of[i];
        q->held.before[i] = work->epoch_of[i] ? *work->epoch_of[i] : 0;
        if (ap->space != VTRN_SPACE_HBM)
            continue;
        q->held.base[i] = work->slot_base[ap->slot];
        ap->slot = (uint32_t)i;
    }
    for (int i = 0; i < VTRN_MAX_AP; i++) /* both may be of one tensor, whose number is kept */
        if (work->epoch_of[i])
            *work->epoch_of[i] = NKI_NOT_PLACED;
}

vtrn_status nki_queue_place(nki_queue *q) {
    uses u;
    if (!q->held.is_there)
        return NULL;
    nki_work work = {.instr = &q->held.instr, .slot_base = q->held.base};
    memcpy(work.epoch_of, q->held.epoch_of, sizeof work.epoch_of);
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (work.epoch_of[i]) /* an earlier instruction may be in a later epoch */
            *work.epoch_of[i] = q->held.before[i];
    q->held.is_there = false;
    find_uses(&work, &u);
    return place(q, &work, &u);
}

vtrn_status nki_queue_drain(nki_queue *q) {
    VTRN_RETURN_IF_ERROR(nki_queue_place(q));
    VTRN_RETURN_IF_ERROR(nki_queue_close(q));
    return finish(q);
}

/* At once and by the caller alone, after all else. */
static vtrn_status run_alone(nki_queue *q, const nki_work *work) {
    if (!is_empty(q))
        VTRN_RETURN_IF_ERROR(nki_queue_drain(q));
    q->alone = *q->core; /* whose memories may have moved */
    q->alone.n_threads = 1;
    environment outside = enter();
    vtrn_status status =
        engine_table[work->instr->opcode](&q->alone, work->instr, work->slot_base, 0);
    leave(&outside);
    if (access_writes_weights(work->instr)) {
        pass_on_weights(q->core->regs);
        q->core->regs->pe[IDLE_THREAD] = q->core->regs->pe[0];
    }
    return status;
}

vtrn_status nki_queue_issue(nki_queue *q, const nki_work *work) {
    const vtrn_instr *instr = work->instr;
    uses u;
    if (!may_wait(instr) || (is_empty(q) && size_of(instr) < LEAST_ELEMENTS))
        return run_alone(q, work);
    find_uses(work, &u);
    if (depends_on_itself(&u))
        return run_alone(q, work);
    q->idle = *q->core;
    q->idle.n_threads = ENGINE_MAX_THREADS;
    q->idle.owner_shift = ENGINE_OWNER_SHIFT;
    VTRN_RETURN_IF_ERROR(
        engine_table[instr->opcode](&q->idle, instr, work->slot_base, IDLE_THREAD));
    VTRN_RETURN_IF_ERROR(nki_queue_place(q));
    if (instr->opcode != VTRN_OP_DMA_COPY || instr->ap[1].space != VTRN_SPACE_HBM)
        return place(q, work, &u);
    hold(q, work);
    return NULL;
}
