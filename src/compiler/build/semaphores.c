/* Dependence analysis over program order, and the waits and updates that enforce it.
 *
 * A lane is what completes in order: an engine, or a DMA ring. Lane l raises semaphore l. An
 * instruction waits for (lane, number of updates). Vector clocks drop waits that an earlier wait of
 * the same engine already implies. */
#include "compiler/build/semaphores.h"

#include "isa/access.h"

#include <stdlib.h>
#include <string.h>

enum {
    N_LANES = VTRN_ENGINE_COUNT + SCHEDULE_N_QUEUES,
    GRANULE_SHIFT = 6,  /* bytes of a partition that are tracked as one */
    QUADRANT = 32,      /* partitions that are tracked as one: operands start at multiples of it */
    MAX_GRANULES = 256, /* of an HBM tensor */
    /* Where a tile's store meets the next one's load in a granule, the load waits for nothing: 8
     * KiB is where tiles of 128 rows begin. */
    MAX_IN_PLACE = 4096,
    DMA_UPDATE = 16, /* a transfer raises its semaphore once per DMA engine. Facts 2.6 */
};

/* The last accesses of a granule. Instructions are numbered from 1 in each lane; 0: none yet. */
typedef struct granule {
    uint32_t writer_seq;
    uint16_t writer_lane;
    uint16_t readers;             /* a bit a lane: the entries of reader_seq that count */
    uint32_t reader_seq[N_LANES]; /* with the rest a cache line */
} granule;

/* Granules of one HBM slot; granularity follows the size so that a pass over it stays cheap. */
typedef struct slot_track {
    granule *granules;
    uint32_t n;
    int shift;
    bool is_touched, is_in_place; /* in place: an argument that becomes an output, tile by tile */
    uint32_t last_seq[N_LANES];   /* last access at all: for memory that another slot reuses */
} slot_track;

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

/* What only the analysis needs. */
typedef struct scheduler {
    const schedule_input *in;
    schedule *out;
    arena scratch;
    granule *sbuf, *psum;
    uint32_t sbuf_cols, psum_cols, n_rows;
    slot_track *tracks; /* by slot; an output that may share an argument's memory uses its track */
    uint32_t *track_of;
    uint32_t lane_n[N_LANES];                   /* instructions issued so far */
    uint32_t known[VTRN_ENGINE_COUNT][N_LANES]; /* by engine: completed for sure at its next */
    uint32_t (*snapshot)[N_LANES];              /* by list index: what its completion implies */
    uint32_t *lane_instr[N_LANES];              /* list index by seq-1 */
    uint32_t need[N_LANES];                     /* of the instruction at hand */
    dep_wait *waits;
    uint32_t n_waits, cap_waits;
} scheduler;

static uint32_t lane_of(const vtrn_instr *instr) {
    return isa_is_dma(instr->opcode) ? VTRN_ENGINE_COUNT + instr->queue : instr->engine;
}

static void need_seq(scheduler *s, uint32_t lane, uint32_t seq) {
    if (seq > s->need[lane])
        s->need[lane] = seq;
}

static void touch(scheduler *s, granule *g, uint32_t lane, uint32_t seq, bool is_write) {
    if (g->writer_seq && (g->writer_lane != lane || g->writer_seq != seq))
        need_seq(s, g->writer_lane, g->writer_seq);
    if (!is_write) {
        g->reader_seq[lane] = seq;
        g->readers |= (uint16_t)(1u << lane);
        return;
    }
    for (uint32_t left = g->readers; left; left &= left - 1) {
        uint32_t l = (uint32_t)__builtin_ctz(left);
        if (l != lane || g->reader_seq[l] != seq) /* an instruction is no hazard to itself */
            need_seq(s, l, g->reader_seq[l]);
    }
    g->readers = 0;
    g->writer_lane = (uint16_t)lane;
    g->writer_seq = seq;
}

static void touch_partitions(scheduler *s, const isa_access *a, uint32_t lane, uint32_t seq,
                             bool is_write) {
    bool is_sbuf = a->space == VTRN_SPACE_SBUF;
    granule *memory = is_sbuf ? s->sbuf : s->psum;
    uint32_t cols = is_sbuf ? s->sbuf_cols : s->psum_cols;
    int64_t lo, hi;
    access_extent(a, 0, &lo, &hi);
    uint32_t rows = a->ap->partition_step == 0 ? 1 : (uint32_t)a->n_rows;
    uint32_t row0 = a->ap->partition / QUADRANT, row1 = (a->ap->partition + rows - 1) / QUADRANT;
    for (uint32_t row = row0; row <= row1 && row < s->n_rows; row++)
        for (int64_t c = lo >> GRANULE_SHIFT; c <= (hi - 1) >> GRANULE_SHIFT && c < cols; c++)
            touch(s, &memory[row * cols + (uint32_t)c], lane, seq, is_write);
}

static bool slots_overlap(const vtrn_slot *a, const vtrn_slot *b) {
    return a->kind == VTRN_SLOT_SCRATCH && b->kind == VTRN_SLOT_SCRATCH &&
           a->offset < b->offset + b->size_bytes && b->offset < a->offset + a->size_bytes;
}

/* First touch of a slot: its memory may have been another slot's, all of whose uses must be over.
 */
static vtrn_status open_slot(scheduler *s, uint32_t slot_i, slot_track *t) {
    const vtrn_slot *slot = &s->in->slots[slot_i];
    t->is_touched = true;
    t->shift = 9;
    while ((slot->size_bytes >> t->shift) > (t->is_in_place ? MAX_IN_PLACE : MAX_GRANULES))
        t->shift++;
    t->n = (uint32_t)(slot->size_bytes >> t->shift) + 1;
    t->granules = ARENA_NEW(&s->scratch, granule, t->n);
    if (!t->granules)
        return VTRN_OUT_OF_MEMORY(t->n * sizeof(granule));
    if (slot->kind == VTRN_SLOT_SCRATCH)
        for (uint32_t i = 0; i < s->in->n_slots; i++)
            if (s->tracks[i].is_touched && i != slot_i && slots_overlap(slot, &s->in->slots[i]))
                for (uint32_t l = 0; l < N_LANES; l++)
                    need_seq(s, l, s->tracks[i].last_seq[l]);
    return NULL;
}

static vtrn_status touch_slot(scheduler *s, uint32_t slot_i, int64_t lo, int64_t hi, uint32_t lane,
                              uint32_t seq, bool is_write) {
    slot_i = s->track_of[slot_i];
    slot_track *t = &s->tracks[slot_i];
    if (!t->is_touched)
        VTRN_RETURN_IF_ERROR(open_slot(s, slot_i, t));
    t->last_seq[lane] = seq;
    if (s->in->slots[slot_i].kind == VTRN_SLOT_CONSTANT)
        return NULL;
    for (int64_t c = lo >> t->shift; c <= (hi - 1) >> t->shift && c < t->n; c++)
        touch(s, &t->granules[c], lane, seq, is_write);
    return NULL;
}

/* Writes first: they must find the readers that came before, and this instruction's own read would
 * take the place of an earlier one of its lane. */
static vtrn_status touch_operands(scheduler *s, const vtrn_instr *instr, uint32_t lane,
                                  uint32_t seq) {
    isa_access a;
    for (int is_write = 1; is_write >= 0; is_write--)
        for (access_walk w = access_begin(instr, s->in->customs, s->in->n_customs);
             access_next(&w, &a);) {
            if (is_write ? !a.is_written : !a.is_read)
                continue;
            if (a.space != VTRN_SPACE_HBM) {
                touch_partitions(s, &a, lane, seq, is_write);
                continue;
            }
            int64_t lo, hi;
            access_extent(&a, s->in->slots[a.slot].size_bytes, &lo, &hi);
            if (lo < hi)
                VTRN_RETURN_IF_ERROR(touch_slot(s, a.slot, lo, hi, lane, seq, is_write));
        }
    return NULL;
}

static vtrn_status add_wait(scheduler *s, uint32_t lane, uint32_t awaited) {
    if (s->n_waits == s->cap_waits) {
        uint32_t cap = s->cap_waits ? s->cap_waits * 2 : 1024;
        dep_wait *grown = realloc(s->waits, cap * sizeof *grown);
        if (!grown)
            return VTRN_OUT_OF_MEMORY(cap * sizeof *grown);
        s->waits = grown;
        s->cap_waits = cap;
    }
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
        memset(s->need, 0, sizeof s->need);
        VTRN_RETURN_IF_ERROR(touch_operands(s, instr, lane, seq));
        uint32_t first = out->first_wait[i] = s->n_waits;
        VTRN_RETURN_IF_ERROR(resolve(s, instr, lane));
        out->count[instr->engine] += 1 + n_holders(s->n_waits - first);
        s->lane_instr[lane][s->lane_n[lane]++] = i;
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
    s->n_rows = ((uint32_t)in->chip->n_partitions + QUADRANT - 1) / QUADRANT;
    s->sbuf_cols = (in->chip->sbuf_partition_bytes >> GRANULE_SHIFT) + 1;
    s->psum_cols = (in->chip->psum_partition_bytes >> GRANULE_SHIFT) + 1;
    /* calloc leaves untouched pages untouched: a tiny program pays for what it uses */
    s->sbuf = calloc((size_t)s->n_rows * s->sbuf_cols, sizeof *s->sbuf);
    s->psum = calloc((size_t)s->n_rows * s->psum_cols, sizeof *s->psum);
    s->tracks = ARENA_NEW(&s->scratch, slot_track, in->n_slots);
    s->track_of = ARENA_NEW(&s->scratch, uint32_t, in->n_slots);
    s->snapshot = arena_alloc(&s->scratch, in->n, sizeof *s->snapshot);
    bool is_ok = s->sbuf && s->psum && s->tracks && s->track_of && s->snapshot;
    uint32_t lane_count[N_LANES] = {0};
    for (uint32_t i = 0; i < in->n; i++)
        lane_count[s->out->lane[i]]++;
    for (uint32_t l = 0; l < N_LANES; l++) {
        s->lane_instr[l] = ARENA_NEW(&s->scratch, uint32_t, lane_count[l]);
        is_ok = is_ok && s->lane_instr[l];
    }
    if (!is_ok)
        return VTRN_OUT_OF_MEMORY(in->n * sizeof *s->snapshot);
    for (uint32_t i = 0; i < in->n_slots; i++) {
        s->track_of[i] = i;
        const vtrn_slot *slot = &in->slots[i];
        if (slot->kind != VTRN_SLOT_OUTPUT || in->output_alias[slot->index] < 0)
            continue;
        for (uint32_t a = 0; a < in->n_slots; a++)
            if (in->slots[a].kind == VTRN_SLOT_ARGUMENT &&
                in->slots[a].index == in->output_alias[slot->index]) {
                s->track_of[i] = a;
                s->tracks[a].is_in_place = true;
            }
    }
    return NULL;
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
    free(s.sbuf);
    free(s.psum);
    free(s.waits);
    arena_free(&s.scratch);
    return status;
}
