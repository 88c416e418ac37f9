/* ApproxTopK: the exact answer, which is one that it may give. Operands: values, their indices, and
 * what loses against every value and its index. NaN counts as larger than all numbers. */
#include "compiler/reference/ref_matrices.h"

#include <math.h>

typedef struct candidate {
    double value;
    int64_t place;
} candidate;

bool ref_top_k_fits(const graph *g, const graph_op *op) {
    if (op->n_operands != 4 || op->n_results != 2)
        return false;
    const graph_type *in = &g->types[op->operands[0]], *out = &g->types[op->results[0]];
    const graph_type *in_i = &g->types[op->operands[1]], *out_i = &g->types[op->results[1]];
    const int64_t dim = matrices_attr(op, "dim", -1);
    bool fits = dim >= 0 && dim < in->rank && out->rank == in->rank && in_i->rank == in->rank &&
                out_i->rank == in->rank && dtype_is_float(in->dtype) && out->dtype == in->dtype &&
                in_i->dtype == VTRN_DTYPE_INT32 && out_i->dtype == VTRN_DTYPE_INT32;
    for (int d = 0; fits && d < in->rank; d++)
        fits = in_i->dims[d] == in->dims[d] && out_i->dims[d] == out->dims[d] &&
               (d == dim ? out->dims[d] <= in->dims[d] : out->dims[d] == in->dims[d]);
    for (int i = 2; fits && i < 4; i++)
        fits = g->types[op->operands[i]].rank == 0 &&
               g->types[op->operands[i]].dtype == g->types[op->operands[i - 2]].dtype;
    return fits;
}

static double value_at(vtrn_dtype t, const void *src, int64_t i) {
    double wide;
    float narrow;
    const bool is_wide = ref_class_of(t) == REF_F64;
    ref_load(t, (const char *)src + i * (int64_t)dtype_size(t), is_wide ? (void *)&wide : &narrow,
             1);
    return is_wide ? wide : narrow;
}

/* The larger value first, of equal ones that in front. */
static int in_order(const void *left, const void *right) {
    const candidate *a = left, *b = right;
    const bool is_nan = isnan(a->value), is_other_nan = isnan(b->value);
    if (is_nan != is_other_nan)
        return is_nan ? -1 : 1;
    if (!is_nan && a->value != b->value)
        return a->value > b->value ? -1 : 1;
    return a->place < b->place ? -1 : 1;
}

static void negate(candidate *c, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        c[i].value = -c[i].value;
}

static int in_order_of_negated(const void *left, const void *right) {
    const candidate *a = left, *b = right;
    if (isnan(a->value) != isnan(b->value)) /* the largest is last here */
        return isnan(a->value) ? 1 : -1;
    return in_order(left, right);
}

vtrn_status ref_top_k(ref_call *c) {
    const graph_type *in = ref_in_type(c, 0), *out = ref_out_type(c, 0);
    if (!ref_top_k_fits(c->g, c->op))
        return ref_malformed(c->op, "its types or its reduction_dim are not those of ApproxTopK");
    const int64_t dim = matrices_attr(c->op, "dim", -1), n = in->dims[dim], k = out->dims[dim];
    const bool is_least = value_at(in->dtype, c->in[2], 0) > 0;
    const size_t size = dtype_size(in->dtype), index_size = sizeof(int32_t);
    int64_t step = 1;
    void *p;
    for (int d = (int)dim + 1; d < in->rank; d++)
        step *= in->dims[d];
    VTRN_RETURN_IF_ERROR(ref_scratch(c, n, sizeof(candidate), &p));
    candidate *row = p;
    const int64_t n_rows = n ? ref_count(in) / n : 0;
    for (int64_t r = 0; r < n_rows; r++) {
        const int64_t first = r / step * step * n + r % step, to = r / step * step * k + r % step;
        for (int64_t i = 0; i < n; i++)
            row[i] = (candidate){value_at(in->dtype, c->in[0], first + i * step), i};
        if (is_least)
            negate(row, n);
        qsort(row, (size_t)n, sizeof *row, is_least ? in_order_of_negated : in_order);
        for (int64_t i = 0; i < k; i++) {
            const int64_t from = first + row[i].place * step;
            memcpy((char *)c->out[0] + (to + i * step) * (int64_t)size,
                   (const char *)c->in[0] + from * (int64_t)size, size);
            memcpy((char *)c->out[1] + (to + i * step) * (int64_t)index_size,
                   (const char *)c->in[1] + from * (int64_t)index_size, index_size);
        }
    }
    return NULL;
}
