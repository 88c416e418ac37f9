/* State of the DMA engines of a core over time. Private to this folder. */
#ifndef VTRN_TIMING_RINGS_H
#define VTRN_TIMING_RINGS_H

#include "timing/model.h"

enum { RINGS_MAX_ENGINES = 64 };

/* What carries one transfer at a time: in the order of their triggers, but for one that fits before
 * a transfer of another ring whose descriptors take longer. */
typedef struct rings_carrier {
    double free_ns;
    double gap_start_ns, gap_end_ns; /* its last idle time */
} rings_carrier;

/* Times are ns since the block began. */
typedef struct rings_state {
    rings_carrier engine[RINGS_MAX_ENGINES];
    double ring_start_ns[VTRN_N_QUEUES][RINGS_MAX_ENGINES]; /* of a ring's last transfer there */
    double issue_free_ns[VTRN_ENGINE_COUNT]; /* descriptors of a queue's next DMA may be made */
    rings_carrier hbm;                       /* the core's share of it */
    double hbm_ns_per_byte;                  /* of the core's share */
    rings_carrier semaphore;                 /* updates reach the core one after the other */
    double active_until_ns, active_ns;       /* any engine busy */
    double busy_ns;                          /* summed over engines */
    bool has_run;                            /* in this block */
} rings_state;

typedef struct rings_times {
    double first_byte_ns, last_byte_ns, semaphore_ns;
} rings_times;

void rings_reset(rings_state *rings, const vtrn_chip *chip, int active_cores_per_stack);

/* Carries out a transfer of a ring whose trigger on the queue of `issuer` (vtrn_engine) ended at
 * trigger_ns. */
rings_times rings_run(rings_state *rings, const vtrn_chip *chip, const transfer_cost *transfer,
                      int issuer, int ring, double trigger_ns);

/* A block has ended, ns after it began, and all its transfers: times count from there on. */
void rings_shift(rings_state *rings, double ns);

/* Whether each queue could make descriptors of its next transfer at once. */
bool rings_are_at_rest(const rings_state *rings);

#endif
