/* The simulated time of what a program's ranks have executed. Private to this folder. */
#ifndef VTRN_RUNTIME_TIMES_H
#define VTRN_RUNTIME_TIMES_H

#include "runtime/execute.h"

/* Times the traces that the runs of the ranks hold, calls[n]; the result is the program's last
 * timing. */
void times_free(runtime_timing *timing); /* what it holds */
vtrn_status times_run(runtime_program *loaded, const runtime_call *calls, uint32_t n);

#endif
