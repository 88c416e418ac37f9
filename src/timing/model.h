/* A program prepared for replay. Private to this folder. */
#ifndef VTRN_TIMING_MODEL_H
#define VTRN_TIMING_MODEL_H

#include "timing/cost.h"
#include "timing/timing.h"

/* The engines' streams of one block, and room for its semaphore updates. */
typedef struct timing_block {
    uint32_t n_updates; /* in all */
    uint32_t n_dmas;
    uint32_t first_update[VTRN_N_SEMAPHORES]; /* prefix sums: where a semaphore's history begins */
} timing_block;

struct timing_model {
    const vtrn_chip *chip;
    const vtrn_program *program;
    timing_cost *costs;         /* an instruction each */
    timing_transfer *transfers; /* a DMA each, in program order */
    timing_block *blocks;
    uint32_t n_transfers;
    uint32_t max_updates; /* of a block */
};

#endif
