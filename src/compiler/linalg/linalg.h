/* Dense linear algebra in double precision, on numbers of one kind: real or complex.
 *
 * Matrices are column-major, their columns follow each other. Each routine works on one matrix
 * whose elements are finite, and is deterministic. A routine that iterates gives up after a bounded
 * number of steps and returns false; its outputs are then undefined. `work` is scratch of
 * linalg_work(rows, columns) scalars.
 *
 * A reflection is H = I - tau v v^H whose v has zeros above its first element, and 1 there:
 * LAPACK's form, in which factorisations leave the rest of v below the diagonal. */
#ifndef VTRN_COMPILER_LINALG_LINALG_H
#define VTRN_COMPILER_LINALG_LINALG_H

#include <complex.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef CMPLX /* glibc keeps it from clang, which has the builtin */
#define CMPLX(re, im) __builtin_complex((double)(re), (double)(im))
#endif

typedef struct linalg_triangle {
    bool is_lower;
    bool has_unit_diagonal;
    bool is_transposed;
    bool is_conjugated;
} linalg_triangle;

typedef struct linalg_svd_request {
    int64_t n_u, n_v;  /* columns wanted of U and of V: min(m, n) at least; 0 and 0: values alone */
    double *s;         /* [min(m, n)], descending */
    void *u, *v;       /* [m][n_u], [n][n_v]; of a matrix U diag(s) V^H */
    void *work_matrix; /* [max(m, n)][min(m, n)] scalars, and as many again */
} linalg_svd_request;

/* The routines for real numbers and for complex ones; void * points to double or double complex. */
typedef struct linalg {
    size_t scalar_size; /* bytes */

    /* a[m][n] = Q R: R on and above the diagonal, the reflections below. tau[min(m, n)]. */
    void (*qr)(void *a, int64_t m, int64_t n, void *tau);
    /* a[m][n] P = Q R with columns chosen by their norms. pivots[n]: on entry not 0 where the
     * column is to come first, on exit the column numbers, from 1. */
    void (*qr_pivoted)(void *a, int64_t m, int64_t n, int64_t *pivots, void *tau, void *work);
    /* The first n columns of the product of n_tau reflections, in the place of the reflections. */
    void (*reflections_product)(void *a, int64_t m, int64_t n, int64_t n_tau, const void *tau);

    /* The Hermitian a[n][n], lower triangle read, becomes reflections below the subdiagonal, with
     * tau[n - 1]; d[n] and e[n - 1] are the tridiagonal matrix. */
    void (*tridiagonal)(void *a, int64_t n, double *d, double *e, void *tau, void *work);
    /* Hermitian a[n][n], lower triangle read: a becomes the eigenvectors, w[n] ascending. */
    bool (*eigh)(void *a, int64_t n, double *w, void *work);
} linalg;

extern const linalg linalg_real, linalg_complex;

static inline int64_t linalg_work(int64_t m, int64_t n) {
    return 8 * ((m > n ? m : n) + 8);
}

#endif
