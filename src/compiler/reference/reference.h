/* Reference semantics of every StableHLO op in plain C: test oracle and body of custom ops. */
#ifndef VTRN_COMPILER_REFERENCE_REFERENCE_H
#define VTRN_COMPILER_REFERENCE_REFERENCE_H

#include "compiler/graph/graph.h"

/* Evaluates one op on dense row-major host buffers, as StableHLO and XLA define it (gather clamps,
 * scatter drops out-of-bounds updates, convert saturates, ...). Ops with regions evaluate them;
 * captured values are not allowed here: reference_graph handles those. inputs[n_operands],
 * outputs[n_results] (allocated by the caller, no overlap with inputs).
 * UNIMPLEMENTED names the op and its place. */
vtrn_status reference_op(const graph *g, const graph_op *op, const void *const *inputs,
                         void *const *outputs);

/* Evaluates a whole graph: control flow, captures and all. */
vtrn_status reference_graph(const graph *g, const void *const *args, void *const *results);

/* True when reference_op knows the op. */
bool reference_supports(const graph *g, const graph_op *op);

/* Whether the op is a custom_call to VTRN_CALLBACK_NAME: a call of the host (host_callback.h). */
bool reference_is_callback(const graph_op *op);
/* About how many floating point operations reference_op takes: one for each element, and those that
 * the usual algorithm takes where they are many more. */
uint64_t reference_flops(const graph *g, const graph_op *op);

/* An elementwise op of one result on one element of each operand: what operands of one value each
 * give. *is_known: whether reference_op knows it; at most REFERENCE_MAX_ELEMENTS operands. */
enum { REFERENCE_MAX_ELEMENTS = 3 };
vtrn_status reference_elements(const graph *g, const graph_op *op, const void *const *inputs,
                               void *output, bool *is_known);

#endif
