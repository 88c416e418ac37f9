/* How much of a step's communication its engines' work hides. */
#ifndef VTRN_PROFILE_PROFILE_OVERLAP_H
#define VTRN_PROFILE_PROFILE_OVERLAP_H

#include "timing/timing.h"

/* In how much of the time in which collectives run no engine of the core is at work; *hidden_ns:
 * and in how much some engine is. Waiting for other members does not count. RESOURCE: out of
 * memory. */
vtrn_status profile_exposed_ns(const vtrn_program *program, const timing_result *timing,
                               double *exposed_ns, double *hidden_ns);

#endif
