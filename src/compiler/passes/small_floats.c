#include "compiler/passes/small_floats.h"

#include "base/dtype_bits.h"
#include "compiler/passes/make_op.h"

#include <math.h>

enum { NAN_BITS = 0x7fc00000, INFINITY_BITS = 0x7f800000, NO_SIGN = 0x7fffffff };

/* The operation that is written anew, and the dims of all values at hand. */
typedef struct coder {
    rewriter *r;
    const graph_op *op;
    graph_type dims;
    vtrn_status status; /* of the first step that failed */
} coder;

static bool format_of(vtrn_dtype t, dtype_format *out) {
    switch (t) {
    case VTRN_DTYPE_FP4E2M1FN:
        *out = FORMAT_FP4E2M1FN;
        return true;
    case VTRN_DTYPE_FP8E4M3FNUZ:
        *out = FORMAT_FP8E4M3FNUZ;
        return true;
    case VTRN_DTYPE_FP8E5M2FNUZ:
        *out = FORMAT_FP8E5M2FNUZ;
        return true;
    case VTRN_DTYPE_FP8E4M3B11FNUZ:
        *out = FORMAT_FP8E4M3B11FNUZ;
        return true;
    default:
        return false;
    }
}

static bool is_small_float(vtrn_dtype t) {
    dtype_format f;
    return t == VTRN_DTYPE_FP8E8M0FNU || format_of(t, &f);
}

static vtrn_dtype dtype_of(const rewriter *r, graph_value v) {
    return (vtrn_dtype)r->g->types[v].dtype;
}

static bool is_wide(vtrn_dtype t) {
    return t == VTRN_DTYPE_FP32 || t == VTRN_DTYPE_BF16 || t == VTRN_DTYPE_FP16;
}

/* --- steps: each gives a value; after a failure they do nothing ----------------------------------
 */

static graph_value step(coder *c, graph_op op, vtrn_dtype type) {
    graph_value v = GRAPH_NO_VALUE;
    graph_type result = c->dims;
    result.dtype = (uint8_t)type;
    if (!c->status)
        c->status = make_op(c->r, c->op, &op, &result, &v);
    return v;
}

static graph_value as(coder *c, graph_kind kind, graph_value v, vtrn_dtype type) {
    if (c->status || dtype_of(c->r, v) == type)
        return v;
    return step(c, make_plain(kind, &v, 1), type);
}

static graph_value bits_of(coder *c, graph_value v) {
    return as(c, GRAPH_BITCAST_CONVERT, v, VTRN_DTYPE_UINT32);
}

static graph_value float_of(coder *c, graph_value v) {
    return as(c, GRAPH_BITCAST_CONVERT, v, VTRN_DTYPE_FP32);
}

static graph_value number(coder *c, double value, vtrn_dtype type) {
    graph_value v = GRAPH_NO_VALUE;
    graph_type result = c->dims;
    result.dtype = (uint8_t)type;
    if (!c->status)
        c->status = make_splat(c->r, c->op, value, &result, &v);
    return v;
}

static graph_value word(coder *c, uint32_t value) {
    return number(c, value, VTRN_DTYPE_UINT32);
}

static graph_value both(coder *c, graph_kind kind, graph_value a, graph_value b) {
    graph_value operands[2] = {a, b};
    return c->status ? GRAPH_NO_VALUE : step(c, make_plain(kind, operands, 2), dtype_of(c->r, a));
}

static graph_value with(coder *c, graph_kind kind, graph_value v, uint32_t value) {
    return both(c, kind, v, word(c, value));
}

static graph_value is(coder *c, graph_value v, graph_direction direction, uint32_t value) {
    graph_value operands[2] = {v, word(c, value)};
    graph_op op = make_plain(GRAPH_COMPARE, operands, 2);
    op.attrs.compare.direction = direction;
    op.attrs.compare.type = GRAPH_CMP_UNSIGNED;
    return step(c, op, VTRN_DTYPE_PRED);
}

static graph_value where(coder *c, graph_value truth, graph_value yes, graph_value no) {
    graph_value operands[3] = {truth, yes, no};
    return step(c, make_plain(GRAPH_SELECT, operands, 3),
                c->status ? VTRN_DTYPE_UINT32 : dtype_of(c->r, yes));
}

/* The same bytes by another name. A float of 4 bits is renamed as small_types.h does it. */
static graph_value renamed(coder *c, graph_value v, vtrn_dtype type) {
    if (c->status)
        return v;
    const bool to_code = dtype_of(c->r, v) == VTRN_DTYPE_FP4E2M1FN;
    if (!to_code && type != VTRN_DTYPE_FP4E2M1FN)
        return as(c, GRAPH_BITCAST_CONVERT, v, type);
    int64_t *eight = ARENA_NEW(&c->r->g->arena, int64_t, 1);
    if (!eight) {
        c->status = VTRN_OUT_OF_MEMORY(sizeof *eight);
        return v;
    }
    *eight = 8;
    graph_op op = make_plain(to_code ? GRAPH_PACK : GRAPH_UNPACK, &v, 1);
    op.attrs.dims.dims = (graph_ints){.n = 1, .v = eight};
    return step(c, op, type);
}

/* --- from and to fp32: base/dtype_bits.h, step by step -------------------------------------------
 */

static graph_value decode_format(coder *c, const dtype_format *f, graph_value code) {
    const uint32_t min_normal = (uint32_t)(128 - f->bias) << 23;
    graph_value magnitude = with(c, GRAPH_AND, code, (1u << f->n_magnitude) - 1);
    graph_value shifted = with(c, GRAPH_SHIFT_LEFT, magnitude, (uint32_t)(23 - f->n_mantissa));
    graph_value normal = with(c, GRAPH_ADD, shifted, (uint32_t)(127 - f->bias) << 23);
    graph_value subnormal =
        both(c, GRAPH_SUBTRACT, float_of(c, with(c, GRAPH_ADD, shifted, min_normal)),
             number(c, ldexp(1, 1 - f->bias), VTRN_DTYPE_FP32));
    graph_value bits =
        where(c, is(c, magnitude, GRAPH_LT, 1u << f->n_mantissa), bits_of(c, subnormal), normal);
    graph_value sign = with(c, GRAPH_SHIFT_RIGHT_LOGICAL, code, (uint32_t)f->n_magnitude);
    bits = both(c, GRAPH_OR, bits, with(c, GRAPH_SHIFT_LEFT, sign, 31));
    if (f->nan_code > NO_SIGN >> 24) /* FNUZ: the place of -0 */
        bits = where(c, is(c, code, GRAPH_EQ, f->nan_code), word(c, NAN_BITS), bits);
    return bits;
}

static graph_value decode_e8m0(coder *c, graph_value code) {
    graph_value power = with(c, GRAPH_SHIFT_LEFT, code, 23);
    graph_value bits = where(c, is(c, code, GRAPH_EQ, 0), word(c, 0x00400000), power);
    return where(c, is(c, code, GRAPH_EQ, 255), word(c, NAN_BITS), bits);
}

/* A small float in fp32. */
static graph_value decode(coder *c, graph_value v) {
    dtype_format f;
    const bool is_format = format_of(dtype_of(c->r, v), &f);
    graph_value code = as(c, GRAPH_CONVERT, renamed(c, v, VTRN_DTYPE_UINT8), VTRN_DTYPE_UINT32);
    return float_of(c, is_format ? decode_format(c, &f, code) : decode_e8m0(c, code));
}

static graph_value encode_format(coder *c, const dtype_format *f, graph_value bits) {
    const uint32_t cut = (uint32_t)(23 - f->n_mantissa);
    const uint32_t magic = (uint32_t)(128 - f->bias + (int)cut) << 23;
    graph_value a = with(c, GRAPH_AND, bits, NO_SIGN);
    graph_value odd = with(c, GRAPH_AND, with(c, GRAPH_SHIFT_RIGHT_LOGICAL, a, cut), 1);
    graph_value sum = both(c, GRAPH_ADD, with(c, GRAPH_ADD, a, (1u << (cut - 1)) - 1), odd);
    graph_value normal = with(c, GRAPH_SUBTRACT, with(c, GRAPH_SHIFT_RIGHT_LOGICAL, sum, cut),
                              (uint32_t)(127 - f->bias) << f->n_mantissa);
    graph_value rounded = both(c, GRAPH_ADD, float_of(c, a),
                               number(c, ldexp(1, 1 - f->bias + (int)cut), VTRN_DTYPE_FP32));
    graph_value subnormal = with(c, GRAPH_SUBTRACT, bits_of(c, rounded), magic);
    graph_value code =
        where(c, is(c, a, GRAPH_LT, (uint32_t)(128 - f->bias) << 23), subnormal, normal);
    code = with(c, GRAPH_MINIMUM, code, f->overflow_code);
    graph_value is_nan = is(c, a, GRAPH_GT, INFINITY_BITS);
    graph_value sign = with(c, GRAPH_SHIFT_RIGHT_LOGICAL, bits, 31);
    if (f->nan_code <= NO_SIGN >> 24) { /* no NaN: a zero of the other sign */
        const uint32_t place = (uint32_t)f->n_magnitude;
        graph_value other = with(c, GRAPH_XOR, sign, 1);
        code = both(c, GRAPH_OR, code, with(c, GRAPH_SHIFT_LEFT, sign, place));
        return where(c, is_nan, with(c, GRAPH_SHIFT_LEFT, other, place), code);
    }
    code = where(c, is_nan, word(c, f->nan_code), code);
    graph_value is_zero = is(c, with(c, GRAPH_AND, code, 0x7f), GRAPH_EQ, 0);
    sign = where(c, is_zero, word(c, 0), with(c, GRAPH_SHIFT_LEFT, sign, 7));
    return both(c, GRAPH_OR, code, sign);
}

static graph_value encode_e8m0(coder *c, graph_value bits) {
    graph_value power = with(c, GRAPH_SHIFT_RIGHT_LOGICAL, with(c, GRAPH_ADD, bits, 0x400000), 23);
    graph_value code = where(c, is(c, bits, GRAPH_LT, 0x600000), word(c, 0), power);
    graph_value below = with(c, GRAPH_SUBTRACT, bits, 1);
    return where(c, is(c, below, GRAPH_LT, 0x7f7fffff), code, word(c, 255));
}

/* An fp32 in the small type. */
static graph_value encode(coder *c, graph_value v, vtrn_dtype type) {
    dtype_format f;
    graph_value bits = bits_of(c, v);
    graph_value code = format_of(type, &f) ? encode_format(c, &f, bits) : encode_e8m0(c, bits);
    return renamed(c, as(c, GRAPH_CONVERT, code, VTRN_DTYPE_UINT8), type);
}

/* --- operations ----------------------------------------------------------------------------------
 */

static bool is_elementwise(graph_kind kind) {
    switch (kind) {
    case GRAPH_ABS:
    case GRAPH_ADD:
    case GRAPH_CLAMP:
    case GRAPH_COMPARE:
    case GRAPH_CONVERT:
    case GRAPH_DIVIDE:
    case GRAPH_EXPONENTIAL:
    case GRAPH_IS_FINITE:
    case GRAPH_LOG:
    case GRAPH_LOGISTIC:
    case GRAPH_MAXIMUM:
    case GRAPH_MINIMUM:
    case GRAPH_MULTIPLY:
    case GRAPH_NEGATE:
    case GRAPH_RSQRT:
    case GRAPH_SELECT:
    case GRAPH_SIGN:
    case GRAPH_SQRT:
    case GRAPH_SUBTRACT:
    case GRAPH_TANH:
        return true;
    default:
        return false;
    }
}

/* A value in a type that an engine computes in, exactly: two such numbers have a product of bf16
 * operands, but the least E8M0 is subnormal there. */
static graph_value widened(coder *c, graph_value v, bool is_factor) {
    const vtrn_dtype type = dtype_of(c->r, v);
    if (c->status || !is_small_float(type))
        return v;
    const graph_type dims = c->dims;
    c->dims = c->r->g->types[v];
    v = decode(c, v);
    if (is_factor && type != VTRN_DTYPE_FP8E8M0FNU)
        v = as(c, GRAPH_CONVERT, v, VTRN_DTYPE_BF16);
    c->dims = dims;
    return v;
}

static bool suits(const rewriter *r, const graph_op *op) {
    bool is_small = is_small_float(dtype_of(r, op->results[0]));
    bool is_known = is_small || is_wide(dtype_of(r, op->results[0])) ||
                    dtype_of(r, op->results[0]) == VTRN_DTYPE_PRED;
    for (uint32_t i = 0; i < op->n_operands; i++) {
        const vtrn_dtype t = dtype_of(r, op->operands[i]);
        is_known &= is_small_float(t) || is_wide(t) || t == VTRN_DTYPE_PRED;
        is_small |= is_small_float(t);
    }
    return is_small && is_known;
}

/* Comparisons of the order of all bits are left to the reference. */
static bool is_rewritten(const rewriter *r, const graph_op *op) {
    if (op->n_results != 1 || op->n_operands == 0 || op->n_operands > 3)
        return false;
    if (op->kind == GRAPH_COMPARE && op->attrs.compare.type == GRAPH_CMP_TOTALORDER)
        return false;
    return (is_elementwise((graph_kind)op->kind) || op->kind == GRAPH_DOT_GENERAL) && suits(r, op);
}

static vtrn_status compute(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    (void)ctx;
    if (!is_rewritten(r, op))
        return NULL;
    coder c = {.r = r, .op = op, .dims = r->g->types[op->results[0]]};
    const vtrn_dtype type = (vtrn_dtype)c.dims.dtype;
    graph_value operands[3];
    for (uint32_t i = 0; i < op->n_operands; i++)
        operands[i] = widened(&c, op->operands[i], op->kind == GRAPH_DOT_GENERAL);
    graph_op wide = *op;
    wide.operands = operands;
    graph_value v = operands[0];
    if (op->kind == GRAPH_CONVERT)
        v = as(&c, GRAPH_CONVERT, v, is_small_float(type) ? VTRN_DTYPE_FP32 : type);
    else
        v = step(&c, wide, is_small_float(type) ? VTRN_DTYPE_FP32 : type);
    if (is_small_float(type))
        v = encode(&c, v, type);
    if (c.status)
        return c.status;
    *is_dropped = true;
    rewrite_replace(r, op->results[0], v);
    return NULL;
}

vtrn_status small_floats_compute(graph *g) {
    for (uint32_t v = 0; v < g->n_values; v++)
        if (is_small_float((vtrn_dtype)g->types[v].dtype))
            return rewrite_graph(g, compute, NULL);
    return NULL;
}
