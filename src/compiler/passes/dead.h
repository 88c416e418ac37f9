/* Operations whose results are read by none are left out. */
#ifndef VTRN_COMPILER_PASSES_DEAD_H
#define VTRN_COMPILER_PASSES_DEAD_H

#include "compiler/graph/graph.h"

vtrn_status dead_remove(graph *g);

#endif
