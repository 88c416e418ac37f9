/* The table of linear algebra that JAX asks for by custom call: factorisations and what solves with
 * them, each for one matrix. The targets vtrn.* are those of python/vtrn/jax_linalg.py. */
#include "compiler/reference/ref_matrices.h"

#include <math.h>

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
    return first >= 0 && first <= n && matrices_size(c, 'd') <= n - first;
}

/* XLA's clients write "lower,sorted,iterations,tolerance". Ours sorts, and iterates as long as it
 * takes. */
static bool is_lower(const matrices_call *c) {
    if (strcmp(c->op->name, "Eigh") != 0)
        return matrices_attr(c->op, "lower", 1);
    return c->op->attrs.custom_call.backend_config[0] != '0';
}

static bool run_eigh(matrices_call *c) {
    const int64_t n = matrices_size(c, 'n'), d = matrices_size(c, 'd');
    const int64_t first = matrices_attr(c->op, "first", 0);
    double *values = c->work_matrices;
    if (!is_lower(c))
        use_upper(c, c->in[0], n);
    if (!c->la->eigh(c->in[0], n, values, c->work))
        return false;
    copy(c, c->out[0], scalar_at(c, c->in[0], first * n), n * d);
    memcpy(c->out[1], values + first, (size_t)d * sizeof *values);
    return true;
}

static bool factors_fit(const matrices_call *c) {
    return matrices_size(c, 'k') == lesser(matrices_size(c, 'm'), matrices_size(c, 'n'));
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

/* Matrices with n - 1 reflections: behind the diagonal there are none. */
static bool has_one_less(const matrices_call *c) {
    return matrices_size(c, 'h') == matrices_size(c, 'n') - 1;
}

static bool run_hessenberg(matrices_call *c) {
    const int64_t n = matrices_size(c, 'n');
    copy(c, c->out[0], c->in[0], n * n);
    c->la->hessenberg(c->out[0], n, c->out[1], c->work);
    return true;
}

static bool run_schur(matrices_call *c) {
    const int64_t n = matrices_size(c, 'n');
    copy(c, c->out[0], c->in[0], n * n);
    return c->la->schur(c->out[0], n, c->n_results > 1 ? c->out[1] : c->work_matrices, c->work);
}

/* Results: eigenvalues, then left and right eigenvectors as far as they are asked for. */
static bool eig_fits(const matrices_call *c) {
    return c->n_results ==
           1 + (matrices_attr(c->op, "left", 0) == 1) + (matrices_attr(c->op, "right", 0) == 1);
}

static bool run_eig(matrices_call *c) {
    const int64_t n = matrices_size(c, 'n');
    const bool has_left = matrices_attr(c->op, "left", 0), has_right = c->n_results > 1 + has_left;
    void *t = c->in[0], *z = c->work_matrices;
    double *d = scalar_at(c, c->work_matrices, n * n);
    c->la->balance(t, n, d);
    if (!c->la->schur(t, n, z, c->work))
        return false;
    c->la->eigenvalues(t, n, c->out[0]);
    if (has_right)
        c->la->eigenvectors(t, n, z, d, c->out[1 + has_left], c->work);
    if (!has_left)
        return true;
    c->la->schur_of_adjoint(t, n, z);
    for (int64_t i = 0; i < n; i++)
        d[i] = 1 / d[i];
    double complex *v = c->out[1], *tmp = c->work;
    c->la->eigenvectors(t, n, z, d, v, c->work);
    for (int64_t j = 0; j < n - 1 - j; j++) {
        double complex *x = v + j * n, *y = v + (n - 1 - j) * n;
        memcpy(tmp, x, (size_t)n * sizeof *x);
        memcpy(x, y, (size_t)n * sizeof *x);
        memcpy(y, tmp, (size_t)n * sizeof *x);
    }
    return true;
}

static void reverse(void *numbers, int64_t n, size_t size) {
    char swapped[sizeof(double complex)], *x = numbers, *y = x + (n - 1) * (int64_t)size;
    for (; x < y; x += size, y -= size) {
        memcpy(swapped, x, size);
        memcpy(x, y, size);
        memcpy(y, swapped, size);
    }
}

/* From the upper triangle as from the lower one of the matrix with rows and columns reversed. */
static bool run_tridiagonal(matrices_call *c) {
    const int64_t n = matrices_size(c, 'n');
    const bool is_upper = !matrices_attr(c->op, "lower", 1);
    copy(c, c->out[0], c->in[0], n * n);
    if (is_upper)
        reverse(c->out[0], n * n, c->la->scalar_size);
    c->la->tridiagonal(c->out[0], n, c->out[1], c->out[2], c->out[3], c->work);
    if (is_upper) {
        reverse(c->out[0], n * n, c->la->scalar_size);
        reverse(c->out[1], n, sizeof(double));
        reverse(c->out[2], n - 1, sizeof(double));
        reverse(c->out[3], n - 1, c->la->scalar_size);
    }
    return true;
}

static bool run_tridiagonal_solve(matrices_call *c) {
    const int64_t n = matrices_size(c, 'n'), k = matrices_size(c, 'k');
    const int64_t bits = matrices_attr(c->op, "perturb", 0); /* behind the point of this type */
    linalg_tridiagonal t = {.below = c->in[0], .diagonal = c->in[1], .above = c->in[2], .n = n};
    if (bits > 0 && bits < 64)
        t.epsilon = ldexp(1, -(int)bits);
    copy(c, c->out[0], c->in[3], n * k);
    return c->la->solve_tridiagonal(&t, c->out[0], k, c->work);
}

static const matrices_routine CHOLESKY = {
    .signature = "snn -> snn", .run = run_cholesky, .flops = 1.0 / 3, .takes_any = true};
static const matrices_routine TRIANGULAR = {.signature = "snn spq -> spq",
                                            .fits = triangular_fits,
                                            .run = run_triangular,
                                            .flops = 1,
                                            .takes_any = true};

static const matrices_routine ROUTINES[] = {
    {"Eigh", "snn -> snd rd", eigh_fits, run_eigh, .flops = 9, .n_work_matrices = 1},
    {"Qr", "smn -> smn sk", factors_fit, run_qr, .flops = 2},
    {"ProductOfElementaryHouseholderReflectors", "smn sk -> smn", product_fits, run_product,
     .flops = 2},
    {"vtrn.eig", "snn -> cn cnn cnn", eig_fits, run_eig, .flops = 25, .n_work_matrices = 2,
     .has_optional_results = true},
    {"vtrn.eigh", "snn -> snd rd", eigh_fits, run_eigh, .flops = 9, .n_work_matrices = 1},
    {"vtrn.hessenberg", "snn -> snn sh", has_one_less, run_hessenberg, .flops = 4},
    {"vtrn.lu", "smn -> smn ik im", factors_fit, run_lu, .flops = 1, .takes_any = true},
    {"vtrn.qr_pivoted", "smn in -> smn in sk", factors_fit, run_qr_pivoted, .flops = 2},
    {"vtrn.reflections_apply", "smn sk spq -> spq", apply_fits, run_apply, .flops = 4},
    {"vtrn.schur", "snn -> snn snn", NULL, run_schur, .flops = 25, .n_work_matrices = 1,
     .has_optional_results = true},
    {"vtrn.svd", "smn -> rk smp sqn", svd_fits, run_svd, .flops = 20, .n_work_matrices = 1,
     .has_optional_results = true},
    {"vtrn.tridiagonal", "snn -> snn rn rh sh", has_one_less, run_tridiagonal, .flops = 2},
    {"vtrn.tridiagonal_solve", "sn sn sn snk -> snk", NULL, run_tridiagonal_solve, .flops = 10,
     .takes_any = true},
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
