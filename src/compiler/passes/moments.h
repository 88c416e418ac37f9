/* The variance of rows as the mean of squared differences from the mean. */
#ifndef VTRN_COMPILER_PASSES_MOMENTS_H
#define VTRN_COMPILER_PASSES_MOMENTS_H

#include "compiler/graph/graph.h"

/* E[x^2] - E[x]^2 over the last dimensions becomes E[(x - E[x])^2]: it cannot cancel, and one form
 * is left for which the engines have instructions. Common subexpressions must have been merged. */
vtrn_status moments_normalise(graph *g);

#endif
