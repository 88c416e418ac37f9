/* cholesky and triangular_solve, in double precision whatever the type. */
#include "compiler/reference/ref_internal.h"

#include <math.h>

/* Lower factor of the n x n matrix a (lower triangle read), in place; NaN when not positive. */
static void factor(double complex *a, int64_t n) {
    for (int64_t j = 0; j < n; j++) {
        double d = creal(a[j * n + j]);
        for (int64_t k = 0; k < j; k++)
            d -= creal(a[j * n + k] * conj(a[j * n + k]));
        d = d > 0 ? sqrt(d) : NAN;
        a[j * n + j] = d;
        for (int64_t i = j + 1; i < n; i++) {
            double complex v = a[i * n + j];
            for (int64_t k = 0; k < j; k++)
                v -= a[i * n + k] * conj(a[j * n + k]);
            a[i * n + j] = v / d;
        }
    }
}

static vtrn_status load_complex(ref_call *c, uint32_t i, double complex **out) {
    void *p;
    VTRN_RETURN_IF_ERROR(ref_load_all(c, i, REF_C128, &p));
    *out = p;
    return NULL;
}

/* Rounds double complex to a result, real part only when it is real. */
static vtrn_status store_complex(ref_call *c, uint32_t result_i, const double complex *v) {
    const graph_type *t = ref_out_type(c, result_i);
    const ref_class cls = ref_class_of(t->dtype);
    const int64_t n = ref_count(t);
    void *p;
    VTRN_RETURN_IF_ERROR(ref_scratch(c, n, ref_class_size(cls), &p));
    for (int64_t i = 0; i < n; i++) {
        if (cls == REF_C128)
            ((double complex *)p)[i] = v[i];
        else if (cls == REF_F64)
            ((double *)p)[i] = creal(v[i]);
        else
            ((float *)p)[i] = (float)creal(v[i]);
    }
    ref_store(t->dtype, p, c->out[result_i], n);
    return NULL;
}

static vtrn_status check_matrix(ref_call *c, const graph_type *t) {
    if (t->rank < 2 || dtype_is_int(t->dtype) || t->dtype == VTRN_DTYPE_PRED)
        return ref_malformed(c->op, "matrices of floats or complex numbers");
    return NULL;
}

vtrn_status ref_cholesky(ref_call *c) {
    const graph_type *t = ref_in_type(c, 0);
    const bool is_lower = c->op->attrs.flag.value;
    double complex *a, *m;
    void *p;
    VTRN_RETURN_IF_ERROR(check_matrix(c, t));
    const int64_t n = t->dims[t->rank - 1];
    VTRN_RETURN_IF_ERROR(load_complex(c, 0, &a));
    VTRN_RETURN_IF_ERROR(ref_scratch(c, n * n, sizeof(double complex), &p));
    m = p;
    const int64_t n_matrices = n ? ref_count(t) / (n * n) : 0;
    for (int64_t b = 0; b < n_matrices; b++, a += n * n) {
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++)
                m[i * n + j] = is_lower ? a[i * n + j] : conj(a[j * n + i]);
        factor(m, n);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) {
                const int64_t low = is_lower ? i : j, high = is_lower ? j : i;
                const double complex v = m[low * n + high];
                a[i * n + j] = low < high ? 0 : is_lower ? v : conj(v);
            }
    }
    return store_complex(c, 0, a - n_matrices * n * n);
}

/* op(a)[i][j] of an n x n triangle; the other triangle is not read. */
static double complex entry(const ref_call *c, const double complex *a, int64_t n, int64_t i,
                            int64_t j) {
    if (i == j && c->op->attrs.triangular.unit_diagonal)
        return 1;
    switch (c->op->attrs.triangular.transpose_a) {
    case 2:
        return a[j * n + i];
    case 3:
        return conj(a[j * n + i]);
    default:
        return a[i * n + j];
    }
}

/* Solves op(a) x = b, or x op(a) = b, for one right-hand side with elements `step` apart. */
static void solve_one(const ref_call *c, const double complex *a, int64_t n, double complex *x,
                      int64_t step) {
    const bool left = c->op->attrs.triangular.left_side;
    const bool transposed = c->op->attrs.triangular.transpose_a > 1;
    /* x op(a) = b is op(a)^T x^T = b^T: one more transposition swaps the triangle again. */
    const bool forward = (c->op->attrs.triangular.lower != transposed) == left;
    for (int64_t s = 0; s < n; s++) {
        const int64_t i = forward ? s : n - 1 - s;
        double complex v = x[i * step];
        for (int64_t k = forward ? 0 : i + 1; k < (forward ? i : n); k++)
            v -= (left ? entry(c, a, n, i, k) : entry(c, a, n, k, i)) * x[k * step];
        x[i * step] = c->op->attrs.triangular.unit_diagonal ? v : v / entry(c, a, n, i, i);
    }
}

vtrn_status ref_triangular_solve(ref_call *c) {
    const graph_type *at = ref_in_type(c, 0), *bt = ref_in_type(c, 1);
    double complex *a, *b;
    VTRN_RETURN_IF_ERROR(check_matrix(c, at));
    VTRN_RETURN_IF_ERROR(check_matrix(c, bt));
    const int64_t n = at->dims[at->rank - 1], rows = bt->dims[bt->rank - 2],
                  cols = bt->dims[bt->rank - 1];
    VTRN_RETURN_IF_ERROR(load_complex(c, 0, &a));
    VTRN_RETURN_IF_ERROR(load_complex(c, 1, &b));
    const int64_t n_matrices = rows * cols > 0 ? ref_count(bt) / (rows * cols) : 0;
    const bool left = c->op->attrs.triangular.left_side;
    if ((left ? rows : cols) != n && n_matrices)
        return ref_malformed(c->op, "the sizes of a and b match");
    for (int64_t m = 0; m < n_matrices; m++)
        for (int64_t k = 0; k < (left ? cols : rows); k++)
            solve_one(c, a + m * n * n, n, b + m * rows * cols + (left ? k : k * cols),
                      left ? cols : 1);
    return store_complex(c, 0, b);
}
