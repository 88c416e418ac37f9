/* The scalar that a file of this directory is compiled for, and loops over vectors of it. Each file
 * is compiled twice for each instruction-set level (base/cpu.h): LINALG_COMPLEX is 0 and 1. */
#ifndef VTRN_COMPILER_LINALG_LINALG_SCALAR_H
#define VTRN_COMPILER_LINALG_LINALG_SCALAR_H

#include "compiler/linalg/linalg.h"

#include <float.h>
#include <math.h>
#include <string.h>

#ifndef LINALG_COMPLEX
#define LINALG_COMPLEX 0
#endif

#if LINALG_COMPLEX
typedef double complex scalar;
#define LINALG(name) VTRN_AT_LEVEL(linalg_complex_##name)
static inline double real_part(scalar x) {
    return creal(x);
}
static inline double imag_part(scalar x) {
    return cimag(x);
}
static inline scalar conjugate(scalar x) {
    return conj(x);
}
static inline double magnitude(scalar x) {
    return hypot(creal(x), cimag(x));
}
/* x y without C's care for infinities, which keeps compilers from vectorising. */
static inline scalar times(scalar x, scalar y) {
    return CMPLX(creal(x) * creal(y) - cimag(x) * cimag(y),
                 creal(x) * cimag(y) + cimag(x) * creal(y));
}
#else
typedef double scalar;
#define LINALG(name) VTRN_AT_LEVEL(linalg_real_##name)
static inline double real_part(scalar x) {
    return x;
}
static inline double imag_part(scalar x) {
    (void)x;
    return 0;
}
static inline scalar conjugate(scalar x) {
    return x;
}
static inline double magnitude(scalar x) {
    return fabs(x);
}
static inline scalar times(scalar x, scalar y) {
    return x * y;
}
#endif

/* |re| + |im|: within a factor of 1.5 of the magnitude, and without a square root. */
static inline double magnitude1(scalar x) {
    return fabs(real_part(x)) + fabs(imag_part(x));
}

/* x / y; y is scaled first, so that its square neither overflows nor vanishes. */
static inline scalar quotient(scalar x, scalar y) {
#if LINALG_COMPLEX
    double size = fmax(fabs(creal(y)), fabs(cimag(y)));
    if (size == 0 || !isfinite(size))
        return CMPLX(creal(x) / size, cimag(x) / size);
    int exponent = ilogb(size);
    double re = scalbn(creal(y), -exponent), im = scalbn(cimag(y), -exponent);
    double square = re * re + im * im;
    return CMPLX(scalbn((creal(x) * re + cimag(x) * im) / square, -exponent),
                 scalbn((cimag(x) * re - creal(x) * im) / square, -exponent));
#else
    return x / y;
#endif
}

/* x^H y; sums of several lanes, so that compilers vectorise the loop. */
static inline scalar dot(int64_t n, const scalar *x, const scalar *y) {
    enum { LANES = 8 };
    scalar sums[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            sums[l] += times(conjugate(x[i + l]), y[i + l]);
    for (int l = 0; i < n; i++, l++)
        sums[l] += times(conjugate(x[i]), y[i]);
    for (int width = LANES / 2; width; width /= 2)
        for (int l = 0; l < width; l++)
            sums[l] += sums[l + width];
    return sums[0];
}

/* y += a x */
static inline void add_scaled(int64_t n, scalar a, const scalar *restrict x, scalar *restrict y) {
    for (int64_t i = 0; i < n; i++)
        y[i] += times(a, x[i]);
}

static inline void scale(int64_t n, scalar a, scalar *x) {
    for (int64_t i = 0; i < n; i++)
        x[i] = times(a, x[i]);
}

/* x, y = c x + s y, c y - s x */
static inline void rotate(int64_t n, scalar *restrict x, scalar *restrict y, double c, double s) {
    for (int64_t i = 0; i < n; i++) {
        const scalar xi = x[i], yi = y[i];
        x[i] = c * xi + s * yi;
        y[i] = c * yi - s * xi;
    }
}

static inline void swap(int64_t n, scalar *restrict x, scalar *restrict y) {
    for (int64_t i = 0; i < n; i++) {
        const scalar xi = x[i];
        x[i] = y[i];
        y[i] = xi;
    }
}

/* Of numbers, neither of which is NaN: fmax is a call. */
static inline double larger(double x, double y) {
    return x > y ? x : y;
}

/* The largest magnitude of a real or imaginary part. */
static inline double largest_part(int64_t n, const scalar *x) {
    double largest = 0;
    for (int64_t i = 0; i < n; i++) {
        largest = larger(largest, fabs(real_part(x[i])));
        largest = larger(largest, fabs(imag_part(x[i])));
    }
    return largest;
}

/* The Euclidean norm, whatever the exponents. */
static inline double norm(int64_t n, const scalar *x) {
    double largest = largest_part(n, x), sum = 0, factor = 1;
    if (largest == 0)
        return 0;
    if (largest < 1e-140 || largest > 1e140)
        factor = scalbn(1, -ilogb(largest));
    for (int64_t i = 0; i < n; i++) {
        double re = real_part(x[i]) * factor, im = imag_part(x[i]) * factor;
        sum += re * re + im * im;
    }
    return sqrt(sum) / factor;
}

/* A power of two that brings the largest of n numbers to between 1 and 2; 1 when all are zero. */
static inline double scale_to_one(int64_t n, scalar *x) {
    double largest = largest_part(n, x);
    if (largest == 0)
        return 1;
    int exponent = ilogb(largest);
    exponent = exponent < -1000 ? -1000 : exponent;
    double factor = scalbn(1, -exponent);
    scale(n, factor, x);
    return factor;
}

/* Makes a unit vector unique: its first large element becomes real and positive. Returns the factor
 * of magnitude 1 that does it. Large is 0.6 of the largest, so that neither rounding nor a small
 * change of the matrix decides between elements of equal size. */
static inline scalar positive_factor(int64_t n, const scalar *x) {
    double largest = largest_part(n, x);
    for (int64_t i = 0; i < n; i++)
        if (largest > 0 && magnitude(x[i]) >= 0.6 * largest)
            return quotient(conjugate(x[i]), magnitude(x[i]));
    return 1;
}

/* Files of this directory share these. */
/* The reflection with H^H (alpha, x) = (beta, 0): alpha becomes beta, which is real, x[n] the rest
 * of v. Returns tau, 0 when nothing is to be done. */
scalar LINALG(reflection)(int64_t n, scalar *alpha, scalar *x);
/* c = H c for the columns of c[m][n], column_step scalars apart; v[m] with v[0] taken as 1. */
void LINALG(reflect_left)(int64_t m, int64_t n, const scalar *v, scalar tau, scalar *c,
                          int64_t column_step);
/* c = c H for the rows of c[m][n]; v[n] with v[0] taken as 1, work[m]. */
typedef struct linalg_block {
    scalar *c;
    int64_t m, n, column_step;
} linalg_block;
void LINALG(reflect_right)(const linalg_block *b, const scalar *v, scalar tau, scalar *work);
/* Q of the n - 1 reflections whose v begin below the diagonal of a[n][n], in their place. */
void LINALG(shifted_product)(scalar *a, int64_t n, const scalar *tau);

#endif
