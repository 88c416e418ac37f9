/* From one program for all partitions to the program of each: shapes are cut, exchanges inserted.
 */
#ifndef VTRN_COMPILER_PASSES_SPMD_H
#define VTRN_COMPILER_PASSES_SPMD_H

#include "compiler/graph/graph.h"

/* Bodies of manual computations are of one partition already. What stands outside of them runs on
 * every partition, on whole tensors: these are gathered before, and cut afterwards where they
 * belong into parts; *n_whole counts such operations. g->arg_sharding and result_sharding are
 * complete afterwards, NULL where the tensor is whole, and types are those of parts. The graph of
 * one partition stays as it is. UNSUPPORTED: a dimension that does not divide, a callback outside
 * of manual computations. */
vtrn_status spmd_localise(graph *g, uint32_t *n_whole);

#endif
