/* Graph -> graph, before kernels are formed: what is the same is computed once, what is known is
 * not computed, and expanded forms of functions become one operation. */
#ifndef VTRN_COMPILER_PASSES_PASSES_H
#define VTRN_COMPILER_PASSES_PASSES_H

#include "compiler/graph/graph.h"
#include "compiler/options.h"

/* A graph of its own, which shares constants, names and attributes with g: destroy it before g.
 * Without passes, or for the reference, only what is needed to run it at all, on one device, and
 * the casts that are asked for. */
vtrn_status passes_run(const graph *g, const compile_options *options, graph **out);

#endif
