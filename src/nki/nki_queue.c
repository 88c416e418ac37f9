/* Carries out instructions of a kernel, several together, by the team. See nki_queue.h. */
#include "nki/nki_queue.h"

#include "base/float_env.h"
#include "engine/plan_parts.h"
#include "engine/sharing.h"
#include "isa/access.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_INSTRS = 64, /* of an epoch */
    MAX_SHARES = ENGINE_MAX_PARTITIONS / ENGINE_OWNER_ROWS,
    /* A thread with this number of so many owns no partition. */
    IDLE_THREAD = ENGINE_MAX_THREADS - 1,
    /* Elements of an instruction, or of an epoch, that are worth several calls of its function:
     * some 2 us of one core. */
    LEAST_ELEMENTS = 16 << 10,
    /* Of a share, so that its tiles stay in a second-level cache of 1 MiB. */
    MAX_SHARE_BYTES = 256 << 10,
};
_Static_assert(ENGINE_MAX_PARTITIONS / ENGINE_OWNER_ROWS < IDLE_THREAD, "no group has this owner");
_Static_assert((int)MAX_SHARES <= (int)TEAM_MAX_SHARES, "a job has a share for each group");
_Static_assert((int)MAX_SHARES <= (int)ENGINE_LEAST_SCRATCHES, "a share has scratch of its own");

/* Bytes [lo, hi) of groups of partitions. */
typedef struct stretch {
    int64_t lo, hi;
    uint32_t groups;
    uint8_t space;
} stretch;

typedef struct stretches {
    uint32_t n;
    stretch at[MAX_INSTRS * VTRN_MAX_AP];
} stretches;

typedef struct hbm_use {
    uint64_t base;
    share_hbm access;
} hbm_use;

typedef struct epoch {
    uint64_t number;
    uint32_t n;
    vtrn_instr instr[MAX_INSTRS]; /* whose slots are indices of base */
    uint64_t base[MAX_INSTRS * VTRN_MAX_AP];
    uint32_t n_bases;
    stretches writes, crossing_reads;
    hbm_use hbm[MAX_INSTRS * VTRN_MAX_AP];
    uint32_t n_hbm;
    bool writes_weights, crosses_weights, multiplies;
    int n_partitions;             /* of its widest operand */
    uint64_t n_elements, n_bytes; /* of operands: the largest of each instruction, and all */
    engine_core core;             /* as its shares see it */
    struct {
        uint32_t instr_i;
        vtrn_status status;
    } failure[MAX_SHARES];
} epoch;

struct nki_queue {
    engine_core *core;
    engine_core idle;           /* the core as a thread sees it that has no rows */
    epoch *gathering, *running; /* running->n 0: none is */
    bool is_posted;             /* the team has the running one */
    uint64_t n_over;            /* epochs up to this number are */
    vtrn_status error;          /* to be told; NULL: none */
};

vtrn_status nki_queue_create(engine_core *core, nki_queue **out) {
    *out = NULL;
    nki_queue *q = calloc(1, sizeof *q);
    if (!q)
        return VTRN_OUT_OF_MEMORY(sizeof *q);
    q->core = core;
    q->gathering = calloc(1, sizeof *q->gathering);
    q->running = calloc(1, sizeof *q->running);
    if (!q->gathering || !q->running) {
        nki_queue_destroy(q);
        return VTRN_OUT_OF_MEMORY(2 * sizeof *q->gathering);
    }
    q->gathering->number = 1;
    *out = q;
    return NULL;
}

void nki_queue_destroy(nki_queue *q) {
    if (!q)
        return;
    vtrn_status_free(q->error);
    free(q->gathering);
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

static stretch stretch_of(const vtrn_ap *ap) {
    stretch s = {.space = ap->space,
                 .groups =
                     share_groups_of(ap->partition, ap->partition_step ? ap->n_partitions : 1)};
    isa_ap_extent(ap, &s.lo, &s.hi);
    return s;
}

static bool meets(const stretches *list, const stretch *s) {
    for (uint32_t i = 0; i < list->n; i++) {
        const stretch *other = &list->at[i];
        if (s->lo < other->hi && other->lo < s->hi && s->space == other->space &&
            (s->groups & other->groups))
            return true;
    }
    return false;
}

static bool crosses_weights(const vtrn_instr *instr) {
    return access_reads_weights(instr) && instr->ap[0].partition != 0;
}

/* An operand in HBM: where its tensor begins in the host's memory, which tells tensors apart. */
static hbm_use hbm_use_of(const nki_work *work, int i) {
    return (hbm_use){work->slot_base[work->instr->ap[i].slot], share_hbm_of(work->instr, i, 0)};
}

/* Whether rows of the instruction depend on rows of others by way of the epoch. */
static bool depends(const epoch *e, const nki_work *work) {
    const vtrn_instr *instr = work->instr;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (!access_is_memory(instr, i))
            continue;
        if (instr->ap[i].space == VTRN_SPACE_HBM) {
            hbm_use use = hbm_use_of(work, i);
            for (uint32_t k = 0; k < e->n_hbm; k++)
                if (e->hbm[k].base == use.base && share_hbm_races(&e->hbm[k].access, &use.access))
                    return true;
            continue;
        }
        share_kind kind = share_kind_of(instr, i);
        if (kind == SHARE_OWNER_READ)
            continue;
        stretch s = stretch_of(&instr->ap[i]);
        if (meets(kind == SHARE_OWNER_WRITE ? &e->crossing_reads : &e->writes, &s))
            return true;
    }
    return (crosses_weights(instr) && e->writes_weights) ||
           (access_writes_weights(instr) && e->crosses_weights);
}

/* Whether rows of the instruction depend on each other: it reads across partitions what it writes,
 * or two operands in HBM meet. */
static bool depends_on_itself(const nki_work *work) {
    const vtrn_instr *instr = work->instr;
    const vtrn_ap *dst = &instr->ap[0];
    for (int i = 1; i < VTRN_MAX_AP; i++) {
        const vtrn_ap *ap = &instr->ap[i];
        if (!access_is_memory(instr, i) || ap->space != dst->space)
            continue;
        if (ap->space == VTRN_SPACE_HBM) {
            hbm_use a = hbm_use_of(work, 0), b = hbm_use_of(work, i);
            if (a.base == b.base && share_hbm_races(&a.access, &b.access))
                return true;
            continue;
        }
        stretch a = stretch_of(dst), b = stretch_of(ap);
        if (share_kind_of(instr, i) == SHARE_CROSSING_READ && a.lo < b.hi && b.lo < a.hi &&
            (a.groups & b.groups))
            return true;
    }
    return false;
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

static void add(epoch *e, const nki_work *work) {
    vtrn_instr *instr = &e->instr[e->n++];
    *instr = *work->instr;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        vtrn_ap *ap = &instr->ap[i];
        if (!access_is_memory(instr, i))
            continue;
        e->n_bytes += elements_of(ap) * dtype_size((vtrn_dtype)ap->dtype);
        if (ap->space == VTRN_SPACE_HBM) {
            e->hbm[e->n_hbm] = hbm_use_of(work, i);
            e->hbm[e->n_hbm++].access.shape = ap; /* which stays */
            ap->slot = e->n_bases;
            e->base[e->n_bases++] = work->slot_base[work->instr->ap[i].slot];
            continue;
        }
        e->n_partitions = ap->n_partitions > e->n_partitions ? ap->n_partitions : e->n_partitions;
        share_kind kind = share_kind_of(instr, i);
        stretches *list = kind == SHARE_OWNER_WRITE ? &e->writes : &e->crossing_reads;
        if (kind != SHARE_OWNER_READ)
            list->at[list->n++] = stretch_of(ap);
    }
    e->n_elements += size_of(instr);
    e->writes_weights |= access_writes_weights(instr);
    e->crosses_weights |= crosses_weights(instr);
    e->multiplies |= access_reads_weights(instr);
}

static void clear(epoch *e) {
    e->n = e->n_bases = e->n_hbm = e->writes.n = e->crossing_reads.n = 0;
    e->writes_weights = e->crosses_weights = e->multiplies = false;
    e->n_partitions = 0;
    e->n_elements = e->n_bytes = 0;
}

/* In how many shares the epoch is done, a power of 2. A matmul converts the moving tile once a
 * share, so it has no more of them than there are threads for. */
static int count_shares(const epoch *e, int n_threads) {
    int n = 1;
    if (e->n_elements < LEAST_ELEMENTS)
        return 1;
    while (n < n_threads && n < MAX_SHARES)
        n *= 2;
    while (!e->multiplies && n < MAX_SHARES && e->n_bytes / (uint64_t)n > MAX_SHARE_BYTES)
        n *= 2;
    return n;
}

/* Whole runs of partitions, as large as leave each share one. */
static int owner_shift_of(const epoch *e, int n_shares) {
    int shift = ENGINE_OWNER_SHIFT;
    while (n_shares << shift < e->n_partitions)
        shift++;
    return shift;
}

static void do_share(void *arg, int share_i) {
    epoch *e = arg;
    for (uint32_t i = 0; i < e->n; i++) {
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
    for (int i = 1; i < MAX_SHARES; i++)
        regs->pe[i] = regs->pe[0];
}

/* The first failure in the order of issue, whatever the number of shares. */
static vtrn_status first_failure(epoch *e) {
    int first = -1;
    for (int i = 0; i < MAX_SHARES; i++)
        if (e->failure[i].status &&
            (first < 0 || e->failure[i].instr_i < e->failure[first].instr_i))
            first = i;
    vtrn_status status = first < 0 ? NULL : e->failure[first].status;
    for (int i = 0; i < MAX_SHARES; i++) {
        if (i != first)
            vtrn_status_free(e->failure[i].status);
        e->failure[i].status = NULL;
    }
    return status;
}

static vtrn_status finish(nki_queue *q) {
    epoch *e = q->running;
    vtrn_status before = q->error;
    q->error = NULL;
    if (before || !e->n)
        return before;
    if (q->is_posted) {
        fenv_t outside;
        float_env_enter(&outside);
        team_finish(q->core->team);
        float_env_leave(&outside);
    }
    if (e->writes_weights)
        pass_on_weights(q->core->regs);
    q->is_posted = false;
    q->n_over = e->number;
    clear(e);
    return first_failure(e);
}

vtrn_status nki_queue_close(nki_queue *q) {
    VTRN_RETURN_IF_ERROR(finish(q));
    epoch *e = q->gathering;
    if (!e->n)
        return NULL;
    q->gathering = q->running;
    q->running = e;
    q->gathering->number = e->number + 1;
    e->core = *q->core;
    e->core.n_threads = count_shares(e, team_size(q->core->team));
    e->core.owner_shift = owner_shift_of(e, e->core.n_threads);
    q->is_posted = e->core.n_threads > 1;
    if (q->is_posted) {
        team_post(q->core->team, do_share, e, e->core.n_threads);
        return NULL;
    }
    fenv_t outside;
    float_env_enter(&outside);
    do_share(e, 0);
    float_env_leave(&outside);
    return finish(q);
}

vtrn_status nki_queue_drain(nki_queue *q) {
    VTRN_RETURN_IF_ERROR(nki_queue_close(q));
    return finish(q);
}

/* At once and by the caller alone, after all else. */
static vtrn_status run_alone(nki_queue *q, const nki_work *work) {
    VTRN_RETURN_IF_ERROR(nki_queue_drain(q));
    engine_core alone = *q->core;
    fenv_t outside;
    alone.n_threads = 1;
    float_env_enter(&outside);
    vtrn_status status = engine_table[work->instr->opcode](&alone, work->instr, work->slot_base, 0);
    float_env_leave(&outside);
    if (access_writes_weights(work->instr)) {
        pass_on_weights(q->core->regs);
        q->core->regs->pe[IDLE_THREAD] = q->core->regs->pe[0];
    }
    return status;
}

vtrn_status nki_queue_issue(nki_queue *q, const nki_work *work, uint64_t *out_epoch) {
    const vtrn_instr *instr = work->instr;
    *out_epoch = 0;
    bool is_empty = !q->gathering->n && !q->running->n;
    if (!may_wait(instr) || (is_empty && size_of(instr) < LEAST_ELEMENTS) ||
        depends_on_itself(work))
        return run_alone(q, work);
    q->idle = *q->core;
    q->idle.n_threads = ENGINE_MAX_THREADS;
    q->idle.owner_shift = ENGINE_OWNER_SHIFT;
    VTRN_RETURN_IF_ERROR(
        engine_table[instr->opcode](&q->idle, instr, work->slot_base, IDLE_THREAD));
    if (q->gathering->n == MAX_INSTRS || depends(q->gathering, work))
        VTRN_RETURN_IF_ERROR(nki_queue_close(q));
    add(q->gathering, work);
    *out_epoch = q->gathering->number;
    return NULL;
}
