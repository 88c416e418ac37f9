/* A program prepared for replay. Private to this folder. */
#ifndef VTRN_TIMING_MODEL_H
#define VTRN_TIMING_MODEL_H

#include "cost/cost.h"
#include "timing/timing.h"

enum { TIMING_MAX_BACK = 4 /* how far back a dependence within one queue is looked for */ };

/* The later of two times. Inlined, which fmax is not, as fmax has a rule for NaN. */
static inline double later_ns(double a_ns, double b_ns) {
    return a_ns > b_ns ? a_ns : b_ns;
}

/* All that a replay needs of an instruction: it reads this array in order and nothing else. */
typedef struct timing_instr {
    instr_cost cost;
    uint32_t dma;      /* COST_KIND_DMA: index into the model's transfers */
    uint8_t back_mask; /* bit i: needs the result of the (i+1)-th instruction before it */
    uint8_t queue;     /* COST_KIND_DMA: its ring */
    uint8_t n_waits;
    uint16_t update_semaphore; /* VTRN_NO_SEMAPHORE: none */
    uint16_t update_value;
    uint16_t wait_semaphore[VTRN_MAX_WAITS];
    uint32_t wait_value[VTRN_MAX_WAITS];
} timing_instr;

/* The engines' streams of one block, and room for its semaphore updates. */
typedef struct timing_block {
    uint32_t n_updates; /* in all */
    uint32_t n_dmas;
    bool is_alike; /* takes the same each time, if all is at rest when it begins */
    uint32_t first_update[VTRN_N_SEMAPHORES]; /* prefix sums: where a semaphore's history begins */
} timing_block;

struct timing_model {
    const vtrn_chip *chip;
    const vtrn_program *program;
    timing_instr *instrs;     /* by instruction */
    transfer_cost *transfers; /* of each DMA, in program order */
    timing_block *blocks;
    uint32_t n_transfers;
    uint32_t max_updates; /* of a block */
};

#endif
