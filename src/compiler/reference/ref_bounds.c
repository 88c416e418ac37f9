/* Values with bounds: rounding, and the evaluation of a graph op by op. */
#include "compiler/reference/ref_bounds.h"

#include <math.h>

bool bounds_is_wide(vtrn_dtype t) {
    return dtype_is_float(t) && dtype_size(t) <= 4;
}

void bounds_load(vtrn_dtype t, const void *src, double *dst, int64_t n) {
    float block[REF_BLOCK];
    for (int64_t i = 0; i < n; i += REF_BLOCK) {
        const int64_t m = n - i < REF_BLOCK ? n - i : REF_BLOCK;
        dtype_load_fp32(t, (const char *)src + i * dtype_size(t), block, (size_t)m);
        for (int64_t k = 0; k < m; k++)
            dst[i + k] = block[k];
    }
}

void bounds_store(vtrn_dtype t, const double *src, void *dst, int64_t n) {
    float block[REF_BLOCK];
    for (int64_t i = 0; i < n; i += REF_BLOCK) {
        const int64_t m = n - i < REF_BLOCK ? n - i : REF_BLOCK;
        for (int64_t k = 0; k < m; k++)
            block[k] = (float)src[i + k];
        dtype_store_fp32(t, block, (char *)dst + i * dtype_size(t), (size_t)m);
    }
}

vtrn_status bounds_array(int64_t n, size_t size, void **out) {
    *out = calloc(n ? (size_t)n : 1, size ? size : 1);
    return *out ? NULL : VTRN_OUT_OF_MEMORY((size_t)n * size);
}

double *bounds_nonzero(double *radius, int64_t n) {
    for (int64_t i = 0; radius && i < n; i++)
        if (radius[i] != 0)
            return radius;
    free(radius);
    return NULL;
}

/* src[n] rounded to fp32 and then to t, as an engine stores it. */
static void round_to(vtrn_dtype t, const double *src, double *dst, int64_t n) {
    float block[REF_BLOCK];
    uint8_t narrow[REF_BLOCK * 4];
    for (int64_t k = 0; k < n; k++)
        block[k] = (float)src[k];
    if (t != VTRN_DTYPE_FP32) {
        dtype_store_fp32(t, block, narrow, (size_t)n);
        dtype_load_fp32(t, narrow, block, (size_t)n);
    }
    for (int64_t k = 0; k < n; k++)
        dst[k] = block[k];
}

static double radius_of(double value, double low, double high) {
    if (isnan(value))
        return 0;
    if (low == value && high == value)
        return 0;
    const double r = fmax(value - low, high - value);
    return isfinite(r) ? r : INFINITY;
}

void bounds_settle(vtrn_dtype t, double *v, double *delta, int64_t n) {
    double low[REF_BLOCK], high[REF_BLOCK], end[REF_BLOCK];
    for (int64_t at = 0; at < n; at += REF_BLOCK) {
        const int64_t m = n - at < REF_BLOCK ? n - at : REF_BLOCK;
        double *value = v + at, *radius = delta + at;
        for (int64_t i = 0; i < m; i++) {
            low[i] = value[i] - (radius[i] ? radius[i] : 0);
            high[i] = value[i] + (radius[i] ? radius[i] : 0);
        }
        round_to(VTRN_DTYPE_FP32, low, low, m);
        round_to(VTRN_DTYPE_FP32, high, high, m);
        if (t != VTRN_DTYPE_FP32) { /* a tile may hold the result in its type, or unrounded */
            round_to(t, low, end, m);
            for (int64_t i = 0; i < m; i++)
                low[i] = fmin(low[i], end[i]);
            round_to(t, high, end, m);
            for (int64_t i = 0; i < m; i++)
                high[i] = fmax(high[i], end[i]);
        }
        round_to(t, value, value, m);
        for (int64_t i = 0; i < m; i++)
            radius[i] = isinf(radius[i]) ? INFINITY : radius_of(value[i], low[i], high[i]);
    }
}

void bounds_release(bounded *values, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        free(values[i].value);
        free(values[i].radius);
        values[i] = (bounded){NULL, NULL};
    }
}

/* --- helpers of the ops -------------------------------------------------------------------------
 */

static const graph_type *type_of(const bounds *b, graph_value v) {
    return &b->g->types[v];
}

static size_t element_size(const graph_type *t) {
    return bounds_is_wide(t->dtype) ? sizeof(double) : dtype_size(t->dtype);
}

static vtrn_status evaluate(const graph *g, const graph_op *op, const void *const *in,
                            void *const *out) {
    ref_call c = {.g = g, .op = op, .in = in, .out = out};
    return ref_run(&c);
}

static vtrn_status new_result(bounds *b, graph_value v) {
    const graph_type *t = type_of(b, v);
    return bounds_array(ref_count(t), element_size(t), &b->values[v].value);
}

static vtrn_status set_unknown(bounds *b, graph_value v) {
    const int64_t n = ref_count(type_of(b, v));
    void *p;
    VTRN_RETURN_IF_ERROR(bounds_array(n, sizeof(double), &p));
    double *radius = p;
    for (int64_t i = 0; i < n; i++)
        radius[i] = INFINITY;
    b->values[v].radius = radius;
    return NULL;
}

/* --- ops as they are ----------------------------------------------------------------------------
 */

/* The values in the types of the program, for regions that use them. */
typedef struct own_values {
    const bounds *b;
    arena tmp;
} own_values;

static vtrn_status own_elements(own_values *own, graph_value v, const void **out) {
    const graph_type *t = type_of(own->b, v);
    *out = own->b->values[v].value;
    if (!bounds_is_wide(t->dtype))
        return NULL;
    void *p = arena_alloc(&own->tmp, (size_t)ref_count(t), dtype_size(t->dtype));
    if (!p)
        return VTRN_OUT_OF_MEMORY((size_t)ref_count(t) * dtype_size(t->dtype));
    bounds_store(t->dtype, *out, p, ref_count(t));
    *out = p;
    return NULL;
}

static const void *captured_element(const void *env, graph_value v) {
    own_values *own = (own_values *)(uintptr_t)env;
    const void *p = NULL;
    if (v >= own->b->g->n_values || !own->b->values[v].value || ref_count(type_of(own->b, v)) != 1)
        return NULL;
    vtrn_status_free(own_elements(own, v, &p));
    return p;
}

static bool is_loose(const bounds *b, graph_value v) {
    return b->values[v].radius != NULL;
}

/* Whether a region uses an outer value that is not exact. */
static bool captures_loose(const bounds *b, const graph_region *r) {
    bool found = false;
    for (uint32_t i = 0; i < r->n_ops && !found; i++) {
        for (uint32_t k = 0; k < r->ops[i].n_operands; k++)
            found |= is_loose(b, r->ops[i].operands[k]);
        for (uint32_t k = 0; k < r->ops[i].n_regions; k++)
            found |= captures_loose(b, r->ops[i].regions[k]);
    }
    for (uint32_t i = 0; i < r->n_results; i++)
        found |= is_loose(b, r->results[i]);
    return found;
}

static bool takes_loose(const bounds *b, const graph_op *op) {
    bool found = false;
    for (uint32_t i = 0; i < op->n_operands; i++)
        found |= is_loose(b, op->operands[i]);
    for (uint32_t i = 0; i < op->n_regions; i++)
        found |= captures_loose(b, op->regions[i]);
    return found;
}

static vtrn_status run_own_types(own_values *own, bounds *b, const graph_op *op, const void **in,
                                 void **out) {
    for (uint32_t i = 0; i < op->n_operands; i++)
        VTRN_RETURN_IF_ERROR(own_elements(own, op->operands[i], &in[i]));
    for (uint32_t i = 0; i < op->n_results; i++) {
        const graph_type *t = type_of(b, op->results[i]);
        VTRN_RETURN_IF_ERROR(new_result(b, op->results[i]));
        out[i] = b->values[op->results[i]].value;
        if (!bounds_is_wide(t->dtype))
            continue;
        out[i] = arena_alloc(&own->tmp, (size_t)ref_count(t), dtype_size(t->dtype));
        if (!out[i])
            return VTRN_OUT_OF_MEMORY((size_t)ref_count(t) * dtype_size(t->dtype));
    }
    ref_call c = {.g = b->g,
                  .op = op,
                  .in = in,
                  .out = out,
                  .captured = captured_element,
                  .captured_env = own};
    VTRN_RETURN_IF_ERROR(ref_run(&c));
    for (uint32_t i = 0; i < op->n_results; i++) {
        const graph_type *t = type_of(b, op->results[i]);
        if (bounds_is_wide(t->dtype))
            bounds_load(t->dtype, out[i], b->values[op->results[i]].value, ref_count(t));
    }
    return NULL;
}

/* The reference routine in the program's own types. Its results are exact if its operands are, else
 * unknown. */
static vtrn_status run_own(bounds *b, const graph_op *op) {
    own_values own = {.b = b};
    const bool is_unknown = takes_loose(b, op);
    const void **in = calloc((size_t)op->n_operands + 1, sizeof *in);
    void **out = calloc((size_t)op->n_results + 1, sizeof *out);
    vtrn_status status = in && out ? run_own_types(&own, b, op, in, out)
                                   : VTRN_OUT_OF_MEMORY((op->n_operands + 1) * sizeof *in);
    free(in);
    free(out);
    arena_free(&own.tmp);
    for (uint32_t i = 0; i < op->n_results && is_unknown && !status; i++)
        status = set_unknown(b, op->results[i]);
    return status;
}

/* --- evaluations of arrays derived from values and radii ----------------------------------------
 */

typedef enum derived {
    DERIVED_VALUE,     /* x */
    DERIVED_RADIUS,    /* r */
    DERIVED_MAGNITUDE, /* |x| */
    DERIVED_REACH,     /* |x| + r */
    DERIVED_ONE,       /* 1, to count */
} derived;

static vtrn_status derive(const bounds *b, graph_value v, derived how, arena *tmp,
                          const void **out) {
    const int64_t n = ref_count(type_of(b, v));
    const bounded *from = &b->values[v];
    *out = from->value;
    if (how == DERIVED_VALUE)
        return NULL;
    double *to = ARENA_NEW(tmp, double, (size_t)n);
    if (!to)
        return VTRN_OUT_OF_MEMORY((size_t)n * sizeof *to);
    *out = to;
    const double *x = from->value, *r = from->radius;
    for (int64_t i = 0; i < n; i++)
        to[i] = how == DERIVED_ONE      ? 1
                : how == DERIVED_RADIUS ? (r ? r[i] : 0)
                                        : fabs(x[i]) + (r && how == DERIVED_REACH ? r[i] : 0);
    return NULL;
}

/* Bit i: operand i holds elements that the op moves or combines; the others are places. */
static uint32_t data_operands(const graph_op *op) {
    switch ((graph_kind)op->kind) {
    case GRAPH_DYNAMIC_SLICE:
    case GRAPH_GATHER:
        return 1;
    case GRAPH_DYNAMIC_UPDATE_SLICE:
        return 1 | 2;
    case GRAPH_SCATTER:
        return 1 | 4;
    case GRAPH_SELECT_AND_SCATTER:
        return 2 | 4;
    default:
        return UINT32_MAX;
    }
}

static bool is_data(uint32_t data, uint32_t i) {
    return i > 31 ? data == UINT32_MAX : data >> i & 1;
}

/* The op on arrays derived from its data operands: doubles, whatever the types are, but for
 * DERIVED_VALUE. */
static vtrn_status run_derived(bounds *b, const graph_op *op, derived how, void *out) {
    arena tmp = ARENA_EMPTY;
    const uint32_t data = data_operands(op);
    const void **in = calloc((size_t)op->n_operands + 1, sizeof *in);
    vtrn_status status = in ? NULL : VTRN_OUT_OF_MEMORY((op->n_operands + 1) * sizeof *in);
    graph *g = how == DERIVED_VALUE ? &b->wide : &b->loose;
    for (uint32_t i = 0; i < op->n_operands && !status; i++)
        status = derive(b, op->operands[i], is_data(data, i) ? how : DERIVED_VALUE, &tmp, &in[i]);
    for (uint32_t i = 0; i < op->n_operands && how != DERIVED_VALUE; i++)
        g->types[op->operands[i]].dtype =
            is_data(data, i) ? (uint8_t)VTRN_DTYPE_FP64 : b->wide.types[op->operands[i]].dtype;
    if (how != DERIVED_VALUE)
        g->types[op->results[0]].dtype = VTRN_DTYPE_FP64;
    if (!status)
        status = evaluate(g, op, in, &out);
    free(in);
    arena_free(&tmp);
    return status;
}

static bool has_loose_data(const bounds *b, const graph_op *op, bool is_of_data) {
    bool found = false;
    for (uint32_t i = 0; i < op->n_operands; i++)
        found |= is_data(data_operands(op), i) == is_of_data && is_loose(b, op->operands[i]);
    return found;
}

/* --- movement -----------------------------------------------------------------------------------
 */

static vtrn_status run_movement(bounds *b, const graph_op *op) {
    const graph_value v = op->results[0];
    VTRN_RETURN_IF_ERROR(new_result(b, v));
    VTRN_RETURN_IF_ERROR(run_derived(b, op, DERIVED_VALUE, b->values[v].value));
    if (has_loose_data(b, op, false))
        return set_unknown(b, v);
    if (!has_loose_data(b, op, true))
        return NULL;
    const int64_t n = ref_count(type_of(b, v));
    VTRN_RETURN_IF_ERROR(bounds_array(n, sizeof(double), (void **)&b->values[v].radius));
    VTRN_RETURN_IF_ERROR(run_derived(b, op, DERIVED_RADIUS, b->values[v].radius));
    b->values[v].radius = bounds_nonzero(b->values[v].radius, n);
    return NULL;
}

/* --- sums and their like ------------------------------------------------------------------------
 */

/* What a sum of so many additions in a row is off by at most, relative to the sum of the
 * magnitudes: a quarter of as many roundings is what equal terms, the worst that programs do,
 * accumulate. */
static double sum_error(double n_steps) {
    return (4 + n_steps / 4) * 0x1p-24;
}

/* Additions in a row that engines make of n terms. The Vector engine keeps 16 partial sums of up to
 * 4096 terms, the PE array adds 128 terms to a sum; scans and scatters add one by one. */
static double n_steps(const graph_op *op, double n) {
    const bool is_in_parts =
        op->kind == GRAPH_REDUCE || op->kind == GRAPH_DOT_GENERAL || op->kind == GRAPH_CONVOLUTION;
    return is_in_parts ? fmin(n, 512) + n / 128 : n;
}

/* Half a unit in the last place of 1. */
static double rounding_unit(vtrn_dtype t) {
    double unit = 1, next;
    uint8_t bits[8];
    do {
        unit /= 2;
        bounds_store(t, &(double){1 + unit}, bits, 1);
        bounds_load(t, bits, &next, 1);
    } while (next > 1);
    return unit;
}

static double product_of(graph_ints list) {
    double n = 1;
    for (int64_t i = 0; i < list.n; i++)
        n *= (double)list.v[i];
    return n;
}

/* Terms of each element of the result: the same number everywhere, but for scatters. */
static double n_terms(const bounds *b, const graph_op *op) {
    const graph_type *in = type_of(b, op->operands[0]);
    double n = 1;
    switch ((graph_kind)op->kind) {
    case GRAPH_REDUCE:
        for (int64_t i = 0; i < op->attrs.dims.dims.n; i++)
            n *= (double)in->dims[op->attrs.dims.dims.v[i]];
        return n + 1;
    case GRAPH_REDUCE_WINDOW:
    case GRAPH_SELECT_AND_SCATTER:
        return product_of(op->attrs.window.window) + 1;
    case GRAPH_DOT_GENERAL:
        for (int64_t i = 0; i < op->attrs.dot.lhs_contract.n; i++)
            n *= (double)in->dims[op->attrs.dot.lhs_contract.v[i]];
        return n;
    case GRAPH_CONVOLUTION: {
        const graph_type *w = type_of(b, op->operands[1]);
        n = (double)w->dims[op->attrs.conv.rhs_in_dim];
        for (int64_t i = 0; i < op->attrs.conv.rhs_spatial.n; i++)
            n *= (double)w->dims[op->attrs.conv.rhs_spatial.v[i]];
        return n;
    }
    default:
        return 0;
    }
}

/* radius += what adding up in fp32 is off by. */
static vtrn_status add_sum_error(bounds *b, const graph_op *op, double *radius, int64_t n,
                                 double *tmp) {
    double *counts = NULL;
    VTRN_RETURN_IF_ERROR(run_derived(b, op, DERIVED_REACH, tmp));
    if (op->kind == GRAPH_SCATTER) {
        VTRN_RETURN_IF_ERROR(bounds_array(n, sizeof *counts, (void **)&counts));
        vtrn_status status = run_derived(b, op, DERIVED_ONE, counts);
        for (int64_t i = 0; i < n && !status; i++) /* of one term nothing is rounded */
            radius[i] += counts[i] > 1 ? sum_error(n_steps(op, counts[i])) * tmp[i] : 0;
        free(counts);
        return status;
    }
    double error = sum_error(n_steps(op, n_terms(b, op)));
    const vtrn_dtype t = type_of(b, op->results[0])->dtype;
    const bool is_window = op->kind == GRAPH_REDUCE_WINDOW || op->kind == GRAPH_SELECT_AND_SCATTER;
    if (is_window && t != VTRN_DTYPE_FP32) /* as XLA rounds partial sums */
        error += (1 + n_terms(b, op) / 4) * rounding_unit(t);
    for (int64_t i = 0; i < n; i++)
        radius[i] += error * tmp[i];
    return NULL;
}

/* radius += what the operands' radii and rounding do to products of terms. */
static vtrn_status add_product_error(bounds *b, const graph_op *op, double *radius, int64_t n,
                                     double *tmp) {
    double *magnitude;
    VTRN_RETURN_IF_ERROR(bounds_array(n, sizeof *magnitude, (void **)&magnitude));
    vtrn_status status = run_derived(b, op, DERIVED_REACH, tmp);
    if (!status)
        status = run_derived(b, op, DERIVED_MAGNITUDE, magnitude);
    const double error = (4 + n_terms(b, op)) * 0x1p-24;
    for (int64_t i = 0; i < n && !status; i++)
        radius[i] += tmp[i] - magnitude[i] + error * tmp[i];
    free(magnitude);
    return status;
}

/* Reductions of all kinds whose reducer is one arithmetic op. */
static vtrn_status find_radius(bounds *b, const graph_op *op, double *radius, int64_t n) {
    const bool is_wide = bounds_is_wide(type_of(b, op->results[0])->dtype);
    const graph_kind reducer = ref_reducer_kind((graph_reducer)op->reducer);
    graph_op widest = *op;
    if (reducer != GRAPH_ADD)
        widest.reducer = GRAPH_REDUCER_MAXIMUM;
    if (has_loose_data(b, op, true) && reducer != GRAPH_MULTIPLY)
        VTRN_RETURN_IF_ERROR(run_derived(b, &widest, DERIVED_RADIUS, radius));
    if (!is_wide || (reducer != GRAPH_ADD && reducer != GRAPH_MULTIPLY))
        return NULL;
    double *tmp;
    VTRN_RETURN_IF_ERROR(bounds_array(n, sizeof *tmp, (void **)&tmp));
    vtrn_status status = reducer == GRAPH_ADD ? add_sum_error(b, op, radius, n, tmp)
                                              : add_product_error(b, op, radius, n, tmp);
    free(tmp);
    return status;
}

static vtrn_status run_reduction(bounds *b, const graph_op *op) {
    const graph_value v = op->results[0];
    const graph_type *t = type_of(b, v);
    const int64_t n = ref_count(t);
    bounded *out = &b->values[v];
    VTRN_RETURN_IF_ERROR(new_result(b, v));
    VTRN_RETURN_IF_ERROR(run_derived(b, op, DERIVED_VALUE, out->value));
    const bool is_bitwise = op->reducer == GRAPH_REDUCER_AND || op->reducer == GRAPH_REDUCER_OR ||
                            op->reducer == GRAPH_REDUCER_XOR;
    const bool is_product = op->reducer == GRAPH_REDUCER_MULTIPLY;
    const bool is_wide = bounds_is_wide(t->dtype);
    if (has_loose_data(b, op, false) || (has_loose_data(b, op, true) && !is_wide &&
                                         t->dtype != VTRN_DTYPE_PRED && (is_bitwise || is_product)))
        return set_unknown(b, v);
    VTRN_RETURN_IF_ERROR(bounds_array(n, sizeof(double), (void **)&out->radius));
    VTRN_RETURN_IF_ERROR(find_radius(b, op, out->radius, n));
    if (is_wide)
        bounds_settle(t->dtype, out->value, out->radius, n);
    out->radius = bounds_nonzero(out->radius, n);
    return NULL;
}

/* sum (|a| + ra) (|b| + rb) - sum |a| |b| is what the radii do, and the sums round. */
static vtrn_status run_contraction(bounds *b, const graph_op *op) {
    const graph_value v = op->results[0];
    const graph_type *t = type_of(b, v);
    const int64_t n = ref_count(t);
    bounded *out = &b->values[v];
    double *magnitude = NULL;
    VTRN_RETURN_IF_ERROR(new_result(b, v));
    VTRN_RETURN_IF_ERROR(run_derived(b, op, DERIVED_VALUE, out->value));
    VTRN_RETURN_IF_ERROR(bounds_array(n, sizeof(double), (void **)&out->radius));
    VTRN_RETURN_IF_ERROR(bounds_array(n, sizeof *magnitude, (void **)&magnitude));
    vtrn_status status = run_derived(b, op, DERIVED_REACH, out->radius);
    const bool has_radii = has_loose_data(b, op, true);
    if (!status && has_radii)
        status = run_derived(b, op, DERIVED_MAGNITUDE, magnitude);
    const double error = sum_error(n_steps(op, n_terms(b, op)));
    for (int64_t i = 0; i < n && !status; i++)
        out->radius[i] = out->radius[i] * error + (has_radii ? out->radius[i] - magnitude[i] : 0);
    free(magnitude);
    VTRN_RETURN_IF_ERROR(status);
    bounds_settle(t->dtype, out->value, out->radius, n);
    out->radius = bounds_nonzero(out->radius, n);
    return NULL;
}

/* --- the graph ----------------------------------------------------------------------------------
 */

typedef vtrn_status (*bounds_fn)(bounds *b, const graph_op *op);

static vtrn_status run_elementwise(bounds *b, const graph_op *op) {
    return bounds_elementwise(b, op, &b->values[op->results[0]]);
}

/* No operand or result is a float that the engines lack, or complex. */
static bool is_of_engine_types(const bounds *b, const graph_op *op) {
    bool is_good = op->n_results == 1;
    for (uint32_t i = 0; i < op->n_operands + op->n_results; i++) {
        const graph_value v =
            i < op->n_operands ? op->operands[i] : op->results[i - op->n_operands];
        const vtrn_dtype t = type_of(b, v)->dtype;
        is_good = is_good && (bounds_is_wide(t) || dtype_is_int(t) || t == VTRN_DTYPE_PRED);
    }
    return is_good;
}

static bool is_all_wide(const bounds *b, const graph_op *op) {
    bool is_wide = bounds_is_wide(type_of(b, op->results[0])->dtype);
    for (uint32_t i = 0; i < op->n_operands; i++)
        is_wide = is_wide && bounds_is_wide(type_of(b, op->operands[i])->dtype);
    return is_wide;
}

static bool has_arithmetic_reducer(const graph_op *op) {
    return ref_reducer_kind((graph_reducer)op->reducer) != GRAPH_UNKNOWN;
}

static bounds_fn function_of(const bounds *b, const graph_op *op) {
    if (!is_of_engine_types(b, op))
        return run_own;
    if (ref_is_elementwise((graph_kind)op->kind))
        return run_elementwise;
    switch ((graph_kind)op->kind) {
    case GRAPH_BROADCAST_IN_DIM:
    case GRAPH_RESHAPE:
    case GRAPH_TRANSPOSE:
    case GRAPH_REVERSE:
    case GRAPH_SLICE:
    case GRAPH_DYNAMIC_SLICE:
    case GRAPH_DYNAMIC_UPDATE_SLICE:
    case GRAPH_PAD:
    case GRAPH_CONCATENATE:
    case GRAPH_GATHER:
        return run_movement;
    case GRAPH_SCATTER:
        return op->reducer == GRAPH_REDUCER_REPLACE ? run_movement
               : has_arithmetic_reducer(op)         ? run_reduction
                                                    : run_own;
    case GRAPH_REDUCE:
    case GRAPH_REDUCE_WINDOW:
        return has_arithmetic_reducer(op) ? run_reduction : run_own;
    case GRAPH_SELECT_AND_SCATTER:
        return op->reducer == GRAPH_REDUCER_ADD && op->select >= GRAPH_GE ? run_reduction : run_own;
    case GRAPH_DOT_GENERAL:
    case GRAPH_CONVOLUTION:
        return is_all_wide(b, op) ? run_contraction : run_own;
    default:
        return run_own;
    }
}

static void use_region(const graph_region *r, uint32_t op_i, uint32_t *last_use) {
    for (uint32_t i = 0; i < r->n_ops; i++) {
        for (uint32_t k = 0; k < r->ops[i].n_operands; k++)
            last_use[r->ops[i].operands[k]] = op_i;
        for (uint32_t k = 0; k < r->ops[i].n_regions; k++)
            use_region(r->ops[i].regions[k], op_i, last_use);
    }
    for (uint32_t i = 0; i < r->n_results; i++)
        last_use[r->results[i]] = op_i;
}

/* The op that uses each value last; results of the body outlive all. */
static void find_last_uses(const graph *g, uint32_t *last_use) {
    for (uint32_t i = 0; i < g->body.n_ops; i++) {
        const graph_op *op = &g->body.ops[i];
        for (uint32_t k = 0; k < op->n_results; k++)
            last_use[op->results[k]] = i;
        for (uint32_t k = 0; k < op->n_operands; k++)
            last_use[op->operands[k]] = i;
        for (uint32_t k = 0; k < op->n_regions; k++)
            use_region(op->regions[k], i, last_use);
    }
    for (uint32_t i = 0; i < g->body.n_results; i++)
        last_use[g->body.results[i]] = UINT32_MAX;
}

static void release_dead(bounds *b, const graph_op *op, uint32_t op_i, const uint32_t *last_use) {
    for (uint32_t k = 0; k < op->n_operands + op->n_results; k++) {
        const graph_value v =
            k < op->n_operands ? op->operands[k] : op->results[k - op->n_operands];
        if (last_use[v] == op_i)
            bounds_release(&b->values[v], 1);
    }
}

static vtrn_status evaluate_body(bounds *b, const uint8_t *ran_as_reference,
                                 const uint32_t *last_use) {
    const graph_region *body = &b->g->body;
    for (uint32_t i = 0; i < body->n_ops; i++) {
        const graph_op *op = &body->ops[i];
        const bounds_fn run = ran_as_reference[i] ? run_own : function_of(b, op);
        VTRN_RETURN_IF_ERROR(run(b, op));
        release_dead(b, op, i, last_use);
    }
    return NULL;
}

vtrn_status bounds_evaluate(const graph *g, const uint8_t *ran_as_reference, bounded *values) {
    bounds b = {.g = g, .wide = *g, .loose = *g, .values = values};
    const size_t n = (size_t)g->n_values + 1;
    uint32_t *last_use = calloc(n, sizeof *last_use);
    uint8_t *is_result = calloc(n, 1);
    b.wide.types = malloc(n * sizeof *b.wide.types);
    b.loose.types = malloc(n * sizeof *b.loose.types);
    vtrn_status status = NULL;
    if (!last_use || !is_result || !b.wide.types || !b.loose.types) {
        status = VTRN_OUT_OF_MEMORY(n * sizeof *b.wide.types);
    } else {
        for (uint32_t v = 0; v < g->n_values; v++) {
            b.wide.types[v] = g->types[v];
            if (bounds_is_wide(g->types[v].dtype))
                b.wide.types[v].dtype = VTRN_DTYPE_FP64;
            b.loose.types[v] = b.wide.types[v];
        }
        find_last_uses(g, last_use);
        status = evaluate_body(&b, ran_as_reference, last_use);
        for (uint32_t i = 0; i < g->body.n_results; i++)
            is_result[g->body.results[i]] = 1;
        for (uint32_t v = 0; v < g->n_values; v++)
            if (!is_result[v] || status)
                bounds_release(&values[v], 1);
    }
    free(last_use);
    free(is_result);
    free(b.wide.types);
    free(b.loose.types);
    return status;
}
