/* When each semaphore of a core has which value. Private to this folder. */
#ifndef VTRN_TIMING_SEMAPHORE_STATE_H
#define VTRN_TIMING_SEMAPHORE_STATE_H

#include "timing/model.h"

typedef struct semaphore_update {
    double t_ns;
    uint32_t by;
    uint32_t sum; /* value from t_ns on; saturates */
} semaphore_update;

/* Histories in one array, laid out by timing_block.first_update. Values start at 0 with a block. */
typedef struct semaphores {
    const timing_block *block;
    semaphore_update *updates;
    uint32_t count[VTRN_N_SEMAPHORES];
} semaphores;

void semaphores_reset(semaphores *s, const timing_block *block);
void semaphores_post(semaphores *s, int semaphore, double t_ns, uint32_t by);

/* Time from which the semaphore is >= value, by the updates known so far; INFINITY if never. */
double semaphores_reach(const semaphores *s, int semaphore, uint32_t value);

#endif
