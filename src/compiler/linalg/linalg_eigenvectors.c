/* Eigenvalues and eigenvectors of a matrix in Schur form, complex whatever the matrix is. */
#include "compiler/linalg/linalg_routines.h"

/* Whether rows i and i + 1 are a block of two complex eigenvalues. */
static bool is_pair(const scalar *t, int64_t n, int64_t i) {
    return !LINALG_COMPLEX && i + 1 < n && t[i * n + i + 1] != 0;
}

void LINALG(eigenvalues)(const void *form, int64_t n, double complex *w) {
    const scalar *t = form;
    for (int64_t i = 0; i < n; i++) {
        w[i] = t[i * n + i];
        if (is_pair(t, n, i)) {
            const double b = magnitude(t[(i + 1) * n + i]), c = magnitude(t[i * n + i + 1]);
            w[i] = CMPLX(real_part(t[i * n + i]), sqrt(b) * sqrt(c));
            w[i + 1] = conj(w[i]);
            i++;
        }
    }
}

static double size1(double complex x) {
    return fabs(creal(x)) + fabs(cimag(x));
}

/* x / y with y at least `least`, scaled against overflow. */
static double complex divide(double complex x, double complex y, double least) {
    if (size1(y) < least)
        y = least;
    const double size = fmax(fabs(creal(y)), fabs(cimag(y)));
    const double complex unit = y / size;
    const double square = creal(unit) * creal(unit) + cimag(unit) * cimag(unit);
    return x * conj(unit) / square / size;
}

/* Rows i and i + 1 of (T - w) x = x: Cramer's rule on the block and the two numbers. */
static void solve_pair(const scalar *t, int64_t n, int64_t i, double complex w, double complex *x,
                       double least) {
    const double complex a = t[i * n + i] - w, b = t[(i + 1) * n + i];
    const double complex c = t[i * n + i + 1], d = t[(i + 1) * n + i + 1] - w;
    const double size = fmax(fmax(size1(a), size1(b)), fmax(size1(c), size1(d)));
    const double complex p = x[i] / size, q = x[i + 1] / size;
    const double complex determinant = a / size * (d / size) - b / size * (c / size);
    x[i] = divide(d / size * p - b / size * q, determinant, least / size);
    x[i + 1] = divide(a / size * q - c / size * p, determinant, least / size);
}

static void keep_in_range(int64_t n, double complex *x, int64_t i) {
    const double size = size1(x[i]);
    for (int64_t k = 0; size > 1e60 && k < n; k++)
        x[k] /= size;
}

void LINALG(balance)(void *matrix, int64_t n, double *d) {
    enum { MAX_SWEEPS = 64 };
    scalar *a = matrix;
    for (int64_t i = 0; i < n; i++)
        d[i] = 1;
    bool has_changed = true;
    for (int sweep = 0; sweep < MAX_SWEEPS && has_changed; sweep++) {
        has_changed = false;
        for (int64_t i = 0; i < n; i++) {
            double column = 0, row = 0;
            for (int64_t k = 0; k < n; k++)
                if (k != i) {
                    column += magnitude1(a[i * n + k]);
                    row += magnitude1(a[k * n + i]);
                }
            if (column < DBL_MIN || row < DBL_MIN)
                continue;
            /* the power of two nearest to sqrt(row / column) makes both about equal */
            const double factor = scalbn(1, (int)lrint(log2(row / column) / 2));
            if (column * factor + row / factor >= 0.95 * (column + row) || d[i] * factor > 1e100 ||
                d[i] * factor < 1e-100)
                continue;
            has_changed = true;
            d[i] *= factor;
            scale(n, factor, a + i * n);
            for (int64_t k = 0; k < n; k++)
                a[k * n + i] /= factor;
        }
    }
}

/* The eigenvector of T for its eigenvalue in row last, or in rows last - 1 and last: x[0..last].
 * Right-hand sides become solutions from the last row up. */
static void back_substitute(const scalar *t, int64_t n, int64_t last, double complex w,
                            double complex *x) {
    int64_t n_known = 1;
    const double least = fmax(DBL_EPSILON * size1(w), 1e-150);
    memset(x, 0, (size_t)n * sizeof *x);
    x[last] = 1;
    if (last > 0 && is_pair(t, n, last - 1)) {
        const double b = real_part(t[last * n + last - 1]), c = real_part(t[(last - 1) * n + last]);
        n_known = 2;
        x[last - 1] = fabs(b) >= fabs(c) ? 1 : CMPLX(-cimag(w) / c, 0);
        x[last] = fabs(b) >= fabs(c) ? CMPLX(0, cimag(w) / b) : CMPLX(0, 1);
    }
    for (int64_t j = last; j > last - n_known; j--)
        for (int64_t i = 0; i <= last - n_known; i++)
            x[i] -= t[j * n + i] * x[j];
    for (int64_t i = last - n_known; i >= 0; i--) {
        const bool is_block = i > 0 && is_pair(t, n, i - 1);
        if (is_block)
            solve_pair(t, n, i - 1, w, x, least);
        else
            x[i] = divide(x[i], t[i * n + i] - w, least);
        keep_in_range(last + 1, x, i);
        if (is_block)
            keep_in_range(last + 1, x, i - 1);
        const int64_t top = is_block ? i - 1 : i;
        for (int64_t j = i; j >= top; j--)
            for (int64_t k = 0; k < top; k++)
                x[k] -= t[j * n + k] * x[j];
        i = top;
    }
}

/* Unit length. A complex vector's largest element becomes real and positive, as LAPACK's does. A
 * real one gets its sign from its first large element: see positive_factor(). */
static void normalise(int64_t n, double complex *v, bool is_real) {
    double largest = 0, sum = 0;
    int64_t largest_i = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, size1(v[i]));
    for (int64_t i = 0; i < n && largest > 0; i++) {
        v[i] /= largest;
        sum += creal(v[i]) * creal(v[i]) + cimag(v[i]) * cimag(v[i]);
    }
    for (int64_t i = 1; i < n; i++)
        if (cabs(v[i]) > cabs(v[largest_i]))
            largest_i = i;
    for (int64_t i = n - 1; i >= 0 && is_real; i--)
        if (fabs(creal(v[i])) >= 0.6)
            largest_i = i;
    if (!(sum > 0))
        return;
    const double size = cabs(v[largest_i]);
    const double complex factor = conj(v[largest_i]) / size / sqrt(sum);
    for (int64_t i = 0; i < n; i++)
        v[i] *= factor;
    v[largest_i] = creal(v[largest_i]);
}

void LINALG(eigenvectors)(void *form, int64_t n, const void *vectors, const double *d,
                          double complex *v, void *work) {
    const scalar *t = form, *z = vectors;
    scale_to_one(n * n, form);
    double complex *x = work, *w = x + n;
    LINALG(eigenvalues)(t, n, w);
    for (int64_t k = 0; k < n; k++) {
        const bool has_pair = is_pair(t, n, k);
        const int64_t last = has_pair ? k + 1 : k;
        double complex *column = v + k * n;
        back_substitute(t, n, last, w[k], x);
        memset(column, 0, (size_t)n * sizeof *column);
        for (int64_t j = 0; j <= last; j++)
            for (int64_t i = 0; i < n; i++)
                column[i] += z[j * n + i] * x[j];
        for (int64_t i = 0; i < n; i++)
            column[i] *= d[i];
        normalise(n, column, !LINALG_COMPLEX && !has_pair);
        for (int64_t i = 0; i < n && has_pair; i++)
            column[n + i] = conj(column[i]);
        k = last;
    }
}

void LINALG(schur_of_adjoint)(void *form, int64_t n, void *vectors) {
    scalar *t = form, *z = vectors;
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i + j < n; i++) { /* each element and its image in the other diagonal */
            scalar *x = t + j * n + i, *y = t + (n - 1 - i) * n + (n - 1 - j);
            const scalar kept = conjugate(*x);
            *x = conjugate(*y);
            *y = kept;
        }
    for (int64_t j = 0; j < n - 1 - j; j++)
        swap(n, z + j * n, z + (n - 1 - j) * n);
}
