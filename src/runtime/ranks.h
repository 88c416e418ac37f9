/* Ranks of a program that run at the same time and meet in collectives. Private to this folder. */
#ifndef VTRN_RUNTIME_RANKS_H
#define VTRN_RUNTIME_RANKS_H

#include "runtime/execute.h"
#include "runtime/peers.h"

/* At load: who meets where, and a run for each rank. */
vtrn_status ranks_prepare(runtime_program *loaded);
void ranks_release(runtime_program *loaded);

/* The run of a rank; what the execution left in it, the trace of its blocks above all, stays. */
static inline engine_run *ranks_run_of(runtime_program *loaded, uint32_t rank) {
    return rank ? &loaded->rank_runs[rank - 1] : &loaded->run;
}

/* Runs all ranks, whose calls are bound and whose runs are set up, to their ends; peers, which may
 * be NULL, run those of other processes. calls[n] */
vtrn_status ranks_run(runtime_program *loaded, const runtime_call *calls, uint32_t n,
                      runtime_peers *peers);

#endif
