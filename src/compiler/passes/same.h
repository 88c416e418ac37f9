/* Whether two operations compute the same. */
#ifndef VTRN_COMPILER_PASSES_SAME_H
#define VTRN_COMPILER_PASSES_SAME_H

#include "compiler/graph/graph.h"

/* Operations whose result depends on their operands and attributes alone, and that need not run
 * where they are. */
bool same_is_pure(const graph_op *op);
/* Both are pure. Same kind, operands, attributes and type of result. */
bool same_op(const graph *g, const graph_op *a, const graph_op *b);
/* Equal for operations that are the same. */
uint64_t same_hash(const graph *g, const graph_op *op);

#endif
