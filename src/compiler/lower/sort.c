/* sort: a merging network along each row. Keys are integers that sort as the values do, on GpSimd;
 * equal keys keep the order of their positions. */
#include "compiler/lower/fusion.h"
#include "compiler/lower/scalar_region.h"

#include <math.h>
#include <string.h>

enum { MAX_COLS = 4096, MAX_INSTRUCTIONS = 1 << 17 };

/* How the comparator orders the first operand; it looks at no other. */
typedef struct order {
    bool is_descending;
    bool is_total; /* -0 before 0, NaNs outside; else zeros are equal, and NaNs, behind all */
} order;

static double rank_of(double x, bool is_total) {
    double rank = isnan(x) ? 4 : isinf(x) ? 3 : fabs(x) > 0 ? 2 : is_total ? 1 : 0;
    return signbit(x) && (is_total || !isnan(x)) ? -rank : rank;
}

static bool comes_before(double a, double b, const order *o) {
    double x = rank_of(a, o->is_total), y = rank_of(b, o->is_total);
    if (x == y && !isnan(a)) {
        x = a;
        y = b;
    }
    return o->is_descending ? x > y : x < y;
}

static bool is_order(const lower *l, const graph_op *op, vtrn_dtype t, const order *o) {
    static const double values[] = {0, 1, 3, -1, -2.5, -INFINITY, INFINITY, -0.0, NAN, -NAN};
    int n = t == VTRN_DTYPE_PRED ? 2 : dtype_is_float(t) ? 10 : dtype_is_signed_int(t) ? 4 : 3;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            for (int k = 0; k < 2; k++) {
                double args[2 * SORT_MAX_OPERANDS] = {values[i], values[j]}, got;
                for (uint32_t a = 2; a < 2 * op->n_operands; a++)
                    args[a] = (a + (uint32_t)k) % 2;
                if (!scalar_region_eval(l, op->regions[0], args, &got) ||
                    (got != 0) != comes_before(values[i], values[j], o))
                    return false;
            }
    return true;
}

static bool find_order(const lower *l, const graph_op *op, vtrn_dtype t, order *out) {
    for (int k = 0; k < 4; k++) {
        *out = (order){.is_descending = k & 1, .is_total = k & 2};
        if (is_order(l, op, t, out))
            return true;
    }
    return false;
}

static uint64_t sbuf_bytes(const kernel_sort *s) {
    return (uint64_t)(2 + s->n_operands) * sbuf_round((uint64_t)s->cols * 4) +
           3 * sbuf_round((uint64_t)s->cols * 2);
}

static bool size_network(const lower *l, const graph_op *op, kernel_sort *s) {
    const graph_type *t = &l->g->types[op->operands[0]];
    int64_t n = t->dims[op->attrs.sort.dimension], n_rows = graph_type_count(t) / (n ? n : 1);
    vtrn_dtype unused;
    if (n > MAX_COLS || n_rows == 0 || op->n_operands > SORT_MAX_OPERANDS)
        return false;
    for (uint32_t i = 0; i < op->n_operands; i++)
        if (!fusion_tile_dtype((vtrn_dtype)l->g->types[op->operands[i]].dtype, &unused))
            return false;
    s->n = (uint32_t)n;
    s->n_rows = n_rows;
    s->n_operands = (int)op->n_operands;
    int log2 = 1;
    for (s->cols = 2; s->cols < s->n; log2++)
        s->cols *= 2;
    int64_t n_stages = log2 * (log2 + 1) / 2;
    return sbuf_bytes(s) <= l->plan->sbuf_limit &&
           n_stages * (5 + 3 * (2 + s->n_operands)) *
                   ((n_rows + tile_max_rows(l->chip) - 1) / tile_max_rows(l->chip)) <=
               MAX_INSTRUCTIONS;
}

vtrn_status lower_sort(lower *l, const graph_op *op, bool *is_done) {
    kernel_sort s = {0};
    order o;
    if (op->n_results != op->n_operands || !size_network(l, op, &s) ||
        !find_order(l, op, (vtrn_dtype)l->g->types[op->operands[0]].dtype, &o))
        return NULL;
    *is_done = true;
    s.is_descending = o.is_descending;
    s.is_total = o.is_total;
    int dim = (int)op->attrs.sort.dimension;
    for (int i = 0; i < s.n_operands; i++)
        VTRN_RETURN_IF_ERROR(lower_dim_last(l, op->operands[i], dim, false, &s.from[i].map));
    for (int i = 0; i < s.n_operands; i++) {
        view unused;
        VTRN_RETURN_IF_ERROR(lower_result(l, op->results[i], &unused));
        VTRN_RETURN_IF_ERROR(lower_dim_last(l, op->results[i], dim, false, &s.to[i].map));
        VTRN_CHECK(view_split_at(&s.from[i].map, s.n, &s.from[i].n_outer) &&
                       view_split_at(&s.to[i].map, s.n, &s.to[i].n_outer),
                   "the sorted dim is a boundary");
    }
    VTRN_RETURN_IF_ERROR(plan_kernel(l->plan, KERNEL_SORT, &s, sizeof s,
                                     (kernel_demand){.sbuf_bytes = sbuf_bytes(&s)}));
    for (int i = 0; i < s.n_operands; i++) {
        VTRN_RETURN_IF_ERROR(plan_reads(l->plan, &s.from[i].map));
        VTRN_RETURN_IF_ERROR(plan_writes(l->plan, &s.to[i].map));
    }
    return NULL;
}
