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

#include "base/cpu.h"

#include <complex.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef CMPLX /* glibc keeps it from clang, which has the builtin */
#define CMPLX(re, im) __builtin_complex((double)(re), (double)(im))
#endif

/* How a triangle is read: op(a) is a, its conjugate, its transpose or its adjoint. */
typedef struct linalg_triangle {
    bool is_lower;
    bool has_unit_diagonal; /* whatever is there */
    bool is_transposed, is_conjugated;
} linalg_triangle;

/* Reflections as qr() leaves them: n_tau columns of m elements. */
typedef struct linalg_reflections {
    const void *a, *tau;
    int64_t m, n_tau;
} linalg_reflections;

/* Buffers for singular vectors. */
typedef struct linalg_vectors {
    void *left;     /* [m][n_left]; the columns behind n complete the basis */
    void *right;    /* [n][n] */
    int64_t n_left; /* n to m */
} linalg_vectors;

/* Row i is below[i], diagonal[i], above[i]; below[0] and above[n - 1] are not read. */
typedef struct linalg_tridiagonal {
    const void *below, *diagonal, *above; /* [n] */
    int64_t n;
    double epsilon; /* not 0: pivots are not smaller than this times the largest element of U */
} linalg_tridiagonal;

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
    /* c[m][n_columns] = Q c or Q^H c. */
    void (*reflections_apply)(const linalg_reflections *r, bool is_adjoint, void *c,
                              int64_t n_columns);

    /* The Hermitian a[n][n], lower triangle read, becomes reflections below the subdiagonal, with
     * tau[n - 1]; d[n] and e[n - 1] are the tridiagonal matrix. */
    void (*tridiagonal)(void *a, int64_t n, double *d, double *e, void *tau, void *work);
    /* Hermitian a[n][n], lower triangle read: a becomes the eigenvectors, w[n] ascending. */
    bool (*eigh)(void *a, int64_t n, double *w, void *work);

    /* a[m][n], m >= n, is U diag(s) V^H with s[n] descending; destroys a. vectors may be NULL. */
    bool (*svd)(void *a, int64_t m, int64_t n, const linalg_vectors *vectors, double *s,
                void *work);

    /* P a[m][n] = L U in the place of a: row k was swapped with row pivots[k] >= k. Takes numbers
     * that are not finite too, as do the next three. */
    void (*lu)(void *a, int64_t m, int64_t n, int64_t *pivots);
    /* Hermitian a[n][n], lower triangle read, becomes L with zeros above; false when a pivot is not
     * positive. */
    bool (*cholesky)(void *a, int64_t n);
    /* b[n][n_columns] becomes x with op(a) x = b; b[n_rows][n] becomes x with x op(a) = b. */
    void (*solve_left)(const linalg_triangle *t, const void *a, int64_t n, void *b,
                       int64_t n_columns);
    void (*solve_right)(const linalg_triangle *t, const void *a, int64_t n, void *b,
                        int64_t n_rows);

    /* a[n][n] = Q H Q^H: H on and above the subdiagonal, the reflections below, with tau[n - 1]. */
    void (*hessenberg)(void *a, int64_t n, void *tau, void *work);
    /* a[n][n] becomes D^-1 a D with rows and columns of about equal size; d[n] are powers of two.
     */
    void (*balance)(void *a, int64_t n, double *d);
    /* a[n][n] becomes T, upper triangular but for 2 x 2 blocks of a real matrix's complex
     * eigenvalues, with Z T Z^H the matrix. */
    bool (*schur)(void *a, int64_t n, void *z, void *work);
    /* T and Z of a matrix become those of its adjoint, whose eigenvalues are conjugate and in
     * reverse order. */
    void (*schur_of_adjoint)(void *t, int64_t n, void *z);
    void (*eigenvalues)(const void *t, int64_t n, double complex *w);
    /* v[n][n]: column k is the unit eigenvector for eigenvalue k of D Z T Z^H D^-1. Scales T. */
    void (*eigenvectors)(void *t, int64_t n, const void *z, const double *d, double complex *v,
                         void *work);

    /* b[n][n_columns] becomes the solution; false when the matrix is singular. */
    bool (*solve_tridiagonal)(const linalg_tridiagonal *t, void *b, int64_t n_columns, void *work);
} linalg;

/* By instruction-set level, which makes no difference to the bits: CPU_TABLE(linalg_real). */
CPU_DECLARE_TABLES(linalg, linalg_real)
CPU_DECLARE_TABLES(linalg, linalg_complex)

static inline int64_t linalg_work(int64_t m, int64_t n) {
    return 8 * ((m > n ? m : n) + 8);
}

#endif
