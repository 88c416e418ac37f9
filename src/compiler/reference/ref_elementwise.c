/* Elementwise arithmetic: integers and booleans, and the blocks in which every type is computed. */
#include "compiler/reference/ref_internal.h"

#include <math.h>

static uint64_t width_mask(int width) {
    return width == 64 ? UINT64_MAX : (UINT64_C(1) << width) - 1;
}

#define EACH(expr)                                                                                 \
    for (int64_t i = 0; i < n; i++) {                                                              \
        const uint64_t x = a[i];                                                                   \
        const int64_t sx = (int64_t)x;                                                             \
        o[i] = (uint64_t)(expr);                                                                   \
        (void)sx;                                                                                  \
    }                                                                                              \
    return true

static bool int_unary(graph_kind kind, vtrn_dtype t, const uint64_t *a, uint64_t *o, int64_t n) {
    const bool is_signed = ref_class_of(t) == REF_I64;
    const int width = ref_width(t);
    const uint64_t mask = width_mask(width);
    switch (kind) {
    case GRAPH_ABS:
        EACH(is_signed && sx < 0 ? 0 - x : x);
    case GRAPH_COUNT_LEADING_ZEROS:
        EACH((x & mask) ? __builtin_clzll(x & mask) - (64 - width) : width);
    case GRAPH_NEGATE:
        EACH(0 - x);
    case GRAPH_NOT:
        EACH(~x & mask);
    case GRAPH_POPCNT:
        EACH(__builtin_popcountll(x & mask));
    case GRAPH_SIGN:
        EACH(is_signed ? (sx > 0) - (sx < 0) : x != 0);
    case GRAPH_REAL:
        EACH(x);
    default:
        return false;
    }
}
#undef EACH

static int64_t signed_divide(int64_t x, int64_t y) {
    if (y == 0)
        return -1;
    return y == -1 ? (int64_t)(0 - (uint64_t)x) : x / y;
}

static int64_t signed_remainder(int64_t x, int64_t y) {
    if (y == 0)
        return x;
    return y == -1 ? 0 : x % y;
}

/* Copies of the top bit of the type come in, of unsigned types too. */
static int64_t shift_right_arithmetic(uint64_t x, uint64_t by, int width) {
    const int64_t v = (int64_t)(x << (64 - width)) >> (64 - width);
    return v >> by;
}

static uint64_t int_power(uint64_t x, uint64_t y, bool is_signed) {
    if (is_signed && (int64_t)y < 0) {
        if (x == 1)
            return 1;
        return (int64_t)x == -1 ? (y & 1 ? (uint64_t)-1 : 1) : 0;
    }
    uint64_t r = 1;
    for (; y; y >>= 1, x *= x)
        if (y & 1)
            r *= x;
    return r;
}

#define EACH(expr)                                                                                 \
    for (int64_t i = 0; i < n; i++) {                                                              \
        const uint64_t x = a[i], y = b[i];                                                         \
        const int64_t sx = (int64_t)x, sy = (int64_t)y;                                            \
        o[i] = (uint64_t)(expr);                                                                   \
        (void)sx, (void)sy;                                                                        \
    }                                                                                              \
    return true

/* A shift amount is unsigned in the op's width: a negative one is too far. */
#define SHIFTS_OUT ((y & mask) >= (uint64_t)width)

static bool int_binary(graph_kind kind, vtrn_dtype t, const uint64_t *a, const uint64_t *b,
                       uint64_t *o, int64_t n) {
    const bool is_signed = ref_class_of(t) == REF_I64;
    const int width = ref_width(t);
    const uint64_t mask = width_mask(width);
    switch (kind) {
    case GRAPH_ADD:
        EACH(x + y);
    case GRAPH_SUBTRACT:
        EACH(x - y);
    case GRAPH_MULTIPLY:
        EACH(x * y);
    case GRAPH_AND:
        EACH(x & y);
    case GRAPH_OR:
        EACH(x | y);
    case GRAPH_XOR:
        EACH(x ^ y);
    case GRAPH_DIVIDE:
        EACH(is_signed ? (uint64_t)signed_divide(sx, sy) : y ? x / y : mask);
    case GRAPH_REMAINDER:
        EACH(is_signed ? (uint64_t)signed_remainder(sx, sy) : y ? x % y : x);
    case GRAPH_MAXIMUM:
        EACH(is_signed ? (sx > sy ? x : y) : (x > y ? x : y));
    case GRAPH_MINIMUM:
        EACH(is_signed ? (sx < sy ? x : y) : (x < y ? x : y));
    case GRAPH_POWER:
        EACH(int_power(x, y, is_signed));
    case GRAPH_SHIFT_LEFT:
        EACH(SHIFTS_OUT ? 0 : x << (y & 63));
    case GRAPH_SHIFT_RIGHT_LOGICAL:
        EACH(SHIFTS_OUT ? 0 : (x & mask) >> (y & 63));
    case GRAPH_SHIFT_RIGHT_ARITHMETIC:
        EACH(shift_right_arithmetic(x, SHIFTS_OUT ? 63 : y & 63, width));
    default:
        return false;
    }
}
#undef EACH

/* Booleans: add is or, multiply is and. Values are 0 and 1. */
static graph_kind pred_kind(graph_kind kind) {
    switch (kind) {
    case GRAPH_ADD:
    case GRAPH_MAXIMUM:
        return GRAPH_OR;
    case GRAPH_MULTIPLY:
    case GRAPH_MINIMUM:
        return GRAPH_AND;
    case GRAPH_SUBTRACT:
        return GRAPH_XOR;
    default:
        return kind;
    }
}

bool ref_unary(graph_kind kind, vtrn_dtype t, const void *a, void *out, int64_t n) {
    const ref_class cls = ref_class_of(t);
    switch (cls) {
    case REF_F32:
    case REF_F64:
        return ref_float_unary(kind, cls, a, out, n);
    case REF_C128:
        return ref_complex_unary(kind, a, out, n);
    default:
        return int_unary(kind, t, a, out, n);
    }
}

bool ref_binary(graph_kind kind, vtrn_dtype t, const void *a, const void *b, void *out, int64_t n) {
    const ref_class cls = ref_class_of(t);
    switch (cls) {
    case REF_F32:
    case REF_F64:
        return ref_float_binary(kind, cls, a, b, out, n);
    case REF_C128:
        return ref_complex_binary(kind, a, b, out, n);
    default:
        return int_binary(ref_width(t) == 1 ? pred_kind(kind) : kind, t, a, b, out, n);
    }
}

/* Ops whose result is of another class than the one or two operands. */
static bool class_changing(graph_kind kind, ref_class from, ref_class to, const void *const *in,
                           void *out, int64_t n) {
    const void *a = in[0], *b = in[1];
    const double complex *z = a;
    double *d = out;
    uint64_t *u = out;
    for (int64_t i = 0; i < n; i++) {
        double v;
        switch (kind) {
        case GRAPH_ABS:
            v = cabs(z[i]);
            break;
        case GRAPH_REAL:
            v = creal(z[i]);
            break;
        case GRAPH_IMAG:
            v = cimag(z[i]);
            break;
        case GRAPH_IS_FINITE:
            if (from != REF_F32 && from != REF_F64)
                return false;
            u[i] = isfinite(from == REF_F32 ? ((const float *)a)[i] : ((const double *)a)[i]);
            continue;
        case GRAPH_COMPLEX:
            ((double complex *)out)[i] =
                from == REF_F32 ? CMPLX(((const float *)a)[i], ((const float *)b)[i])
                                : CMPLX(((const double *)a)[i], ((const double *)b)[i]);
            continue;
        default:
            return false;
        }
        if (from != REF_C128)
            return false;
        if (to == REF_F32)
            ((float *)out)[i] = (float)v;
        else
            d[i] = v;
    }
    return true;
}

static bool is_class_changing(graph_kind kind, ref_class from) {
    if (kind == GRAPH_IS_FINITE || kind == GRAPH_COMPLEX)
        return true;
    return from == REF_C128 && (kind == GRAPH_ABS || kind == GRAPH_REAL || kind == GRAPH_IMAG);
}

/* One block of an arithmetic op; in[] in the operand type, out in the result type. */
static bool arithmetic_block(const graph_op *op, vtrn_dtype from, vtrn_dtype to,
                             const void *const *in, void *out, int64_t n) {
    const graph_kind kind = (graph_kind)op->kind;
    const bool is_binary = op->n_operands == 2;
    double complex a[REF_BLOCK], b[REF_BLOCK], o[REF_BLOCK];
    const ref_class cls = ref_class_of(from), to_cls = ref_class_of(to);
    ref_load(from, in[0], a, n);
    if (is_binary)
        ref_load(from, in[1], b, n);
    else
        memset(b, 0, (size_t)n * sizeof *b);
    bool is_known;
    if (is_class_changing(kind, cls))
        is_known = class_changing(kind, cls, to_cls, (const void *const[]){a, b}, o, n);
    else if (cls != to_cls)
        is_known = false;
    else if (is_binary)
        is_known = ref_binary(kind, from, a, b, o, n);
    else
        is_known = ref_unary(kind, from, a, o, n);
    if (is_known)
        ref_store(to, o, out, n);
    return is_known;
}

/* Orders floats as -NaN < -inf < ... < -0 < +0 < ... < +inf < +NaN. */
static int64_t total_order_key(ref_class cls, const void *p, int64_t i) {
    if (cls == REF_F32) {
        int32_t k;
        memcpy(&k, (const float *)p + i, 4);
        return k < 0 ? (int64_t)(k ^ INT32_MAX) : k;
    }
    int64_t k;
    memcpy(&k, (const double *)p + i, 8);
    return k < 0 ? k ^ INT64_MAX : k;
}

#define COMPARE(T)                                                                                 \
    for (int64_t i = 0; i < n; i++) {                                                              \
        const T x = ((const T *)a)[i], y = ((const T *)b)[i];                                      \
        switch (direction) {                                                                       \
        case GRAPH_EQ:                                                                             \
            out[i] = x == y;                                                                       \
            break;                                                                                 \
        case GRAPH_NE:                                                                             \
            out[i] = x != y;                                                                       \
            break;                                                                                 \
        case GRAPH_GE:                                                                             \
            out[i] = x >= y;                                                                       \
            break;                                                                                 \
        case GRAPH_GT:                                                                             \
            out[i] = x > y;                                                                        \
            break;                                                                                 \
        case GRAPH_LE:                                                                             \
            out[i] = x <= y;                                                                       \
            break;                                                                                 \
        case GRAPH_LT:                                                                             \
            out[i] = x < y;                                                                        \
            break;                                                                                 \
        }                                                                                          \
    }                                                                                              \
    return true

static bool compare_class(ref_class cls, graph_direction direction, const void *a, const void *b,
                          uint8_t *out, int64_t n) {
    switch (cls) {
    case REF_F32:
        COMPARE(float);
    case REF_F64:
        COMPARE(double);
    case REF_I64:
        COMPARE(int64_t);
    case REF_U64:
        COMPARE(uint64_t);
    case REF_C128:
        if (direction != GRAPH_EQ && direction != GRAPH_NE)
            return false;
        for (int64_t i = 0; i < n; i++)
            out[i] = (((const double complex *)a)[i] == ((const double complex *)b)[i]) ==
                     (direction == GRAPH_EQ);
        return true;
    }
    return false;
}

static bool compare_block(const graph_op *op, vtrn_dtype t, const void *const *in, uint8_t *out,
                          int64_t n) {
    double complex a[REF_BLOCK], b[REF_BLOCK];
    ref_class cls = ref_class_of(t);
    ref_load(t, in[0], a, n);
    ref_load(t, in[1], b, n);
    if (op->attrs.compare.type == GRAPH_CMP_TOTALORDER && (cls == REF_F32 || cls == REF_F64)) {
        int64_t x[REF_BLOCK], y[REF_BLOCK];
        for (int64_t i = 0; i < n; i++) {
            x[i] = total_order_key(cls, a, i);
            y[i] = total_order_key(cls, b, i);
        }
        return compare_class(REF_I64, op->attrs.compare.direction, x, y, out, n);
    }
    return compare_class(cls, op->attrs.compare.direction, a, b, out, n);
}

#define SELECT(T)                                                                                  \
    for (int64_t i = 0; i < n; i++)                                                                \
        ((T *)out)[i] = pred[i] ? ((const T *)a)[i] : ((const T *)b)[i];                           \
    break

static void select_block(size_t size, const uint8_t *pred, const void *a, const void *b, void *out,
                         int64_t n) {
    switch (size) {
    case 1:
        SELECT(uint8_t);
    case 2:
        SELECT(uint16_t);
    case 4:
        SELECT(uint32_t);
    case 8:
        SELECT(uint64_t);
    default:
        for (int64_t i = 0; i < n; i++)
            memcpy((char *)out + i * size, (const char *)(pred[i] ? a : b) + i * size, size);
    }
}

static bool clamp_block(vtrn_dtype t, const void *const *in, void *out, int64_t n) {
    double complex lo[REF_BLOCK], x[REF_BLOCK], hi[REF_BLOCK], o[REF_BLOCK];
    ref_load(t, in[0], lo, n);
    ref_load(t, in[1], x, n);
    ref_load(t, in[2], hi, n);
    const bool is_known =
        ref_binary(GRAPH_MAXIMUM, t, lo, x, o, n) && ref_binary(GRAPH_MINIMUM, t, hi, o, x, n);
    ref_store(t, x, out, n);
    return is_known;
}

static int mantissa_bits_of(vtrn_dtype t, int *out_exponent_bits) {
    *out_exponent_bits = 8;
    switch (t) {
    case VTRN_DTYPE_FP64:
        *out_exponent_bits = 11;
        return 52;
    case VTRN_DTYPE_FP16:
        *out_exponent_bits = 5;
        return 10;
    case VTRN_DTYPE_BF16:
        return 7;
    case VTRN_DTYPE_TF32:
        return 10;
    case VTRN_DTYPE_FP8E5M2:
        *out_exponent_bits = 5;
        return 2;
    case VTRN_DTYPE_FP8E4M3:
    case VTRN_DTYPE_FP8E4M3FN:
        *out_exponent_bits = 4;
        return 3;
    case VTRN_DTYPE_FP8E3M4:
        *out_exponent_bits = 3;
        return 4;
    default:
        return 23;
    }
}

/* bits: an IEEE number of 1 + src_e + src_m bits, reduced to e exponent and m mantissa bits.
 * Numbers below the smallest normal one become zero, as XLA has it. */
static uint64_t reduce_bits(uint64_t bits, int src_e, int src_m, int e, int m) {
    const uint64_t sign = bits & (UINT64_C(1) << (src_e + src_m));
    const uint64_t exponent_mask = ((UINT64_C(1) << src_e) - 1) << src_m;
    uint64_t x = bits ^ sign;
    if (x > exponent_mask)
        return bits;
    if (m < src_m) {
        const uint64_t last = UINT64_C(1) << (src_m - m);
        x += (last >> 1) - 1 + ((x >> (src_m - m)) & 1);
        x &= ~(last - 1);
    }
    if (e < src_e) {
        const int64_t src_bias = (1 << (src_e - 1)) - 1, bias = (1 << (e - 1)) - 1;
        const int64_t exponent = (int64_t)(x >> src_m);
        if (exponent > src_bias + bias)
            x = exponent_mask;
        else if (exponent <= src_bias - bias)
            x = 0;
    }
    return sign | x;
}

static bool reduce_precision_block(const graph_op *op, vtrn_dtype t, const void *in, void *out,
                                   int64_t n) {
    if (!dtype_is_float(t))
        return false;
    int e = op->attrs.reduce_precision.exponent_bits, own_e;
    int m = op->attrs.reduce_precision.mantissa_bits;
    if (m >= mantissa_bits_of(t, &own_e))
        m = 64;
    if (e >= own_e)
        e = 64;
    double block[REF_BLOCK];
    ref_load(t, in, block, n);
    for (int64_t i = 0; i < n; i++) {
        if (t == VTRN_DTYPE_FP64) {
            uint64_t bits;
            memcpy(&bits, block + i, 8);
            bits = reduce_bits(bits, 11, 52, e, m);
            memcpy(block + i, &bits, 8);
        } else {
            uint32_t bits;
            memcpy(&bits, (float *)block + i, 4);
            bits = (uint32_t)reduce_bits(bits, 8, 23, e, m);
            memcpy((float *)block + i, &bits, 4);
        }
    }
    ref_store(t, block, out, n);
    return true;
}

static bool elementwise_block(const graph *g, const graph_op *op, const void *const *in, void *out,
                              int64_t n) {
    const vtrn_dtype from = g->types[op->operands[0]].dtype, to = g->types[op->results[0]].dtype;
    switch (op->kind) {
    case GRAPH_COMPARE:
        return compare_block(op, from, in, out, n);
    case GRAPH_SELECT:
        select_block(dtype_size(to), in[0], in[1], in[2], out, n);
        return true;
    case GRAPH_CLAMP:
        return clamp_block(to, in, out, n);
    case GRAPH_CONVERT:
        dtype_convert(from, in[0], to, out, (size_t)n);
        return true;
    case GRAPH_REDUCE_PRECISION:
        return reduce_precision_block(op, from, in[0], out, n);
    default:
        return arithmetic_block(op, from, to, in, out, n);
    }
}

bool ref_is_elementwise(graph_kind kind) {
    return kind <= GRAPH_CONVERT || kind == GRAPH_REDUCE_PRECISION || graph_kind_is_composite(kind);
}

vtrn_status ref_elementwise(const graph *g, const graph_op *op, const void *const *in,
                            void *const *out, int64_t n, bool is_lanes) {
    char splat[3][REF_BLOCK * REF_MAX_CLASS_BYTES];
    const void *at[3] = {in[0], in[0], in[0]}; /* of fewer operands nobody reads the others */
    size_t step[3] = {0};
    if (op->n_operands < 1 || op->n_operands > 3)
        return ref_malformed(op, "an elementwise op has 1 to 3 operands");
    for (uint32_t k = 0; k < op->n_operands; k++) {
        const graph_type *t = &g->types[op->operands[k]];
        const bool is_scalar = !is_lanes && n != 1 && ref_count(t) == 1;
        at[k] = in[k];
        step[k] = is_scalar ? 0 : dtype_size(t->dtype);
        if (is_scalar) {
            ref_fill(splat[k], in[k], n < REF_BLOCK ? n : REF_BLOCK, dtype_size(t->dtype));
            at[k] = splat[k];
        }
    }
    const size_t out_size = dtype_size(g->types[op->results[0]].dtype);
    for (int64_t i = 0; i < n; i += REF_BLOCK) {
        const void *block[3] = {at[0], at[0], at[0]};
        for (uint32_t k = 0; k < op->n_operands; k++)
            block[k] = (const char *)at[k] + i * step[k];
        const int64_t m = n - i < REF_BLOCK ? n - i : REF_BLOCK;
        if (!elementwise_block(g, op, block, (char *)out[0] + i * out_size, m))
            return ref_unimplemented(op, dtype_name(g->types[op->operands[0]].dtype));
    }
    return NULL;
}
