/* Dependence analysis over program order, and the waits and updates that enforce it.
 *
 * A lane is what completes in order: an engine, or a DMA ring. Lane l raises semaphore l. An
 * instruction waits for (lane, number of updates). Vector clocks drop waits that an earlier wait of
 * the same engine already implies. */
#include "compiler/build/semaphores.h"

#include "base/array.h"

#include <stdlib.h>
#include <string.h>

enum {
    N_LANES = VTRN_ENGINE_COUNT + SCHEDULE_N_QUEUES,
    DMA_UPDATE = 16, /* a transfer raises its semaphore once per DMA engine. Facts 2.6 */
};

typedef struct dep_wait {
    uint32_t lane, awaited; /* index in the list */
} dep_wait;

struct schedule {
    const schedule_input *in;
    uint8_t *lane;        /* by list index */
    bool *is_awaited;     /* by list index: some instruction waits for its completion */
    uint32_t *value;      /* by list index: its lane's semaphore once it completed */
    uint32_t *first_wait; /* by list index, and one more: of waits */
    dep_wait *waits;
    uint32_t count[VTRN_ENGINE_COUNT]; /* instructions of each stream */
};

/* What only the analysis needs. Instructions are numbered from 1 in each lane. */
typedef struct scheduler {
    const schedule_input *in;
    schedule *out;
    arena scratch;
    granules *granules;
    uint32_t *seq;                              /* by list index: its number in its lane */
    uint32_t lane_n[N_LANES];                   /* instructions issued so far */
    uint32_t known[VTRN_ENGINE_COUNT][N_LANES]; /* by engine: completed for sure at its next */
    uint32_t (*snapshot)[N_LANES];              /* by list index: what its completion implies */
    uint32_t *lane_instr[N_LANES];              /* list index by seq-1 */
    uint32_t need[N_LANES];                     /* of the instruction at hand; 0: nothing */
    dep_wait *waits;
    uint32_t n_waits, cap_waits;
} scheduler;

vtrn_status schedule_supports(const vtrn_chip *chip) {
    enum {
        LEAST_QUEUES = 8 /* loads, stores, gathers and copies; more are used where they exist */
    };
    if (chip->n_dma_queues < LEAST_QUEUES)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "chip %s: programs take %d DMA queues of each engine, it has %d; raise "
                          "dma_queues of its chip file",
                          chip->name, LEAST_QUEUES, chip->n_dma_queues);
    if (chip->n_semaphores < N_LANES)
        return VTRN_ERROR(
            VTRN_UNSUPPORTED,
            "chip %s: programs take %d semaphores, it has %d; raise semaphores of its "
            "chip file",
            chip->name, N_LANES, chip->n_semaphores);
    return NULL;
}

static uint32_t lane_of(const vtrn_instr *instr) {
    return isa_is_dma(instr->opcode) ? VTRN_ENGINE_COUNT + instr->queue : instr->engine;
}

/* need[]: of each lane the last instruction that the one at hand must follow. */
static vtrn_status find_needs(scheduler *s) {
    const dependence *deps;
    uint32_t n;
    VTRN_RETURN_IF_ERROR(granules_next(s->granules, &deps, &n));
    memset(s->need, 0, sizeof s->need);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t *need = &s->need[s->out->lane[deps[i].instr]];
        if (s->seq[deps[i].instr] > *need)
            *need = s->seq[deps[i].instr];
    }
    return NULL;
}

static vtrn_status add_wait(scheduler *s, uint32_t lane, uint32_t awaited) {
    if (!array_grow((void **)&s->waits, s->n_waits, &s->cap_waits, sizeof *s->waits))
        return VTRN_OUT_OF_MEMORY(s->n_waits * sizeof *s->waits);
    s->waits[s->n_waits++] = (dep_wait){lane, awaited};
    s->out->is_awaited[awaited] = true;
    return NULL;
}

static void learn(scheduler *s, uint32_t engine, uint32_t instr_i) {
    for (uint32_t l = 0; l < N_LANES; l++)
        if (s->snapshot[instr_i][l] > s->known[engine][l])
            s->known[engine][l] = s->snapshot[instr_i][l];
}

/* Turns need[] into the fewest waits that `engine` has to make. */
static vtrn_status resolve(scheduler *s, const vtrn_instr *instr, uint32_t lane) {
    uint32_t e = instr->engine;
    bool is_dma = isa_is_dma(instr->opcode);
    if (!is_dma)
        s->need[lane] = 0; /* an engine completes in order */
    /* A wait on the most recent instruction may imply the others: take the lanes whose awaited
     * instruction was issued last first. */
    for (;;) {
        uint32_t best = N_LANES, best_instr = 0;
        for (uint32_t l = 0; l < N_LANES; l++) {
            if (s->need[l] <= s->known[e][l])
                continue;
            uint32_t awaited = s->lane_instr[l][s->need[l] - 1];
            if (best == N_LANES || awaited > best_instr) {
                best = l;
                best_instr = awaited;
            }
        }
        if (best == N_LANES)
            return NULL;
        VTRN_RETURN_IF_ERROR(add_wait(s, best, best_instr));
        learn(s, e, best_instr);
        if (s->known[e][best] < s->need[best])
            s->known[e][best] = s->need[best];
    }
}

/* event_semaphore instructions that n waits need in front of their instruction. */
static uint32_t n_holders(uint32_t n) {
    return n > VTRN_MAX_WAITS ? (n - VTRN_MAX_WAITS + VTRN_MAX_WAITS - 1) / VTRN_MAX_WAITS : 0;
}

static vtrn_status analyse(scheduler *s) {
    schedule *out = s->out;
    for (uint32_t i = 0; i < s->in->n; i++) {
        const vtrn_instr *instr = &s->in->list[i];
        uint32_t lane = out->lane[i], seq = s->lane_n[lane] + 1;
        VTRN_RETURN_IF_ERROR(find_needs(s));
        uint32_t first = out->first_wait[i] = s->n_waits;
        VTRN_RETURN_IF_ERROR(resolve(s, instr, lane));
        out->count[instr->engine] += 1 + n_holders(s->n_waits - first);
        s->lane_instr[lane][s->lane_n[lane]++] = i;
        s->seq[i] = seq;
        memcpy(s->snapshot[i], s->known[instr->engine], sizeof s->snapshot[i]);
        if (s->snapshot[i][lane] < seq)
            s->snapshot[i][lane] = seq;
    }
    out->first_wait[s->in->n] = s->n_waits;
    return NULL;
}

/* What each lane's semaphore has reached when an instruction of the list completed. */
static void count_updates(schedule *out) {
    uint32_t raised[N_LANES] = {0};
    for (uint32_t i = 0; i < out->in->n; i++) {
        uint32_t lane = out->lane[i];
        if (out->is_awaited[i])
            raised[lane] += lane >= VTRN_ENGINE_COUNT ? DMA_UPDATE : 1;
        out->value[i] = raised[lane];
    }
}

/* Instruction i at `at`, behind what holds the waits that it cannot. Returns what comes next. */
static vtrn_instr *emit_instr(const schedule *s, uint32_t i, vtrn_instr *at) {
    const vtrn_instr *instr = &s->in->list[i];
    uint32_t first = s->first_wait[i], n = s->first_wait[i + 1] - first;
    uint32_t extra = n > VTRN_MAX_WAITS ? n - VTRN_MAX_WAITS : 0;
    vtrn_instr *target = at + n_holders(n), *holder = target;
    *target = *instr;
    target->keeps_engine = 0;
    if (s->is_awaited[i]) {
        target->update_semaphore = s->lane[i];
        target->update_value = s->lane[i] >= VTRN_ENGINE_COUNT ? DMA_UPDATE : 1;
    }
    for (uint32_t w = 0; w < n; w++) {
        if (w < extra && w % VTRN_MAX_WAITS == 0) {
            holder = at++;
            *holder = (vtrn_instr){.opcode = VTRN_OP_EVENT_SEMAPHORE,
                                   .engine = instr->engine,
                                   .update_semaphore = VTRN_NO_SEMAPHORE,
                                   .source = instr->source};
        }
        holder = w < extra ? holder : target;
        const dep_wait *wait = &s->waits[first + w];
        holder->wait[holder->n_waits++] =
            (vtrn_wait){.semaphore = (uint16_t)wait->lane, .value = s->value[wait->awaited]};
    }
    return target + 1;
}

void schedule_emit(const schedule *s, vtrn_instr *out, uint32_t first[VTRN_ENGINE_COUNT],
                   uint32_t count[VTRN_ENGINE_COUNT]) {
    vtrn_instr *at[VTRN_ENGINE_COUNT];
    uint32_t n = 0;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        first[e] = n;
        count[e] = s->count[e];
        at[e] = out + n;
        n += count[e];
    }
    for (uint32_t i = 0; i < s->in->n; i++) {
        vtrn_engine e = (vtrn_engine)s->in->list[i].engine;
        at[e] = emit_instr(s, i, at[e]);
    }
}

static vtrn_status prepare_output(scheduler *s, arena *home) {
    uint32_t n = s->in->n;
    schedule *out = s->out = ARENA_NEW(home, schedule, 1);
    if (!out)
        return VTRN_OUT_OF_MEMORY(sizeof *out);
    out->in = s->in;
    out->lane = ARENA_NEW(home, uint8_t, n);
    out->is_awaited = ARENA_NEW(home, bool, n);
    out->value = ARENA_NEW(home, uint32_t, n);
    out->first_wait = ARENA_NEW(home, uint32_t, (size_t)n + 1);
    if (!out->lane || !out->is_awaited || !out->value || !out->first_wait)
        return VTRN_OUT_OF_MEMORY((size_t)n * sizeof *out->value);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t lane = lane_of(&s->in->list[i]);
        VTRN_CHECK(lane < N_LANES, "DMA ring in range");
        out->lane[i] = (uint8_t)lane;
    }
    return NULL;
}

static vtrn_status prepare(scheduler *s) {
    const schedule_input *in = s->in;
    VTRN_RETURN_IF_ERROR(granules_create(in, &s->scratch, &s->granules));
    s->snapshot = arena_alloc(&s->scratch, in->n, sizeof *s->snapshot);
    s->seq = ARENA_NEW(&s->scratch, uint32_t, in->n);
    bool is_ok = s->snapshot && s->seq;
    uint32_t lane_count[N_LANES] = {0};
    for (uint32_t i = 0; i < in->n; i++)
        lane_count[s->out->lane[i]]++;
    for (uint32_t l = 0; l < N_LANES; l++) {
        s->lane_instr[l] = ARENA_NEW(&s->scratch, uint32_t, lane_count[l]);
        is_ok = is_ok && s->lane_instr[l];
    }
    return is_ok ? NULL : VTRN_OUT_OF_MEMORY(in->n * sizeof *s->snapshot);
}

/* Moves the waits to where they stay. */
static vtrn_status finish(scheduler *s, arena *home, uint32_t *n_out) {
    schedule *out = s->out;
    count_updates(out);
    out->waits = ARENA_NEW(home, dep_wait, s->n_waits);
    if (!out->waits)
        return VTRN_OUT_OF_MEMORY(s->n_waits * sizeof *out->waits);
    if (s->n_waits)
        memcpy(out->waits, s->waits, s->n_waits * sizeof *out->waits);
    *n_out = 0;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        *n_out += out->count[e];
    return NULL;
}

vtrn_status schedule_analyse(const schedule_input *in, arena *home, schedule **out,
                             uint32_t *n_out) {
    scheduler s = {.in = in};
    vtrn_status status = prepare_output(&s, home);
    if (!status)
        status = prepare(&s);
    if (!status)
        status = analyse(&s);
    if (!status)
        status = finish(&s, home, n_out);
    *out = s.out;
    granules_destroy(s.granules);
    free(s.waits);
    arena_free(&s.scratch);
    return status;
}
