/* Sums of a tensor and of what is scattered into zeros: the updates are added to the tensor where
 * it is. */
#ifndef VTRN_COMPILER_PASSES_SCATTER_INTO_H
#define VTRN_COMPILER_PASSES_SCATTER_INTO_H

#include "compiler/graph/graph.h"

vtrn_status scatter_into_sum(graph *g);

#endif
