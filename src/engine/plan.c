/* Makes the plan: in-order queues under semaphores become one order of steps. */
#include "engine/plan.h"

#include "engine/plan_parts.h"

#include <stdio.h>
#include <string.h>

/* Below this much work in each block (elements touched, in all) one thread is sooner done than
 * others are awake: waking takes some 50 us, an element about 1 ns. */
static const uint64_t solo_elements = 65536;

/* A matmul does K multiply-adds an element of dst; about 16 of them take as long as an element of
 * an elementwise instruction. */
static const uint64_t matmul_work_per_element = 128 / 16;

/* The queues of a block while it is being sequenced. */
typedef struct queues {
    const vtrn_program *program;
    const vtrn_block *block;
    uint32_t done[VTRN_ENGINE_COUNT];
    uint64_t semaphore[VTRN_N_SEMAPHORES];
} queues;

static const vtrn_instr *queue_head(const queues *q, int engine) {
    if (q->done[engine] == q->block->count[engine])
        return NULL;
    return &q->program->instrs[q->block->first[engine] + q->done[engine]];
}

static const vtrn_wait *blocking_wait(const queues *q, const vtrn_instr *instr) {
    for (int i = 0; i < instr->n_waits; i++)
        if (q->semaphore[instr->wait[i].semaphore] < instr->wait[i].value)
            return &instr->wait[i];
    return NULL;
}

static vtrn_status check_block(const vtrn_program *program, uint32_t block_i) {
    const vtrn_block *block = &program->blocks[block_i];
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        if ((uint64_t)block->first[e] + block->count[e] > program->n_instrs)
            return VTRN_ERROR(
                VTRN_UNDEFINED, "block %u: the %s queue ends at instruction %llu of %u", block_i,
                isa_engine_name((vtrn_engine)e),
                (unsigned long long)block->first[e] + block->count[e], program->n_instrs);
    uint32_t n_next = block->end == VTRN_END_JUMP ? 1 : block->end == VTRN_END_BRANCH ? 2 : 0;
    const uint32_t *next = block->next;
    if (block->end == VTRN_END_SWITCH) {
        n_next = block->n_targets;
        next = block->targets;
        if (!n_next)
            return VTRN_ERROR(VTRN_UNDEFINED, "block %u: a switch without targets", block_i);
    }
    if (block->end > VTRN_END_SWITCH)
        return VTRN_ERROR(VTRN_UNDEFINED, "block %u: unknown end %d", block_i, block->end);
    for (uint32_t i = 0; i < n_next; i++)
        if (next[i] >= program->n_blocks)
            return VTRN_ERROR(VTRN_UNDEFINED, "block %u: goes on to block %u of %u", block_i,
                              next[i], program->n_blocks);
    if (block->end != VTRN_END_BRANCH && block->end != VTRN_END_SWITCH)
        return NULL;
    if (block->cond_slot >= program->n_slots)
        return VTRN_ERROR(VTRN_UNDEFINED, "block %u: its condition is in HBM tensor %u of %u",
                          block_i, block->cond_slot, program->n_slots);
    uint64_t size = program->slots[block->cond_slot].size_bytes;
    if (block->cond_addr < 0 || size < sizeof(int32_t) ||
        (uint64_t)block->cond_addr > size - sizeof(int32_t))
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "block %u: its condition is at byte %lld of HBM tensor %u of %llu bytes",
                          block_i, (long long)block->cond_addr, block->cond_slot,
                          (unsigned long long)size);
    return NULL;
}

static vtrn_status check_instr(const vtrn_program *program, const vtrn_chip *chip,
                               const vtrn_instr *instr) {
    if (instr->n_waits > VTRN_MAX_WAITS)
        return VTRN_ERROR(VTRN_UNDEFINED, "waits for %d semaphores; at most %d", instr->n_waits,
                          VTRN_MAX_WAITS);
    for (int i = 0; i < instr->n_waits; i++)
        if (instr->wait[i].semaphore >= VTRN_N_SEMAPHORES)
            return VTRN_ERROR(VTRN_UNDEFINED, "waits for semaphore %d of %d",
                              instr->wait[i].semaphore, VTRN_N_SEMAPHORES);
    if (instr->update_semaphore != VTRN_NO_SEMAPHORE &&
        instr->update_semaphore >= VTRN_N_SEMAPHORES)
        return VTRN_ERROR(VTRN_UNDEFINED, "raises semaphore %d of %d", instr->update_semaphore,
                          VTRN_N_SEMAPHORES);
    return operands_check(program, chip, instr);
}

/* Who would still raise the semaphore: the first such instruction of each engine. */
static vtrn_status describe_raisers(vtrn_status status, const queues *q, uint16_t semaphore) {
    bool is_any = false;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        for (uint32_t i = q->done[e]; i < q->block->count[e]; i++) {
            uint32_t instr_i = q->block->first[e] + i;
            const vtrn_instr *instr = &q->program->instrs[instr_i];
            if (instr->update_semaphore != semaphore)
                continue;
            is_any = true;
            status = vtrn_status_annotate(
                status, "  semaphore %d would be raised by %s: instruction %u (%s)%s", semaphore,
                isa_engine_name((vtrn_engine)e), instr_i,
                isa_op_info((vtrn_opcode)instr->opcode)->mnemonic,
                i == q->done[e] ? ", which waits itself" : ", which stands behind it in its queue");
            break;
        }
    }
    if (is_any)
        return status;
    return vtrn_status_annotate(status, "  nothing left in this block raises semaphore %d",
                                semaphore);
}

static vtrn_status deadlock(const queues *q, uint32_t block_i) {
    int n_blocked = 0;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        n_blocked += queue_head(q, e) != NULL;
    vtrn_status status =
        VTRN_ERROR(VTRN_DEADLOCK,
                   "block %u: %d engine%s wait for ever; raise the semaphore before "
                   "the wait, or wait for less",
                   block_i, n_blocked, n_blocked == 1 ? "" : "s");
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        const vtrn_instr *instr = queue_head(q, e);
        if (!instr)
            continue;
        const vtrn_wait *wait = blocking_wait(q, instr);
        uint32_t instr_i = q->block->first[e] + q->done[e];
        const vtrn_source *source = instr->source < q->program->n_sources
                                        ? &q->program->sources[instr->source]
                                        : &(vtrn_source){"", ""};
        status = vtrn_status_annotate(
            status, "%s: instruction %u (%s)%s%s%s%s waits for semaphore %d >= %u, which is %llu",
            isa_engine_name((vtrn_engine)e), instr_i,
            isa_op_info((vtrn_opcode)instr->opcode)->mnemonic, source->op && *source->op ? " " : "",
            source->op ? source->op : "", source->place && *source->place ? " " : "",
            source->place ? source->place : "", wait->semaphore, wait->value,
            (unsigned long long)q->semaphore[wait->semaphore]);
        status = describe_raisers(status, q, wait->semaphore);
    }
    return status;
}

static uint64_t work_of(const vtrn_instr *instr) {
    uint64_t most = 0;
    for (int i = 0; i < 2; i++) {
        const vtrn_ap *ap = &instr->ap[i];
        if (ap->space == VTRN_SPACE_NONE)
            continue;
        uint64_t n = isa_ap_free_size(ap) * ap->n_partitions;
        most = n > most ? n : most;
    }
    return instr->opcode == VTRN_OP_MATMUL ? most * matmul_work_per_element : most;
}

/* Takes instructions from one queue until it blocks or ends. Returns whether it took any. */
static vtrn_status run_queue(queues *q, int engine, const vtrn_chip *chip, engine_step *steps,
                             uint32_t *n_steps, uint64_t *work) {
    const vtrn_instr *instr;
    while ((instr = queue_head(q, engine))) {
        uint32_t instr_i = q->block->first[engine] + q->done[engine];
        vtrn_status status = check_instr(q->program, chip, instr);
        if (status)
            return instr_annotate(status, q->program, instr_i);
        if (blocking_wait(q, instr))
            return NULL;
        steps[(*n_steps)++].instr = instr_i;
        *work += work_of(instr);
        if (instr->update_semaphore != VTRN_NO_SEMAPHORE)
            q->semaphore[instr->update_semaphore] += instr->update_value;
        q->done[engine]++;
    }
    return NULL;
}

/* DMA-only queues first, so that loads gather in front of the work that waits for them: fewer
 * meetings of the threads. */
static vtrn_status sequence_block(const vtrn_program *program, const vtrn_chip *chip,
                                  uint32_t block_i, engine_block_plan *plan, uint64_t *work) {
    static const int turn[] = {VTRN_ENGINE_SYNC, VTRN_ENGINE_GPSIMD, VTRN_ENGINE_SCALAR,
                               VTRN_ENGINE_VECTOR, VTRN_ENGINE_TENSOR};
    queues q = {.program = program, .block = &program->blocks[block_i]};
    uint32_t n_total = 0;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        n_total += q.block->count[e];
    *work = 0;
    while (plan->n_steps < n_total) {
        uint32_t before = plan->n_steps;
        for (int i = 0; i < VTRN_ENGINE_COUNT; i++)
            VTRN_RETURN_IF_ERROR(run_queue(&q, turn[i], chip, plan->steps, &plan->n_steps, work));
        if (plan->n_steps == before)
            return deadlock(&q, block_i);
    }
    return NULL;
}

static vtrn_status sequence(const vtrn_program *program, const vtrn_chip *chip, engine_plan *out) {
    out->n_blocks = program->n_blocks;
    out->blocks = ARENA_NEW(&out->arena, engine_block_plan, program->n_blocks);
    if (!out->blocks)
        return VTRN_OUT_OF_MEMORY(program->n_blocks * sizeof *out->blocks);
    out->is_solo = true;
    for (uint32_t i = 0; i < program->n_blocks; i++) {
        VTRN_RETURN_IF_ERROR(check_block(program, i));
        uint64_t n = 0, work;
        for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
            n += program->blocks[i].count[e];
        if (n > UINT32_MAX)
            return VTRN_ERROR(VTRN_UNDEFINED, "block %u has more than 2^32 instructions", i);
        out->blocks[i].steps = ARENA_NEW(&out->arena, engine_step, n);
        if (!out->blocks[i].steps)
            return VTRN_OUT_OF_MEMORY(n * sizeof(engine_step));
        VTRN_RETURN_IF_ERROR(sequence_block(program, chip, i, &out->blocks[i], &work));
        out->is_solo &= work <= solo_elements;
    }
    return NULL;
}

static vtrn_status place_barriers(const vtrn_program *program, const vtrn_chip *chip,
                                  engine_plan *plan) {
    arena memory = ARENA_EMPTY;
    barriers *b = barriers_create(&memory, program, chip, plan->n_threads);
    for (uint32_t i = 0; b && i < plan->n_blocks; i++) {
        barriers_begin_block(b);
        for (uint32_t s = 0; s < plan->blocks[i].n_steps; s++) {
            engine_step *step = &plan->blocks[i].steps[s];
            barriers_step(b, &program->instrs[step->instr], step);
            plan->n_barriers += step->needs_barrier;
        }
    }
    size_t n_bytes = memory.total;
    arena_free(&memory);
    return b ? NULL : VTRN_OUT_OF_MEMORY(n_bytes);
}

vtrn_status plan_create(const vtrn_program *program, const vtrn_chip *chip, int n_threads,
                        bool is_solo_allowed, engine_plan *out) {
    *out = (engine_plan){.n_threads = n_threads};
    if (n_threads < 1 || n_threads > ENGINE_MAX_THREADS)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "a plan for %d threads; give 1 to %d", n_threads,
                          ENGINE_MAX_THREADS);
    if (!program->n_blocks)
        return VTRN_ERROR(VTRN_UNDEFINED, "a program without blocks");
    vtrn_status status = sequence(program, chip, out);
    out->is_solo = (out->is_solo && is_solo_allowed) || n_threads == 1;
    if (!status && !out->is_solo)
        status = place_barriers(program, chip, out);
    if (status)
        engine_plan_destroy(out);
    return status;
}

vtrn_status engine_plan_create(const vtrn_program *program, const vtrn_chip *chip, int n_threads,
                               engine_plan *out) {
    return plan_create(program, chip, n_threads, true, out);
}

void engine_plan_destroy(engine_plan *plan) {
    arena_free(&plan->arena);
    *plan = (engine_plan){0};
}
