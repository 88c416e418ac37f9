/* Integers of 2 and 4 bits and floats of 4: packed in arguments and results, bytes in between. */
#ifndef VTRN_COMPILER_PASSES_SMALL_TYPES_H
#define VTRN_COMPILER_PASSES_SMALL_TYPES_H

#include "compiler/graph/graph.h"

/* Has @main take and give vectors of packed bytes, with GRAPH_UNPACK behind parameters and
 * GRAPH_PACK before results, and computes with small integers as int8 and uint8, which hold a
 * value's sign and nothing else above it: what can leave the small type's range is cut to it.
 * Operations that mean the bits, and calls, get and give the small types themselves. */
vtrn_status small_types_widen(graph *g);

/* Writes GRAPH_UNPACK and GRAPH_PACK as operations that engines have. Those stay whose values only
 * contractions read, when is_bare is not set: their operands are unpacked in SBUF. */
vtrn_status small_types_expand(graph *g, bool is_bare);

#endif
