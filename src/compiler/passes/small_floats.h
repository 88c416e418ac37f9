/* Floats of a byte or less that no engine has: FNUZ formats, E8M0 and FP4. */
#ifndef VTRN_COMPILER_PASSES_SMALL_FLOATS_H
#define VTRN_COMPILER_PASSES_SMALL_FLOATS_H

#include "compiler/graph/graph.h"

/* Writes conversions of such floats from and to wider ones as operations on 32-bit integers, and
 * has what computes with them compute in fp32, and products in bf16. Sums and other reductions
 * stay. */
vtrn_status small_floats_compute(graph *g);

#endif
