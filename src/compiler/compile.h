/* Graph -> program. */
#ifndef VTRN_COMPILER_COMPILE_H
#define VTRN_COMPILER_COMPILE_H

#include "chip/chip.h"
#include "compiler/graph/graph.h"
#include "compiler/options.h"
#include "engine/plan.h"
#include "isa/program.h"

/* The graph may be destroyed afterwards. */
vtrn_status compile_graph(const graph *g, const vtrn_chip *chip, const compile_options *options,
                          vtrn_program **out);

/* Runs custom op custom_i of a program made by compile_graph (an engine_custom_fn; ctx is unused).
 */
vtrn_status compile_run_custom(void *ctx, const vtrn_program *program, uint32_t custom_i,
                               void *const *inputs, void *const *outputs);

/* Who runs callbacks for this process; NULL: programs with callbacks are refused. */
struct host_callbacks;
void compile_set_callbacks(const struct host_callbacks *callbacks);
/* An executable holds the callbacks of its program (change 1) until it is destroyed (-1). On error
 * it holds none. */
vtrn_status compile_hold_callbacks(const vtrn_program *program, int change);

/* Whether this thread is inside a callback. */
bool compile_is_in_callback(void);

/* For programs that came from a file: every custom op is one that a reference routine evaluates,
 * well formed, with slots as large as its tensors. compile_run_custom() relies on it. The structure
 * of the program is known to be valid. */
vtrn_status compile_check_customs(const vtrn_program *program);

#endif
