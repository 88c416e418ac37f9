/* What is known without running the program: operations on small constants, and those that change
 * nothing. */
#ifndef VTRN_COMPILER_PASSES_FOLD_H
#define VTRN_COMPILER_PASSES_FOLD_H

#include "compiler/graph/graph.h"

vtrn_status fold_known(graph *g);

#endif
