/* A model of the core for list scheduling: when an engine, a port, the PE array and the DMA engines
 * are free. It takes each instruction's cost from cost/cost.h and leaves out what depends on the
 * past (a cold PE array, semaphore updates that queue): src/timing has the whole. Times are ns. */
#ifndef VTRN_COMPILER_BUILD_CORE_MODEL_H
#define VTRN_COMPILER_BUILD_CORE_MODEL_H

#include "cost/cost.h"

enum { CORE_MAX_DMA_ENGINES = 256 }; /* transfer_cost counts them in a byte */

typedef struct core_model {
    const vtrn_chip *chip;
    double free_ns[VTRN_ENGINE_COUNT]; /* its queue may start the next instruction */
    double sbuf_free_ns[VTRN_ENGINE_COUNT], psum_free_ns[VTRN_ENGINE_COUNT]; /* its use of a port */
    double stream_free_ns, load_free_ns, last_matmul_ns;                     /* the PE array */
    double dma_free_ns[CORE_MAX_DMA_ENGINES], hbm_free_ns;
    double issue_free_ns[VTRN_ENGINE_COUNT]; /* its queue's next transfer may be issued */
} core_model;

/* From the start until the result is known elsewhere, when nothing else runs. t: of a DMA. */
double core_latency_ns(const vtrn_chip *chip, const instr_cost *cost, const transfer_cost *t);

/* Starts an instruction of the engine as soon after *start_ns as it can, which *start_ns then says.
 * Returns when its result is known elsewhere. */
double core_run(core_model *core, int engine, const instr_cost *cost, const transfer_cost *t,
                double *start_ns);

#endif
