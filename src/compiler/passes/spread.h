/* Elementwise operations on a stack of products, as on the gradients of stacked parameters, are
 * done product by product: a product's kernel then does them on its tiles, and no tensor holds the
 * gradients. */
#ifndef VTRN_COMPILER_PASSES_SPREAD_H
#define VTRN_COMPILER_PASSES_SPREAD_H

#include "compiler/graph/graph.h"

vtrn_status spread_over_parts(graph *g);

#endif
