/* Sums of tensors padded with zeros so that they are side by side, the gradient of taking slices
 * apart, are concatenations. */
#ifndef VTRN_COMPILER_PASSES_STACKS_H
#define VTRN_COMPILER_PASSES_STACKS_H

#include "compiler/graph/graph.h"

vtrn_status stacks_recognise(graph *g);

#endif
