/* Runs a plan: every thread walks the same steps and does its share of each. */
#include "base/process.h"
#include "engine/chain.h"
#include "engine/columns.h"
#include "engine/engine.h"
#include "engine/plan.h"
#include "engine/plan_parts.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Where a thread is: blocks that it has entered, steps that lie before the next one. */
typedef engine_walk place;

/* One execution, shared by the threads. */
typedef struct execution {
    engine_core *core;
    engine_core alone; /* the same core as one thread sees it who does everything */
    engine_run *run;
    uint32_t limit;        /* of blocks */
    bool is_all_alone;     /* the team is not asked, whatever the plan says */
    bool may_stop;         /* at collectives */
    columns_work *divided; /* NULL: thread 0 does stretches as it does all else */
    /* After blocks that thread 0 did alone: where the team goes on, and the rows and columns of the
     * stationary tile then. Written between two barriers. */
    place resume;
    int resume_pe_rows, resume_pe_cols;
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

static const vtrn_instr *instr_of(const execution *x, const engine_block_plan *block,
                                  uint32_t step_i) {
    return engine_step_instr(x->run->program, block, step_i);
}

/* Tells a matmul what is behind it, so that its last columns ask for the next one's first. */
static void announce(execution *x, const engine_block_plan *block, uint32_t step_i, int thread_i) {
    for (uint32_t i = 0; i < ENGINE_COMING; i++) {
        uint32_t next = step_i + 1 + i;
        x->core->regs->pe[thread_i].coming[i] =
            next < block->n_steps ? instr_of(x, block, next) : NULL;
    }
}

/* is_alone: thread 0 does all of it. */
static vtrn_status run_step(execution *x, const engine_block_plan *block, uint32_t step_i,
                            bool is_alone, int thread_i) {
    const vtrn_instr *instr = instr_of(x, block, step_i);
    if (block->steps[step_i].is_left_out || (is_alone && thread_i != 0))
        return NULL;
    if (instr->opcode == VTRN_OP_CUSTOM_OP)
        return run_custom(x, (uint32_t)instr->arg[0]);
    if (instr->opcode == VTRN_OP_COLLECTIVE && x->run->exchange)
        return x->run->exchange(x->run->exchange_ctx, (uint32_t)instr->arg[0]);
    if (instr->opcode == VTRN_OP_MATMUL)
        announce(x, block, step_i, thread_i);
    vtrn_status status = engine_table[instr->opcode](is_alone ? &x->alone : x->core, instr,
                                                     x->run->slot_base, thread_i);
    x->core->regs->pe[thread_i].coming[0] = NULL; /* they do not outlive the plan */
    return status;
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
        if (run->cap_block_trace > UINT32_MAX / 2)
            return VTRN_ERROR(VTRN_RESOURCE,
                              "%u blocks executed, as many as are kept for a program's time: let "
                              "its loops take fewer turns in one execution",
                              run->n_block_trace);
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
static bool run_block(execution *x, const engine_block_plan *block, int thread_i,
                      uint64_t first_step) {
    bool has_failed = false;
    uint32_t chain_i = 0;
    for (uint32_t i = 0; i < block->n_steps; i++) {
        const engine_step *step = &block->steps[i];
        if (step->needs_barrier && !meet(x, first_step + i))
            return false;
        if (chain_i < block->n_chains && block->chains[chain_i].first == i) {
            const engine_chain *c = &block->chains[chain_i++];
            if (!has_failed)
                chain_run(c->chain, x->core, thread_i);
            i = c->end - 1;
            continue;
        }
        if (has_failed)
            continue;
        vtrn_status status = run_step(x, block, i, step->is_alone, thread_i);
        if (__builtin_expect(status != NULL, 0)) {
            fail(x, thread_i, first_step + i, &step->instr, status);
            has_failed = true;
        }
    }
    return true;
}

static bool is_collective(const execution *x, const engine_step *step) {
    return x->run->program->instrs[step->instr].opcode == VTRN_OP_COLLECTIVE;
}

/* The same by thread 0 alone, from step p->at: it waits at no barrier. Stops in front of a
 * collective, where p->at is its step. */
static bool run_block_alone(execution *x, const engine_block_plan *block, place *p) {
    const small_context small = small_context_of(x->core, x->run->slot_base);
    const uint32_t n_stretches = x->divided ? block->n_stretches : 0;
    const uint32_t n_chains = x->run->is_outline ? 0 : block->n_chains;
    uint32_t stretch_i = 0, chain_i = 0;
    while (chain_i < n_chains && block->chains[chain_i].first < p->at)
        chain_i++;
    for (uint32_t i = p->at; i < block->n_steps; i++) {
        if (stretch_i < n_stretches && block->stretches[stretch_i].first == i) {
            columns_run(x->divided, block, &block->stretches[stretch_i]);
            i = block->stretches[stretch_i++].end - 1;
            continue;
        }
        if (chain_i < n_chains && block->chains[chain_i].first == i) {
            chain_run(block->chains[chain_i].chain, &x->alone, 0);
            i = block->chains[chain_i++].end - 1;
            continue;
        }
        const small_op *op = block->small[i];
        if (op && x->run->is_outline && !small_is_for_outline(op))
            continue;
        if (op) {
            small_run(op, &small);
            continue;
        }
        if (x->run->is_outline)
            continue;
        if (x->may_stop && is_collective(x, &block->steps[i])) {
            p->at = i;
            p->is_at_collective = true;
            p->instr = block->steps[i].instr;
            return true;
        }
        vtrn_status status = run_step(x, block, i, true, 0);
        if (__builtin_expect(status != NULL, 0)) {
            fail(x, 0, p->step + i, &block->steps[i].instr, status);
            return false;
        }
    }
    p->at = 0;
    return true;
}

static vtrn_status enter_block(engine_run *run, uint32_t block_i, uint32_t n_blocks,
                               uint32_t limit) {
    const char *name = run->program->name ? run->program->name : "program";
    if (n_blocks >= limit)
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "%s: more than %u blocks executed: a loop that does not end?", name,
                          limit);
    if (run->is_stopped ? atomic_load_explicit(run->is_stopped, memory_order_relaxed)
                        : process_is_interrupted())
        return VTRN_ERROR(VTRN_INTERRUPTED, "%s: stopped after %u blocks", name, n_blocks);
    return trace_block(run, block_i);
}

/* Thread 0 does blocks alone until one is for the team, or all are done. */
static void walk_alone(execution *x, place *p) {
    engine_run *run = x->run;
    while (x->is_all_alone || run->plan->blocks[p->block_i].is_solo) {
        const vtrn_block *block = &run->program->blocks[p->block_i];
        const engine_block_plan *plan = &run->plan->blocks[p->block_i];
        vtrn_status status = NULL;
        if (!p->is_inside)
            status = enter_block(run, p->block_i, p->n_blocks++, x->limit);
        if (status)
            fail(x, 0, p->step, NULL, status);
        p->is_over = true;
        if (status || !run_block_alone(x, plan, p))
            return;
        p->is_inside = p->is_at_collective;
        p->is_over = !p->is_inside && block->end == VTRN_END_STOP;
        if (p->is_inside || p->is_over)
            return;
        p->step += plan->n_steps + 1;
        p->block_i = next_block(x, block);
    }
}

/* The team does a block. False: it was the last, or some thread failed. */
static bool walk_block(execution *x, int thread_i, place *p) {
    engine_run *run = x->run;
    const vtrn_block *block = &run->program->blocks[p->block_i];
    const engine_block_plan *plan = &run->plan->blocks[p->block_i];
    if (thread_i == 0) {
        vtrn_status status = enter_block(run, p->block_i, p->n_blocks, x->limit);
        if (status)
            fail(x, 0, p->step, NULL, status);
    }
    if (p->n_blocks++ == x->limit || !run_block(x, plan, thread_i, p->step) ||
        block->end == VTRN_END_STOP)
        return false;
    p->step += plan->n_steps + 1;
    if (!meet(x, p->step))
        return false;
    p->block_i = next_block(x, block);
    /* no thread may overwrite the condition before every thread has read it */
    if (block->end != VTRN_END_JUMP)
        team_barrier(x->core->team);
    return true;
}

static void thread_main(void *arg, int thread_i) {
    execution *x = arg;
    engine_registers *regs = x->core->regs;
    for (place p = {0}; !p.is_over;) {
        if (!x->run->plan->blocks[p.block_i].is_solo) {
            p.is_over = !walk_block(x, thread_i, &p);
            continue;
        }
        if (thread_i == 0) {
            walk_alone(x, &p);
            x->resume = p;
            x->resume_pe_rows = regs->pe[0].n_rows;
            x->resume_pe_cols = regs->pe[0].n_cols;
        }
        team_barrier(x->core->team);
        p = x->resume;
        regs->pe[thread_i].n_rows = x->resume_pe_rows;
        regs->pe[thread_i].n_cols = x->resume_pe_cols;
    }
}

/* Thread 0 does all but parts of stretches. */
static void divided_main(void *arg, int thread_i) {
    execution *x = arg;
    if (thread_i) {
        columns_help(x->divided, thread_i);
        return;
    }
    walk_alone(x, &(place){0});
    columns_end(x->divided);
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
    const engine_plan *plan = run->plan;
    if (!plan->is_solo && plan->n_threads != core->n_threads)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "a plan for %d threads on a core with %d",
                          plan->n_threads, core->n_threads);
    bool is_for_team =
        !run->is_outline && (!plan->is_solo || (plan->is_divided && core->n_threads > 1));
    bool is_alone = !is_for_team || habit_is_alone(&run->habit);
    execution x = {.core = core,
                   .alone = *core,
                   .run = run,
                   .limit = run->max_blocks ? run->max_blocks : UINT32_MAX,
                   .is_all_alone = is_alone || plan->is_solo,
                   .failed_step = UINT64_MAX};
    columns_work divided;
    bool has_waited = false;
    core->owner_shift = plan->owner_shift;
    x.alone.n_threads = 1;
    double start_s = now_s();
    uint32_t n_sleeps = team_n_sleeps(core->team);
    if (is_alone) {
        walk_alone(&x, &(place){0});
    } else if (plan->is_solo) {
        columns_begin(&divided, &x.alone, run, core->n_threads);
        x.divided = &divided;
        team_run(core->team, divided_main, &x);
        has_waited = divided.has_waited;
    } else {
        team_run(core->team, thread_main, &x);
    }
    bool has_slept = team_n_sleeps(core->team) != n_sleeps || has_waited;
    if (is_for_team)
        habit_learn(&run->habit, now_s() - start_s, run->n_block_trace, has_slept);
    return first_failure(&x, core->n_threads);
}

vtrn_status engine_resume(engine_core *core, engine_run *run, engine_walk *walk) {
    execution x = {.core = core,
                   .alone = *core,
                   .run = run,
                   .limit = run->max_blocks ? run->max_blocks : UINT32_MAX,
                   .is_all_alone = true,
                   .may_stop = true,
                   .failed_step = UINT64_MAX};
    x.alone.n_threads = 1;
    if (walk->is_at_collective) {
        walk->is_at_collective = false;
        walk->at++;
    }
    walk_alone(&x, walk);
    return first_failure(&x, 1);
}
