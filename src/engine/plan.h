/* From streams to an order: the plan that the threads of a run follow. */
#ifndef VTRN_ENGINE_PLAN_H
#define VTRN_ENGINE_PLAN_H

#include "engine/core.h"
#include "engine/habit.h"
#include "engine/small.h"

#include <stdatomic.h>

/* One instruction in an order of execution that respects every queue and every semaphore. */
typedef struct engine_step {
    uint32_t instr;        /* index into program->instrs */
    uint8_t needs_barrier; /* threads meet before it */
    uint8_t is_alone;      /* thread 0 does all of it (the next step then needs a barrier) */
    uint8_t is_left_out;   /* a copy whose readers read HBM: see engine/in_place.h */
    uint8_t reserved;
} engine_step;

/* Steps [first, end) whose products' columns the threads divide: see engine/columns.h. */
typedef struct engine_stretch {
    uint32_t first, end;
} engine_stretch;

typedef struct chain chain;

/* Steps [first, end) that go through together, some rows at a time: see engine/chain.h. */
typedef struct engine_chain {
    uint32_t first, end;
    const chain *chain;
} engine_chain;

/* The steps of one block, in execution order. */
typedef struct engine_block_plan {
    uint32_t n_steps;
    bool is_solo; /* the team would not be sooner done: thread 0 does it all */
    engine_step *steps;
    /* [n_steps] the same in an order that respects every queue and every semaphore; steps may have
     * been moved past others with which they share no bytes */
    const engine_step *sequence;
    const small_op **small; /* by step, for thread 0 alone; NULL: the general path */
    /* by step: what stands for an instruction that reads HBM in place; NULL: nothing. The array is
     * NULL where no step has one. */
    const vtrn_instr **in_place;
    const engine_stretch *stretches; /* [n_stretches] ascending; of solo blocks only */
    uint32_t n_stretches;
    const engine_chain *chains; /* [n_chains] ascending */
    uint32_t n_chains;
} engine_block_plan;

/* What a step executes. */
static inline const vtrn_instr *engine_step_instr(const vtrn_program *program,
                                                  const engine_block_plan *block, uint32_t step_i) {
    const vtrn_instr *in_place = block->in_place ? block->in_place[step_i] : NULL;
    return in_place ? in_place : &program->instrs[block->steps[step_i].instr];
}

typedef struct engine_plan {
    arena arena;
    int n_threads;   /* the team that is to run it */
    bool is_solo;    /* every block is */
    bool is_divided; /* and the team is worth waking for their stretches */
    int owner_shift; /* engine_core.owner_shift for it */
    uint32_t n_barriers;
    uint32_t n_blocks;
    engine_block_plan *blocks;
} engine_plan;

/* Sequences each block's streams under its semaphores (all 0 at block start) and places thread
 * barriers. DEADLOCK when engines wait for what nobody raises: the message lists each blocked
 * engine, its instruction, the semaphore, its value, the value awaited, and who would raise it.
 * UNDEFINED when an operand lies outside its memory or slot, names a space that the instruction
 * cannot reach, or is missing: whatever passes here cannot make an engine touch foreign memory.
 * What SBUF and PSUM hold behind the program's end is left open. */
vtrn_status engine_plan_create(const vtrn_program *program, const vtrn_chip *chip, int n_threads,
                               engine_plan *out);
void engine_plan_destroy(engine_plan *plan);

/* Called for custom_op instructions; host pointers in slot order of the vtrn_custom. */
typedef vtrn_status (*engine_custom_fn)(void *ctx, const vtrn_program *program, uint32_t custom_i,
                                        void *const *inputs, void *const *outputs);

/* What collective custom_i of a rank that is executed alone gives it. */
typedef vtrn_status (*engine_exchange_fn)(void *ctx, uint32_t custom_i);

typedef struct engine_run {
    const vtrn_program *program;
    const engine_plan *plan;
    const uint64_t *slot_base; /* HBM byte address by slot */
    engine_custom_fn custom;
    void *custom_ctx;
    engine_exchange_fn exchange; /* NULL: engine_execute() gets no program with collectives */
    void *exchange_ctx;
    bool is_outline;    /* only what decides where the program goes: see engine_execute() */
    engine_habit habit; /* engine_execute() keeps it */
    const atomic_bool *is_stopped; /* by another thread, which hears the user; NULL: asks itself */
    uint32_t max_blocks; /* limit on executed blocks (a while that never ends); 0: 2^32-1 */
    /* out: the blocks that ran, for timing; grown with malloc, owned by the caller */
    uint32_t *block_trace;
    uint32_t n_block_trace, cap_block_trace;
    double custom_seconds; /* host time inside custom ops */
} engine_run;

/* How far one thread has come that executes alone. All 0: nothing yet. */
typedef struct engine_walk {
    uint32_t block_i, n_blocks; /* the block, and how many were entered */
    uint32_t at;                /* step of the block */
    uint32_t instr;             /* of the collective */
    uint64_t step;              /* steps before the block */
    bool is_inside;             /* the block was entered */
    bool is_at_collective;      /* its operands are there; its results are not */
    bool is_over;
} engine_walk;

/* Executes by the calling thread alone, whatever the plan says, from where the walk is to the next
 * collective or to the end. Walks of different cores may go on at the same time. */
vtrn_status engine_resume(engine_core *core, engine_run *run, engine_walk *walk);

/* Executes. is_outline: only instructions of few rows in the compact form of engine/small.h run,
 * which is where loops count. A condition on other values is read from memory that this execution
 * did not write, so max_blocks must bound the loop. On error the memories hold whatever was written
 * so far; the core stays usable. */
vtrn_status engine_execute(engine_core *core, engine_run *run);

#endif
