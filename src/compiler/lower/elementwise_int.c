/* Integers -> engine instructions: GpSimd adds, multiplies and compares 32 bits exactly, Vector
 * works on raw bits. Nothing divides, and 8- and 16-bit numbers are worked on as 32.
 * Source: hardware facts 2.5, 4.2, 4.5. */
#include "compiler/lower/elementwise_parts.h"

static const vtrn_engine VECTOR = VTRN_ENGINE_VECTOR, GPSIMD = VTRN_ENGINE_GPSIMD;

enum {
    /* temporaries: operands as 32 bits, a result of 32 bits, then what an op needs of its own */
    TEMP_A,
    TEMP_B,
    TEMP_RESULT,
    TEMP_OWN,
    N_DIVIDE_TEMPS = 4,
};

static bool is_narrow(uint8_t t) {
    return t == VTRN_DTYPE_INT8 || t == VTRN_DTYPE_UINT8 || t == VTRN_DTYPE_INT16 ||
           t == VTRN_DTYPE_UINT16;
}

static bool is_integer(uint8_t t) {
    return is_narrow(t) || elementwise_is_exact_int(t);
}

/* Kinds that only this file knows, for every integer type. */
static bool is_own_kind(graph_kind kind) {
    switch (kind) {
    case GRAPH_DIVIDE:
    case GRAPH_REMAINDER:
    case GRAPH_SIGN:
    case GRAPH_ABS:
    case GRAPH_POPCNT:
    case GRAPH_COUNT_LEADING_ZEROS:
    case GRAPH_POWER:
        return true;
    default:
        return false;
    }
}

/* Kinds that elementwise.c does for 32 bits; narrow results wrap. */
static vtrn_alu wrapping_alu(graph_kind kind) {
    switch (kind) {
    case GRAPH_ADD:
        return VTRN_ALU_ADD;
    case GRAPH_SUBTRACT:
        return VTRN_ALU_SUBTRACT;
    case GRAPH_MULTIPLY:
        return VTRN_ALU_MULTIPLY;
    case GRAPH_POWER:
        return VTRN_ALU_POWER;
    case GRAPH_SHIFT_LEFT:
        return VTRN_ALU_SHIFT_LEFT;
    case GRAPH_SHIFT_RIGHT_LOGICAL:
        return VTRN_ALU_SHIFT_RIGHT_LOGICAL;
    case GRAPH_SHIFT_RIGHT_ARITHMETIC:
        return VTRN_ALU_SHIFT_RIGHT_ARITH;
    default:
        return VTRN_ALU_NONE;
    }
}

/* An integer that loses high bits, or its sign. */
static bool is_wrapping_convert(uint8_t from, uint8_t to) {
    if (from == to || !is_integer(from) || !is_integer(to))
        return false;
    return is_narrow(to) ||
           (to == VTRN_DTYPE_UINT32 && dtype_is_signed_int((vtrn_dtype)from) && is_narrow(from));
}

static bool is_ours(graph_kind kind, uint8_t in, uint8_t out) {
    if (!is_integer(in) || !is_integer(out))
        return false;
    if (kind == GRAPH_CONVERT)
        return is_wrapping_convert(in, out);
    if (is_own_kind(kind))
        return true;
    if (kind == GRAPH_NEGATE)
        return is_narrow(in) || in == VTRN_DTYPE_UINT32;
    if (kind == GRAPH_SHIFT_RIGHT_ARITHMETIC && in == VTRN_DTYPE_UINT32)
        return true;
    return is_narrow(in) && (kind == GRAPH_NOT || wrapping_alu(kind) != VTRN_ALU_NONE);
}

bool elementwise_int_supports(graph_kind kind, uint8_t in, uint8_t out) {
    return is_ours(kind, in, out);
}

bool elementwise_int_owns(const fusion *f, const fusion_node *node) {
    /* an ALU operation of its own: 32 bits, or truth values, which lie as bytes */
    return node->op < FUSION_LOAD && node->n_in >= 1 && node->alu == VTRN_ALU_NONE &&
           is_ours((graph_kind)node->op, elementwise_in_dtype(f, node, 0), node->dtype);
}

int elementwise_int_n_temps(const fusion *f, const fusion_node *node) {
    (void)f;
    switch (node->op) {
    case GRAPH_DIVIDE:
    case GRAPH_REMAINDER:
        return TEMP_OWN + N_DIVIDE_TEMPS;
    case GRAPH_POPCNT:
    case GRAPH_COUNT_LEADING_ZEROS:
        return TEMP_OWN + 1;
    default:
        return TEMP_OWN;
    }
}

/* --- instructions -------------------------------------------------------------------------------
 */

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
    return lower_emit_copy(env->l, out, &from);
}

/* Low bits of x in its 32-bit tile, extended as type t asks; then into dst. */
static vtrn_status put_wrapped(emit_env *env, const vtrn_ap *dst, const vtrn_ap *x) {
    uint32_t drop = 32 - 8 * (uint32_t)dtype_size((vtrn_dtype)dst->dtype);
    bool is_signed = dtype_is_signed_int((vtrn_dtype)dst->dtype);
    vtrn_ap bits = as(*x, wide(dst->dtype));
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(
        env->l, VECTOR, &bits, &bits, VTRN_ALU_SHIFT_LEFT, drop,
        is_signed ? VTRN_ALU_SHIFT_RIGHT_ARITH : VTRN_ALU_SHIFT_RIGHT_LOGICAL, drop));
    return lower_emit_copy(env->l, dst, &bits);
}

/* --- division -----------------------------------------------------------------------------------
 * Magnitudes n and d: a first quotient from the fp32 reciprocal is off by at most n / d * 2^-22 +
 * 1/2, a second one of what it leaves by at most one, and a comparison finds that one. The
 * remainders are exact, for they wrap. */

typedef struct division {
    emit_env *env;
    vtrn_ap n, d, inverse, t, q; /* n becomes the remainder */
} division;

static vtrn_status subtract_product(division *x, const vtrn_ap *quotient) {
    VTRN_RETURN_IF_ERROR(
        lower_emit_tensor_tensor(x->env->l, GPSIMD, VTRN_ALU_MULTIPLY, &x->t, quotient, &x->d));
    return lower_emit_tensor_tensor(x->env->l, GPSIMD, VTRN_ALU_SUBTRACT, &x->n, &x->n, &x->t);
}

static vtrn_status divide_magnitudes(division *x) {
    emit_env *env = x->env;
    LOWER_EMIT(reciprocal, env->l, RECIPROCAL, VECTOR);
    reciprocal->ap[0] = x->inverse;
    reciprocal->ap[1] = x->d;
    VTRN_RETURN_IF_ERROR(
        lower_emit_tensor_tensor(env->l, VECTOR, VTRN_ALU_MULTIPLY, &x->q, &x->n, &x->inverse));
    VTRN_RETURN_IF_ERROR(subtract_product(x, &x->q));
    vtrn_ap rest = as(x->n, VTRN_DTYPE_INT32), t = as(x->t, VTRN_DTYPE_INT32);
    VTRN_RETURN_IF_ERROR(
        lower_emit_tensor_tensor(env->l, VECTOR, VTRN_ALU_MULTIPLY, &t, &rest, &x->inverse));
    VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(env->l, GPSIMD, VTRN_ALU_ADD, &x->q, &x->q, &t));
    VTRN_RETURN_IF_ERROR(subtract_product(x, &t));
    VTRN_RETURN_IF_ERROR(
        lower_emit_scalar_bits(env->l, GPSIMD, &t, &rest, VTRN_ALU_IS_LT, 0, VTRN_ALU_NONE, 0));
    VTRN_RETURN_IF_ERROR(
        lower_emit_tensor_tensor(env->l, GPSIMD, VTRN_ALU_SUBTRACT, &x->q, &x->q, &t));
    VTRN_RETURN_IF_ERROR(
        lower_emit_tensor_tensor(env->l, GPSIMD, VTRN_ALU_MULTIPLY, &x->t, &x->t, &x->d));
    return lower_emit_tensor_tensor(env->l, GPSIMD, VTRN_ALU_ADD, &x->n, &x->n, &x->t);
}

/* Where the divisor has its top bit set the estimates overflow, and the quotient is 0 or 1. */
static vtrn_status divide_by_large(division *x, const vtrn_ap *a, const vtrn_ap *b) {
    emit_env *env = x->env;
    vtrn_ap mask = x->inverse; /* no longer wanted */
    mask.dtype = VTRN_DTYPE_UINT32;
    VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(env->l, GPSIMD, VTRN_ALU_IS_GE, &x->t, a, b));
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(
        env->l, VECTOR, &mask, b, VTRN_ALU_SHIFT_RIGHT_LOGICAL, 31, VTRN_ALU_NONE, 0));
    VTRN_RETURN_IF_ERROR(emit_copy_where(env, &x->q, &x->t, &mask, false));
    VTRN_RETURN_IF_ERROR(
        lower_emit_tensor_tensor(env->l, GPSIMD, VTRN_ALU_MULTIPLY, &x->t, &x->t, b));
    VTRN_RETURN_IF_ERROR(
        lower_emit_tensor_tensor(env->l, GPSIMD, VTRN_ALU_SUBTRACT, &x->t, a, &x->t));
    return emit_copy_where(env, &x->n, &x->t, &mask, false);
}

/* value = -value where sign is negative */
static vtrn_status apply_sign(emit_env *env, const vtrn_ap *value, const vtrn_ap *sign,
                              const vtrn_ap *t) {
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, VECTOR, t, sign, VTRN_ALU_SHIFT_RIGHT_ARITH,
                                                31, VTRN_ALU_NONE, 0));
    VTRN_RETURN_IF_ERROR(
        lower_emit_tensor_tensor(env->l, VECTOR, VTRN_ALU_BITWISE_XOR, value, value, t));
    return lower_emit_tensor_tensor(env->l, GPSIMD, VTRN_ALU_SUBTRACT, value, value, t);
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
    VTRN_RETURN_IF_ERROR(
        lower_emit_scalar_bits(env->l, GPSIMD, &x.n, a, magnitude, 0, VTRN_ALU_NONE, 0));
    VTRN_RETURN_IF_ERROR(
        lower_emit_scalar_bits(env->l, GPSIMD, &x.d, b, magnitude, 0, VTRN_ALU_NONE, 0));
    VTRN_RETURN_IF_ERROR(divide_magnitudes(&x));
    vtrn_ap t = as(x.t, VTRN_DTYPE_INT32), sign = as(x.inverse, VTRN_DTYPE_INT32);
    if (!is_signed) {
        VTRN_RETURN_IF_ERROR(divide_by_large(&x, a, b));
    } else if (is_quotient) {
        vtrn_ap q = as(x.q, VTRN_DTYPE_INT32);
        VTRN_RETURN_IF_ERROR(
            lower_emit_tensor_tensor(env->l, VECTOR, VTRN_ALU_BITWISE_XOR, &sign, a, b));
        VTRN_RETURN_IF_ERROR(apply_sign(env, &q, &sign, &t));
    } else {
        vtrn_ap rest = as(x.n, VTRN_DTYPE_INT32);
        VTRN_RETURN_IF_ERROR(apply_sign(env, &rest, a, &t));
    }
    if (!is_quotient)
        VTRN_RETURN_IF_ERROR(lower_emit_copy(env->l, &x.q, &x.n));
    if (node->in[1].node < 0 && node->in[1].imm != 0)
        return NULL;
    vtrn_ap is_zero = as(x.inverse, VTRN_DTYPE_UINT32), other = as(*a, VTRN_DTYPE_UINT32);
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, GPSIMD, &is_zero, b, VTRN_ALU_IS_EQUAL, 0,
                                                VTRN_ALU_NONE, 0));
    if (is_quotient) {
        VTRN_RETURN_IF_ERROR(emit_fill(env, &x.t, 4294967295.0));
        other = x.t;
    }
    return emit_copy_where(env, &x.q, &other, &is_zero, false);
}

/* --- bits ---------------------------------------------------------------------------------------
 */

/* Ones of x, in place: sums of neighbouring fields of 1, 2, 4, then 8 bits. */
static vtrn_status emit_count_ones(emit_env *env, const vtrn_ap *x, const vtrn_ap *t) {
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, VECTOR, t, x, VTRN_ALU_SHIFT_RIGHT_LOGICAL,
                                                1, VTRN_ALU_BITWISE_AND, 0x55555555));
    VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(env->l, GPSIMD, VTRN_ALU_SUBTRACT, x, x, t));
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, VECTOR, t, x, VTRN_ALU_SHIFT_RIGHT_LOGICAL,
                                                2, VTRN_ALU_BITWISE_AND, 0x33333333));
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, VECTOR, x, x, VTRN_ALU_BITWISE_AND,
                                                0x33333333, VTRN_ALU_NONE, 0));
    VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(env->l, GPSIMD, VTRN_ALU_ADD, x, x, t));
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, VECTOR, t, x, VTRN_ALU_SHIFT_RIGHT_LOGICAL,
                                                4, VTRN_ALU_NONE, 0));
    VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(env->l, GPSIMD, VTRN_ALU_ADD, x, x, t));
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, VECTOR, x, x, VTRN_ALU_BITWISE_AND,
                                                0x0f0f0f0f, VTRN_ALU_NONE, 0));
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, GPSIMD, x, x, VTRN_ALU_MULTIPLY, 0x01010101,
                                                VTRN_ALU_NONE, 0));
    return lower_emit_scalar_bits(env->l, VECTOR, x, x, VTRN_ALU_SHIFT_RIGHT_LOGICAL, 24,
                                  VTRN_ALU_NONE, 0);
}

static vtrn_status emit_bit_count(emit_env *env, const fusion_node *node, const vtrn_ap *a,
                                  const vtrn_ap *result) {
    uint8_t in = elementwise_in_dtype(env->f, node, 0);
    uint32_t width = 8 * (uint32_t)dtype_size((vtrn_dtype)in);
    vtrn_ap x = as(*result, VTRN_DTYPE_UINT32), from = as(*a, VTRN_DTYPE_UINT32);
    vtrn_ap t = elementwise_temp_ap(env, node, TEMP_OWN, VTRN_DTYPE_UINT32);
    uint32_t mask = width < 32 ? (1u << width) - 1 : UINT32_MAX;
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, VECTOR, &x, &from, VTRN_ALU_BITWISE_AND,
                                                mask, VTRN_ALU_NONE, 0));
    if (node->op == GRAPH_POPCNT)
        return emit_count_ones(env, &x, &t);
    for (uint32_t shift = 1; shift < width; shift *= 2) { /* ones from the highest one down */
        VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(
            env->l, VECTOR, &t, &x, VTRN_ALU_SHIFT_RIGHT_LOGICAL, shift, VTRN_ALU_NONE, 0));
        VTRN_RETURN_IF_ERROR(
            lower_emit_tensor_tensor(env->l, VECTOR, VTRN_ALU_BITWISE_OR, &x, &x, &t));
    }
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, VECTOR, &x, &x, VTRN_ALU_BITWISE_XOR, mask,
                                                VTRN_ALU_NONE, 0));
    return emit_count_ones(env, &x, &t);
}

static vtrn_status emit_wide(emit_env *env, const fusion_node *node, const vtrn_ap *result) {
    vtrn_ap a, b;
    VTRN_RETURN_IF_ERROR(take(env, node, 0, &a));
    vtrn_ap to = as(*result, (vtrn_dtype)a.dtype);
    switch (node->op) {
    case GRAPH_CONVERT:
        return lower_emit_copy(env->l, &to, &a);
    case GRAPH_NOT:
        return lower_emit_scalar_bits(env->l, VECTOR, &to, &a, VTRN_ALU_BITWISE_XOR, UINT32_MAX,
                                      VTRN_ALU_NONE, 0);
    case GRAPH_NEGATE:
        return lower_emit_scalar_bits(env->l, GPSIMD, &to, &a, VTRN_ALU_MULTIPLY, UINT32_MAX,
                                      VTRN_ALU_NONE, 0);
    case GRAPH_ABS:
        return lower_emit_scalar_bits(env->l, GPSIMD, &to, &a, VTRN_ALU_ABS_MAX, 0, VTRN_ALU_NONE,
                                      0);
    case GRAPH_SIGN:
        if (a.dtype == VTRN_DTYPE_UINT32)
            return lower_emit_scalar_bits(env->l, GPSIMD, &to, &a, VTRN_ALU_MIN, 1, VTRN_ALU_NONE,
                                          0);
        return lower_emit_scalar_bits(env->l, GPSIMD, &to, &a, VTRN_ALU_MAX, UINT32_MAX,
                                      VTRN_ALU_MIN, 1);
    case GRAPH_POPCNT:
    case GRAPH_COUNT_LEADING_ZEROS:
        return emit_bit_count(env, node, &a, &to);
    default:
        break;
    }
    VTRN_RETURN_IF_ERROR(take(env, node, 1, &b));
    if (node->op == GRAPH_DIVIDE || node->op == GRAPH_REMAINDER)
        return emit_division(env, node, &a, &b, &to);
    vtrn_alu op = wrapping_alu((graph_kind)node->op);
    if (op == VTRN_ALU_SHIFT_RIGHT_LOGICAL && is_narrow(node->dtype)) { /* zeros come in */
        uint32_t mask = (1u << 8 * dtype_size((vtrn_dtype)node->dtype)) - 1;
        VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, VECTOR, &to, &a, VTRN_ALU_BITWISE_AND,
                                                    mask, VTRN_ALU_NONE, 0));
        a = to;
    }
    if (op == VTRN_ALU_SHIFT_RIGHT_ARITH && !dtype_is_signed_int((vtrn_dtype)node->dtype) &&
        is_narrow(node->dtype)) { /* the top bit is the sign, whatever the type says */
        uint32_t drop = 32 - 8 * (uint32_t)dtype_size((vtrn_dtype)node->dtype);
        VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(env->l, VECTOR, &to, &a, VTRN_ALU_SHIFT_LEFT,
                                                    drop, VTRN_ALU_SHIFT_RIGHT_ARITH, drop));
        a = to;
    }
    return lower_emit_tensor_tensor(env->l, isa_alu_class(op) == 'B' ? VECTOR : GPSIMD, op, &to, &a,
                                    &b);
}

vtrn_status elementwise_int_emit(emit_env *env, const fusion_node *node) {
    vtrn_ap dst = elementwise_dst_ap(env, node);
    if (!is_narrow(dst.dtype))
        return emit_wide(env, node, &dst);
    vtrn_ap result = elementwise_temp_ap(env, node, TEMP_RESULT, wide(dst.dtype));
    VTRN_RETURN_IF_ERROR(emit_wide(env, node, &result));
    return put_wrapped(env, &dst, &result);
}
