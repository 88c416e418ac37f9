/* Races, by vector clocks: what is known to have completed before each instruction starts, and
 * whether anything that is not known to have touches the same bytes. */
#include "check/check.h"
#include "check/footprint.h"

#include "engine/plan_parts.h"

/* What completes in order: an engine, or a DMA ring. */
enum { N_LANES = VTRN_ENGINE_COUNT + VTRN_N_QUEUES, PLACE_BYTES = 96 };

/* By lane: how many of its instructions have completed for sure. */
typedef struct vector_clock {
    uint32_t of[N_LANES];
} vector_clock;

typedef struct lane {
    uint32_t n;      /* instructions of it taken so far */
    uint32_t *steps; /* [n] their steps */
} lane;

/* Who raises a semaphore from one lane, in order. */
typedef struct raisers {
    uint32_t n;
    uint32_t *steps;
    uint64_t *sums; /* what the lane has given with the i-th of them */
} raisers;

typedef struct step_info {
    vector_clock done; /* what its completion proves */
    uint32_t seq;
    uint32_t first_access, n_accesses;
    uint8_t lane;
} step_info;

typedef struct search {
    const vtrn_program *program;
    const engine_block_plan *block;
    uint32_t block_i;
    arena memory;
    step_info *info; /* by step */
    footprint *accesses;
    lane lanes[N_LANES];
    raisers raisers[VTRN_N_SEMAPHORES][N_LANES];
    uint64_t total[VTRN_N_SEMAPHORES];
    vector_clock known[VTRN_ENGINE_COUNT]; /* completed before the engine's next instruction */
} search;

static const vtrn_instr *instr_of(const search *s, uint32_t step) {
    return &s->program->instrs[s->block->sequence[step].instr];
}

static bool is_raiser(const vtrn_instr *instr) {
    return instr->update_semaphore != VTRN_NO_SEMAPHORE && instr->update_value;
}

static uint8_t lane_of(const vtrn_instr *instr) {
    return (uint8_t)(isa_is_dma((vtrn_opcode)instr->opcode) ? VTRN_ENGINE_COUNT + instr->queue
                                                            : instr->engine);
}

static uint32_t n_accesses_of(const vtrn_program *p, const vtrn_instr *instr) {
    isa_access a;
    uint32_t n = 0;
    for (access_walk w = access_begin(instr, p->customs, p->n_customs); access_next(&w, &a);)
        n += (uint32_t)a.is_read + a.is_written;
    return n;
}

/* Room for everything, by counting first. */
static vtrn_status prepare(search *s) {
    uint32_t n = s->block->n_steps, n_lane[N_LANES] = {0};
    uint64_t n_accesses = 0;
    for (uint32_t i = 0; i < n; i++) {
        const vtrn_instr *instr = instr_of(s, i);
        uint8_t l = lane_of(instr);
        n_lane[l]++;
        n_accesses += n_accesses_of(s->program, instr);
        if (is_raiser(instr))
            s->raisers[instr->update_semaphore][l].n++;
    }
    s->info = ARENA_NEW(&s->memory, step_info, n);
    s->accesses = ARENA_NEW(&s->memory, footprint, n_accesses);
    bool is_ok = s->info && s->accesses;
    for (int l = 0; l < N_LANES; l++) {
        s->lanes[l].steps = ARENA_NEW(&s->memory, uint32_t, n_lane[l]);
        is_ok = is_ok && s->lanes[l].steps;
        for (int k = 0; k < VTRN_N_SEMAPHORES; k++) {
            raisers *r = &s->raisers[k][l];
            if (!r->n)
                continue;
            r->steps = ARENA_NEW(&s->memory, uint32_t, r->n);
            r->sums = ARENA_NEW(&s->memory, uint64_t, r->n);
            is_ok = is_ok && r->steps && r->sums;
            r->n = 0;
        }
    }
    if (!is_ok)
        return VTRN_OUT_OF_MEMORY(s->memory.total);
    for (uint32_t i = 0; i < n; i++) {
        const vtrn_instr *instr = instr_of(s, i);
        if (!is_raiser(instr))
            continue;
        raisers *r = &s->raisers[instr->update_semaphore][lane_of(instr)];
        r->sums[r->n] = (r->n ? r->sums[r->n - 1] : 0) + instr->update_value;
        r->steps[r->n++] = i;
        s->total[instr->update_semaphore] += instr->update_value;
    }
    return NULL;
}

static void join(vector_clock *into, const vector_clock *other) {
    for (int l = 0; l < N_LANES; l++)
        if (other->of[l] > into->of[l])
            into->of[l] = other->of[l];
}

/* The semaphore reached the value: of each lane, at least what all others together cannot give. */
static void learn(search *s, vector_clock *known, const vtrn_wait *wait) {
    for (int l = 0; l < N_LANES; l++) {
        const raisers *r = &s->raisers[wait->semaphore][l];
        if (!r->n)
            continue;
        uint64_t others = s->total[wait->semaphore] - r->sums[r->n - 1];
        if (wait->value <= others)
            continue;
        uint64_t least = wait->value - others;
        uint32_t low = 0, high = r->n - 1; /* the first whose sum reaches it */
        while (low < high) {
            uint32_t middle = (low + high) / 2;
            if (r->sums[middle] >= least)
                high = middle;
            else
                low = middle + 1;
        }
        join(known, &s->info[r->steps[low]].done);
    }
}

static void find_accesses(search *s, uint32_t step, uint32_t *n_used) {
    const vtrn_instr *instr = instr_of(s, step);
    step_info *info = &s->info[step];
    info->first_access = *n_used;
    isa_access a;
    for (int is_write = 0; is_write < 2; is_write++)
        for (access_walk w = access_begin(instr, s->program->customs, s->program->n_customs);
             access_next(&w, &a);)
            if (is_write ? a.is_written : a.is_read)
                s->accesses[(*n_used)++] = footprint_of(s->program, &a, is_write);
    info->n_accesses = *n_used - info->first_access;
}

/* The access of `earlier` that meets one of `later`, or NULL. */
static const footprint *find_conflict(const search *s, uint32_t earlier, uint32_t later,
                                      const footprint **its) {
    const step_info *a = &s->info[earlier], *b = &s->info[later];
    for (uint32_t i = 0; i < a->n_accesses; i++)
        for (uint32_t k = 0; k < b->n_accesses; k++) {
            const footprint *x = &s->accesses[a->first_access + i];
            const footprint *y = &s->accesses[b->first_access + k];
            if ((x->is_write || y->is_write) && footprint_overlap(x, y)) {
                *its = y;
                return x;
            }
        }
    return NULL;
}

static const char *queue_name(const vtrn_instr *instr) {
    return isa_engine_name((vtrn_engine)instr->engine);
}

static vtrn_status describe(const search *s, uint32_t earlier, uint32_t later, const footprint *x,
                            const footprint *y) {
    const vtrn_instr *a = instr_of(s, earlier), *b = instr_of(s, later);
    uint32_t a_i = s->block->sequence[earlier].instr, b_i = s->block->sequence[later].instr;
    char place[PLACE_BYTES];
    footprint_print(y, place, sizeof place);
    vtrn_status status = VTRN_ERROR(
        VTRN_HAZARD,
        "block %u: nothing orders instruction %u (%s of %s), which %s %s, and instruction %u (%s "
        "of "
        "%s), which %s them; let one raise a semaphore for which the other waits",
        s->block_i, b_i, isa_op_info((vtrn_opcode)b->opcode)->mnemonic, queue_name(b),
        y->is_write ? "writes" : "reads", place, a_i, isa_op_info((vtrn_opcode)a->opcode)->mnemonic,
        queue_name(a), x->is_write ? "writes" : "reads");
    status = instr_annotate(status, s->program, b_i);
    return instr_annotate(status, s->program, a_i);
}

/* Against everything that came earlier in the plan and is not known to be over. */
static vtrn_status check_step(const search *s, uint32_t step, const vector_clock *before) {
    for (int l = 0; l < N_LANES; l++)
        for (uint32_t seq = before->of[l]; seq < s->lanes[l].n; seq++) {
            const footprint *y, *x = find_conflict(s, s->lanes[l].steps[seq], step, &y);
            if (x)
                return describe(s, s->lanes[l].steps[seq], step, x, y);
        }
    return NULL;
}

static vtrn_status search_block(search *s) {
    VTRN_RETURN_IF_ERROR(prepare(s));
    uint32_t n_used = 0;
    for (uint32_t i = 0; i < s->block->n_steps; i++) {
        const vtrn_instr *instr = instr_of(s, i);
        step_info *info = &s->info[i];
        vector_clock *known = &s->known[instr->engine];
        for (int w = 0; w < instr->n_waits; w++)
            learn(s, known, &instr->wait[w]);
        vector_clock before = *known;
        lane *own = &s->lanes[info->lane = lane_of(instr)];
        if (info->lane < VTRN_ENGINE_COUNT)
            before.of[info->lane] = own->n;
        find_accesses(s, i, &n_used);
        VTRN_RETURN_IF_ERROR(check_step(s, i, &before));
        info->done = before;
        if (own->n) /* what completes in order has also completed what came before */
            join(&info->done, &s->info[own->steps[own->n - 1]].done);
        own->steps[own->n++] = i;
        info->seq = own->n;
        info->done.of[info->lane] = info->seq;
    }
    return NULL;
}

vtrn_status check_hazards(const vtrn_program *program, const engine_plan *plan) {
    vtrn_status status = NULL;
    for (uint32_t i = 0; i < plan->n_blocks && !status; i++) {
        arena memory = ARENA_EMPTY;
        search *s = ARENA_NEW(&memory, search, 1);
        if (!s)
            return VTRN_OUT_OF_MEMORY(sizeof *s);
        s->program = program;
        s->block = &plan->blocks[i];
        s->block_i = i;
        status = search_block(s);
        arena_free(&s->memory);
        arena_free(&memory);
    }
    return status;
}
