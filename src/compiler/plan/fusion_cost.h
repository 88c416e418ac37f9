/* What a fusion takes, by the cost model, when it is cut into rows of so many columns. */
#ifndef VTRN_COMPILER_PLAN_FUSION_COST_H
#define VTRN_COMPILER_PLAN_FUSION_COST_H

#include "compiler/plan/fusion_nodes.h"

/* ns, if nothing overlapped: a measure to compare cuts by. INFINITY where a result cannot be cut
 * there. cols > 0 divides the fusion's elements. */
double fusion_cols_ns(const vtrn_chip *chip, const fusion *f, int64_t cols);

/* Where a node meets HBM; NULL: it does not. */
const view *fusion_memory_view(const fusion_node *node);

#endif
