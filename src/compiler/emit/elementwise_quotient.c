/* Quotients that are rounded once, of engines that do not divide: a product with the reciprocal and
 * what it leaves. Source: docs/hardware.md, "Numbers". */
#include "compiler/emit/elementwise_parts.h"
#include "compiler/emit/steps.h"

#include <float.h>
#include <math.h>

/* The operands of a quotient, its result and the temporaries, all of one shape. */
typedef struct quotient {
    steps s;
    const vtrn_ap *dst, *num, *den;
    vtrn_ap inverse, rest, low; /* fp32 */
    vtrn_ap short_q, short_den; /* bf16, in tiles of their own */
    vtrn_ap is_better;          /* uint32, in the tile of low */
} quotient;

/* dst = num / den within a hair of half an ulp. With q = num * inverse in 8 bits and den as the sum
 * of 8 and 16 bits, products of the parts are exact, and so is what is left of num; its quotient is
 * small, and q plus that is rounded once. Where anything is infinite, or overflows on the way, the
 * product stays; so it does for numerators that are subnormal, whose rest has no bits, or 0, for
 * the sum would lose the sign. */
static vtrn_status divide_exactly(quotient *x) {
    steps *s = &x->s;
    step_reciprocal(s, &x->inverse, x->den);
    step_tensor(s, x->dst, x->num, VTRN_ALU_MULTIPLY, &x->inverse);
    step_copy(s, &x->short_q, x->dst);
    step_copy(s, &x->short_den, x->den);
    step_tensor(s, &x->rest, &x->short_q, VTRN_ALU_MULTIPLY, &x->short_den);
    step_tensor(s, &x->rest, x->num, VTRN_ALU_SUBTRACT, &x->rest);
    step_tensor(s, &x->low, x->den, VTRN_ALU_SUBTRACT, &x->short_den);
    step_tensor(s, &x->low, &x->short_q, VTRN_ALU_MULTIPLY, &x->low);
    step_tensor(s, &x->rest, &x->rest, VTRN_ALU_SUBTRACT, &x->low);
    step_tensor(s, &x->rest, &x->rest, VTRN_ALU_MULTIPLY, &x->inverse);
    step_tensor(s, &x->rest, &x->short_q, VTRN_ALU_ADD, &x->rest);
    step_scalar(s, &x->low, &x->rest, STEP(ABS_MAX, 0), STEP(IS_LT, INFINITY));
    step_scalar(s, &x->inverse, x->num, STEP(ABS_MAX, 0), STEP(IS_GE, FLT_MIN));
    step_tensor(s, &x->is_better, &x->low, VTRN_ALU_LOGICAL_AND, &x->inverse);
    step_copy_where(s, x->dst, &x->rest, &x->is_better);
    return s->status;
}

vtrn_status elementwise_quotient(emit_env *env, const fusion_node *node, const vtrn_ap ap[3],
                                 int first_temp) {
    vtrn_ap low = elementwise_temp_ap(env, node, first_temp + 2, VTRN_DTYPE_FP32), is_better = low;
    is_better.dtype = VTRN_DTYPE_UINT32;
    quotient x = {.s = {.e = env->e},
                  .dst = &ap[0],
                  .num = &ap[1],
                  .den = &ap[2],
                  .inverse = elementwise_temp_ap(env, node, first_temp, VTRN_DTYPE_FP32),
                  .rest = elementwise_temp_ap(env, node, first_temp + 1, VTRN_DTYPE_FP32),
                  .low = low,
                  .is_better = is_better,
                  .short_q = elementwise_temp_ap(env, node, first_temp + 3, VTRN_DTYPE_BF16),
                  .short_den = elementwise_temp_ap(env, node, first_temp + 4, VTRN_DTYPE_BF16)};
    return divide_exactly(&x);
}
