/* Quotients within a hair of half an ulp, of engines that do not divide: a product with the
 * reciprocal and what it leaves. Source: docs/hardware.md, "Numbers". */
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
    vtrn_ap is_better;          /* uint32, in the tile of rest */
    bool is_scaled;             /* no numerator is subnormal */
} quotient;

/* dst = num / den within a hair of half an ulp. With q = num * inverse in 8 bits and den as the sum
 * of 8 and 16 bits, products of the parts are exact, and so is what is left of num; its quotient is
 * small, and q plus that is rounded once. Where anything is infinite, or overflows on the way, the
 * product stays; so it does for quotients of 0, for the sum would lose the sign, and of numerators
 * that are subnormal, whose rest has no bits. Unless both were scaled, what the sum's rounding lost
 * is in the tile of low. */
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
    step_tensor(s, &x->low, &x->short_q, VTRN_ALU_ADD, &x->rest);
    if (x->is_scaled) {
        step_scalar(s, &x->rest, &x->low, STEP(ABS_MAX, 0), STEP(IS_LT, INFINITY));
        step_tensor(s, &x->is_better, &x->rest, VTRN_ALU_LOGICAL_AND, &x->low);
        step_copy_where(s, x->dst, &x->low, &x->is_better);
        return s->status;
    }
    step_tensor(s, &x->inverse, &x->short_q, VTRN_ALU_SUBTRACT, &x->low);
    step_tensor(s, &x->inverse, &x->inverse, VTRN_ALU_ADD, &x->rest);
    step_scalar(s, &x->rest, &x->low, STEP(ABS_MAX, 0), STEP(IS_LT, INFINITY));
    step_scalar(s, &x->short_den, x->num, STEP(ABS_MAX, 0), STEP(IS_GE, FLT_MIN));
    step_tensor(s, &x->is_better, &x->rest, VTRN_ALU_LOGICAL_AND, &x->short_den);
    step_copy_where(s, x->dst, &x->low, &x->is_better);
    step_zero(s, &x->low);
    step_copy_where(s, &x->low, &x->inverse, &x->is_better);
    return s->status;
}

/* num and den times the same power of 2, where either is so small that the rest of the division has
 * few bits or the reciprocal is infinite, or den so large that its reciprocal is subnormal. What
 * that takes beyond the range of fp32 has a quotient beyond it, and what it rounds one of 0. */
static void scale_both(quotient *x, const vtrn_ap *num, const vtrn_ap *den) {
    steps *s = &x->s;
    const vtrn_ap *up = &x->rest, *down = &x->low;
    step_tensor(s, up, num, VTRN_ALU_ABS_MIN, den);
    step_scalar(s, up, up, STEP(IS_LT, 0x1p-100f), STEP(MULTIPLY, 0x1p48f));
    step_scalar(s, down, den, STEP(ABS_MAX, 0), STEP(IS_GE, 0x1p100f));
    /* and 1, which 2^48 has no bit for */
    step_scalar_tensor(s, up, down, STEP(MULTIPLY, 0x1p-24f - 1), VTRN_ALU_ADD, up);
    step_scalar_tensor(s, x->num, up, STEP(ADD, 1), VTRN_ALU_MULTIPLY, num);
    step_scalar_tensor(s, x->den, up, STEP(ADD, 1), VTRN_ALU_MULTIPLY, den);
}

static quotient quotient_of(emit_env *env, const fusion_node *node, const vtrn_ap ap[3],
                            int first_temp) {
    vtrn_ap rest = elementwise_temp_ap(env, node, first_temp + 1, VTRN_DTYPE_FP32);
    vtrn_ap is_better = rest;
    is_better.dtype = VTRN_DTYPE_UINT32;
    quotient x = {.s = {.e = env->e},
                  .dst = &ap[0],
                  .num = &ap[1],
                  .den = &ap[2],
                  .inverse = elementwise_temp_ap(env, node, first_temp, VTRN_DTYPE_FP32),
                  .rest = rest,
                  .low = elementwise_temp_ap(env, node, first_temp + 2, VTRN_DTYPE_FP32),
                  .is_better = is_better,
                  .short_q = elementwise_temp_ap(env, node, first_temp + 3, VTRN_DTYPE_BF16),
                  .short_den = elementwise_temp_ap(env, node, first_temp + 4, VTRN_DTYPE_BF16)};
    return x;
}

vtrn_status elementwise_quotient(emit_env *env, const fusion_node *node, const vtrn_ap ap[3],
                                 int first_temp, vtrn_ap *lost) {
    quotient x = quotient_of(env, node, ap, first_temp);
    *lost = x.low;
    return divide_exactly(&x);
}

vtrn_status elementwise_quotient_of_any(emit_env *env, const fusion_node *node,
                                        const vtrn_ap ap[3]) {
    vtrn_ap scaled[3] = {ap[0], elementwise_temp_ap(env, node, 5, VTRN_DTYPE_FP32),
                         elementwise_temp_ap(env, node, 6, VTRN_DTYPE_FP32)};
    quotient x = quotient_of(env, node, scaled, 0);
    x.is_scaled = true;
    scale_both(&x, &ap[1], &ap[2]);
    return divide_exactly(&x);
}
