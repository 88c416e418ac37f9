/* Updates of stacked weights, part by part, are placed as soon as their operands are there and what
 * they overwrite was read last: their transfers then run beside the work of other layers. */
#ifndef VTRN_COMPILER_PASSES_EARLY_H
#define VTRN_COMPILER_PASSES_EARLY_H

#include "compiler/graph/graph.h"

/* Changes the order of the body's operations only. */
vtrn_status early_updates(graph *g);

#endif
