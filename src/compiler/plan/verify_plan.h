/* The plan verifier: proves of every plan, before instructions are made of it, that no kernel can
 * touch what another one needs. Its errors are internal: a bug of the compiler. */
#ifndef VTRN_COMPILER_PLAN_VERIFY_PLAN_H
#define VTRN_COMPILER_PLAN_VERIFY_PLAN_H

#include "compiler/plan/kernel_list.h"

/* Requires: placement is done. Errors name kernel, tensor, bytes or elements. Checked are:
 *   - each access is inside its tensor; what is written names no element twice;
 *   - the tiles of a map kernel cover its elements once;
 *   - each tensor is written, as a whole, before it is read;
 *   - no kernel needs more PSUM banks than the chip has;
 *   - in SBUF, kernels and the residents that live at the same time do not overlap, and end below
 *     the limit; a resident's tensor is not written again while the resident is read. */
vtrn_status verify_plan(const plan *p, const graph *g);

/* verify_tiles.c: that the tiles of a map kernel cover its elements, and each result, once. */
vtrn_status verify_map_tiles(const plan *p, const kernel *k);
/* Where a value of the graph is; NULL: not in memory. */
typedef const view *verify_view_fn(const void *ctx, graph_value v);
/* verify_maps.c: that views mean what the ops of the graph say that made them. */
vtrn_status verify_maps(const graph *g, verify_view_fn *view_of, const void *ctx);

#endif
