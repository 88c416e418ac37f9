/* What devices exchange, in a program that runs on one: each gets what it gives. */
#ifndef VTRN_COMPILER_PASSES_ALONE_H
#define VTRN_COMPILER_PASSES_ALONE_H

#include "compiler/graph/graph.h"

/* Collectives become their operands, the numbers of the device constants. UNSUPPORTED names a
 * collective among several devices. */
vtrn_status alone_simplify(graph *g);

#endif
