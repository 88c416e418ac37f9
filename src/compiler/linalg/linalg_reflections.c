/* Householder reflections, and the factorisations and products that they make: QR. */
#include "compiler/linalg/linalg_routines.h"

scalar LINALG(reflection)(int64_t n, scalar *alpha, scalar *x) {
    double tail = norm(n, x);
    if (tail == 0 && imag_part(*alpha) == 0)
        return 0;
    double beta = -copysign(hypot(magnitude(*alpha), tail), real_part(*alpha));
    double factor = 1;
    if (fabs(beta) < 1e-140) { /* its reciprocal squared would overflow */
        factor = scalbn(1, 600);
        scale(n, factor, x);
        *alpha *= factor;
        beta = -copysign(hypot(magnitude(*alpha), norm(n, x)), real_part(*alpha));
    }
    scalar tau = (beta - *alpha) / beta;
    scale(n, quotient(1, *alpha - beta), x);
    *alpha = beta / factor;
    return tau;
}

void LINALG(reflect_left)(int64_t m, int64_t n, const scalar *v, scalar tau, scalar *c,
                          int64_t column_step) {
    for (int64_t j = 0; j < n && tau != 0; j++, c += column_step) {
        scalar sum = tau * (c[0] + dot(m - 1, v + 1, c + 1));
        c[0] -= sum;
        add_scaled(m - 1, -sum, v + 1, c + 1);
    }
}

void LINALG(reflect_right)(const linalg_block *b, const scalar *v, scalar tau, scalar *work) {
    if (tau == 0 || !b->m || !b->n)
        return;
    memcpy(work, b->c, (size_t)b->m * sizeof *work);
    for (int64_t j = 1; j < b->n; j++)
        add_scaled(b->m, v[j], b->c + j * b->column_step, work);
    scale(b->m, tau, work);
    for (int64_t j = 0; j < b->n; j++)
        add_scaled(b->m, j ? -conjugate(v[j]) : -1, work, b->c + j * b->column_step);
}

void LINALG(qr)(void *matrix, int64_t m, int64_t n, void *taus) {
    scalar *a = matrix, *tau = taus;
    for (int64_t k = 0; k < m && k < n; k++) {
        scalar *v = a + k * m + k;
        tau[k] = LINALG(reflection)(m - k - 1, v, v + 1);
        LINALG(reflect_left)(m - k, n - k - 1, v, conjugate(tau[k]), v + m, m);
    }
}

/* Moves the columns marked in pivots to the front and numbers all; returns how many were marked. */
static int64_t move_marked(scalar *a, int64_t m, int64_t n, int64_t *pivots) {
    int64_t n_marked = 0;
    for (int64_t j = 0; j < n; j++) {
        bool is_marked = pivots[j] != 0;
        pivots[j] = j + 1;
        if (!is_marked)
            continue;
        if (j != n_marked) {
            swap(m, a + j * m, a + n_marked * m);
            pivots[j] = pivots[n_marked];
            pivots[n_marked] = j + 1;
        }
        n_marked++;
    }
    return n_marked;
}

/* Norms of the columns below row k after row k was split off; recomputed where the difference of
 * squares lost its digits. norms[n], exact[n] as they were when last computed. */
static void lower_norms(const scalar *a, int64_t m, int64_t n, int64_t k, double *norms) {
    double *exact = norms + n;
    for (int64_t j = k + 1; j < n; j++) {
        if (norms[j] == 0)
            continue;
        double part = magnitude(a[j * m + k]) / norms[j];
        double rest = fmax(0, (1 + part) * (1 - part));
        double lost = norms[j] / exact[j];
        if (rest * lost * lost <= sqrt(DBL_EPSILON))
            norms[j] = exact[j] = norm(m - k - 1, a + j * m + k + 1);
        else
            norms[j] *= sqrt(rest);
    }
}

void LINALG(qr_pivoted)(void *matrix, int64_t m, int64_t n, int64_t *pivots, void *taus,
                        void *work) {
    scalar *a = matrix, *tau = taus;
    double *norms = work;
    int64_t n_marked = move_marked(a, m, n, pivots);
    for (int64_t k = 0; k < m && k < n; k++) {
        if (k <= n_marked) /* columns that are free to move begin here */
            for (int64_t j = k; j < n; j++)
                norms[j] = norms[n + j] = norm(m - k, a + j * m + k);
        int64_t best = k;
        for (int64_t j = k + 1; j < n && k >= n_marked; j++)
            if (norms[j] > norms[best])
                best = j;
        if (best != k) {
            int64_t pivot = pivots[best];
            swap(m, a + best * m, a + k * m);
            pivots[best] = pivots[k];
            pivots[k] = pivot;
            norms[best] = norms[k];
            norms[n + best] = norms[n + k];
        }
        scalar *v = a + k * m + k;
        tau[k] = LINALG(reflection)(m - k - 1, v, v + 1);
        LINALG(reflect_left)(m - k, n - k - 1, v, conjugate(tau[k]), v + m, m);
        lower_norms(a, m, n, k, norms);
    }
}

void LINALG(reflections_product)(void *matrix, int64_t m, int64_t n, int64_t n_tau,
                                 const void *taus) {
    scalar *a = matrix;
    const scalar *tau = taus;
    for (int64_t j = n_tau; j < n; j++) {
        memset(a + j * m, 0, (size_t)m * sizeof *a);
        if (j < m)
            a[j * m + j] = 1;
    }
    for (int64_t k = n_tau - 1; k >= 0; k--) {
        scalar *v = a + k * m + k;
        LINALG(reflect_left)(m - k, n - k - 1, v, tau[k], v + m, m);
        scale(m - k - 1, -tau[k], v + 1);
        v[0] = 1 - tau[k];
        memset(a + k * m, 0, (size_t)k * sizeof *a);
    }
}

void LINALG(shifted_product)(scalar *a, int64_t n, const scalar *tau) {
    for (int64_t k = n - 2; k >= 0; k--) /* reflection k becomes column k + 1 of Q */
        memmove(a + (k + 1) * n + k + 1, a + k * n + k + 1, (size_t)(n - k - 1) * sizeof *a);
    if (n) {
        memset(a, 0, (size_t)n * sizeof *a);
        a[0] = 1;
    }
    for (int64_t k = n - 2; k >= 0; k--) {
        scalar *v = a + (k + 1) * n + k + 1;
        LINALG(reflect_left)(n - k - 1, n - k - 2, v, tau[k], v + n, n);
        scale(n - k - 2, -tau[k], v + 1);
        v[0] = 1 - tau[k];
        memset(a + (k + 1) * n, 0, (size_t)(k + 1) * sizeof *a);
    }
}

void LINALG(reflections_apply)(const linalg_reflections *r, bool is_adjoint, void *matrix,
                               int64_t n_columns) {
    const scalar *a = r->a, *tau = r->tau;
    for (int64_t step = 0; step < r->n_tau; step++) {
        const int64_t k = is_adjoint ? step : r->n_tau - 1 - step;
        LINALG(reflect_left)
        (r->m - k, n_columns, a + k * r->m + k, is_adjoint ? conjugate(tau[k]) : tau[k],
         (scalar *)matrix + k, r->m);
    }
}
