/* State of the PE array over time: weights, stream, and its dI/dt limit. Private to this folder. */
#ifndef VTRN_TIMING_PE_H
#define VTRN_TIMING_PE_H

#include "timing/model.h"

/* Times are ns since the block began. */
typedef struct pe_state {
    double stream_free_ns; /* the running matmul has taken its last column */
    double last_matmul_ns; /* start of the last matmul: the spare weights are free again */
    double load_free_ns;   /* the last weight load has ended */
    /* dI/dt limit: a window in which the array was busy long enough makes the next warm. */
    double first_window_ns; /* when window 0 began */
    int64_t window_i;
    double busy_ns;  /* of the current window */
    double spill_ns; /* busy time that reaches into the next windows */
    bool is_warm;
} pe_state;

/* Earliest start of a weight load or matmul that could start at start_ns. */
double pe_start(const pe_state *pe, const instr_cost *cost, double start_ns);

/* Runs it from start_ns; returns when its result is there. */
double pe_run(pe_state *pe, const vtrn_chip *chip, const instr_cost *cost, double start_ns);

/* Times count from ns later on. What is over by then is as if it had ended at that moment. */
void pe_shift(pe_state *pe, double ns);

/* Whether nothing runs. The dI/dt limit's windows go on all the same. */
static inline bool pe_is_at_rest(const pe_state *pe) {
    return pe->stream_free_ns == 0 && pe->last_matmul_ns == 0 && pe->load_free_ns == 0;
}

#endif
