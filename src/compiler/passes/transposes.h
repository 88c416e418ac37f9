/* Transposes of transposes become one, or none. */
#ifndef VTRN_COMPILER_PASSES_TRANSPOSES_H
#define VTRN_COMPILER_PASSES_TRANSPOSES_H

#include "compiler/graph/graph.h"

vtrn_status transposes_join(graph *g);

#endif
