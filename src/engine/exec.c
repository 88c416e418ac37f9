/* Runs a plan: every thread walks the same steps and does its share of each. */
#include "base/process.h"
#include "engine/engine.h"
#include "engine/plan.h"
#include "engine/plan_parts.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* One execution, shared by the threads. */
typedef struct execution {
    engine_core *core;
    engine_core alone; /* the same core as one thread sees it who does everything */
    engine_run *run;
    /* The earliest step, counted from the start, that failed in some thread; UINT64_MAX: none. */
    _Atomic uint64_t failed_step;
    struct {
        uint64_t step;
        uint32_t instr;
        bool has_instr;
        vtrn_status status;
    } failure[ENGINE_MAX_THREADS];
} execution;

/* Keeps the first failure of a thread and tells the others the step. */
static void fail(execution *x, int thread_i, uint64_t step, const uint32_t *instr,
                 vtrn_status status) {
    if (x->failure[thread_i].status) {
        vtrn_status_free(status);
        return;
    }
    x->failure[thread_i].step = step;
    x->failure[thread_i].instr = instr ? *instr : 0;
    x->failure[thread_i].has_instr = instr != NULL;
    x->failure[thread_i].status = status;
    uint64_t earliest = atomic_load(&x->failed_step);
    while (step < earliest && !atomic_compare_exchange_weak(&x->failed_step, &earliest, step))
        ;
}

/* Threads meet. False: some thread failed in a step before `step`, so all leave here. Whether a
 * failure counts is decided by its step and not by its moment: a thread that runs ahead may already
 * have failed behind this barrier, and then all must still reach the next one. */
static bool meet(execution *x, uint64_t step) {
    team_barrier(x->core->team);
    return atomic_load(&x->failed_step) >= step;
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static vtrn_status run_custom(execution *x, uint32_t custom_i) {
    engine_run *run = x->run;
    const vtrn_custom *custom = &run->program->customs[custom_i];
    if (!run->custom)
        return VTRN_ERROR(VTRN_UNIMPLEMENTED, "%s: this execution has no reference operations",
                          custom->name);
    uint32_t n = custom->n_inputs + custom->n_outputs;
    void *few[16], **pointers = n <= 16 ? few : malloc(n * sizeof *pointers);
    if (!pointers)
        return VTRN_OUT_OF_MEMORY(n * sizeof *pointers);
    for (uint32_t i = 0; i < n; i++)
        pointers[i] = x->core->hbm + run->slot_base[custom->slots[i]];
    double start_s = now_s();
    vtrn_status status =
        run->custom(run->custom_ctx, run->program, custom_i, pointers, pointers + custom->n_inputs);
    if (program_is_reference_op(custom)) /* neither checks nor callbacks are the program's work */
        run->custom_seconds += now_s() - start_s;
    if (pointers != few)
        free(pointers);
    return status;
}

static vtrn_status run_step(execution *x, const engine_step *step, bool is_solo, int thread_i) {
    const vtrn_instr *instr = &x->run->program->instrs[step->instr];
    bool is_alone = is_solo || step->is_alone;
    if (is_alone && thread_i != 0)
        return NULL;
    if (instr->opcode == VTRN_OP_CUSTOM_OP)
        return run_custom(x, (uint32_t)instr->arg[0]);
    return engine_table[instr->opcode](is_alone ? &x->alone : x->core, instr, x->run->slot_base,
                                       thread_i);
}

static uint32_t next_block(const execution *x, const vtrn_block *block) {
    int32_t value;
    if (block->end == VTRN_END_JUMP)
        return block->next[0];
    memcpy(&value, x->core->hbm + x->run->slot_base[block->cond_slot] + block->cond_addr,
           sizeof value);
    if (block->end == VTRN_END_BRANCH)
        return block->next[value != 0];
    bool is_inside = value >= 0 && (uint32_t)value < block->n_targets;
    return block->targets[is_inside ? (uint32_t)value : block->n_targets - 1];
}

static vtrn_status trace_block(engine_run *run, uint32_t block_i) {
    if (run->n_block_trace == run->cap_block_trace) {
        uint32_t cap = run->cap_block_trace ? run->cap_block_trace * 2 : 16;
        uint32_t *grown = realloc(run->block_trace, (size_t)cap * sizeof *grown);
        if (!grown)
            return VTRN_OUT_OF_MEMORY((size_t)cap * sizeof *grown);
        run->block_trace = grown;
        run->cap_block_trace = cap;
    }
    run->block_trace[run->n_block_trace++] = block_i;
    return NULL;
}

/* Walks the steps of a block. False: stop, some thread failed. */
static bool run_block(execution *x, const engine_block_plan *block, bool is_solo, int thread_i,
                      uint64_t first_step) {
    bool has_failed = false;
    for (uint32_t i = 0; i < block->n_steps; i++) {
        const engine_step *step = &block->steps[i];
        if (!is_solo && step->needs_barrier && !meet(x, first_step + i))
            return false;
        if (has_failed)
            continue;
        vtrn_status status = run_step(x, step, is_solo, thread_i);
        if (__builtin_expect(status != NULL, 0)) {
            fail(x, thread_i, first_step + i, &step->instr, status);
            has_failed = true;
            if (is_solo)
                return false;
        }
    }
    return true;
}

static vtrn_status enter_block(engine_run *run, uint32_t block_i, uint32_t n_blocks,
                               uint32_t limit) {
    const char *name = run->program->name ? run->program->name : "program";
    if (n_blocks >= limit)
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "%s: more than %u blocks executed: a loop that does not end?", name,
                          limit);
    if (process_is_interrupted())
        return VTRN_ERROR(VTRN_INTERRUPTED, "%s: stopped after %u blocks", name, n_blocks);
    return trace_block(run, block_i);
}

static void walk(execution *x, int thread_i, bool is_solo) {
    engine_run *run = x->run;
    uint32_t block_i = 0, limit = run->max_blocks ? run->max_blocks : UINT32_MAX;
    uint64_t step = 0;
    for (uint32_t n_blocks = 0;; n_blocks++) {
        const vtrn_block *block = &run->program->blocks[block_i];
        if (thread_i == 0) {
            vtrn_status status = enter_block(run, block_i, n_blocks, limit);
            if (status) {
                fail(x, 0, step, NULL, status);
                if (is_solo)
                    return;
            }
        }
        if (n_blocks == limit)
            return;
        if (!run_block(x, &run->plan->blocks[block_i], is_solo, thread_i, step))
            return;
        step += run->plan->blocks[block_i].n_steps + 1;
        if (block->end == VTRN_END_STOP)
            return;
        if (!is_solo && !meet(x, step))
            return;
        block_i = next_block(x, block);
        /* nobody may overwrite the condition before all have read it */
        if (!is_solo && block->end != VTRN_END_JUMP)
            team_barrier(x->core->team);
    }
}

static void thread_main(void *arg, int thread_i) {
    walk(arg, thread_i, false);
}

static vtrn_status first_failure(execution *x, int n_threads) {
    int first = -1;
    for (int i = 0; i < n_threads; i++)
        if (x->failure[i].status && (first < 0 || x->failure[i].step < x->failure[first].step))
            first = i;
    for (int i = 0; i < n_threads; i++)
        if (i != first)
            vtrn_status_free(x->failure[i].status);
    if (first < 0)
        return NULL;
    if (!x->failure[first].has_instr)
        return x->failure[first].status;
    return instr_annotate(x->failure[first].status, x->run->program, x->failure[first].instr);
}

vtrn_status engine_execute(engine_core *core, engine_run *run) {
    if (!run->plan->is_solo && run->plan->n_threads != core->n_threads)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "a plan for %d threads on a core with %d",
                          run->plan->n_threads, core->n_threads);
    execution x = {.core = core, .alone = *core, .run = run, .failed_step = UINT64_MAX};
    core->owner_shift = run->plan->owner_shift;
    x.alone.n_threads = 1;
    if (run->plan->is_solo)
        walk(&x, 0, true);
    else
        team_run(core->team, thread_main, &x);
    return first_failure(&x, core->n_threads);
}
