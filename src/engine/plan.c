/* Makes the plan: in-order queues under semaphores become one order of steps. */
#include "engine/plan.h"

#include "engine/cells.h"
#include "engine/chain.h"
#include "engine/columns.h"
#include "engine/in_place.h"
#include "engine/plan_parts.h"
#include "isa/access.h"

#include <stdio.h>
#include <string.h>

/* Costs of a team in units of work: an element of an elementwise instruction, about 0.4 ns. Waking
 * the others takes some 25 us. A barrier comes to some 10 us, most of it not the meeting: behind it
 * each thread reads what lies in the other's cache. Measured on two cores with digits (41,000
 * elements between two barriers) and chars (220,000): without gain, and 1.7 times as fast. */
static const uint64_t wake_work = 65536, barrier_work = 25000;

/* Of HBM that stretches of products read, for the team to be woken: one core takes 0.1 ms. */
static const uint64_t least_divided_bytes = 2 << 20;

/* A matmul does K multiply-adds an element of dst; about 16 of them take as long as an element of
 * an elementwise instruction. */
static const uint64_t matmul_macs_per_work = 16;

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

/* Long runs of partitions keep the threads' rows of PSUM apart: 1024^3 in fp32 takes 6 % less time
 * on two Zen 4 cores with 64 rows to a thread than with 16 in turn, and 12 % less while others use
 * the last-level cache. A cache line of a stationary tile holds 32 columns of 2 bytes: with 16 to a
 * thread, two threads read it, and chars in bf16, of an imbalance of 1.025, takes 7 % less time
 * with 64 rows; in fp32 it takes 3 % more. */
static const double most_imbalance = 1.01, most_imbalance_of_short_weights = 1.05;

enum { N_SPLITS = 3 }; /* ways to split the partitions: ENGINE_OWNER_ROWS, twice, four times that */

/* A block while it is being put in order. */
typedef struct sequencer {
    queues q;
    const vtrn_chip *chip;
    barriers *barriers;
    engine_plan *plan;
    engine_block_plan *block;
    bool is_held[VTRN_ENGINE_COUNT]; /* the queue's head waits for the threads to meet */
    uint32_t n_checked[VTRN_ENGINE_COUNT];
    bool has_met; /* before the next step */
    /* Since the threads met, in all and of each; of the block until then, by one and by the
     * slowest. With partitions split in each of the ways of owner_shift. */
    uint64_t work, share[N_SPLITS][ENGINE_MAX_THREADS];
    uint64_t solo_work, team_work[N_SPLITS];
    bool has_short_weights; /* a stationary tile of elements under 4 bytes */
} sequencer;

/* The operand whose rows decide which thread does what; NULL: there is none. */
static const vtrn_ap *split_operand(const vtrn_instr *instr) {
    if (instr->ap[0].space == VTRN_SPACE_SBUF || instr->ap[0].space == VTRN_SPACE_PSUM)
        return &instr->ap[0];
    return instr->ap[1].space == VTRN_SPACE_NONE ? NULL : &instr->ap[1];
}

/* Adds what each thread has to do for rows [row, end) of a partition each. */
static void count_rows(sequencer *s, int row, int end, uint64_t row_work) {
    for (int group = row / ENGINE_OWNER_ROWS; row < end; group++) {
        int next = (group + 1) * ENGINE_OWNER_ROWS;
        next = next < end ? next : end;
        for (int split = 0; split < N_SPLITS; split++)
            s->share[split][(group >> split) % s->plan->n_threads] +=
                row_work * (uint64_t)(next - row);
        row = next;
    }
}

/* Adds what a step costs each thread. What is read in place is read by each thread that has a part
 * in it, from far away. */
static void count_work(sequencer *s, uint32_t step_i) {
    const engine_step *step = &s->block->steps[step_i];
    const vtrn_instr *instr = &s->q.program->instrs[step->instr];
    const vtrn_ap *ap = split_operand(instr);
    if (!ap || step->is_left_out)
        return;
    uint64_t row_work = isa_ap_free_size(ap), far_work = 0;
    if (access_reads_weights(instr))
        row_work = row_work * instr->ap[1].n_partitions / matmul_macs_per_work;
    if (s->block->in_place && s->block->in_place[step_i])
        far_work = isa_ap_free_size(&instr->ap[1]) * instr->ap[1].n_partitions;
    s->work += row_work * ap->n_partitions + far_work;
    if (step->is_alone) {
        for (int split = 0; split < N_SPLITS; split++)
            s->share[split][0] += row_work * ap->n_partitions + far_work;
        return;
    }
    count_rows(s, ap->partition, ap->partition + ap->n_partitions, row_work);
    int n_groups = (ap->n_partitions + ENGINE_OWNER_ROWS - 1) / ENGINE_OWNER_ROWS;
    for (int t = 0; t < s->plan->n_threads && t < n_groups; t++)
        for (int split = 0; split < N_SPLITS; split++)
            s->share[split][t] += far_work;
}

/* The threads meet: the slowest of them counts. */
static void settle_work(sequencer *s) {
    for (int split = 0; split < N_SPLITS; split++) {
        uint64_t most = 0;
        for (int t = 0; t < s->plan->n_threads; t++) {
            most = s->share[split][t] > most ? s->share[split][t] : most;
            s->share[split][t] = 0;
        }
        s->team_work[split] += most;
    }
    s->solo_work += s->work;
    s->work = 0;
}

/* What the block takes, by one thread and by the team. */
static void weigh_block(sequencer *s) {
    for (uint32_t i = 0; i < s->block->n_steps; i++) {
        if (s->block->steps[i].needs_barrier) {
            settle_work(s);
            for (int split = 0; split < N_SPLITS; split++)
                s->team_work[split] += barrier_work;
        }
        count_work(s, i);
    }
    settle_work(s);
}

/* The compact form of the step, where there is one. */
static vtrn_status decode_step(sequencer *s, const vtrn_instr *instr, bool is_alone) {
    small_op op, *kept;
    if (!small_decode(s->chip, instr, is_alone, &op))
        return NULL;
    size_t n_bytes = small_bytes(&op);
    kept = arena_alloc(&s->plan->arena, 1, n_bytes);
    if (!kept)
        return VTRN_OUT_OF_MEMORY(n_bytes);
    memcpy(kept, &op, n_bytes);
    s->block->small[s->block->n_steps] = kept;
    return NULL;
}

static void take(sequencer *s, int engine, const vtrn_instr *instr, bool is_alone) {
    s->block->steps[s->block->n_steps++] = (engine_step){
        .instr = s->q.block->first[engine] + s->q.done[engine],
        .needs_barrier = s->has_met,
        .is_alone = is_alone,
    };
    s->has_met = false;
    s->has_short_weights |=
        instr->opcode == VTRN_OP_LDWEIGHTS && dtype_size(instr->ap[1].dtype) < 4;
    if (instr->update_semaphore != VTRN_NO_SEMAPHORE)
        s->q.semaphore[instr->update_semaphore] += instr->update_value;
    s->q.done[engine]++;
}

/* Takes instructions from one queue until it blocks, ends, or its head must wait for a barrier. */
static vtrn_status run_queue(sequencer *s, int engine) {
    const vtrn_instr *instr;
    while (!s->is_held[engine] && (instr = queue_head(&s->q, engine))) {
        if (s->n_checked[engine] == s->q.done[engine]) {
            vtrn_status status = check_instr(s->q.program, s->chip, instr);
            if (status)
                return instr_annotate(status, s->q.program,
                                      s->q.block->first[engine] + s->q.done[engine]);
            s->n_checked[engine]++;
            isa_ask_ahead(instr);
        }
        if (blocking_wait(&s->q, instr))
            return NULL;
        bool is_alone;
        if (!barriers_admit(s->barriers, instr, &is_alone)) {
            s->is_held[engine] = true;
            return NULL;
        }
        VTRN_RETURN_IF_ERROR(decode_step(s, instr, is_alone));
        take(s, engine, instr, is_alone);
    }
    return NULL;
}

static bool is_any_held(const sequencer *s) {
    bool is_held = false;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        is_held |= s->is_held[e];
    return is_held;
}

/* Everything that can run before the threads meet does; then they meet, and so on. The order is the
 * same for teams of all sizes. */
static vtrn_status sequence_block(sequencer *s, uint32_t block_i) {
    static const int turn[] = {VTRN_ENGINE_SYNC,   VTRN_ENGINE_GPSIMD, VTRN_ENGINE_SCALAR,
                               VTRN_ENGINE_VECTOR, VTRN_ENGINE_TENSOR, VTRN_ENGINE_CC};
    uint32_t n_total = 0;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        n_total += s->q.block->count[e];
    barriers_meet(s->barriers);
    while (s->block->n_steps < n_total) {
        uint32_t before = s->block->n_steps;
        for (int i = 0; i < VTRN_ENGINE_COUNT; i++)
            VTRN_RETURN_IF_ERROR(run_queue(s, turn[i]));
        if (s->block->n_steps > before)
            continue;
        if (!is_any_held(s))
            return deadlock(&s->q, block_i);
        barriers_meet(s->barriers);
        memset(s->is_held, 0, sizeof s->is_held);
        s->has_met = true;
        s->plan->n_barriers++;
    }
    return NULL;
}

typedef struct plan_tools {
    arena *memory;
    barriers *barriers;
    in_place *in_place;  /* NULL: all copies are made */
    uint16_t *kept_rows; /* see engine/cells.h; NULL likewise */
    chain_context chain;
    unsigned freedom; /* PLAN_MAY_ bits */
} plan_tools;

static sequencer sequencer_of(const vtrn_program *program, const vtrn_chip *chip,
                              const plan_tools *tools, engine_plan *out, uint32_t block_i) {
    return (sequencer){.q = {.program = program, .block = &program->blocks[block_i]},
                       .chip = chip,
                       .barriers = tools->barriers,
                       .plan = out,
                       .block = &out->blocks[block_i]};
}

/* Puts the steps of all blocks in order. */
static vtrn_status sequence_all(const vtrn_program *program, const vtrn_chip *chip,
                                const plan_tools *tools, engine_plan *out,
                                bool *has_short_weights) {
    for (uint32_t i = 0; i < program->n_blocks; i++) {
        VTRN_RETURN_IF_ERROR(check_block(program, i));
        uint64_t n = 0;
        for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
            n += program->blocks[i].count[e];
        if (n > UINT32_MAX)
            return VTRN_ERROR(VTRN_UNDEFINED, "block %u has more than 2^32 instructions", i);
        out->blocks[i].steps = ARENA_NEW(&out->arena, engine_step, n);
        out->blocks[i].small = ARENA_NEW(&out->arena, const small_op *, n);
        if (!out->blocks[i].steps || !out->blocks[i].small)
            return VTRN_OUT_OF_MEMORY(n * sizeof(engine_step));
        sequencer s = sequencer_of(program, chip, tools, out, i);
        VTRN_RETURN_IF_ERROR(sequence_block(&s, i));
        out->blocks[i].sequence = out->blocks[i].steps;
        *has_short_weights |= s.has_short_weights;
    }
    if (!tools->kept_rows)
        return NULL;
    return cell_find_kept(tools->memory, program, cell_columns(chip), out->blocks,
                          tools->kept_rows);
}

static vtrn_status sequence(const vtrn_program *program, const vtrn_chip *chip,
                            const plan_tools *tools, engine_plan *out) {
    out->n_blocks = program->n_blocks;
    out->blocks = ARENA_NEW(&out->arena, engine_block_plan, program->n_blocks);
    if (!out->blocks)
        return VTRN_OUT_OF_MEMORY(program->n_blocks * sizeof *out->blocks);
    out->is_solo = true;
    uint64_t team_work[N_SPLITS] = {0};
    uint64_t n_divided_bytes = 0;
    bool has_short_weights = false;
    VTRN_RETURN_IF_ERROR(sequence_all(program, chip, tools, out, &has_short_weights));
    for (uint32_t i = 0; i < program->n_blocks; i++) {
        sequencer s = sequencer_of(program, chip, tools, out, i);
        if (tools->in_place)
            VTRN_RETURN_IF_ERROR(
                in_place_find(tools->in_place, &program->blocks[i], &out->blocks[i], &out->arena));
        weigh_block(&s);
        bool may_be_solo = tools->freedom & PLAN_MAY_BE_SOLO;
        out->blocks[i].is_solo =
            out->n_threads == 1 || (may_be_solo && s.solo_work <= s.team_work[0] + wake_work);
        if (tools->freedom & PLAN_MAY_CHAIN)
            VTRN_RETURN_IF_ERROR(chain_find(&tools->chain, &out->blocks[i],
                                            program->blocks[i].end == VTRN_END_STOP, &out->arena));
        out->is_solo &= out->blocks[i].is_solo;
        if (out->n_threads > 1 && out->blocks[i].is_solo)
            VTRN_RETURN_IF_ERROR(
                columns_find(program, &out->blocks[i], &out->arena, &n_divided_bytes));
        for (int split = 0; split < N_SPLITS; split++)
            team_work[split] += s.team_work[split];
    }
    out->is_divided = out->is_solo && n_divided_bytes >= least_divided_bytes;
    out->owner_shift = ENGINE_OWNER_SHIFT;
    const double most = has_short_weights ? most_imbalance_of_short_weights : most_imbalance;
    for (int split = 1; split < N_SPLITS; split++)
        if ((double)team_work[split] <= most * (double)team_work[0])
            out->owner_shift = ENGINE_OWNER_SHIFT + split;
    return NULL;
}

vtrn_status plan_create(const vtrn_program *program, const vtrn_chip *chip, int n_threads,
                        unsigned freedom, engine_plan *out) {
    *out = (engine_plan){.n_threads = n_threads};
    if (n_threads < 1 || n_threads > ENGINE_MAX_THREADS)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "a plan for %d threads; give 1 to %d", n_threads,
                          ENGINE_MAX_THREADS);
    if (!program->n_blocks)
        return VTRN_ERROR(VTRN_UNDEFINED, "a program without blocks");
    arena memory = ARENA_EMPTY;
    plan_tools tools = {.memory = &memory,
                        .barriers = barriers_create(&memory, program, chip),
                        .chain = {.program = program, .chip = chip},
                        .freedom = freedom};
    bool may_skip = freedom & PLAN_MAY_SKIP_SBUF;
    if (may_skip) {
        tools.kept_rows = ARENA_NEW(&memory, uint16_t, (size_t)cell_columns(chip) * CELL_GROUPS);
        tools.in_place = in_place_create(&memory, program, chip, tools.kept_rows);
        tools.chain.live = live_create(&memory, program, chip);
        tools.chain.kept_rows = tools.kept_rows;
    }
    bool is_ready =
        tools.barriers && (!may_skip || (tools.kept_rows && tools.in_place && tools.chain.live));
    vtrn_status status =
        is_ready ? sequence(program, chip, &tools, out) : VTRN_OUT_OF_MEMORY(memory.total);
    arena_free(&memory);
    if (status)
        engine_plan_destroy(out);
    return status;
}

vtrn_status engine_plan_create(const vtrn_program *program, const vtrn_chip *chip, int n_threads,
                               engine_plan *out) {
    return plan_create(program, chip, n_threads,
                       PLAN_MAY_BE_SOLO | PLAN_MAY_SKIP_SBUF | PLAN_MAY_CHAIN, out);
}

void engine_plan_destroy(engine_plan *plan) {
    arena_free(&plan->arena);
    *plan = (engine_plan){0};
}
