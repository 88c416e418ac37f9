/* Elementwise ops with bounds: what the operands' radii do to the result, and the functions' own
 * errors. */
#include "compiler/reference/ref_bounds.h"

#include <math.h>

enum { MAX_OPERANDS = 3 };

/* A stretch of elements: each operand as the routine takes it, and as doubles with radii. */
typedef struct block {
    const graph *types;
    const graph_op *op;
    vtrn_dtype dtype[MAX_OPERANDS], result; /* as the routine takes and gives them */
    int n_in, n;
    bool is_loose[MAX_OPERANDS];
    double x[MAX_OPERANDS][REF_BLOCK], r[MAX_OPERANDS][REF_BLOCK];
    double v[REF_BLOCK], delta[REF_BLOCK];
    uint8_t in[MAX_OPERANDS][REF_BLOCK * 8], out[REF_BLOCK * 8];
} block;

static void to_doubles(vtrn_dtype t, const void *src, double *dst, int n) {
    dtype_convert(t, src, VTRN_DTYPE_FP64, dst, (size_t)n);
}

static vtrn_status run(block *b, const void *const *in, double *out) {
    void *const results[] = {b->out};
    VTRN_RETURN_IF_ERROR(ref_elementwise(b->types, b->op, in, results, b->n, true));
    to_doubles(b->result, b->out, out, b->n);
    return NULL;
}

/* --- the functions' own errors ------------------------------------------------------------------
 */

/* Units in the last place of fp32 that the engines' way of computing a function is off by at most.
 * Measured by tests/python: test_engine_scalar.py (the activation tables), test_lowering.py,
 * test_lowering_math.py and test_trigonometry.py (what is composed of several instructions). */
static double ulps_of(graph_kind kind) {
    switch (kind) {
    case GRAPH_SQRT:
        return 1;
    case GRAPH_DIVIDE: /* times the reciprocal */
    case GRAPH_RSQRT:
    case GRAPH_SINE:
    case GRAPH_COSINE:
    case GRAPH_TAN:
        return 2;
    case GRAPH_EXPONENTIAL:
    case GRAPH_LOG:
    case GRAPH_TANH:
    case GRAPH_ERF:
    case GRAPH_LOGISTIC:
    case GRAPH_SILU:
    case GRAPH_SOFTPLUS:
        return 3;
    case GRAPH_GELU_DX:
    case GRAPH_GELU_TANH:
    case GRAPH_SILU_DX:
        return 4;
    case GRAPH_GELU:
        return 6;
    case GRAPH_EXPONENTIAL_MINUS_ONE:
    case GRAPH_LOG_PLUS_ONE:
        return 4;
    case GRAPH_ATAN2:
        return 8;
    case GRAPH_POWER:
        return 16;
    case GRAPH_CBRT: /* a power of 1/3 rounded to fp32: off by ln(x) times that rounding */
        return 24;
    default:
        return 0;
    }
}

static void add_own_error(block *b) {
    const double ulps = ulps_of((graph_kind)b->op->kind);
    if (ulps == 0)
        return;
    /* Subnormal results of functions have as many units to be off by; where a function crosses 0
     * beside x = 0, or falls off faster than e^x, what it is composed of has. */
    const bool crosses_zero = b->op->kind == GRAPH_GELU_DX || b->op->kind == GRAPH_SILU_DX ||
                              b->op->kind == GRAPH_GELU_TANH;
    const double least = crosses_zero ? 3e-7 : ulps * 0x1p-149;
    for (int i = 0; i < b->n; i++) {
        const double v = fabs(b->v[i]);
        if (isfinite(v))
            b->delta[i] += ulps * 0x1p-23 * v + least;
    }
}

/* --- what radii do ------------------------------------------------------------------------------
 */

/* Where a rule is known: the delta of one element. */
static double delta_of(const block *b, int i) {
    const double x0 = fabs(b->x[0][i]), r0 = b->r[0][i];
    const double x1 = fabs(b->x[1][i]), r1 = b->r[1][i];
    switch ((graph_kind)b->op->kind) {
    case GRAPH_ADD:
    case GRAPH_SUBTRACT:
        return r0 + r1;
    case GRAPH_MULTIPLY:
        return (r1 ? x0 * r1 : 0) + (r0 ? x1 * r0 : 0) + (r0 && r1 ? r0 * r1 : 0);
    case GRAPH_DIVIDE:
        if (r1 == 0)
            return r0 ? r0 / x1 : 0;
        return x1 > r1 ? (r0 + fabs(b->v[i]) * r1) / (x1 - r1) : INFINITY;
    case GRAPH_MAXIMUM:
    case GRAPH_MINIMUM:
        return fmax(r0, r1);
    case GRAPH_CLAMP:
        return fmax(fmax(r0, r1), b->r[2][i]);
    case GRAPH_SINE:
    case GRAPH_COSINE:
        return fmin(r0, 2);
    case GRAPH_GELU: /* the steepest slope of each */
    case GRAPH_GELU_DX:
    case GRAPH_GELU_TANH:
    case GRAPH_SILU:
    case GRAPH_SILU_DX:
        return 1.13 * r0;
    case GRAPH_COMPARE:
        return r0 + r1 > 0 && !(fabs(b->x[0][i] - b->x[1][i]) > r0 + r1);
    case GRAPH_SELECT: {
        const double on_true = b->x[1][i], on_false = b->x[2][i], r2 = b->r[2][i];
        if (r0 == 0)
            return b->x[0][i] != 0 ? r1 : r2;
        if (on_true == on_false)
            return fmax(r1, r2);
        const double apart = fabs(on_true - on_false);
        return isnan(apart) ? INFINITY : apart + fmax(r1, r2);
    }
    default: /* negate, abs, conversions among floats */
        return r0;
    }
}

static bool has_rule(const block *b) {
    switch ((graph_kind)b->op->kind) {
    case GRAPH_ADD:
    case GRAPH_SUBTRACT:
    case GRAPH_MULTIPLY:
    case GRAPH_MAXIMUM:
    case GRAPH_MINIMUM:
    case GRAPH_CLAMP:
        return b->result != VTRN_DTYPE_PRED;
    case GRAPH_DIVIDE:
    case GRAPH_NEGATE:
    case GRAPH_ABS:
    case GRAPH_SINE:
    case GRAPH_COSINE:
        return b->result == VTRN_DTYPE_FP64;
    case GRAPH_CONVERT:
        return b->result == VTRN_DTYPE_FP64 ||
               (b->result != VTRN_DTYPE_PRED && b->dtype[0] != VTRN_DTYPE_FP64);
    case GRAPH_COMPARE:
    case GRAPH_SELECT:
    case GRAPH_GELU:
    case GRAPH_GELU_DX:
    case GRAPH_GELU_TANH:
    case GRAPH_SILU:
    case GRAPH_SILU_DX:
        return true;
    default:
        return false;
    }
}

/* Whether the extremes of the result lie at the ends of the operands' intervals. Not so for the
 * bits of integers; truth values have no inside. */
static bool is_cornered(const block *b) {
    bool is_bitwise = false;
    switch ((graph_kind)b->op->kind) {
    case GRAPH_AND:
    case GRAPH_OR:
    case GRAPH_XOR:
    case GRAPH_NOT:
    case GRAPH_POPCNT:
    case GRAPH_REMAINDER:
    case GRAPH_SHIFT_LEFT:
    case GRAPH_SHIFT_RIGHT_ARITHMETIC:
    case GRAPH_SHIFT_RIGHT_LOGICAL:
        is_bitwise = true;
        break;
    default:
        break;
    }
    for (int k = 0; k < b->n_in; k++)
        if (is_bitwise && b->is_loose[k] && b->dtype[k] != VTRN_DTYPE_PRED)
            return false;
    return true;
}

static void shift_operand(block *b, int k, double sign, void *out) {
    double moved[REF_BLOCK];
    for (int i = 0; i < b->n; i++) {
        moved[i] = b->x[k][i] + (b->r[k][i] ? sign * b->r[k][i] : 0);
        if (b->dtype[k] == VTRN_DTYPE_PRED && b->r[k][i] > 0)
            moved[i] = sign > 0;
    }
    dtype_convert(VTRN_DTYPE_FP64, moved, b->dtype[k], out, (size_t)b->n);
}

/* The op at every combination of interval ends. */
static vtrn_status visit_corners(block *b) {
    uint8_t moved[MAX_OPERANDS][REF_BLOCK * 8];
    double f[REF_BLOCK];
    int loose[MAX_OPERANDS], n_loose = 0;
    const void *in[MAX_OPERANDS];
    for (int k = 0; k < b->n_in; k++) {
        in[k] = b->in[k];
        if (b->is_loose[k])
            loose[n_loose++] = k;
    }
    for (int corner = 0; corner < 1 << n_loose; corner++) {
        for (int j = 0; j < n_loose; j++) {
            shift_operand(b, loose[j], corner >> j & 1 ? 1 : -1, moved[loose[j]]);
            in[loose[j]] = moved[loose[j]];
        }
        VTRN_RETURN_IF_ERROR(run(b, in, f));
        for (int i = 0; i < b->n; i++) {
            const double away = fabs(f[i] - b->v[i]);
            const bool is_same = f[i] == b->v[i] || (isnan(f[i]) && isnan(b->v[i]));
            b->delta[i] = fmax(b->delta[i], is_same ? 0 : isnan(away) ? INFINITY : away);
        }
    }
    return NULL;
}

static vtrn_status find_deltas(block *b) {
    bool is_loose = false;
    for (int k = 0; k < b->n_in; k++)
        is_loose |= b->is_loose[k];
    memset(b->delta, 0, sizeof b->delta);
    if (!is_loose)
        return NULL;
    if (has_rule(b)) {
        for (int i = 0; i < b->n; i++)
            b->delta[i] = delta_of(b, i);
    } else if (is_cornered(b)) {
        VTRN_RETURN_IF_ERROR(visit_corners(b));
    }
    for (int i = 0; i < b->n; i++) {
        bool is_unknown = isnan(b->delta[i]) || (!has_rule(b) && !is_cornered(b));
        bool has_unknown = false;
        for (int k = 0; k < b->n_in; k++)
            has_unknown |= isinf(b->r[k][i]);
        if (is_unknown || (has_unknown && b->op->kind != GRAPH_SELECT && b->delta[i] > 0))
            b->delta[i] = INFINITY;
    }
    return NULL;
}

/* --- blocks -------------------------------------------------------------------------------------
 */

/* Elements [at, at + n) of operand k; one element serves all. reduce_precision takes the type's own
 * floats, for it counts their bits. */
static void load_operand(block *b, const bounds *all, int k, int64_t at) {
    const graph_value value = b->op->operands[k];
    const graph_type *type = &all->g->types[value];
    const bounded *from = &all->values[value];
    const bool is_wide = bounds_is_wide(type->dtype);
    const bool is_scalar = ref_count(type) == 1;
    const size_t size = is_wide ? 8 : dtype_size(type->dtype);
    const char *src = (const char *)from->value + (is_scalar ? 0 : (size_t)at * size);
    uint8_t *to = b->in[k];
    if (is_scalar)
        ref_fill(to, src, b->n, size);
    else
        memcpy(to, src, (size_t)b->n * size);
    b->is_loose[k] = from->radius != NULL;
    for (int i = 0; i < b->n; i++)
        b->r[k][i] = from->radius ? from->radius[is_scalar ? 0 : at + i] : 0;
    to_doubles(is_wide ? VTRN_DTYPE_FP64 : type->dtype, to, b->x[k], b->n);
    if (is_wide && b->dtype[k] != VTRN_DTYPE_FP64)
        bounds_store(b->dtype[k], b->x[k], to, b->n);
}

static vtrn_status run_block(block *b, const bounds *all, int64_t at, bounded *out) {
    const vtrn_dtype own = all->g->types[b->op->results[0]].dtype;
    const void *in[MAX_OPERANDS] = {NULL};
    for (int k = 0; k < b->n_in; k++) {
        load_operand(b, all, k, at);
        in[k] = b->in[k];
    }
    VTRN_RETURN_IF_ERROR(run(b, in, b->v));
    if (!bounds_is_wide(own))
        memcpy((char *)out->value + (size_t)at * dtype_size(own), b->out,
               (size_t)b->n * dtype_size(own));
    VTRN_RETURN_IF_ERROR(find_deltas(b));
    if (bounds_is_wide(own)) {
        add_own_error(b);
        bounds_settle(own, b->v, b->delta, b->n);
        memcpy((double *)out->value + at, b->v, (size_t)b->n * sizeof(double));
    }
    memcpy(out->radius + at, b->delta, (size_t)b->n * sizeof(double));
    return NULL;
}

vtrn_status bounds_elementwise(const bounds *all, const graph_op *op, bounded *out) {
    const graph_type *result = &all->g->types[op->results[0]];
    const int64_t n = ref_count(result);
    const bool is_own = op->kind == GRAPH_REDUCE_PRECISION;
    block *b = malloc(sizeof *b);
    if (!b)
        return VTRN_OUT_OF_MEMORY(sizeof *b);
    b->types = is_own ? all->g : &all->wide;
    b->op = op;
    b->n_in = (int)op->n_operands;
    b->result = b->types->types[op->results[0]].dtype;
    for (int k = 0; k < b->n_in; k++)
        b->dtype[k] = b->types->types[op->operands[k]].dtype;
    vtrn_status status =
        bounds_array(n, bounds_is_wide(result->dtype) ? 8 : dtype_size(result->dtype), &out->value);
    if (!status)
        status = bounds_array(n, sizeof(double), (void **)&out->radius);
    for (int64_t at = 0; at < n && !status; at += REF_BLOCK) {
        b->n = (int)(n - at < REF_BLOCK ? n - at : REF_BLOCK);
        status = run_block(b, all, at, out);
    }
    free(b);
    out->radius = bounds_nonzero(out->radius, n);
    return status;
}
