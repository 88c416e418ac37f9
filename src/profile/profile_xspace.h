/* Executions as an XSpace, the protobuf in which XLA's profilers exchange traces. */
#ifndef VTRN_PROFILE_PROFILE_XSPACE_H
#define VTRN_PROFILE_PROFILE_XSPACE_H

#include "isa/program.h"
#include "profile/profile_buffer.h"
#include "timing/timing.h"

/* A program that ran, with the intervals of one block trace of it. */
typedef struct profile_traced {
    const char *name; /* of the executable */
    const vtrn_program *program;
    const timing_result *timing; /* without intervals: only the whole run is shown */
} profile_traced;

typedef struct profile_run {
    uint32_t traced_i; /* index into profile_session.traced */
    int core_i;
    uint64_t host_ns;    /* when the call began, ns since the epoch */
    double simulated_ns; /* what the chip would have taken; 0: not timed */
} profile_run;

typedef struct profile_session {
    const profile_traced *traced;
    size_t n_traced;
    const profile_run *runs; /* in the order in which they ran */
    size_t n_runs;
    const char *chip_name;
    uint64_t start_ns; /* of the session, since the epoch */
    int n_cores;
} profile_session;

/* Appends the XSpace: a plane for each core that ran something, with a line for programs and lines
 * for engines and DMA rings. Lengths are the chip's time. A run begins when the host called it, or
 * when the core's run before it is over, so that none overlap. RESOURCE when memory is short. */
vtrn_status profile_xspace(const profile_session *session, profile_buffer *out);

#endif
