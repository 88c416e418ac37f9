/* Program order -> engine streams: finds every dependence and protects it with semaphores. */
#ifndef VTRN_COMPILER_BUILD_SEMAPHORES_H
#define VTRN_COMPILER_BUILD_SEMAPHORES_H

#include "chip/chip.h"
#include "isa/program.h"

/* DMA rings that the compiler uses; ring q of a DMA instruction must be below it. */
enum { SCHEDULE_N_QUEUES = 8 };

typedef struct schedule_input {
    const vtrn_chip *chip;
    const vtrn_slot *slots;
    uint32_t n_slots;
    const vtrn_custom *customs;
    uint32_t n_customs;
    const int32_t *output_alias; /* per output: argument it may share memory with, or -1 */
    const vtrn_instr *list;      /* in program order; engines and rings chosen, no waits yet */
    uint32_t n;
} schedule_input;

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
