/* Common subexpressions: what was computed before is read instead. */
#ifndef VTRN_COMPILER_PASSES_SUBEXPRESSIONS_H
#define VTRN_COMPILER_PASSES_SUBEXPRESSIONS_H

#include "compiler/graph/graph.h"

vtrn_status subexpressions_merge(graph *g);

#endif
