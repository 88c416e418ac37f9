/* Loading a program onto a machine and running it: addresses are bound, values and time come out.
 */
#ifndef VTRN_RUNTIME_EXECUTE_H
#define VTRN_RUNTIME_EXECUTE_H

#include "engine/plan.h"
#include "isa/program.h"
#include "runtime/device.h"
#include "timing/timing.h"

/* Of one of several ranks: from launch to completion, in collectives, and waiting for others. */
typedef struct runtime_rank_time {
    double total_ns, collective_ns, skew_ns;
} runtime_rank_time;

/* The timing of one block trace. A program without data-dependent branches has exactly one. */
typedef struct runtime_timing {
    timing_summary summary; /* of the rank that ended last */
    uint32_t *trace;        /* [n] its blocks */
    uint32_t n;
    /* With several ranks: */
    uint32_t rank, n_ranks;         /* the rank that ended last, of how many */
    runtime_rank_time *ranks;       /* [n_ranks] NULL: one rank */
    const timing_meeting *meetings; /* [n_meetings] of that rank, to replay it alone */
    size_t n_meetings;
    struct runtime_meetings {
        timing_meeting *list;
        size_t n;
    } * walks;             /* [n_walks] of all ranks */
    uint32_t n_walks;      /* as many as ranks; 1: all ranks do the same at the same time */
    const uint32_t *first; /* [n_first] blocks of rank 0; `trace`, or first_copy */
    uint32_t *first_copy, n_first;
    uint32_t *others; /* [n_others] of the ranks behind, each after its length; NULL: as rank 0 */
    size_t n_others;
    uint64_t last_used; /* execution number, to evict the oldest */
    bool is_checked;    /* what the blocks of this trace read was checked */
} runtime_timing;

/* What it takes to replay one of several ranks alone. */
typedef struct runtime_replay {
    const uint32_t *trace;
    uint32_t n;
    const timing_meeting *meetings;
    size_t n_meetings;
} runtime_replay;

enum {
    RUNTIME_MAX_TIMINGS = 8,
    RUNTIME_OUTLINE_BLOCKS = 10000000, /* without values: more blocks are a loop without end */
};

/* What a program needs on one core: bound when first run there. */
typedef struct runtime_binding {
    runtime_memory *constants, *rank_words;
    uint64_t *slot_base;         /* [n_slots] */
    uint64_t scratch_generation; /* for which the scratch slots are bound */
    bool is_bound;
} runtime_binding;

/* Who meets in a collective of the program. */
typedef struct runtime_groups {
    int32_t *group_of; /* [n_ranks] -1: the rank is in no group. NULL: the op is no collective */
    uint32_t *size; /* by group, of ranks that are executed; ranks of a permute that are linked by
                       pairs are one group */
    uint32_t *arrived; /* by group: scratch */
    /* By place in the collective's groups, where not all ranks are executed: which member gives for
     * the one that has the place, and for how many of them it counts in a sum. NULL: each itself.
     */
    int32_t *sources;
    uint32_t *times;
} runtime_groups;

typedef struct runtime_program {
    runtime_device *device;
    vtrn_program *program; /* owned */
    engine_plan plan;
    timing_model *model; /* made by the first execution */
    kept_blocks kept_blocks;
    engine_custom_fn custom;
    void *custom_ctx;
    engine_run run;         /* kept, so that its block trace is allocated once */
    engine_run *rank_runs;  /* [n_ranks - 1] of ranks behind the first, whose run is above */
    runtime_groups *groups; /* [n_customs]; NULL: no collectives */
    uint32_t *stand_in;  /* [n_ranks] whose run is a rank's: itself where it is executed. NULL: all
                            are */
    uint32_t n_executed; /* ranks */
    runtime_memory *constants; /* of one of the bindings; others may read them there */
    double *collective_ns; /* [n_customs] what collectives take on estimated_cores; -1: unknown */
    int *estimated_cores;  /* [n_ranks] */
    runtime_binding *bindings; /* [n_cores] */
    uint64_t *argument_bytes;  /* [n_arguments] what the slots need */
    uint64_t *output_bytes;    /* [n_outputs] */
    int32_t *argument_output;  /* [n_arguments] the output that aliases it, or -1 */

    /* Results; read them under the device's run_lock. */
    runtime_timing timings[RUNTIME_MAX_TIMINGS];
    int n_timings, last_timing; /* -1: never run */
    int last_core;
    uint64_t n_executions;
    double total_simulated_ns;
    double host_seconds, functional_seconds, timing_seconds, custom_seconds; /* last execution */
    uint64_t hbm_peak_bytes; /* of the core, highest seen at the end of an execution */
} runtime_program;

/* Takes the program over, also on error. BAD_ARGUMENT when its tables contradict each other or it
 * was made for another chip generation; DEADLOCK as engine_plan_create(). */
vtrn_status runtime_load(runtime_device *device, vtrn_program *program, engine_custom_fn custom,
                         void *custom_ctx, runtime_program **out);
void runtime_unload(runtime_program *loaded); /* NULL is fine */

runtime_replay runtime_replay_of(const runtime_timing *timing, uint32_t rank);

typedef struct runtime_call {
    int core_i;
    uint32_t rank;                    /* of the program's, for what it reads of VTRN_SLOT_RANK */
    runtime_memory *const *arguments; /* [n_arguments], on the core's chip */
    /* [n_arguments] or NULL (all false): an output that aliases the argument takes its memory over;
     * otherwise it works on a copy and the argument keeps its contents */
    const bool *may_reuse;
    runtime_memory **outputs; /* [n_outputs] out: a reference each, owned by the caller */
    bool has_written;         /* out: the program ran, so arguments it may reuse have changed */
    int timing_i;             /* out: of loaded->timings; -1: the run was not timed */
} runtime_call;

/* Runs the program's ranks together, calls[n] in order of rank, each on a core of its own, each
 * core by one thread of the team. Of a rank on another process's core only core_i and rank count:
 * that process calls with the same ranks, and executes those that are its own. BAD_ARGUMENT: other
 * ranks than the program has; DEADLOCK: ranks wait for others that wait elsewhere or have ended. */
vtrn_status runtime_execute_ranks(runtime_program *loaded, runtime_call *calls, uint32_t n);

/* Runs to completion, on one core alone. On error no outputs exist; arguments that may be reused
 * hold whatever was written so far. */
vtrn_status runtime_execute(runtime_program *loaded, runtime_call *call);

#endif
