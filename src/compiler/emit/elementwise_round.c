/* Floats to integers and to fewer bits. The engines round to the nearest even integer when they
 * store one, and saturate. What is left is to correct by one, from a comparison with the operand.
 */
#include "compiler/emit/elementwise_parts.h"

#include <math.h>

static const vtrn_engine VECTOR = VTRN_ENGINE_VECTOR, GPSIMD = VTRN_ENGINE_GPSIMD;

static vtrn_ap as(const vtrn_ap *ap, vtrn_dtype t) {
    vtrn_ap other = *ap;
    other.dtype = (uint8_t)t;
    return other;
}

/* dst |= the sign bit of x: a result of rounding has the sign of its operand, 0 included. */
static vtrn_status emit_sign_of(emit_env *env, const fusion_node *node, const vtrn_ap *dst,
                                const vtrn_ap *x) {
    static const uint8_t bits_of[] = {
        [1] = VTRN_DTYPE_UINT8, [2] = VTRN_DTYPE_UINT16, [4] = VTRN_DTYPE_UINT32};
    size_t size = dtype_size(x->dtype);
    VTRN_CHECK(size >= 1 && size <= 4, "floats have 1, 2 or 4 bytes");
    vtrn_ap bits = *dst, x_bits = *x, sign = elementwise_temp_ap(env, node, 1, bits_of[size]);
    bits.dtype = x_bits.dtype = bits_of[size];
    EMIT(instr, env->e, TENSOR_SCALAR, VECTOR);
    instr->op0 = VTRN_ALU_BITWISE_AND;
    instr->ap[0] = sign;
    instr->ap[1] = x_bits;
    instr->imm[0].bits = 1u << (8 * size - 1);
    return emit_tensor_tensor(env->e, VTRN_ENGINE_VECTOR, VTRN_ALU_BITWISE_OR, &bits, &bits, &sign);
}

/* floor, ceil and the two kinds of round. From 2^23 up every fp32 is an integer (NaN and infinity
 * stay too); below, the nearest integer in int32 is exact. */
vtrn_status elementwise_round(emit_env *env, const fusion_node *node, const elementwise_op *op) {
    (void)op;
    vtrn_ap to = elementwise_dst_ap(env, node), from;
    const vtrn_ap *dst = &to, *x = &from;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &from));
    vtrn_ap nearest = elementwise_temp_ap(env, node, 0, VTRN_DTYPE_INT32);
    vtrn_ap t = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_FP32);
    vtrn_ap is_small = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_UINT8);
    if (node->op == GRAPH_ROUND_NEAREST_AFZ) { /* |x| - nearest is 1/2 where a tie went down */
        VTRN_RETURN_IF_ERROR(
            emit_scalars(env->e, VTRN_ENGINE_VECTOR, &nearest, x, STEP(ABS_MAX, 0), STEP_NONE));
        VTRN_RETURN_IF_ERROR(
            emit_scalar_tensor(env, &t, x, STEP(ABS_MAX, 0), VTRN_ALU_SUBTRACT, &nearest));
        VTRN_RETURN_IF_ERROR(
            emit_scalar_tensor(env, dst, &t, STEP(IS_EQUAL, 0.5f), VTRN_ALU_ADD, &nearest));
    } else {
        VTRN_RETURN_IF_ERROR(emit_copy(env->e, &nearest, x));
        if (node->op == GRAPH_ROUND_NEAREST_EVEN) {
            VTRN_RETURN_IF_ERROR(emit_copy(env->e, dst, &nearest));
        } else {
            bool is_floor = node->op == GRAPH_FLOOR;
            VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, VTRN_ENGINE_VECTOR,
                                                    is_floor ? VTRN_ALU_IS_GT : VTRN_ALU_IS_LT, &t,
                                                    &nearest, x));
            VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, VTRN_ENGINE_VECTOR,
                                                    is_floor ? VTRN_ALU_SUBTRACT : VTRN_ALU_ADD,
                                                    dst, &nearest, &t));
        }
    }
    VTRN_RETURN_IF_ERROR(emit_sign_of(env, node, dst, x));
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VTRN_ENGINE_VECTOR, &is_small, x, STEP(ABS_MAX, 0),
                                      STEP(IS_LT, 0x1p23f)));
    return emit_copy_where(env, dst, x, &is_small, true);
}

/* Float to integer towards 0; saturates, and NaN gives 0, as the store does. All of it is exact in
 * fp32: an integer beyond 2^24 came from an fp32 as it is, or is saturated and saturates again. */
vtrn_status elementwise_truncate(emit_env *env, const fusion_node *node, const elementwise_op *op) {
    (void)op;
    vtrn_ap to = elementwise_dst_ap(env, node), from;
    const vtrn_ap *dst = &to, *x = &from;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &from));
    vtrn_ap nearest = elementwise_temp_ap(env, node, 0, (vtrn_dtype)dst->dtype);
    vtrn_ap t = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_FP32);
    VTRN_RETURN_IF_ERROR(emit_copy(env->e, &nearest, x));
    VTRN_RETURN_IF_ERROR(emit_scalar_tensor(env, &t, x, STEP(MAX, 0), VTRN_ALU_IS_LT, &nearest));
    VTRN_RETURN_IF_ERROR(
        emit_tensor_tensor(env->e, VTRN_ENGINE_VECTOR, VTRN_ALU_SUBTRACT, &nearest, &nearest, &t));
    VTRN_RETURN_IF_ERROR(emit_scalar_tensor(env, &t, x, STEP(MIN, 0), VTRN_ALU_IS_GT, &nearest));
    return emit_tensor_tensor(env->e, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, dst, &nearest, &t);
}

/* fp32 with fewer bits: the mantissa is rounded to the nearest even by adding to the bits, what is
 * then too large is infinite, what is too small is 0, each with its sign. */
vtrn_status elementwise_reduce_precision(emit_env *env, const fusion_node *node,
                                         const elementwise_op *op) {
    (void)op;
    vtrn_ap dst = elementwise_dst_ap(env, node), from;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &from));
    const vtrn_ap *x = &from;
    int exponent_bits = node->direction, mantissa_bits = node->reducer;
    vtrn_ap r = elementwise_temp_ap(env, node, 0, VTRN_DTYPE_UINT32);
    vtrn_ap t = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_UINT32);
    vtrn_ap mask = elementwise_temp_ap(env, node, 2, VTRN_DTYPE_UINT32);
    vtrn_ap bits = as(x, VTRN_DTYPE_UINT32), value = as(&r, VTRN_DTYPE_FP32);
    vtrn_ap other = as(&t, VTRN_DTYPE_FP32);
    uint32_t drop = 23 - (uint32_t)mantissa_bits;
    if (drop) {
        VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VECTOR, &t, &bits,
                                          STEP_BITS(SHIFT_RIGHT_LOGICAL, drop),
                                          STEP_BITS(BITWISE_AND, 1)));
        VTRN_RETURN_IF_ERROR(emit_scalars(env->e, GPSIMD, &t, &t,
                                          STEP_BITS(ADD, (1u << (drop - 1)) - 1), STEP_NONE));
        VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, GPSIMD, VTRN_ALU_ADD, &r, &bits, &t));
        VTRN_RETURN_IF_ERROR(
            emit_scalars(env->e, VECTOR, &r, &r, STEP_BITS(BITWISE_AND, ~0u << drop), STEP_NONE));
    } else {
        VTRN_RETURN_IF_ERROR(emit_copy(env->e, &r, &bits));
    }
    if (exponent_bits < 8) {
        int bias = (1 << (exponent_bits - 1)) - 1;
        float largest = ldexpf(2 - ldexpf(1, -mantissa_bits), bias), least = ldexpf(1, 1 - bias);
        VTRN_RETURN_IF_ERROR(
            emit_scalars(env->e, VECTOR, &t, &r, STEP_BITS(BITWISE_AND, 0x80000000u), STEP_NONE));
        VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VTRN_ENGINE_VECTOR, &mask, &value,
                                          STEP(ABS_MAX, 0), STEP(IS_LT, least)));
        VTRN_RETURN_IF_ERROR(emit_copy_where(env, &value, &other, &mask, false));
        VTRN_RETURN_IF_ERROR(
            emit_scalars(env->e, VECTOR, &t, &t, STEP_BITS(BITWISE_OR, 0x7f800000u), STEP_NONE));
        VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VTRN_ENGINE_VECTOR, &mask, &value,
                                          STEP(ABS_MAX, 0), STEP(IS_GT, largest)));
        VTRN_RETURN_IF_ERROR(emit_copy_where(env, &value, &other, &mask, false));
    }
    /* adding to the bits of a NaN may have made something else of it */
    VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, VECTOR, VTRN_ALU_NOT_EQUAL, &mask, x, x));
    VTRN_RETURN_IF_ERROR(emit_copy_where(env, &value, x, &mask, false));
    return emit_copy(env->e, &dst, &value);
}
