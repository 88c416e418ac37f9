/* The timing model: replays an executed trace, gives when each instruction ran. Never sees values.
 */
#ifndef VTRN_TIMING_TIMING_H
#define VTRN_TIMING_TIMING_H

#include "chip/chip.h"
#include "isa/program.h"

/* One interval on an engine or a DMA ring. Times are ns since the launch. */
typedef struct timing_interval {
    double start_ns, end_ns;
    uint32_t instr; /* index into program->instrs */
    uint16_t lane;  /* vtrn_engine, or TIMING_LANE_DMA + ring */
    float wait_ns;  /* how long the queue's head waited for semaphores */
} timing_interval;

enum { TIMING_LANE_DMA = 16 };

typedef struct timing_summary {
    double total_ns;                     /* launch to completion, preamble and postamble included */
    double active_ns[VTRN_ENGINE_COUNT]; /* union of intervals, setup instructions excluded */
    double dma_active_ns;                /* any ring busy */
    double dma_busy_share;               /* of total_ns, mean over the core's DMA engines */
    uint64_t n_instrs[VTRN_ENGINE_COUNT], n_dmas;
    uint64_t hbm_read_bytes, hbm_write_bytes;
    uint64_t spill_save_bytes, spill_reload_bytes; /* of them, of what SBUF has no room for */
    double custom_ns;                              /* spent in reference custom ops */
    uint64_t n_collectives;
    double collective_ns; /* in which they ran, from the last member's arrival on */
    double skew_ns;       /* in which the core's collectives waited for other members */
    uint64_t flops;       /* useful, of the blocks that ran */
} timing_summary;

typedef struct timing_result {
    timing_summary summary;
    timing_interval *intervals; /* when asked for; malloc */
    size_t n_intervals;
} timing_result;

/* A program with the cost of each instruction worked out: made once, replayed many times, by many
 * threads at once (a replay does not change it). Keeps pointers to chip and program. */
typedef struct timing_model timing_model;
vtrn_status timing_prepare(const vtrn_chip *chip, const vtrn_program *program, timing_model **out);
void timing_model_destroy(timing_model *model); /* NULL is fine */

/* What a collective takes on a core: after its arrival it waits for the others, then it runs. */
typedef struct timing_meeting {
    double wait_ns, run_ns;
} timing_meeting;

/* What blocks took whose time depends on nothing before them: they need not be replayed again.
 * Begins as all 0; of one model and one active_cores_per_stack; for one thread at a time. */
typedef struct kept_blocks {
    struct kept_block *blocks; /* [n_blocks] of the program; NULL: none yet */
} kept_blocks;
void kept_blocks_free(kept_blocks *kept);

typedef struct timing_options {
    bool want_intervals;        /* keep intervals, else the summary only */
    kept_blocks *kept;          /* to be used and added to; not with want_intervals. NULL: of this
                                   replay alone */
    int active_cores_per_stack; /* cores that share the HBM stack's bandwidth; 0 means 1 */
    double pe_window_ns; /* since the launch: a window of the PE array's dI/dt limit begins */
    const timing_meeting *meetings; /* of the core's collectives, in order; those behind the last
                                       take no time */
    size_t n_meetings;
} timing_options;

/* A replay that stops where the core needs to know when others come. */
typedef struct timing_walk timing_walk;

/* model and trace must live as long as the walk. Errors as timing_run(). options->meetings is not
 * read. */
vtrn_status timing_walk_begin(const timing_model *model, const uint32_t *block_trace,
                              uint32_t n_block_trace, const timing_options *options,
                              timing_walk **out);
/* Where a walk stands: at its end, or in front of a collective, a number of the program's customs,
 * which the core has reached then. */
typedef struct timing_stop {
    bool is_over;
    int32_t custom_i;
    double arrival_ns;
} timing_stop;

/* Goes on to the next collective, or to the end. */
vtrn_status timing_walk_next(timing_walk *walk, timing_stop *out);
/* The collective at which the walk stands has been over since then. */
void timing_walk_meet(timing_walk *walk, timing_meeting meeting);
/* The result of a walk that has come to its end; freed with it unless taken. */
void timing_walk_take(timing_walk *walk, timing_result *out);
void timing_walk_destroy(timing_walk *walk); /* NULL is fine */

/* Replays the blocks of `block_trace` (indices into program->blocks) from the streams themselves:
 * each queue in order, the whole core in order of time. BAD_ARGUMENT for a block that does not
 * exist, DEADLOCK where a wait is never fulfilled. Allocates per block at most, not per
 * instruction. Not safe against a program changed after timing_prepare. */
vtrn_status timing_run(const timing_model *model, const uint32_t *block_trace,
                       uint32_t n_block_trace, const timing_options *options, timing_result *out);

/* timing_prepare and timing_run in one, for a program that is replayed once. */
vtrn_status timing_replay(const vtrn_chip *chip, const vtrn_program *program,
                          const uint32_t *block_trace, uint32_t n_block_trace, bool want_intervals,
                          timing_result *out);
void timing_result_free(timing_result *result);

#endif
