/* How far a time rests on constants that no publication supports. */
#ifndef VTRN_TIMING_RELIANCE_H
#define VTRN_TIMING_RELIANCE_H

#include "timing/timing.h"

enum { TIMING_MAX_RELIANCES = 8 };

/* What ten percent more of a constant does to the time, as a share of it. */
typedef struct timing_reliance {
    int key; /* see chip_key_name */
    double change;
} timing_reliance;

typedef struct timing_reliances {
    int n_assumed;   /* constants of the chip that are assumed and not 0 */
    double together; /* change of the time with ten percent more of all of them */
    int n;           /* of them in `of`: those that matter most, largest change first */
    timing_reliance of[TIMING_MAX_RELIANCES]; /* empty for programs too long to replay often */
} timing_reliances;

/* Replays the trace once with all assumed constants changed, and once with each where the program
 * is short. total_ns: what the trace takes. */
vtrn_status timing_rely(const vtrn_chip *chip, const vtrn_program *program,
                        const uint32_t *block_trace, uint32_t n_block_trace, double total_ns,
                        timing_reliances *out);

#endif
