/* Operations on single values whose results only the program's outputs need, as the last ones of a
 * loss, are placed last: a kernel that is still growing does not have to end for them. */
#ifndef VTRN_COMPILER_PASSES_DEFER_H
#define VTRN_COMPILER_PASSES_DEFER_H

#include "compiler/graph/graph.h"

vtrn_status defer_single_values(graph *g);

#endif
