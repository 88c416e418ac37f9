/* Running a check: operands from memory, the reference on them, results in memory against it. */
#include "compiler/custom/verify_run.h"

#include "compiler/reference/bounds.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 512 };

/* --- elements under a view ----------------------------------------------------------------------
 */

/* All elements of the view in row-major order, as they are. */
static void gather_elements(const view *v, const void *tensor, void *dst) {
    const size_t size = dtype_size((vtrn_dtype)v->dtype);
    view c = *v;
    view_coalesce(&c);
    const int64_t n = view_count(&c), run = c.n ? c.f[c.n - 1].size : 1;
    const int64_t step = (c.n ? c.f[c.n - 1].stride : 1) * (int64_t)size;
    const char *base = (const char *)tensor + c.offset * (int64_t)size;
    char *to = dst;
    int64_t index[VIEW_MAX_FACTORS] = {0};
    for (int64_t done = 0; done < n; done += run) {
        const char *from = base;
        for (int i = 0; i < c.n - 1; i++)
            from += index[i] * c.f[i].stride * (int64_t)size;
        if (step == (int64_t)size)
            memcpy(to, from, (size_t)run * size);
        for (int64_t i = 0; i < run && step != (int64_t)size; i++)
            memcpy(to + i * (int64_t)size, from + i * step, size);
        to += run * (int64_t)size;
        for (int i = c.n - 2; i >= 0 && ++index[i] == c.f[i].size; i--)
            index[i] = 0;
    }
}

static vtrn_status new_array(int64_t n, size_t size, void **out) {
    *out = calloc((size_t)n + 1, size ? size : 1);
    return *out ? NULL : VTRN_OUT_OF_MEMORY((size_t)n * size);
}

/* The elements of an operand, as the bounds take those of its type. */
static vtrn_status load_argument(const view *v, const graph_type *type, const void *tensor,
                                 bounded *out) {
    const int64_t n = graph_type_count(type);
    const vtrn_dtype stored = (vtrn_dtype)v->dtype, own = (vtrn_dtype)type->dtype;
    const bool is_wide = bounds_is_wide(own);
    void *elements;
    const size_t size = dtype_size(stored) + dtype_size(own); /* room for either */
    VTRN_RETURN_IF_ERROR(new_array(n, size, &elements));
    gather_elements(v, tensor, elements);
    if (stored == own && !is_wide) {
        out->value = elements;
        return NULL;
    }
    vtrn_status status = new_array(n, is_wide ? sizeof(double) : dtype_size(own), &out->value);
    if (!status && is_wide && bounds_is_wide(stored)) {
        bounds_load(stored, elements, out->value, n);
        if (stored != own) { /* a wider float is converted where it is read */
            bounds_store(own, out->value, elements, n);
            bounds_load(own, elements, out->value, n);
        }
    } else if (!status) {
        dtype_convert(stored, elements, is_wide ? VTRN_DTYPE_FP64 : own, out->value, (size_t)n);
    }
    free(elements);
    return status;
}

/* Elements of a float type wider than their own, with the conversion that each reader makes. */
static vtrn_status convert_where_read(vtrn_dtype stored, vtrn_dtype own, void *elements,
                                      int64_t n) {
    void *wide;
    VTRN_RETURN_IF_ERROR(new_array(n, sizeof(double), &wide));
    bounds_load(stored, elements, wide, n);
    bounds_store(own, wide, elements, n);
    free(wide);
    return NULL;
}

/* --- comparing ----------------------------------------------------------------------------------
 */

/* What differs in a result. */
typedef struct difference {
    int64_t n;                /* elements */
    int64_t first, largest_i; /* indices */
    double largest;           /* distance from the reference */
} difference;

static void note(difference *d, int64_t i, double distance) {
    if (d->n++ == 0)
        d->first = d->largest_i = i;
    if (!(distance <= d->largest)) {
        d->largest = distance;
        d->largest_i = i;
    }
}

/* A stored float may be whatever the ends of the interval are when they are stored. */
static void compare_floats(vtrn_dtype stored, const void *got, const bounded *want, int64_t n,
                           difference *out) {
    double x[BLOCK], low[BLOCK], high[BLOCK];
    uint8_t edge[BLOCK * 8];
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int64_t m = n - at < BLOCK ? n - at : BLOCK;
        const double *value = (const double *)want->value + at;
        const double *radius = want->radius ? want->radius + at : NULL;
        for (int64_t i = 0; i < m; i++) {
            low[i] = value[i] - (radius && radius[i] ? radius[i] : 0);
            high[i] = value[i] + (radius && radius[i] ? radius[i] : 0);
        }
        bounds_load(stored, (const char *)got + at * (int64_t)dtype_size(stored), x, m);
        bounds_store(stored, low, edge, m);
        bounds_load(stored, edge, low, m);
        bounds_store(stored, high, edge, m);
        bounds_load(stored, edge, high, m);
        for (int64_t i = 0; i < m; i++) {
            const bool is_unknown = radius && isinf(radius[i]);
            const bool is_same = (x[i] >= low[i] && x[i] <= high[i]) ||
                                 (isnan(x[i]) && (isnan(low[i]) || isnan(high[i])));
            if (!is_unknown && !is_same)
                note(out, at + i, fabs(x[i] - value[i]));
        }
    }
}

/* Integers, truth values, and what no engine computes with: the same bytes, but for a radius. */
static void compare_others(vtrn_dtype t, const void *got, const void *value, const double *radius,
                           int64_t n, difference *out) {
    const size_t size = dtype_size(t);
    for (int64_t i = 0; i < n; i++) {
        const char *a = (const char *)got + (size_t)i * size;
        const char *b = (const char *)value + (size_t)i * size;
        double x, y;
        if (memcmp(a, b, size) == 0)
            continue;
        dtype_convert(t, a, VTRN_DTYPE_FP64, &x, 1);
        dtype_convert(t, b, VTRN_DTYPE_FP64, &y, 1);
        if (!radius || !(fabs(x - y) <= radius[i]))
            note(out, i, fabs(x - y));
    }
}

/* --- what a person reads ------------------------------------------------------------------------
 */

enum { TEXT = 192 };

/* 65536 as 65,536. */
static void print_count(char *text, int64_t n) {
    char digits[32];
    const int len = snprintf(digits, sizeof digits, "%" PRId64, n);
    int at = 0;
    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0)
            text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = '\0';
}

/* "[3,17]", "[]" for a scalar */
static void print_index(char *text, const graph_type *t, int64_t linear) {
    int64_t index[GRAPH_MAX_RANK];
    for (int d = t->rank - 1; d >= 0; d--) {
        index[d] = linear % t->dims[d];
        linear /= t->dims[d];
    }
    int at = snprintf(text, TEXT, "[");
    for (int d = 0; d < t->rank && at < TEXT; d++)
        at += snprintf(text + at, (size_t)(TEXT - at), "%s%" PRId64, d ? "," : "", index[d]);
    if (at < TEXT)
        snprintf(text + at, (size_t)(TEXT - at), "]");
}

static void print_element(char *text, vtrn_dtype t, const void *element) {
    double v[2] = {0, 0};
    float f[2];
    if (t == VTRN_DTYPE_C128)
        memcpy(v, element, sizeof v);
    if (t == VTRN_DTYPE_C64) {
        memcpy(f, element, sizeof f);
        v[0] = f[0];
        v[1] = f[1];
    }
    if (t == VTRN_DTYPE_C64 || t == VTRN_DTYPE_C128) {
        snprintf(text, TEXT, "%.9g%+.9gi", v[0], v[1]);
        return;
    }
    if (dtype_is_float(t)) { /* FP64: of an fp32 or narrower, or what no engine computed */
        dtype_convert(t, element, VTRN_DTYPE_FP64, v, 1);
        snprintf(text, TEXT, "%.9g", v[0]);
        return;
    }
    int64_t i = 0;
    uint64_t u = 0;
    if (t == VTRN_DTYPE_PRED)
        u = *(const uint8_t *)element;
    else if (dtype_is_signed_int(t))
        dtype_convert(t, element, VTRN_DTYPE_INT64, &i, 1);
    else
        dtype_convert(t, element, VTRN_DTYPE_UINT64, &u, 1);
    if (dtype_is_signed_int(t))
        snprintf(text, TEXT, "%" PRId64, i);
    else if (t == VTRN_DTYPE_PRED && u <= 1)
        snprintf(text, TEXT, "%s", u ? "true" : "false");
    else
        snprintf(text, TEXT, "%" PRIu64, u);
}

/* One result in memory and what it should be. */
typedef struct comparison {
    const graph_type *type;
    const char *op, *source;
    vtrn_dtype stored, own; /* own: of `value` below */
    const void *got, *value;
    const double *radius;
    difference found;
} comparison;

/* The ops between the operands in memory and the results, one of which is at fault; empty for one.
 */
static void print_kernel(char *text, size_t size, const graph_region *body) {
    enum { MAX_NAMED = 8 };
    uint32_t n = 0, n_all = 0;
    for (uint32_t i = 0; i < body->n_ops; i++)
        n_all += body->ops[i].kind != GRAPH_CONSTANT;
    size_t at = 0;
    text[0] = '\0';
    if (n_all > 1)
        at = (size_t)snprintf(text, size, "\n  in one kernel of %u operations: ", n_all);
    for (uint32_t i = 0; i < body->n_ops && n_all > 1 && n < MAX_NAMED && at < size; i++) {
        const graph_op *op = &body->ops[i];
        if (op->kind == GRAPH_CONSTANT)
            continue;
        at += (size_t)snprintf(text + at, size - at, "%s%s%s%s", n++ ? ", " : "",
                               graph_kind_name((graph_kind)op->kind), *op->place ? " " : "",
                               op->place);
    }
    if (n < n_all && n && at < size)
        snprintf(text + at, size - at, ", ...");
}

static vtrn_status report(const comparison *c, const graph_region *checked) {
    char ops[1024], place[TEXT], worst[TEXT], got[TEXT], want[TEXT], n[32], total[32],
        allowed[64] = "";
    const int64_t first = c->found.first;
    print_kernel(ops, sizeof ops, checked);
    print_index(place, c->type, first);
    print_index(worst, c->type, c->found.largest_i);
    print_element(got, c->stored, (const char *)c->got + first * (int64_t)dtype_size(c->stored));
    print_element(want, c->own, (const char *)c->value + first * (int64_t)dtype_size(c->own));
    print_count(n, c->found.n);
    print_count(total, graph_type_count(c->type));
    if (c->radius)
        snprintf(allowed, sizeof allowed, " (within %.2g)", c->radius[first]);
    const bool has_source = c->source[0] != '\0';
    return VTRN_ERROR(VTRN_INTERNAL,
                      "verify: %s%s%s%s element %s is %s, the reference gives %s%s; %s of %s "
                      "elements differ (first at %s, largest difference %.6g at %s)%s",
                      c->op, has_source ? " (" : "", c->source, has_source ? ")" : "", place, got,
                      want, allowed, n, total, place, c->found.largest, worst, ops);
}

/* Narrow values for the report: the reference's in the type that is stored. */
static vtrn_status compare_result(const verify_check *check, uint32_t i, const bounded *want,
                                  const void *tensor) {
    const graph *g = check->g;
    const view *at = &check->results[i];
    comparison c = {.type = &g->types[g->body.results[i]],
                    .op = check->op[i],
                    .source = check->source[i],
                    .stored = (vtrn_dtype)at->dtype,
                    .radius = want->radius};
    const vtrn_dtype own = (vtrn_dtype)c.type->dtype;
    const int64_t n = graph_type_count(c.type);
    void *got, *value = NULL;
    VTRN_RETURN_IF_ERROR(new_array(n, dtype_size(c.stored), &got));
    gather_elements(at, tensor, got);
    const bool is_float = bounds_is_wide(own) && bounds_is_wide(c.stored);
    vtrn_status status = NULL;
    if (is_float && dtype_size(c.stored) > dtype_size(own)) {
        status = convert_where_read(c.stored, own, got, n);
        c.stored = own;
    }
    if (status) {
        free(got);
        return status;
    }
    if (is_float) {
        compare_floats(c.stored, got, want, n, &c.found);
        c.value = want->value;
        c.own = VTRN_DTYPE_FP64;
    } else {
        status = new_array(n, dtype_size(c.stored), &value);
        if (!status)
            dtype_convert(bounds_is_wide(own) ? VTRN_DTYPE_FP64 : own, want->value, c.stored, value,
                          (size_t)n);
        const bool is_as_is = c.stored == own;
        c.value = is_as_is ? want->value : value;
        c.own = c.stored;
        if (!status)
            compare_others(c.stored, got, c.value, c.radius, n, &c.found);
    }
    c.got = got;
    if (!status && c.found.n)
        status = report(&c, &g->body);
    free(got);
    free(value);
    return status;
}

static vtrn_status run_check(const verify_check *check, void *const *tensors, bounded *values) {
    const graph *g = check->g;
    for (uint32_t i = 0; i < g->body.n_args; i++) {
        const view *at = &check->arguments[i];
        VTRN_RETURN_IF_ERROR(load_argument(at, &g->types[g->body.args[i]], tensors[at->slot],
                                           &values[g->body.args[i]]));
    }
    VTRN_RETURN_IF_ERROR(bounds_evaluate(g, check->ran_as_reference, values));
    for (uint32_t i = 0; i < g->body.n_results; i++)
        VTRN_RETURN_IF_ERROR(
            compare_result(check, i, &values[g->body.results[i]], tensors[check->results[i].slot]));
    return NULL;
}

vtrn_status verify_run(const vtrn_custom *custom, void *const *tensors) {
    verify_check check;
    VTRN_RETURN_IF_ERROR(verify_decode(custom->blob, custom->blob_size, &check));
    bounded *values = calloc(check.g->n_values + 1, sizeof *values);
    vtrn_status status = values ? run_check(&check, tensors, values)
                                : VTRN_OUT_OF_MEMORY(check.g->n_values * sizeof *values);
    if (values)
        bounds_release(values, check.g->n_values);
    free(values);
    graph_destroy(check.g);
    return status;
}

/* --- checks from files --------------------------------------------------------------------------
 */

static bool is_inside(const view *v, const graph_type *t, const vtrn_slot *slot) {
    const int64_t size = (int64_t)dtype_size((vtrn_dtype)v->dtype);
    int64_t low = v->offset, high = v->offset, count = 1;
    bool is_bad = t->is_token || size == 0;
    for (int i = 0; i < v->n && !is_bad; i++) {
        int64_t reach;
        is_bad = v->f[i].size < 0 || __builtin_mul_overflow(count, v->f[i].size, &count) ||
                 __builtin_mul_overflow(v->f[i].size - 1, v->f[i].stride, &reach) ||
                 __builtin_add_overflow(reach < 0 ? low : high, reach, reach < 0 ? &low : &high);
    }
    is_bad |= count != graph_type_count(t);
    if (is_bad || count == 0)
        return !is_bad;
    return low >= 0 && high < (int64_t)(slot->size_bytes / (uint64_t)size);
}

vtrn_status verify_check_places(const vtrn_program *p, const vtrn_custom *custom,
                                const verify_check *check) {
    const graph_region *body = &check->g->body;
    for (uint32_t i = 0; i < body->n_args + body->n_results; i++) {
        const bool is_argument = i < body->n_args;
        const uint32_t k = is_argument ? i : i - body->n_args;
        const view *v = is_argument ? &check->arguments[k] : &check->results[k];
        const graph_value value = is_argument ? body->args[k] : body->results[k];
        if (v->slot >= custom->n_inputs ||
            !is_inside(v, &check->g->types[value], &p->slots[custom->slots[v->slot]]))
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "%s %u of a check is outside of its tensor; compile the program "
                              "again",
                              is_argument ? "operand" : "result", k);
    }
    if (custom->n_outputs)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "a check writes no tensors, this one %u; compile the program again",
                          custom->n_outputs);
    return NULL;
}
