/* Integers -> engine instructions: GpSimd adds, multiplies and compares 32 bits exactly, Vector
 * works on raw bits. Nothing divides, and 8- and 16-bit numbers are worked on as 32.
 * Source: docs/hardware.md. */
#include "compiler/emit/elementwise_parts.h"

static const vtrn_engine VECTOR = VTRN_ENGINE_VECTOR, GPSIMD = VTRN_ENGINE_GPSIMD;

enum {
    /* temporaries: operands as 32 bits, a result of 32 bits, then what an op needs of its own */
    TEMP_A,
    TEMP_B,
    TEMP_RESULT,
    TEMP_OWN,
};

static bool is_narrow(uint8_t t) {
    return !elementwise_is_exact_int(t);
}

static vtrn_ap as(vtrn_ap ap, vtrn_dtype t) {
    ap.dtype = (uint8_t)t;
    return ap;
}

/* The 32-bit type that holds a value of t. */
static vtrn_dtype wide(uint8_t t) {
    return dtype_is_signed_int((vtrn_dtype)t) ? VTRN_DTYPE_INT32 : VTRN_DTYPE_UINT32;
}

/* Operand k with 32 bits. */
static vtrn_status take(emit_env *env, const fusion_node *node, int k, vtrn_ap *out) {
    vtrn_ap from;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, k, &from));
    *out = from;
    if (!is_narrow(from.dtype))
        return NULL;
    *out = elementwise_temp_ap(env, node, k ? TEMP_B : TEMP_A, wide(from.dtype));
    return emit_copy(env->e, out, &from);
}

/* Low bits of x in its 32-bit tile, extended as the type of dst asks; then into dst. */
static vtrn_status put_wrapped(emit_env *env, const vtrn_ap *dst, const vtrn_ap *x) {
    uint32_t drop = 32 - 8 * (uint32_t)dtype_size((vtrn_dtype)dst->dtype);
    bool is_signed = dtype_is_signed_int((vtrn_dtype)dst->dtype);
    vtrn_ap bits = as(*x, wide(dst->dtype));
    VTRN_RETURN_IF_ERROR(emit_scalars(
        env->e, VECTOR, &bits, &bits, STEP_BITS(SHIFT_LEFT, drop),
        (step_op){.alu = is_signed ? VTRN_ALU_SHIFT_RIGHT_ARITH : VTRN_ALU_SHIFT_RIGHT_LOGICAL,
                  .operand.bits = drop}));
    return emit_copy(env->e, dst, &bits);
}

/* A node worked on in 32 bits. */
typedef struct wide_op {
    vtrn_ap a, b;   /* operands; b when there are two */
    vtrn_ap result; /* of a's type: dst itself, or a temporary */
    vtrn_ap dst;
} wide_op;

static vtrn_status begin(emit_env *env, const fusion_node *node, wide_op *w) {
    w->dst = w->result = elementwise_dst_ap(env, node);
    if (is_narrow(w->dst.dtype))
        w->result = elementwise_temp_ap(env, node, TEMP_RESULT, wide(w->dst.dtype));
    VTRN_RETURN_IF_ERROR(take(env, node, 0, &w->a));
    w->result.dtype = w->a.dtype;
    return node->n_in == 2 ? take(env, node, 1, &w->b) : NULL;
}

static vtrn_status finish(emit_env *env, const wide_op *w) {
    return is_narrow(w->dst.dtype) ? put_wrapped(env, &w->dst, &w->result) : NULL;
}

/* result = a op s, where the row says the operation */
static vtrn_status emit_with_scalar(emit_env *env, const fusion_node *node,
                                    const elementwise_op *op, uint32_t s) {
    wide_op w;
    VTRN_RETURN_IF_ERROR(begin(env, node, &w));
    VTRN_RETURN_IF_ERROR(emit_scalars(
        env->e, elementwise_engine_of(op), &w.result, &w.a,
        (step_op){.alu = (vtrn_alu)elementwise_code_of(op), .operand.bits = s}, STEP_NONE));
    return finish(env, &w);
}

/* Magnitudes n and d: a first quotient from the fp32 reciprocal is off by at most n / d * 2^-22 +
 * 1/2, a second one of what it leaves by at most one, and a comparison finds that one. The
 * remainders are exact, for they wrap. */
typedef struct division {
    emit_env *env;
    vtrn_ap n, d, inverse, t, q; /* n becomes the remainder */
} division;

static vtrn_status subtract_product(division *x, const vtrn_ap *quotient) {
    VTRN_RETURN_IF_ERROR(
        emit_tensor_tensor(x->env->e, GPSIMD, VTRN_ALU_MULTIPLY, &x->t, quotient, &x->d));
    return emit_tensor_tensor(x->env->e, GPSIMD, VTRN_ALU_SUBTRACT, &x->n, &x->n, &x->t);
}

static vtrn_status divide_magnitudes(division *x) {
    emit_env *env = x->env;
    EMIT(reciprocal, env->e, RECIPROCAL, VECTOR);
    reciprocal->ap[0] = x->inverse;
    reciprocal->ap[1] = x->d;
    VTRN_RETURN_IF_ERROR(
        emit_tensor_tensor(env->e, VECTOR, VTRN_ALU_MULTIPLY, &x->q, &x->n, &x->inverse));
    VTRN_RETURN_IF_ERROR(subtract_product(x, &x->q));
    vtrn_ap rest = as(x->n, VTRN_DTYPE_INT32), t = as(x->t, VTRN_DTYPE_INT32);
    VTRN_RETURN_IF_ERROR(
        emit_tensor_tensor(env->e, VECTOR, VTRN_ALU_MULTIPLY, &t, &rest, &x->inverse));
    VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, GPSIMD, VTRN_ALU_ADD, &x->q, &x->q, &t));
    VTRN_RETURN_IF_ERROR(subtract_product(x, &t));
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, GPSIMD, &t, &rest, STEP_BITS(IS_LT, 0), STEP_NONE));
    VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, GPSIMD, VTRN_ALU_SUBTRACT, &x->q, &x->q, &t));
    VTRN_RETURN_IF_ERROR(
        emit_tensor_tensor(env->e, GPSIMD, VTRN_ALU_MULTIPLY, &x->t, &x->t, &x->d));
    return emit_tensor_tensor(env->e, GPSIMD, VTRN_ALU_ADD, &x->n, &x->n, &x->t);
}

/* Where the divisor has its top bit set the estimates overflow, and the quotient is 0 or 1. */
static vtrn_status divide_by_large(division *x, const vtrn_ap *a, const vtrn_ap *b) {
    emit_env *env = x->env;
    vtrn_ap mask = x->inverse; /* which is not read any more */
    mask.dtype = VTRN_DTYPE_UINT32;
    VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, GPSIMD, VTRN_ALU_IS_GE, &x->t, a, b));
    VTRN_RETURN_IF_ERROR(
        emit_scalars(env->e, VECTOR, &mask, b, STEP_BITS(SHIFT_RIGHT_LOGICAL, 31), STEP_NONE));
    VTRN_RETURN_IF_ERROR(emit_copy_where(env, &x->q, &x->t, &mask, false));
    VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, GPSIMD, VTRN_ALU_MULTIPLY, &x->t, &x->t, b));
    VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, GPSIMD, VTRN_ALU_SUBTRACT, &x->t, a, &x->t));
    return emit_copy_where(env, &x->n, &x->t, &mask, false);
}

/* value = -value where sign is negative */
static vtrn_status apply_sign(emit_env *env, const vtrn_ap *value, const vtrn_ap *sign,
                              const vtrn_ap *t) {
    VTRN_RETURN_IF_ERROR(
        emit_scalars(env->e, VECTOR, t, sign, STEP_BITS(SHIFT_RIGHT_ARITH, 31), STEP_NONE));
    VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, VECTOR, VTRN_ALU_BITWISE_XOR, value, value, t));
    return emit_tensor_tensor(env->e, GPSIMD, VTRN_ALU_SUBTRACT, value, value, t);
}

/* Division by 0 gives -1 and leaves the dividend, as XLA has it on the CPU. */
static vtrn_status emit_division(emit_env *env, const fusion_node *node, const vtrn_ap *a,
                                 const vtrn_ap *b, const vtrn_ap *result) {
    bool is_signed = a->dtype == VTRN_DTYPE_INT32, is_quotient = node->op == GRAPH_DIVIDE;
    division x = {.env = env,
                  .n = elementwise_temp_ap(env, node, TEMP_OWN, VTRN_DTYPE_UINT32),
                  .d = elementwise_temp_ap(env, node, TEMP_OWN + 1, VTRN_DTYPE_UINT32),
                  .inverse = elementwise_temp_ap(env, node, TEMP_OWN + 2, VTRN_DTYPE_FP32),
                  .t = elementwise_temp_ap(env, node, TEMP_OWN + 3, VTRN_DTYPE_UINT32),
                  .q = as(*result, VTRN_DTYPE_UINT32)};
    vtrn_alu magnitude = is_signed ? VTRN_ALU_ABS_MAX : VTRN_ALU_MAX;
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, GPSIMD, &x.n, a,
                                      (step_op){.alu = magnitude, .operand.bits = 0}, STEP_NONE));
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, GPSIMD, &x.d, b,
                                      (step_op){.alu = magnitude, .operand.bits = 0}, STEP_NONE));
    VTRN_RETURN_IF_ERROR(divide_magnitudes(&x));
    vtrn_ap t = as(x.t, VTRN_DTYPE_INT32), sign = as(x.inverse, VTRN_DTYPE_INT32);
    if (!is_signed) {
        VTRN_RETURN_IF_ERROR(divide_by_large(&x, a, b));
    } else if (is_quotient) {
        vtrn_ap q = as(x.q, VTRN_DTYPE_INT32);
        VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, VECTOR, VTRN_ALU_BITWISE_XOR, &sign, a, b));
        VTRN_RETURN_IF_ERROR(apply_sign(env, &q, &sign, &t));
    } else {
        vtrn_ap rest = as(x.n, VTRN_DTYPE_INT32);
        VTRN_RETURN_IF_ERROR(apply_sign(env, &rest, a, &t));
    }
    if (!is_quotient)
        VTRN_RETURN_IF_ERROR(emit_copy(env->e, &x.q, &x.n));
    if (node->in[1].node < 0 && node->in[1].imm != 0)
        return NULL;
    vtrn_ap is_zero = as(x.inverse, VTRN_DTYPE_UINT32), other = as(*a, VTRN_DTYPE_UINT32);
    VTRN_RETURN_IF_ERROR(
        emit_scalars(env->e, GPSIMD, &is_zero, b, STEP_BITS(IS_EQUAL, 0), STEP_NONE));
    if (is_quotient) {
        VTRN_RETURN_IF_ERROR(emit_fill(env, &x.t, 4294967295.0));
        other = x.t;
    }
    return emit_copy_where(env, &x.q, &other, &is_zero, false);
}

vtrn_status elementwise_int_divide(emit_env *env, const fusion_node *node,
                                   const elementwise_op *op) {
    (void)op;
    wide_op w;
    VTRN_RETURN_IF_ERROR(begin(env, node, &w));
    VTRN_RETURN_IF_ERROR(emit_division(env, node, &w.a, &w.b, &w.result));
    return finish(env, &w);
}

/* Ones of x, in place: sums of neighbouring fields of 1, 2, 4, then 8 bits. */
static vtrn_status emit_count_ones(emit_env *env, const vtrn_ap *x, const vtrn_ap *t) {
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VECTOR, t, x, STEP_BITS(SHIFT_RIGHT_LOGICAL, 1),
                                      STEP_BITS(BITWISE_AND, 0x55555555)));
    VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, GPSIMD, VTRN_ALU_SUBTRACT, x, x, t));
    VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VECTOR, t, x, STEP_BITS(SHIFT_RIGHT_LOGICAL, 2),
                                      STEP_BITS(BITWISE_AND, 0x33333333)));
    VTRN_RETURN_IF_ERROR(
        emit_scalars(env->e, VECTOR, x, x, STEP_BITS(BITWISE_AND, 0x33333333), STEP_NONE));
    VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, GPSIMD, VTRN_ALU_ADD, x, x, t));
    VTRN_RETURN_IF_ERROR(
        emit_scalars(env->e, VECTOR, t, x, STEP_BITS(SHIFT_RIGHT_LOGICAL, 4), STEP_NONE));
    VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, GPSIMD, VTRN_ALU_ADD, x, x, t));
    VTRN_RETURN_IF_ERROR(
        emit_scalars(env->e, VECTOR, x, x, STEP_BITS(BITWISE_AND, 0x0f0f0f0f), STEP_NONE));
    VTRN_RETURN_IF_ERROR(
        emit_scalars(env->e, GPSIMD, x, x, STEP_BITS(MULTIPLY, 0x01010101), STEP_NONE));
    return emit_scalars(env->e, VECTOR, x, x, STEP_BITS(SHIFT_RIGHT_LOGICAL, 24), STEP_NONE);
}

static vtrn_status emit_bit_count(emit_env *env, const fusion_node *node, const vtrn_ap *a,
                                  const vtrn_ap *result) {
    uint8_t in = elementwise_in_dtype(env->f, node, 0);
    uint32_t width = 8 * (uint32_t)dtype_size((vtrn_dtype)in);
    vtrn_ap x = as(*result, VTRN_DTYPE_UINT32), from = as(*a, VTRN_DTYPE_UINT32);
    vtrn_ap t = elementwise_temp_ap(env, node, TEMP_OWN, VTRN_DTYPE_UINT32);
    uint32_t mask = width < 32 ? (1u << width) - 1 : UINT32_MAX;
    VTRN_RETURN_IF_ERROR(
        emit_scalars(env->e, VECTOR, &x, &from, STEP_BITS(BITWISE_AND, mask), STEP_NONE));
    if (node->op == GRAPH_POPCNT)
        return emit_count_ones(env, &x, &t);
    for (uint32_t shift = 1; shift < width; shift *= 2) { /* ones from the highest one down */
        VTRN_RETURN_IF_ERROR(
            emit_scalars(env->e, VECTOR, &t, &x, STEP_BITS(SHIFT_RIGHT_LOGICAL, shift), STEP_NONE));
        VTRN_RETURN_IF_ERROR(emit_tensor_tensor(env->e, VECTOR, VTRN_ALU_BITWISE_OR, &x, &x, &t));
    }
    VTRN_RETURN_IF_ERROR(
        emit_scalars(env->e, VECTOR, &x, &x, STEP_BITS(BITWISE_XOR, mask), STEP_NONE));
    return emit_count_ones(env, &x, &t);
}

vtrn_status elementwise_int_count_bits(emit_env *env, const fusion_node *node,
                                       const elementwise_op *op) {
    (void)op;
    wide_op w;
    VTRN_RETURN_IF_ERROR(begin(env, node, &w));
    VTRN_RETURN_IF_ERROR(emit_bit_count(env, node, &w.a, &w.result));
    return finish(env, &w);
}

/* Before a shift to the right: a with the bits that its own type has above it. */
static vtrn_status extend(emit_env *env, const fusion_node *node, vtrn_alu shift, wide_op *w) {
    bool is_signed = dtype_is_signed_int((vtrn_dtype)node->dtype);
    uint32_t size_bits = 8 * (uint32_t)dtype_size((vtrn_dtype)node->dtype), drop = 32 - size_bits;
    /* zeros enter from above, or copies of the top bit, be it a sign or not */
    if (shift == VTRN_ALU_SHIFT_RIGHT_LOGICAL)
        VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VECTOR, &w->result, &w->a,
                                          STEP_BITS(BITWISE_AND, (1u << size_bits) - 1),
                                          STEP_NONE));
    else if (shift == VTRN_ALU_SHIFT_RIGHT_ARITH && !is_signed)
        VTRN_RETURN_IF_ERROR(emit_scalars(env->e, VECTOR, &w->result, &w->a,
                                          STEP_BITS(SHIFT_LEFT, drop),
                                          STEP_BITS(SHIFT_RIGHT_ARITH, drop)));
    else
        return NULL;
    w->a = w->result;
    return NULL;
}

vtrn_status elementwise_int_wrapping(emit_env *env, const fusion_node *node,
                                     const elementwise_op *op) {
    vtrn_alu alu = (vtrn_alu)elementwise_code_of(op);
    wide_op w;
    VTRN_RETURN_IF_ERROR(begin(env, node, &w));
    if (is_narrow(node->dtype))
        VTRN_RETURN_IF_ERROR(extend(env, node, alu, &w));
    VTRN_RETURN_IF_ERROR(
        emit_tensor_tensor(env->e, elementwise_engine_of(op), alu, &w.result, &w.a, &w.b));
    return finish(env, &w);
}

/* An integer that loses high bits, or its sign. */
vtrn_status elementwise_int_convert(emit_env *env, const fusion_node *node,
                                    const elementwise_op *op) {
    (void)op;
    wide_op w;
    VTRN_RETURN_IF_ERROR(begin(env, node, &w));
    VTRN_RETURN_IF_ERROR(emit_copy(env->e, &w.result, &w.a));
    return finish(env, &w);
}

/* -x = x * -1, ~x = x ^ -1 */
vtrn_status elementwise_int_with_minus_one(emit_env *env, const fusion_node *node,
                                           const elementwise_op *op) {
    return emit_with_scalar(env, node, op, UINT32_MAX);
}

vtrn_status elementwise_int_with_zero(emit_env *env, const fusion_node *node,
                                      const elementwise_op *op) {
    return emit_with_scalar(env, node, op, 0);
}

vtrn_status elementwise_int_sign(emit_env *env, const fusion_node *node, const elementwise_op *op) {
    (void)op;
    wide_op w;
    VTRN_RETURN_IF_ERROR(begin(env, node, &w));
    bool is_signed = w.a.dtype == VTRN_DTYPE_INT32;
    VTRN_RETURN_IF_ERROR(emit_scalars(
        env->e, GPSIMD, &w.result, &w.a,
        (step_op){.alu = is_signed ? VTRN_ALU_MAX : VTRN_ALU_MIN,
                  .operand.bits = is_signed ? UINT32_MAX : 1},
        (step_op){.alu = is_signed ? VTRN_ALU_MIN : VTRN_ALU_NONE, .operand.bits = is_signed}));
    return finish(env, &w);
}
