/* Common subexpressions: what was computed before is read instead. An elementwise operation is done
 * again behind a contraction and the like: its result would have to be stored in between, beside
 * its operands. */
#ifndef VTRN_COMPILER_PASSES_SUBEXPRESSIONS_H
#define VTRN_COMPILER_PASSES_SUBEXPRESSIONS_H

#include "compiler/graph/graph.h"

vtrn_status subexpressions_merge(graph *g);

#endif
