/* Functions that the activation tables have only on an interval, or not at all.
 * Source: docs/hardware.md, "Scalar engine" (arctan on [-pi/2, pi/2]) and "GpSimd" (power).
 */
#include "compiler/emit/elementwise_parts.h"

#include <float.h>
#include <math.h>

static const vtrn_engine VECTOR = VTRN_ENGINE_VECTOR, GPSIMD = VTRN_ENGINE_GPSIMD;

/* A number in two parts, the second what fp32 cannot hold of it. */
typedef struct two_floats {
    float high, low;
} two_floats;

static const two_floats PI = {3.14159274f, -8.74227766e-08f};
static const two_floats HALF_PI = {1.57079637f, -4.37113883e-08f};

static vtrn_ap as(const vtrn_ap *ap, vtrn_dtype t) {
    vtrn_ap other = *ap;
    other.dtype = (uint8_t)t;
    return other;
}

/* Where a node's value is made: its tile, or temporary k in fp32 if that is of a narrower type. */
static vtrn_ap wide_dst(emit_env *env, const fusion_node *node, int k) {
    vtrn_ap dst = elementwise_dst_ap(env, node);
    return dst.dtype == VTRN_DTYPE_FP32 ? dst : elementwise_temp_ap(env, node, k, VTRN_DTYPE_FP32);
}

/* Rounds to the node's type, once, what was made at wide_dst(). */
static vtrn_status narrow_dst(emit_env *env, const fusion_node *node, const vtrn_ap *wide) {
    vtrn_ap dst = elementwise_dst_ap(env, node);
    return dst.dtype == VTRN_DTYPE_FP32 ? NULL : emit_copy(env->e, &dst, wide);
}

/* e^x - 1 = 2t / (1 - t) with t = tanh(x / 2) where the difference would cancel. Both functions are
 * of one table set. */
vtrn_status elementwise_expm1(emit_env *env, const fusion_node *node, const elementwise_op *op) {
    (void)op;
    vtrn_ap to = wide_dst(env, node, 2), from;
    const vtrn_ap *dst = &to, *x = &from;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &from));
    vtrn_ap t = elementwise_temp_ap(env, node, 0, VTRN_DTYPE_FP32),
            u = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_FP32);
    vtrn_ap is_small = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_UINT32);
    VTRN_RETURN_IF_ERROR(emit_activate(env, VTRN_ACT_TANH, &t, x, 0.5f));
    VTRN_RETURN_IF_ERROR(
        emit_scalars(env->e, VTRN_ENGINE_VECTOR, &u, &t, STEP(MULTIPLY, -1), STEP(ADD, 1)));
    EMIT(reciprocal, env->e, RECIPROCAL, VECTOR);
    reciprocal->ap[0] = u;
    reciprocal->ap[1] = u;
    VTRN_RETURN_IF_ERROR(emit_scalar_tensor(env, &t, &t, STEP(MULTIPLY, 2), VTRN_ALU_MULTIPLY, &u));
    VTRN_RETURN_IF_ERROR(emit_activate(env, VTRN_ACT_EXP, dst, x, 1));
    VTRN_RETURN_IF_ERROR(
        emit_scalars(env->e, VTRN_ENGINE_VECTOR, dst, dst, STEP(SUBTRACT, 1), STEP_NONE));
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VTRN_ENGINE_VECTOR, &is_small, x, STEP(ABS_MAX, 0),
                                      STEP(IS_LT, 0.6f)));
    VTRN_RETURN_IF_ERROR(emit_copy_where(env, dst, &t, &is_small, false));
    return narrow_dst(env, node, dst);
}

/* log(1 + x) = log(u) + (x - (u - 1)) / u: u is 1 + x rounded, and x - (u - 1) what the rounding
 * lost, exact where it matters. The bounds keep -1 and infinity out of the second term. 0 - log(u)
 * is +0 where u is 1, so that the difference has the sign of x there. */
vtrn_status elementwise_log1p(emit_env *env, const fusion_node *node, const elementwise_op *op) {
    (void)op;
    vtrn_ap dst = wide_dst(env, node, 3), x;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &x));
    vtrn_ap u = elementwise_temp_ap(env, node, 0, VTRN_DTYPE_FP32);
    vtrn_ap inverse = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_FP32);
    vtrn_ap lost = elementwise_temp_ap(env, node, 2, VTRN_DTYPE_FP32);
    const float least = 0x1p-30f, most = FLT_MAX;
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VECTOR, &u, &x, STEP(ADD, 1), STEP_NONE));
    VTRN_RETURN_IF_ERROR(emit_activate(env, VTRN_ACT_LOG, &dst, &u, 1));
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VECTOR, &u, &u, STEP(MAX, least), STEP(MIN, most)));
    EMIT(reciprocal, env->e, RECIPROCAL, VECTOR);
    reciprocal->ap[0] = inverse;
    reciprocal->ap[1] = u;
    EMIT(loss, env->e, SCALAR_TENSOR_TENSOR, VECTOR);
    loss->op0 = loss->op1 = VTRN_ALU_SUBTRACT;
    loss->flags = VTRN_FLAG_REVERSE1; /* x - (u - 1) */
    loss->ap[0] = lost;
    loss->ap[1] = u;
    loss->imm[0].f = 1;
    loss->ap[3] = x;
    VTRN_RETURN_IF_ERROR(
        emit_tensor_tensor(env->e, VECTOR, VTRN_ALU_MULTIPLY, &lost, &lost, &inverse));
    EMIT(sum, env->e, SCALAR_TENSOR_TENSOR, VECTOR);
    sum->op0 = sum->op1 = VTRN_ALU_SUBTRACT;
    sum->flags = VTRN_FLAG_REVERSE0 | VTRN_FLAG_REVERSE1; /* lost - (0 - log u) */
    sum->ap[0] = dst;
    sum->ap[1] = dst;
    sum->imm[0].f = 0;
    sum->ap[3] = lost;
    return narrow_dst(env, node, &dst);
}

/* dst |= sign bit of x, all fp32 */
static vtrn_status copy_sign(emit_env *env, const vtrn_ap *dst, const vtrn_ap *x,
                             const vtrn_ap *t) {
    vtrn_ap bits = as(dst, VTRN_DTYPE_UINT32), from = as(x, VTRN_DTYPE_UINT32);
    vtrn_ap sign = as(t, VTRN_DTYPE_UINT32);
    EMIT(instr, env->e, TENSOR_SCALAR, VECTOR);
    instr->op0 = VTRN_ALU_BITWISE_AND;
    instr->ap[0] = sign;
    instr->ap[1] = from;
    instr->imm[0].bits = 0x80000000u;
    return emit_tensor_tensor(env->e, VECTOR, VTRN_ALU_BITWISE_OR, &bits, &bits, &sign);
}

/* dst = from - a, rounded once, with t for what the difference of the high part loses. */
static vtrn_status emit_angle_from(emit_env *env, const vtrn_ap *dst, const vtrn_ap *a,
                                   const vtrn_ap *t, two_floats from) {
    EMIT(difference, env->e, TENSOR_SCALAR, VECTOR);
    difference->op0 = VTRN_ALU_SUBTRACT;
    difference->flags = VTRN_FLAG_REVERSE0; /* high - a */
    difference->ap[0] = *dst;
    difference->ap[1] = *a;
    difference->imm[0].f = from.high;
    VTRN_RETURN_IF_ERROR(
        emit_scalar_tensor(env, t, dst, STEP(SUBTRACT, from.high), VTRN_ALU_ADD, a));
    EMIT(sum, env->e, SCALAR_TENSOR_TENSOR, VECTOR);
    sum->op0 = sum->op1 = VTRN_ALU_SUBTRACT;
    sum->flags = VTRN_FLAG_REVERSE1; /* dst - (t - low) */
    sum->ap[0] = *dst;
    sum->ap[1] = *t;
    sum->imm[0].f = from.low;
    sum->ap[3] = *dst;
    return NULL;
}

/* The angle of y over 1: the table has it up to pi/2, and the reciprocal's beyond. */
static vtrn_status emit_atan(emit_env *env, const fusion_node *node) {
    vtrn_ap dst = elementwise_dst_ap(env, node), in;
    vtrn_ap y = elementwise_temp_ap(env, node, 0, VTRN_DTYPE_FP32);
    vtrn_ap a = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_FP32);
    vtrn_ap b = elementwise_temp_ap(env, node, 2, VTRN_DTYPE_FP32);
    vtrn_ap mask = elementwise_temp_ap(env, node, 3, VTRN_DTYPE_UINT32);
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &in));
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VECTOR, &y, &in, STEP(ABS_MAX, 0), STEP_NONE));
    EMIT(reciprocal, env->e, RECIPROCAL, VECTOR);
    reciprocal->ap[0] = b;
    reciprocal->ap[1] = y;
    VTRN_RETURN_IF_ERROR(
        emit_scalars(env->e, VECTOR, &mask, &y, STEP(IS_GT, HALF_PI.high), STEP_NONE));
    VTRN_RETURN_IF_ERROR(emit_copy_where(env, &y, &b, &mask, false));
    VTRN_RETURN_IF_ERROR(emit_activate(env, VTRN_ACT_ARCTAN, &a, &y, 1));
    VTRN_RETURN_IF_ERROR(emit_angle_from(env, &b, &a, &y, HALF_PI));
    VTRN_RETURN_IF_ERROR(emit_copy_where(env, &a, &b, &mask, false));
    VTRN_RETURN_IF_ERROR(emit_copy(env->e, &y, &in));
    VTRN_RETURN_IF_ERROR(copy_sign(env, &a, &y, &b));
    return emit_copy(env->e, &dst, &a);
}

/* The angle of the smaller magnitude over the larger is at most pi/4; the octants give the rest. */
vtrn_status elementwise_atan2(emit_env *env, const fusion_node *node, const elementwise_op *op) {
    (void)op;
    if (node->in[1].node < 0 && node->in[1].imm == 1 && node->in[0].node >= 0)
        return emit_atan(env, node);
    vtrn_ap dst = elementwise_dst_ap(env, node), in_y, in_x;
    vtrn_ap y = elementwise_temp_ap(env, node, 0, VTRN_DTYPE_FP32);
    vtrn_ap x = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_FP32);
    vtrn_ap a = elementwise_temp_ap(env, node, 2, VTRN_DTYPE_FP32);
    vtrn_ap b = elementwise_temp_ap(env, node, 3, VTRN_DTYPE_FP32);
    vtrn_ap q = elementwise_temp_ap(env, node, 4, VTRN_DTYPE_FP32), scale = q;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &in_y));
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 1, &in_x));
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VECTOR, &y, &in_y, STEP(ABS_MAX, 0), STEP_NONE));
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VECTOR, &x, &in_x, STEP(ABS_MAX, 0), STEP_NONE));
    VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, VECTOR, VTRN_ALU_MAX, &a, &x, &y));
    VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, VECTOR, VTRN_ALU_MIN, &b, &x, &y));
    /* Both times 2^-1 above 1 and 2^22 below, so that the reciprocal of the larger one is a normal
     * number: scale is the power less 2^22. */
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VECTOR, &scale, &a, STEP(IS_GT, 1),
                                      STEP(MULTIPLY, 0x1p-1f - 0x1p22f)));
    VTRN_RETURN_IF_ERROR(
        emit_scalar_tensor(env, &a, &scale, STEP(ADD, 0x1p22f), VTRN_ALU_MULTIPLY, &a));
    VTRN_RETURN_IF_ERROR(
        emit_scalar_tensor(env, &b, &scale, STEP(ADD, 0x1p22f), VTRN_ALU_MULTIPLY, &b));
    /* of two zeros: 0 over anything else is 0 */
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VECTOR, &a, &a, STEP(MAX, 0x1p-127f), STEP_NONE));
    vtrn_ap lost;
    VTRN_RETURN_IF_ERROR(elementwise_quotient(env, node, (vtrn_ap[]){q, b, a}, 5, &lost));
    /* two infinities: 1.0 is both the mask and the quotient */
    vtrn_ap is_infinite = as(&a, VTRN_DTYPE_UINT32);
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VECTOR, &a, &b, STEP(IS_EQUAL, INFINITY), STEP_NONE));
    VTRN_RETURN_IF_ERROR(emit_copy_where(env, &q, &a, &is_infinite, false));
    VTRN_RETURN_IF_ERROR(emit_activate(env, VTRN_ACT_ARCTAN, &a, &q, 1));
    /* the angle of what the quotient lost, times 1 - q / 2, which is near enough to 1 / (1 + q^2)
     */
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VECTOR, &b, &q, STEP(MULTIPLY, -0.5f), STEP(ADD, 1)));
    VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, VECTOR, VTRN_ALU_MULTIPLY, &b, &b, &lost));
    VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, VECTOR, VTRN_ALU_ADD, &a, &a, &b));
    vtrn_ap mask = as(&x, VTRN_DTYPE_UINT32);
    VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, VECTOR, VTRN_ALU_IS_GT, &mask, &y, &x));
    VTRN_RETURN_IF_ERROR(emit_angle_from(env, &b, &a, &q, HALF_PI));
    VTRN_RETURN_IF_ERROR(emit_copy_where(env, &a, &b, &mask, false));
    /* the sign bit: an x of -0 is to the left, too */
    VTRN_RETURN_IF_ERROR(emit_copy(env->e, &x, &in_x));
    vtrn_ap sign = as(&x, VTRN_DTYPE_INT32);
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VECTOR, &mask, &sign, STEP(IS_LT, 0), STEP_NONE));
    VTRN_RETURN_IF_ERROR(emit_angle_from(env, &b, &a, &q, PI));
    VTRN_RETURN_IF_ERROR(emit_copy_where(env, &a, &b, &mask, false));
    VTRN_RETURN_IF_ERROR(emit_copy(env->e, &y, &in_y));
    VTRN_RETURN_IF_ERROR(copy_sign(env, &a, &y, &b));
    return emit_copy(env->e, &dst, &a);
}

/* y = |x|^c is off by the factor |x|^d with c + d = 1/3 and c in fp32, 15 ulps at the largest x:
 * y += y * d * log|x|. Of 0 and infinity nothing is added but 0 and something finite. */
static vtrn_status correct_cbrt(emit_env *env, const vtrn_ap *y, const vtrn_ap *x,
                                const vtrn_ap *t) {
    const float c = 1.0f / 3, d = (float)(1.0 / 3 - (double)c);
    VTRN_RETURN_IF_ERROR(
        emit_scalars(env->e, VECTOR, t, x, STEP(ABS_MAX, 0x1p-149f), STEP(MIN, 0x1.fffffep127f)));
    VTRN_RETURN_IF_ERROR(emit_activate(env, VTRN_ACT_LOG, t, t, 1));
    VTRN_RETURN_IF_ERROR(emit_scalar_tensor(env, t, y, STEP(MIN, 0x1p50f), VTRN_ALU_MULTIPLY, t));
    return emit_scalar_tensor(env, y, t, STEP(MULTIPLY, d), VTRN_ALU_ADD, y);
}

vtrn_status elementwise_cbrt(emit_env *env, const fusion_node *node, const elementwise_op *op) {
    (void)op;
    vtrn_ap dst = elementwise_dst_ap(env, node), in;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &in));
    vtrn_ap x = elementwise_temp_ap(env, node, 0, VTRN_DTYPE_FP32);
    vtrn_ap y = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_FP32);
    vtrn_ap t = elementwise_temp_ap(env, node, 2, VTRN_DTYPE_FP32);
    VTRN_RETURN_IF_ERROR(emit_copy(env->e, &x, &in));
    EMIT(power, env->e, TENSOR_SCALAR, GPSIMD);
    power->op0 = VTRN_ALU_ABS_MAX;
    power->op1 = VTRN_ALU_POWER;
    power->ap[0] = y;
    power->ap[1] = x;
    power->imm[0].f = 0;
    power->imm[1].f = 1.0f / 3;
    if (dst.dtype == VTRN_DTYPE_FP32)
        VTRN_RETURN_IF_ERROR(correct_cbrt(env, &y, &x, &t));
    VTRN_RETURN_IF_ERROR(copy_sign(env, &y, &x, &t));
    return emit_copy(env->e, &dst, &y);
}

/* Operand k as an int32 with the same order: a negative number's magnitude bits are turned over. */
static vtrn_status order_key(emit_env *env, const fusion_node *node, int k, const vtrn_ap *key,
                             const vtrn_ap *t) {
    vtrn_ap from, value = as(key, VTRN_DTYPE_FP32);
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, k, &from));
    VTRN_RETURN_IF_ERROR(emit_copy(env->e, &value, &from));
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VECTOR, t, key, STEP_BITS(SHIFT_RIGHT_ARITH, 31),
                                      STEP_BITS(BITWISE_AND, 0x7fffffffu)));
    return emit_tensor_tensor(env->e, VECTOR, VTRN_ALU_BITWISE_XOR, key, key, t);
}

/* A comparison in the total order of floats: -NaN, -inf, ..., -0, 0, ..., inf, NaN. */
vtrn_status elementwise_total_order(emit_env *env, const fusion_node *node,
                                    const elementwise_op *op) {
    (void)op;
    vtrn_ap dst = elementwise_dst_ap(env, node), key[2];
    vtrn_ap t = elementwise_temp_ap(env, node, 2, VTRN_DTYPE_INT32);
    for (int k = 0; k < 2; k++) {
        key[k] = elementwise_temp_ap(env, node, k, VTRN_DTYPE_INT32);
        VTRN_RETURN_IF_ERROR(order_key(env, node, k, &key[k], &t));
    }
    return emit_tensor_tensor(env->e, GPSIMD, elementwise_compare_alu(node), &dst, &key[0],
                              &key[1]);
}
