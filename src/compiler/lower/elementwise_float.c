/* Functions that the activation tables have only on an interval, or not at all.
 * Source: hardware facts 4.4 (arctan on [-pi/2, pi/2]), 4.5 (power on GpSimd).
 */
#include "compiler/lower/elementwise_parts.h"

#include <math.h>

static const vtrn_engine VECTOR = VTRN_ENGINE_VECTOR, GPSIMD = VTRN_ENGINE_GPSIMD;

static const float PI = 3.14159274f, HALF_PI = 1.57079637f;

bool elementwise_float_supports(graph_kind kind, uint8_t dtype) {
    return dtype_is_float((vtrn_dtype)dtype) && elementwise_float_n_temps(kind) > 0 &&
           (kind != GRAPH_REDUCE_PRECISION || dtype == VTRN_DTYPE_FP32);
}

int elementwise_float_n_temps(graph_kind kind) {
    switch (kind) {
    case GRAPH_CBRT:
    case GRAPH_REDUCE_PRECISION:
        return 3;
    case GRAPH_ATAN2:
        return 4;
    default:
        return 0;
    }
}

static vtrn_ap as(const vtrn_ap *ap, vtrn_dtype t) {
    vtrn_ap other = *ap;
    other.dtype = (uint8_t)t;
    return other;
}

/* --- arc tangent of a quotient ------------------------------------------------------------------
 */

/* dst |= sign bit of x, all fp32 */
static vtrn_status copy_sign(emit_env *env, const vtrn_ap *dst, const vtrn_ap *x,
                             const vtrn_ap *t) {
    vtrn_ap bits = as(dst, VTRN_DTYPE_UINT32), from = as(x, VTRN_DTYPE_UINT32);
    vtrn_ap sign = as(t, VTRN_DTYPE_UINT32);
    LOWER_EMIT(instr, env->l, TENSOR_SCALAR, VECTOR);
    instr->op0 = VTRN_ALU_BITWISE_AND;
    instr->ap[0] = sign;
    instr->ap[1] = from;
    instr->imm[0].bits = 0x80000000u;
    return lower_emit_tensor_tensor(env->l, VECTOR, VTRN_ALU_BITWISE_OR, &bits, &bits, &sign);
}

/* The angle of the smaller magnitude over the larger is at most pi/4; the octants give the rest. */
static vtrn_status emit_atan2(emit_env *env, const fusion_node *node) {
    vtrn_ap dst = elementwise_dst_ap(env, node), in_y, in_x;
    vtrn_ap y = elementwise_temp_ap(env, node, 0, VTRN_DTYPE_FP32);
    vtrn_ap x = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_FP32);
    vtrn_ap a = elementwise_temp_ap(env, node, 2, VTRN_DTYPE_FP32);
    vtrn_ap b = elementwise_temp_ap(env, node, 3, VTRN_DTYPE_FP32);
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &in_y));
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 1, &in_x));
    /* finite magnitudes: infinite ones make the quotient 0 or 1, as they should */
    VTRN_RETURN_IF_ERROR(
        lower_emit_two_scalars(env->l, &y, &in_y, VTRN_ALU_ABS_MAX, 0, VTRN_ALU_MIN, 0x1p126f));
    VTRN_RETURN_IF_ERROR(
        lower_emit_two_scalars(env->l, &x, &in_x, VTRN_ALU_ABS_MAX, 0, VTRN_ALU_MIN, 0x1p126f));
    VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(env->l, VECTOR, VTRN_ALU_MAX, &a, &x, &y));
    VTRN_RETURN_IF_ERROR(emit_scalar_op(env, VECTOR, VTRN_ALU_MAX, &a, &a, 0x1p-126f, NULL, false));
    LOWER_EMIT(reciprocal, env->l, RECIPROCAL, VECTOR);
    reciprocal->ap[0] = a;
    reciprocal->ap[1] = a;
    VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(env->l, VECTOR, VTRN_ALU_MIN, &b, &x, &y));
    VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(env->l, VECTOR, VTRN_ALU_MULTIPLY, &a, &a, &b));
    VTRN_RETURN_IF_ERROR(emit_activate(env, VTRN_ACT_ARCTAN, &a, &a, 1));
    vtrn_ap mask = as(&x, VTRN_DTYPE_UINT32);
    VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(env->l, VECTOR, VTRN_ALU_IS_GT, &mask, &y, &x));
    VTRN_RETURN_IF_ERROR(
        lower_emit_two_scalars(env->l, &b, &a, VTRN_ALU_MULTIPLY, -1, VTRN_ALU_ADD, HALF_PI));
    VTRN_RETURN_IF_ERROR(emit_copy_where(env, &a, &b, &mask, false));
    /* the sign bit, for -0 lies to the left, too */
    VTRN_RETURN_IF_ERROR(lower_emit_copy(env->l, &x, &in_x));
    vtrn_ap sign = as(&x, VTRN_DTYPE_INT32);
    VTRN_RETURN_IF_ERROR(emit_scalar_op(env, VECTOR, VTRN_ALU_IS_LT, &mask, &sign, 0, NULL, false));
    VTRN_RETURN_IF_ERROR(
        lower_emit_two_scalars(env->l, &b, &a, VTRN_ALU_MULTIPLY, -1, VTRN_ALU_ADD, PI));
    VTRN_RETURN_IF_ERROR(emit_copy_where(env, &a, &b, &mask, false));
    VTRN_RETURN_IF_ERROR(lower_emit_copy(env->l, &y, &in_y));
    VTRN_RETURN_IF_ERROR(copy_sign(env, &a, &y, &b));
    return lower_emit_copy(env->l, &dst, &a);
}

/* --- the rest -----------------------------------------------------------------------------------
 */

static vtrn_status emit_cbrt(emit_env *env, const fusion_node *node, const vtrn_ap *dst,
                             const vtrn_ap *in) {
    vtrn_ap x = elementwise_temp_ap(env, node, 0, VTRN_DTYPE_FP32);
    vtrn_ap y = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_FP32);
    vtrn_ap t = elementwise_temp_ap(env, node, 2, VTRN_DTYPE_FP32);
    VTRN_RETURN_IF_ERROR(lower_emit_copy(env->l, &x, in));
    LOWER_EMIT(power, env->l, TENSOR_SCALAR, GPSIMD);
    power->op0 = VTRN_ALU_ABS_MAX;
    power->op1 = VTRN_ALU_POWER;
    power->ap[0] = y;
    power->ap[1] = x;
    power->imm[0].f = 0;
    power->imm[1].f = 1.0f / 3;
    VTRN_RETURN_IF_ERROR(copy_sign(env, &y, &x, &t));
    return lower_emit_copy(env->l, dst, &y);
}

/* fp32 with fewer bits: the mantissa is rounded to the nearest even by adding to the bits, what is
 * then too large is infinite, what is too small is 0, each with its sign. */
static vtrn_status emit_reduce_precision(emit_env *env, const fusion_node *node, const vtrn_ap *dst,
                                         const vtrn_ap *x) {
    int exponent_bits = node->direction, mantissa_bits = node->reducer;
    vtrn_ap r = elementwise_temp_ap(env, node, 0, VTRN_DTYPE_UINT32);
    vtrn_ap t = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_UINT32);
    vtrn_ap mask = elementwise_temp_ap(env, node, 2, VTRN_DTYPE_UINT32);
    vtrn_ap bits = as(x, VTRN_DTYPE_UINT32), value = as(&r, VTRN_DTYPE_FP32);
    vtrn_ap other = as(&t, VTRN_DTYPE_FP32);
    uint32_t drop = 23 - (uint32_t)mantissa_bits;
    if (drop) {
        VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, VECTOR, &t, &bits,
                                                    VTRN_ALU_SHIFT_RIGHT_LOGICAL, drop,
                                                    VTRN_ALU_BITWISE_AND, 1));
        VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, GPSIMD, &t, &t, VTRN_ALU_ADD,
                                                    (1u << (drop - 1)) - 1, VTRN_ALU_NONE, 0));
        VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(env->l, GPSIMD, VTRN_ALU_ADD, &r, &bits, &t));
        VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, VECTOR, &r, &r, VTRN_ALU_BITWISE_AND,
                                                    ~0u << drop, VTRN_ALU_NONE, 0));
    } else {
        VTRN_RETURN_IF_ERROR(lower_emit_copy(env->l, &r, &bits));
    }
    if (exponent_bits < 8) {
        int bias = (1 << (exponent_bits - 1)) - 1;
        float largest = ldexpf(2 - ldexpf(1, -mantissa_bits), bias), least = ldexpf(1, 1 - bias);
        VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, VECTOR, &t, &r, VTRN_ALU_BITWISE_AND,
                                                    0x80000000u, VTRN_ALU_NONE, 0));
        VTRN_RETURN_IF_ERROR(lower_emit_two_scalars(env->l, &mask, &value, VTRN_ALU_ABS_MAX, 0,
                                                    VTRN_ALU_IS_LT, least));
        VTRN_RETURN_IF_ERROR(emit_copy_where(env, &value, &other, &mask, false));
        VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, VECTOR, &t, &t, VTRN_ALU_BITWISE_OR,
                                                    0x7f800000u, VTRN_ALU_NONE, 0));
        VTRN_RETURN_IF_ERROR(lower_emit_two_scalars(env->l, &mask, &value, VTRN_ALU_ABS_MAX, 0,
                                                    VTRN_ALU_IS_GT, largest));
        VTRN_RETURN_IF_ERROR(emit_copy_where(env, &value, &other, &mask, false));
    }
    /* adding to the bits of a NaN may have made something else of it */
    VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(env->l, VECTOR, VTRN_ALU_NOT_EQUAL, &mask, x, x));
    VTRN_RETURN_IF_ERROR(emit_copy_where(env, &value, x, &mask, false));
    return lower_emit_copy(env->l, dst, &value);
}

bool elementwise_is_total_order(const fusion_node *node) {
    return node->op == GRAPH_COMPARE && node->is_total_order;
}

/* Operand k as an int32 with the same order: a negative number's magnitude bits are turned over. */
static vtrn_status order_key(emit_env *env, const fusion_node *node, int k, const vtrn_ap *key,
                             const vtrn_ap *t) {
    vtrn_ap from, value = as(key, VTRN_DTYPE_FP32);
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, k, &from));
    VTRN_RETURN_IF_ERROR(lower_emit_copy(env->l, &value, &from));
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, VECTOR, t, key, VTRN_ALU_SHIFT_RIGHT_ARITH,
                                                31, VTRN_ALU_BITWISE_AND, 0x7fffffffu));
    return lower_emit_tensor_tensor(env->l, VECTOR, VTRN_ALU_BITWISE_XOR, key, key, t);
}

static vtrn_status emit_total_order(emit_env *env, const fusion_node *node) {
    vtrn_ap dst = elementwise_dst_ap(env, node), key[2];
    vtrn_ap t = elementwise_temp_ap(env, node, 2, VTRN_DTYPE_INT32);
    for (int k = 0; k < 2; k++) {
        key[k] = elementwise_temp_ap(env, node, k, VTRN_DTYPE_INT32);
        VTRN_RETURN_IF_ERROR(order_key(env, node, k, &key[k], &t));
    }
    return lower_emit_tensor_tensor(env->l, GPSIMD, elementwise_compare_alu(node), &dst, &key[0],
                                    &key[1]);
}

vtrn_status elementwise_float_emit(emit_env *env, const fusion_node *node) {
    if (elementwise_is_total_order(node))
        return emit_total_order(env, node);
    if (node->op == GRAPH_ATAN2)
        return emit_atan2(env, node);
    vtrn_ap dst = elementwise_dst_ap(env, node), x;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &x));
    switch (node->op) {
    case GRAPH_CBRT:
        return emit_cbrt(env, node, &dst, &x);
    default:
        return emit_reduce_precision(env, node, &dst, &x);
    }
}
