/* Scatters that take the maximum, the minimum or the product at places that may be equal: an
 * indirect DMA reads, and writes what was combined, so that no place may be met twice between. */
#ifndef VTRN_COMPILER_PASSES_SCATTER_BLOCKS_H
#define VTRN_COMPILER_PASSES_SCATTER_BLOCKS_H

#include "compiler/graph/graph.h"

/* A block of updates at a time, each update becomes the maximum (...) of those in the block that
 * have its place; it is combined with what was there, and written. Updates that have the same place
 * write the same. */
vtrn_status scatter_by_blocks(graph *g);

#endif
