/* Collectives stand where their operands are complete, so that they run beside what follows. */
#ifndef VTRN_COMPILER_PASSES_EARLY_EXCHANGES_H
#define VTRN_COMPILER_PASSES_EARLY_EXCHANGES_H

#include "compiler/graph/graph.h"

/* A training step has the sums of its gradients at its end, one after the other. Each sum is placed
 * behind the first product after the one that makes its operand: the kernels of that gradient are
 * complete there, and are not cut in two. Whatever reads the result stays where it is. Changes the
 * order of the body's operations only. */
vtrn_status early_exchanges(graph *g);

#endif
