/* Conversions to wider types stand where they are read. */
#ifndef VTRN_COMPILER_PASSES_WIDEN_LATE_H
#define VTRN_COMPILER_PASSES_WIDEN_LATE_H

#include "compiler/graph/graph.h"

/* A value that others read in its narrow type is in memory anyway, so its conversion to a wider
 * float is put right before its first reader, whose kernel loads the narrow value and converts it
 * on its way. Beside its operand it would be a second, larger tensor. */
vtrn_status widen_late(graph *g);

#endif
