/* Program order -> engine streams: finds every dependence and protects it with semaphores. */
#ifndef VTRN_COMPILER_BUILD_SEMAPHORES_H
#define VTRN_COMPILER_BUILD_SEMAPHORES_H

#include "compiler/build/granules.h"

/* DMA rings that the compiler uses; ring q of a DMA instruction must be below it. */
enum { SCHEDULE_N_QUEUES = 10 };

/* UNSUPPORTED for a chip with fewer DMA queues or semaphores than programs take. */
vtrn_status schedule_supports(const vtrn_chip *chip);

typedef granules_input schedule_input; /* with the addresses of scratch slots */

/* The waits of one block, found and not yet written. */
typedef struct schedule schedule;

/* Finds dependences (read after write, write after read, write after write) per memory granule;
 * transitive ones get no wait. All that stays is in `home`, and `in` must live as long;
 * *n_out: instructions that schedule_emit will write. */
vtrn_status schedule_analyse(const schedule_input *in, arena *home, schedule **out,
                             uint32_t *n_out);

/* Writes the block's streams to out[n_out]; first and count are relative to out. */
void schedule_emit(const schedule *schedule, vtrn_instr *out, uint32_t first[VTRN_ENGINE_COUNT],
                   uint32_t count[VTRN_ENGINE_COUNT]);

#endif
