/* Ranks of a program that run at the same time and meet in collectives. Private to this folder. */
#ifndef VTRN_RUNTIME_RANKS_H
#define VTRN_RUNTIME_RANKS_H

#include "runtime/execute.h"
#include "runtime/peers.h"

/* At load: who meets where, and a run for each rank. */
vtrn_status ranks_prepare(runtime_program *loaded);
void ranks_release(runtime_program *loaded);

static inline bool ranks_is_executed(const runtime_program *loaded, uint32_t rank) {
    return !loaded->stand_in || loaded->stand_in[rank] == rank;
}

/* The run of a rank, or of the one that is executed in its stead; what the execution left in it,
 * the trace of its blocks above all, stays. */
static inline engine_run *ranks_run_of(runtime_program *loaded, uint32_t rank) {
    if (loaded->stand_in)
        rank = loaded->stand_in[rank];
    return rank ? &loaded->rank_runs[rank - 1] : &loaded->run;
}

/* Whether of the ranks of a call one alone is executed. */
static inline bool ranks_is_alone(const runtime_program *loaded, uint32_t n) {
    return n == 1 || loaded->n_executed == 1;
}

/* Runs the first rank by the whole team, where it is executed alone: it exchanges with itself. */
vtrn_status ranks_run_alone(runtime_program *loaded, const runtime_call *calls, uint32_t n);

/* Runs all ranks, whose calls are bound and whose runs are set up, to their ends; peers, which may
 * be NULL, run those of other processes. calls[n] */
vtrn_status ranks_run(runtime_program *loaded, const runtime_call *calls, uint32_t n,
                      runtime_peers *peers);

#endif
