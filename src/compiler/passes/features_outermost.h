/* Products whose features are their outermost dims, so that the product that sums over them reads
 * them as they are. */
#ifndef VTRN_COMPILER_PASSES_FEATURES_OUTERMOST_H
#define VTRN_COMPILER_PASSES_FEATURES_OUTERMOST_H

#include "compiler/graph/graph.h"

/* A product x w has the features of w innermost. The PE array takes an operand with the dims that
 * it sums over on the partitions, so a product that sums over these features has to transpose
 * them. Where more of the readers do so than not, and what is in between is elementwise on one
 * value and on broadcasts, w x is computed in place of x w, the elementwise operations on it, and
 * a transpose behind them, which is a change of the readers' view. g is changed; on an error it
 * is to be destroyed. */
vtrn_status features_outermost(graph *g);

#endif
