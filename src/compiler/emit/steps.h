/* Arithmetic on tiles of one shape, one call an instruction. After a failure the calls that follow
 * do nothing, so that a sequence reads as a formula and its status is asked for once. */
#ifndef VTRN_COMPILER_EMIT_STEPS_H
#define VTRN_COMPILER_EMIT_STEPS_H

#include "compiler/emit/emitter.h"

typedef struct steps {
    emitter *e;
    vtrn_status status; /* the first failure; the caller owns it */
} steps;

/* A tile of 32-bit elements under the three types that instructions read it as. */
typedef struct step_tile {
    vtrn_ap f, u, i; /* fp32, uint32, int32 */
} step_tile;

step_tile step_tile_of(const vtrn_ap *ap);

/* dst = (a first) second on the Vector engine */
void step_scalar(steps *s, const vtrn_ap *dst, const vtrn_ap *a, step_op first, step_op second);
/* dst = (a first) op b on the Vector engine */
void step_scalar_tensor(steps *s, const vtrn_ap *dst, const vtrn_ap *a, step_op first, vtrn_alu op,
                        const vtrn_ap *b);
/* dst = a op b on the Vector engine, and on GpSimd, which is exact for integers of 32 bits */
void step_tensor(steps *s, const vtrn_ap *dst, const vtrn_ap *a, vtrn_alu op, const vtrn_ap *b);
void step_exact(steps *s, const vtrn_ap *dst, const vtrn_ap *a, vtrn_alu op, const vtrn_ap *b);
/* dst = a op on GpSimd */
void step_exact_scalar(steps *s, const vtrn_ap *dst, const vtrn_ap *a, step_op op);
void step_copy(steps *s, const vtrn_ap *dst, const vtrn_ap *a);
void step_zero(steps *s, const vtrn_ap *dst);
void step_reciprocal(steps *s, const vtrn_ap *dst, const vtrn_ap *a);
/* dst = a where mask is not 0 */
void step_copy_where(steps *s, const vtrn_ap *dst, const vtrn_ap *a, const vtrn_ap *mask);

#endif
