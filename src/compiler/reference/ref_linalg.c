/* The table of linear algebra that JAX asks for by custom call: factorisations and what solves with
 * them, each for one matrix. The targets vtrn.* are those of python/vtrn/jax_linalg.py. */
#include "compiler/reference/ref_matrices.h"

static void *scalar_at(const matrices_call *c, void *numbers, int64_t i) {
    return (char *)numbers + i * (int64_t)c->la->scalar_size;
}

static void copy(const matrices_call *c, void *dst, const void *src, int64_t n) {
    memcpy(dst, src, (size_t)n * c->la->scalar_size);
}

static int64_t lesser(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The lower triangle of a becomes the adjoint of the upper one, which is what the caller means. */
static void use_upper(const matrices_call *c, void *a, int64_t n) {
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = j + 1; i < n; i++)
            if (c->is_complex)
                ((double complex *)a)[j * n + i] = conj(((double complex *)a)[i * n + j]);
            else
                ((double *)a)[j * n + i] = ((double *)a)[i * n + j];
}

static bool eigh_fits(const matrices_call *c) {
    const int64_t first = matrices_attr(c->op, "first", 0), n = matrices_size(c, 'n');
    return c->n_results == 2 && first >= 0 && first <= n && matrices_size(c, 'd') <= n - first;
}

static bool run_eigh(matrices_call *c) {
    const int64_t n = matrices_size(c, 'n'), d = matrices_size(c, 'd');
    const int64_t first = matrices_attr(c->op, "first", 0);
    double *values = c->work_matrices;
    if (!matrices_attr(c->op, "lower", 1))
        use_upper(c, c->in[0], n);
    if (!c->la->eigh(c->in[0], n, values, c->work))
        return false;
    copy(c, c->out[0], scalar_at(c, c->in[0], first * n), n * d);
    memcpy(c->out[1], values + first, (size_t)d * sizeof *values);
    return true;
}

static bool qr_fits(const matrices_call *c) {
    return c->n_results == 2 &&
           matrices_size(c, 'k') == lesser(matrices_size(c, 'm'), matrices_size(c, 'n'));
}

static bool run_qr(matrices_call *c) {
    const int64_t m = matrices_size(c, 'm'), n = matrices_size(c, 'n');
    copy(c, c->out[0], c->in[0], m * n);
    c->la->qr(c->out[0], m, n, c->out[1]);
    return true;
}

static bool product_fits(const matrices_call *c) {
    return matrices_size(c, 'k') <= lesser(matrices_size(c, 'm'), matrices_size(c, 'n'));
}

static bool run_product(matrices_call *c) {
    const int64_t m = matrices_size(c, 'm'), n = matrices_size(c, 'n');
    copy(c, c->out[0], c->in[0], m * n);
    c->la->reflections_product(c->out[0], m, n, matrices_size(c, 'k'), c->in[1]);
    return true;
}

static bool run_qr_pivoted(matrices_call *c) {
    const int64_t m = matrices_size(c, 'm'), n = matrices_size(c, 'n');
    copy(c, c->out[0], c->in[0], m * n);
    memcpy(c->out[1], c->in[1], (size_t)n * sizeof(int64_t));
    c->la->qr_pivoted(c->out[0], m, n, c->out[1], c->out[2], c->work);
    return true;
}

static bool pivoted_fits(const matrices_call *c) {
    return c->n_results == 3 &&
           matrices_size(c, 'k') == lesser(matrices_size(c, 'm'), matrices_size(c, 'n'));
}

/* dst[n][m] = the adjoint of src[m][n]; for a square matrix they may be the same. */
static void adjoint(const matrices_call *c, void *dst, const void *src, int64_t m, int64_t n) {
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = dst == src ? j : 0; i < m; i++)
            if (c->is_complex) {
                double complex x = ((const double complex *)src)[j * m + i];
                double complex y = ((const double complex *)src)[dst == src ? i * m + j : 0];
                ((double complex *)dst)[i * n + j] = conj(x);
                if (dst == src)
                    ((double complex *)dst)[j * m + i] = conj(y);
            } else {
                double x = ((const double *)src)[j * m + i];
                double y = ((const double *)src)[dst == src ? i * m + j : 0];
                ((double *)dst)[i * n + j] = x;
                if (dst == src)
                    ((double *)dst)[j * m + i] = y;
            }
}

/* Q C, Q^H C, C Q, C Q^H: those from the right are adjoints of those from the left. */
static bool run_apply(matrices_call *c) {
    const int64_t p = matrices_size(c, 'p'), q = matrices_size(c, 'q');
    const bool is_left = matrices_attr(c->op, "left", 1);
    const bool is_adjoint = matrices_attr(c->op, "transpose", 0);
    const linalg_reflections r = {c->in[0], c->in[1], matrices_size(c, 'm'), matrices_size(c, 'k')};
    if (is_left) {
        copy(c, c->out[0], c->in[2], p * q);
        c->la->reflections_apply(&r, is_adjoint, c->out[0], q);
    } else {
        adjoint(c, c->out[0], c->in[2], p, q);
        c->la->reflections_apply(&r, !is_adjoint, c->out[0], p);
        copy(c, c->in[2], c->out[0], p * q);
        adjoint(c, c->out[0], c->in[2], q, p);
    }
    return true;
}

static bool apply_fits(const matrices_call *c) {
    const int64_t rows = matrices_size(c, matrices_attr(c->op, "left", 1) ? 'p' : 'q');
    return product_fits(c) && rows == matrices_size(c, 'm');
}

/* With vectors: all of them, or as many as there are values. */
static bool svd_fits(const matrices_call *c) {
    const int64_t m = matrices_size(c, 'm'), n = matrices_size(c, 'n'), k = lesser(m, n);
    if (matrices_size(c, 'k') != k)
        return false;
    const int64_t p = matrices_size(c, 'p'), q = matrices_size(c, 'q');
    return c->n_results == 1 || (c->n_results == 3 && ((p == m && q == n) || (p == k && q == k)));
}

static bool run_svd(matrices_call *c) {
    const int64_t m = matrices_size(c, 'm'), n = matrices_size(c, 'n');
    const bool is_wide = m < n;
    void *a = c->in[0], *u = c->out[1], *v = c->out[2];
    if (is_wide) {
        a = c->work_matrices;
        adjoint(c, a, c->in[0], m, n);
    }
    if (c->n_results == 1)
        return c->la->svd(a, is_wide ? n : m, is_wide ? m : n, NULL, c->out[0], c->work);
    const int64_t p = matrices_size(c, 'p'), q = matrices_size(c, 'q');
    const bool is_square = q == n;
    if (!is_square) /* V is n x q, the result q x n; in[0] is free */
        v = c->in[0];
    const linalg_vectors vectors = {
        .left = is_wide ? v : u, .right = is_wide ? u : v, .n_left = is_wide ? q : p};
    if (!c->la->svd(a, is_wide ? n : m, is_wide ? m : n, &vectors, c->out[0], c->work))
        return false;
    adjoint(c, c->out[2], v, n, q);
    return true;
}

static bool lu_fits(const matrices_call *c) {
    return c->n_results == 3 &&
           matrices_size(c, 'k') == lesser(matrices_size(c, 'm'), matrices_size(c, 'n'));
}

static bool run_lu(matrices_call *c) {
    const int64_t m = matrices_size(c, 'm'), n = matrices_size(c, 'n');
    int64_t *pivots = c->out[1], *permutation = c->out[2];
    copy(c, c->out[0], c->in[0], m * n);
    c->la->lu(c->out[0], m, n, pivots);
    for (int64_t i = 0; i < m; i++)
        permutation[i] = i;
    for (int64_t k = 0; k < m && k < n; k++) {
        int64_t row = permutation[k];
        permutation[k] = permutation[pivots[k]];
        permutation[pivots[k]] = row;
    }
    return true;
}

static bool run_cholesky(matrices_call *c) {
    const int64_t n = matrices_size(c, 'n');
    const bool is_lower = c->op->attrs.flag.value;
    copy(c, c->out[0], c->in[0], n * n);
    if (!is_lower)
        use_upper(c, c->out[0], n);
    if (!c->la->cholesky(c->out[0], n))
        return false;
    if (!is_lower)
        adjoint(c, c->out[0], c->out[0], n, n);
    return true;
}

static bool triangular_fits(const matrices_call *c) {
    return matrices_size(c, c->op->attrs.triangular.left_side ? 'p' : 'q') == matrices_size(c, 'n');
}

static bool run_triangular(matrices_call *c) {
    const int64_t n = matrices_size(c, 'n'), p = matrices_size(c, 'p'), q = matrices_size(c, 'q');
    const linalg_triangle t = {.is_lower = c->op->attrs.triangular.lower,
                               .has_unit_diagonal = c->op->attrs.triangular.unit_diagonal,
                               .is_transposed = c->op->attrs.triangular.transpose_a > 1,
                               .is_conjugated = c->op->attrs.triangular.transpose_a == 3};
    copy(c, c->out[0], c->in[1], p * q);
    if (c->op->attrs.triangular.left_side)
        c->la->solve_left(&t, c->in[0], n, c->out[0], q);
    else
        c->la->solve_right(&t, c->in[0], n, c->out[0], p);
    return true;
}

static const matrices_routine CHOLESKY = {NULL, "snn -> snn", NULL, run_cholesky, 1.0 / 3, 0, true};
static const matrices_routine TRIANGULAR = {
    NULL, "snn spq -> spq", triangular_fits, run_triangular, 1, 0, true};

static const matrices_routine ROUTINES[] = {
    {"Qr", "smn -> smn sk", qr_fits, run_qr, 2, 0, false},
    {"ProductOfElementaryHouseholderReflectors", "smn sk -> smn", product_fits, run_product, 2, 0,
     false},
    {"vtrn.eigh", "snn -> snd rd", eigh_fits, run_eigh, 9, 1, false},
    {"vtrn.lu", "smn -> smn ik im", lu_fits, run_lu, 1, 0, true},
    {"vtrn.qr_pivoted", "smn in -> smn in sk", pivoted_fits, run_qr_pivoted, 2, 0, false},
    {"vtrn.reflections_apply", "smn sk spq -> spq", apply_fits, run_apply, 4, 0, false},
    {"vtrn.svd", "smn -> rk smp sqn", svd_fits, run_svd, 20, 1, false},
};

const matrices_routine *matrices_find(const graph_op *op) {
    if (op->kind == GRAPH_CHOLESKY)
        return &CHOLESKY;
    if (op->kind == GRAPH_TRIANGULAR_SOLVE)
        return &TRIANGULAR;
    if (op->kind != GRAPH_CUSTOM_CALL)
        return NULL;
    for (size_t i = 0; op->name && i < sizeof ROUTINES / sizeof *ROUTINES; i++)
        if (!strcmp(op->name, ROUTINES[i].target))
            return &ROUTINES[i];
    return NULL;
}
