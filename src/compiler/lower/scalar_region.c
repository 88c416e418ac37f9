/* Comparators and reducers evaluated on a few scalars: comparisons, selections and logic only, so
 * that what they do on one value of each kind is what they do on all. */
#include "compiler/lower/scalar_region.h"

#include <math.h>
#include <string.h>

enum { MAX_KNOWN = 64 };

typedef struct known {
    const lower *l;
    int n;
    graph_value value[MAX_KNOWN];
    double x[MAX_KNOWN];
} known;

static bool set(known *k, graph_value v, double x) {
    if (k->n == MAX_KNOWN)
        return false;
    k->value[k->n] = v;
    k->x[k->n++] = x;
    return true;
}

static double from_bits(vtrn_dtype t, const void *bytes, bool *is_ok) {
    float f = 0;
    *is_ok = dtype_size(t) <= 4;
    if (t == VTRN_DTYPE_INT32)
        return *(const int32_t *)bytes;
    if (t == VTRN_DTYPE_UINT32)
        return *(const uint32_t *)bytes;
    if (*is_ok)
        dtype_load_fp32(t, bytes, &f, 1);
    return f;
}

static bool get(const known *k, graph_value v, double *out) {
    for (int i = 0; i < k->n; i++)
        if (k->value[i] == v) {
            *out = k->x[i];
            return true;
        }
    const lower_value *value = &k->l->values[v];
    bool is_ok = value->state == VALUE_SPLAT;
    if (is_ok)
        *out = from_bits((vtrn_dtype)k->l->g->types[v].dtype, &value->splat_bits, &is_ok);
    return is_ok;
}

/* Rank in the total order of floats: -NaN, -inf, ..., -0, 0, ..., inf, NaN. */
static double total_rank(double x) {
    double rank = isnan(x) ? 4 : isinf(x) ? 3 : fabs(x) > 0 ? 2 : 1;
    return signbit(x) ? -rank : rank;
}

static bool compare(const graph_attrs *at, double a, double b) {
    if (at->compare.type == GRAPH_CMP_TOTALORDER) {
        double rank_a = total_rank(a), rank_b = total_rank(b);
        if (rank_a != rank_b || isnan(a)) {
            a = rank_a;
            b = rank_b;
        }
    }
    switch (at->compare.direction) {
    case GRAPH_EQ:
        return a == b;
    case GRAPH_NE:
        return a != b;
    case GRAPH_GE:
        return a >= b;
    case GRAPH_GT:
        return a > b;
    case GRAPH_LE:
        return a <= b;
    default:
        return a < b;
    }
}

static bool eval_op(known *k, const graph_op *op) {
    double in[3] = {0};
    if (op->n_results != 1 || op->n_operands > 3 || op->n_regions)
        return false;
    for (uint32_t i = 0; i < op->n_operands; i++)
        if (!get(k, op->operands[i], &in[i]))
            return false;
    const graph_type *t = &k->l->g->types[op->results[0]];
    bool is_pred = t->dtype == VTRN_DTYPE_PRED, is_ok = true;
    switch ((graph_kind)op->kind) {
    case GRAPH_CONSTANT: {
        double x = from_bits((vtrn_dtype)t->dtype, op->attrs.constant.data, &is_ok);
        return is_ok && set(k, op->results[0], x);
    }
    case GRAPH_COMPARE:
        return set(k, op->results[0], compare(&op->attrs, in[0], in[1]));
    case GRAPH_SELECT:
        return set(k, op->results[0], in[0] != 0 ? in[1] : in[2]);
    case GRAPH_AND:
        return is_pred && set(k, op->results[0], in[0] != 0 && in[1] != 0);
    case GRAPH_OR:
        return is_pred && set(k, op->results[0], in[0] != 0 || in[1] != 0);
    case GRAPH_NOT:
        return is_pred && set(k, op->results[0], in[0] == 0);
    default:
        return false;
    }
}

bool scalar_region_eval(const lower *l, const graph_region *region, const double *args,
                        double *results) {
    known k = {.l = l};
    for (uint32_t i = 0; i < region->n_args; i++)
        if (graph_type_count(&l->g->types[region->args[i]]) != 1 ||
            !set(&k, region->args[i], args[i]))
            return false;
    for (uint32_t i = 0; i < region->n_ops; i++)
        if (!eval_op(&k, &region->ops[i]))
            return false;
    for (uint32_t i = 0; i < region->n_results; i++)
        if (!get(&k, region->results[i], &results[i]))
            return false;
    return true;
}
