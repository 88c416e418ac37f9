/* Products make their dims in the order in which they are read. */
#ifndef VTRN_COMPILER_PASSES_PRODUCT_ORDER_H
#define VTRN_COMPILER_PASSES_PRODUCT_ORDER_H

#include "compiler/graph/graph.h"

/* Where all that reads a product of [batch, x, y] transposes it to [batch, y, x], with the dims of
 * x or of y in another order, the product is made so: of transposed operands, which are read where
 * they are. JAX writes the scores of groups of heads that share a key head that way. */
vtrn_status products_order(graph *g);

#endif
