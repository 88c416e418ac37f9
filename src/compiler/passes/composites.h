/* Expanded forms of functions, as JAX and its users write them, become one operation: the table is
 * composites.def. */
#ifndef VTRN_COMPILER_PASSES_COMPOSITES_H
#define VTRN_COMPILER_PASSES_COMPOSITES_H

#include "compiler/graph/graph.h"

/* Common subexpressions must have been merged; what forms leave behind is dead. */
vtrn_status composites_recognise(graph *g);

#endif
