/* Eigenvalues and eigenvectors of Hermitian matrices: reflections make the matrix tridiagonal and
 * real, implicit QL steps make it diagonal. */
#include "compiler/linalg/linalg_routines.h"

enum { MAX_STEPS_PER_VALUE = 50 };

/* y = A x for the Hermitian a[n][n] with columns `step` apart, lower triangle read. */
static void hermitian_times(int64_t n, const scalar *a, int64_t step, const scalar *x, scalar *y) {
    memset(y, 0, (size_t)n * sizeof *y);
    for (int64_t j = 0; j < n; j++, a += step + 1) {
        y[j] += real_part(a[0]) * x[j] + dot(n - j - 1, a + 1, x + j + 1);
        add_scaled(n - j - 1, x[j], a + 1, y + j + 1);
    }
}

/* a -= v w^H + w v^H, lower triangle. */
static void subtract_pair(int64_t n, scalar *a, int64_t step, const scalar *v, const scalar *w) {
    for (int64_t j = 0; j < n; j++, a += step + 1) {
        const scalar vj = conjugate(v[j]), wj = conjugate(w[j]);
        for (int64_t i = j; i < n; i++)
            a[i - j] -= times(v[i], wj) + times(w[i], vj);
    }
}

void LINALG(tridiagonal)(void *matrix, int64_t n, double *d, double *e, void *taus, void *work) {
    scalar *a = matrix, *tau = taus, *w = work;
    for (int64_t k = 0; k < n; k++) {
        d[k] = real_part(a[k * n + k]);
        a[k * n + k] = d[k];
        if (k + 1 == n)
            break;
        const int64_t left = n - k - 1;
        scalar *v = a + k * n + k + 1, *rest = a + (k + 1) * n + k + 1;
        tau[k] = LINALG(reflection)(left - 1, v, v + 1);
        e[k] = real_part(v[0]);
        if (tau[k] == 0)
            continue;
        v[0] = 1;
        hermitian_times(left, rest, n, v, w);
        scale(left, tau[k], w);
        add_scaled(left, -0.5 * tau[k] * dot(left, w, v), v, w);
        subtract_pair(left, rest, n, v, w);
        v[0] = e[k];
    }
}

/* One implicit QL step on rows first to last of the tridiagonal matrix; its rotations are applied
 * to the columns of z. e[i] couples i and i + 1; e[last] is 0. */
static void ql_step(double *d, double *e, int64_t first, int64_t last, scalar *z, int64_t n) {
    double g = (d[first + 1] - d[first]) / (2 * e[first]);
    double s = 1, c = 1, p = 0;
    g = d[last] - d[first] + e[first] / (g + copysign(hypot(g, 1), g));
    for (int64_t i = last - 1; i >= first; i--) {
        double f = s * e[i], b = c * e[i], r = hypot(f, g);
        e[i + 1] = r;
        if (r == 0) { /* the matrix falls apart here */
            d[i + 1] -= p;
            e[last] = 0;
            return;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1] - p;
        r = (d[i] - g) * s + 2 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
        rotate(n, z + (i + 1) * n, z + i * n, c, s);
    }
    d[first] -= p;
    e[first] = g;
    e[last] = 0;
}

/* d becomes the eigenvalues, unordered. e has n elements, the last unused. */
static bool diagonalise(double *d, double *e, int64_t n, scalar *z) {
    if (n)
        e[n - 1] = 0;
    for (int64_t first = 0; first < n; first++)
        for (int n_steps = 0;; n_steps++) {
            int64_t last = first;
            while (last + 1 < n &&
                   fabs(e[last]) > DBL_EPSILON * (fabs(d[last]) + fabs(d[last + 1])))
                last++;
            if (last == first)
                break;
            if (n_steps == MAX_STEPS_PER_VALUE)
                return false;
            ql_step(d, e, first, last, z, n);
        }
    return true;
}

static void sort_ascending(double *w, int64_t n, scalar *z) {
    for (int64_t i = 0; i + 1 < n; i++) {
        int64_t least = i;
        for (int64_t j = i + 1; j < n; j++)
            if (w[j] < w[least])
                least = j;
        if (least == i)
            continue;
        double value = w[i];
        w[i] = w[least];
        w[least] = value;
        swap(n, z + i * n, z + least * n);
    }
}

bool LINALG(eigh)(void *matrix, int64_t n, double *w, void *work) {
    scalar *a = matrix, *tau = work, *vector = tau + n;
    double *e = (double *)(vector + n);
    for (int64_t j = 0; j < n; j++) /* what is not read has no part in the scale */
        memset(a + j * n, 0, (size_t)j * sizeof *a);
    double factor = scale_to_one(n * n, a);
    LINALG(tridiagonal)(a, n, w, e, tau, vector);
    LINALG(shifted_product)(a, n, tau);
    if (!diagonalise(w, e, n, a))
        return false;
    sort_ascending(w, n, a);
    for (int64_t j = 0; j < n; j++) {
        w[j] /= factor;
        scale(n, positive_factor(n, a + j * n), a + j * n);
    }
    return true;
}
