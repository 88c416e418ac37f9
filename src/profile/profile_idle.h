/* When the engines of a step work together, and what the busiest one waits for when it does not. */
#ifndef VTRN_PROFILE_PROFILE_IDLE_H
#define VTRN_PROFILE_PROFILE_IDLE_H

#include "profile/profile_path.h"

/* The engines, and one for all transfers together. */
enum { PROFILE_WORKER_DMA = VTRN_ENGINE_COUNT, PROFILE_N_WORKERS };

int profile_worker_of(const timing_interval *interval);
const char *profile_worker_name(int worker); /* "Tensor", ..., "DMA" */

/* The user's lines: sources that name the same place, or without one the same operation, are one
 * line. of_source has n_sources + 1 elements, the last for instructions without a source. */
typedef struct profile_lines {
    const char **names; /* "model.py:42", "stablehlo.add", or "no source line" */
    uint32_t *of_source;
    uint32_t n;
} profile_lines;

vtrn_status profile_lines_create(const vtrn_program *program, profile_lines *out);
void profile_lines_free(profile_lines *lines);
uint32_t profile_line_of(const profile_lines *lines, const vtrn_program *program,
                         const timing_interval *interval);

/* For how long so many workers are at work at once. */
typedef struct profile_overlap {
    double ns[PROFILE_N_WORKERS + 1];
} profile_overlap;

vtrn_status profile_overlap_measure(const vtrn_program *program, const timing_result *timing,
                                    profile_overlap *out);

/* Gaps of one engine that end with the same line and the same cause. */
typedef struct profile_wait {
    double ns, longest_ns; /* in all; of the longest gap */
    uint32_t n;
    uint32_t line, cause_line;
    uint32_t interval;       /* that ends the longest gap, or the wait in it */
    uint32_t cause_interval; /* of PROFILE_CAUSE_SEMAPHORE: of the raiser */
    uint16_t semaphore;      /* likewise, in the longest gap */
    uint8_t cause;           /* profile_cause; QUEUE: the engine's own control and triggers */
    uint8_t worker;          /* of cause_interval */
} profile_wait;

typedef struct profile_idle {
    double idle_ns;  /* before, between and after its instructions, of the whole step */
    double after_ns; /* the part of it behind its last instruction, which is no gap */
    uint32_t n_gaps;
    profile_wait *waits; /* the most time first */
    size_t n_waits;
} profile_idle;

vtrn_status profile_idle_create(const vtrn_program *program, const timing_result *timing,
                                const profile_path *path, const profile_lines *lines, int engine,
                                profile_idle *out);
void profile_idle_free(profile_idle *idle);

#endif
