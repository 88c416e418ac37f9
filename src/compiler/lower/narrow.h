/* Results that are only wanted in a narrower type. */
#ifndef VTRN_COMPILER_LOWER_NARROW_H
#define VTRN_COMPILER_LOWER_NARROW_H

#include "compiler/lower/lower.h"
#include "compiler/plan/fusion_nodes.h"

/* Whether all that is still to happen to the values of a node are conversions to one narrower
 * float, perhaps behind view changes: then it is stored in that type. */
bool narrow_node(const lower *l, const fusion *f, int node, vtrn_dtype *out);
/* Scratch for a value of that type; sets the value's view. */
vtrn_status narrow_result(lower *l, graph_value v, vtrn_dtype dtype, view *out);
/* The node to store instead of the given one. */
vtrn_status narrow_store(lower *l, fusion *f, int node, vtrn_dtype dtype, int *out_node);

/* Whether v, an fp32 value that is not in memory yet, is only read in *out. */
bool narrow_value(const lower *l, graph_value v, vtrn_dtype *out);

#endif
