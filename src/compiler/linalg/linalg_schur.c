/* Hessenberg form by reflections, and Schur form by QR steps with implicit shifts: two shifts at
 * once for real numbers, whose result has a 2 x 2 block for each pair of complex eigenvalues
 * (LAPACK's lahqr). */
#include "compiler/linalg/linalg_routines.h"

enum {
    SHIFTS = LINALG_COMPLEX ? 1 : 2,
    STEPS_BEFORE_OTHER_SHIFTS = 10,
    MAX_STEPS_PER_VALUE = 60,
};

void LINALG(hessenberg)(void *matrix, int64_t n, void *taus, void *work) {
    scalar *a = matrix, *tau = taus;
    for (int64_t k = 0; k + 1 < n; k++) {
        scalar *v = a + k * n + k + 1;
        const int64_t left = n - k - 1;
        tau[k] = LINALG(reflection)(left - 1, v, v + 1);
        LINALG(reflect_right)(&(linalg_block){a + (k + 1) * n, n, left, n}, v, tau[k], work);
        LINALG(reflect_left)(left, left, v, conjugate(tau[k]), v + n, n);
    }
}

/* H = Z^H A Z while it becomes triangular. */
typedef struct schur_form {
    scalar *h, *z;
    int64_t n;
} schur_form;

static scalar *at(const schur_form *f, int64_t i, int64_t j) {
    return f->h + j * f->n + i;
}

/* Whether element (k, k - 1) of H is so small that rounding hides it (Ahues and Tisseur). */
static bool is_negligible(const schur_form *f, int64_t k) {
    const double below = magnitude1(*at(f, k, k - 1)), above = magnitude1(*at(f, k - 1, k));
    if (below <= DBL_MIN / DBL_EPSILON * (double)f->n)
        return true;
    double size = magnitude1(*at(f, k - 1, k - 1)) + magnitude1(*at(f, k, k));
    if (size == 0) {
        size += k >= 2 ? magnitude1(*at(f, k - 1, k - 2)) : 0;
        size += k + 1 < f->n ? magnitude1(*at(f, k + 1, k)) : 0;
    }
    if (below > DBL_EPSILON * size)
        return false;
    const double own = magnitude1(*at(f, k, k));
    const double apart = magnitude1(*at(f, k - 1, k - 1) - *at(f, k, k));
    const double larger = fmax(own, apart), lesser = fmin(own, apart);
    const double sum = larger + fmax(below, above);
    return fmin(below, above) * (fmax(below, above) / sum) <=
           fmax(DBL_MIN / DBL_EPSILON, DBL_EPSILON * (lesser * (larger / sum)));
}

static int64_t block_start(const schur_form *f, int64_t last) {
    int64_t first = last;
    while (first > 0 && !is_negligible(f, first))
        first--;
    if (first > 0)
        *at(f, first, first - 1) = 0;
    return first;
}

#if LINALG_COMPLEX
/* The eigenvalue of the last 2 x 2 block that is nearer to its last element; every tenth step
 * another number, because shifts that repeat themselves would never end. */
static scalar shift_of(const schur_form *f, int64_t last, int n_steps) {
    const scalar corner = *at(f, last, last);
    if (n_steps % STEPS_BEFORE_OTHER_SHIFTS == STEPS_BEFORE_OTHER_SHIFTS - 1)
        return corner + 0.75 * magnitude1(*at(f, last, last - 1));
    const scalar half = (*at(f, last - 1, last - 1) - corner) / 2;
    const scalar product = *at(f, last - 1, last) * *at(f, last, last - 1);
    scalar root = csqrt(half * half + product);
    if (creal(half) * creal(root) + cimag(half) * cimag(root) < 0)
        root = -root;
    return half + root == 0 ? corner : corner - quotient(product, half + root);
}

/* Where a step begins, and the first column of H - shift there. */
static int64_t start_step(const schur_form *f, int64_t first, int64_t last, int n_steps,
                          scalar v[3]) {
    v[0] = *at(f, first, first) - shift_of(f, last, n_steps);
    v[1] = *at(f, first + 1, first);
    return first;
}

static void finish_pair(schur_form *f, int64_t last) {
    (void)f;
    (void)last;
}
#else
typedef struct shifts {
    double re[2], im[2];
} shifts;

/* The eigenvalues of the last 2 x 2 block, or twice the real one nearer to its last element;
 * every tenth step other numbers, because shifts that repeat themselves would never end. */
static shifts shifts_of(const schur_form *f, int64_t first, int64_t last, int n_steps) {
    double a = *at(f, last - 1, last - 1), b = *at(f, last - 1, last);
    double c = *at(f, last, last - 1), d = *at(f, last, last);
    const int round = n_steps / STEPS_BEFORE_OTHER_SHIFTS;
    if (n_steps % STEPS_BEFORE_OTHER_SHIFTS == STEPS_BEFORE_OTHER_SHIFTS - 1) {
        const int64_t k = round % 2 ? last - 1 : first;
        c = fabs(*at(f, k + 1, k)) + (k + 2 <= last ? fabs(*at(f, k + 2, k + 1)) : 0);
        a = d = 0.75 * c + *at(f, round % 2 ? last : first, round % 2 ? last : first);
        b = -0.4375 * c;
    }
    const double size = fabs(a) + fabs(b) + fabs(c) + fabs(d);
    if (size == 0)
        return (shifts){{0}, {0}};
    a /= size;
    b /= size;
    c /= size;
    d /= size;
    const double mean = (a + d) / 2, determinant = (a - mean) * (d - mean) - b * c;
    const double root = sqrt(fabs(determinant));
    if (determinant >= 0)
        return (shifts){{mean * size, mean * size}, {root * size, -root * size}};
    double real = fabs(mean + root - d) <= fabs(mean - root - d) ? mean + root : mean - root;
    return (shifts){{real * size, real * size}, {0}};
}

/* Where a step begins, behind two small elements when there are such, and the first column of
 * (H - shift)(H - other shift) there. */
static int64_t start_step(const schur_form *f, int64_t first, int64_t last, int n_steps,
                          scalar v[3]) {
    const shifts t = shifts_of(f, first, last, n_steps);
    for (int64_t k = last - 2;; k--) {
        const double a = *at(f, k, k), d = *at(f, k + 1, k + 1), c = *at(f, k + 1, k);
        double size = fabs(a - t.re[1]) + fabs(t.im[1]) + fabs(c);
        const double part = c / size;
        v[0] = part * *at(f, k, k + 1) + (a - t.re[0]) * ((a - t.re[1]) / size) -
               t.im[0] * (t.im[1] / size);
        v[1] = part * (a + d - t.re[0] - t.re[1]);
        v[2] = part * *at(f, k + 2, k + 1);
        size = fabs(v[0]) + fabs(v[1]) + fabs(v[2]);
        for (int i = 0; i < 3; i++)
            v[i] /= size;
        if (k == first)
            return k;
        const double around = fabs(*at(f, k - 1, k - 1)) + fabs(a) + fabs(d);
        if (fabs(*at(f, k, k - 1)) * (fabs(v[1]) + fabs(v[2])) <= DBL_EPSILON * fabs(v[0]) * around)
            return k;
    }
}

/* A real 2 x 2 block, and the rotation that gives it equal diagonal elements and others of opposite
 * sign, or makes it triangular when its eigenvalues are real (LAPACK's lanv2). */
typedef struct block {
    double a, b, c, d, cs, sn;
} block;

static void make_triangular(block *x, double p, double larger, double lesser, double size,
                            double z) {
    z = p + copysign(sqrt(size) * sqrt(z), p);
    x->a = x->d + z;
    x->d -= larger / z * lesser;
    const double r = hypot(x->c, z);
    x->cs = z / r;
    x->sn = x->c / r;
    x->b -= x->c;
    x->c = 0;
}

static void make_diagonal_equal(block *x, double p) {
    const double sigma = x->b + x->c, r = hypot(sigma, x->a - x->d);
    const double cs = sqrt((1 + fabs(sigma) / r) / 2);
    const double sn = -(p / (r * cs)) * copysign(1, sigma);
    const double aa = x->a * cs + x->b * sn, bb = -x->a * sn + x->b * cs;
    const double cc = x->c * cs + x->d * sn, dd = -x->c * sn + x->d * cs;
    x->b = bb * cs + dd * sn;
    x->c = -aa * sn + cc * cs;
    x->a = x->d = ((aa * cs + cc * sn) + (-bb * sn + dd * cs)) / 2;
    x->cs = cs;
    x->sn = sn;
    if (x->c == 0)
        return;
    if (x->b == 0) {
        x->b = -x->c;
        x->c = 0;
        x->cs = -sn;
        x->sn = cs;
    } else if (signbit(x->b) == signbit(x->c)) { /* rounding: the eigenvalues are real after all */
        const double root_b = sqrt(fabs(x->b)), root_c = sqrt(fabs(x->c));
        const double q = copysign(root_b * root_c, x->c), scale = 1 / sqrt(fabs(x->b + x->c));
        const double cs1 = root_b * scale, sn1 = root_c * scale;
        x->a += q;
        x->d -= q;
        x->b -= x->c;
        x->c = 0;
        x->cs = cs * cs1 - sn * sn1;
        x->sn = cs * sn1 + sn * cs1;
    }
}

static void standardise(block *x) {
    x->cs = 1;
    x->sn = 0;
    if (x->c == 0 || (x->b != 0 && x->a == x->d && signbit(x->b) != signbit(x->c)))
        return;
    if (x->b == 0) {
        *x = (block){.a = x->d, .b = -x->c, .d = x->a, .cs = 0, .sn = 1};
        return;
    }
    const double p = (x->a - x->d) / 2, larger = fmax(fabs(x->b), fabs(x->c));
    const double lesser = fmin(fabs(x->b), fabs(x->c)) * copysign(1, x->b) * copysign(1, x->c);
    const double size = fmax(fabs(p), larger);
    const double z = p / size * p + larger / size * lesser;
    if (z >= 4 * DBL_EPSILON)
        make_triangular(x, p, larger, lesser, size, z);
    else
        make_diagonal_equal(x, p);
}

/* Rows and columns last - 1 and last are a block of their own. */
static void finish_pair(schur_form *f, int64_t last) {
    const int64_t k = last - 1, n = f->n;
    block x = {
        .a = *at(f, k, k), .b = *at(f, k, last), .c = *at(f, last, k), .d = *at(f, last, last)};
    standardise(&x);
    for (int64_t j = last + 1; j < n; j++)
        rotate(1, at(f, k, j), at(f, last, j), x.cs, x.sn);
    rotate(k, at(f, 0, k), at(f, 0, last), x.cs, x.sn);
    rotate(n, f->z + k * n, f->z + last * n, x.cs, x.sn);
    *at(f, k, k) = x.a;
    *at(f, k, last) = x.b;
    *at(f, last, k) = x.c;
    *at(f, last, last) = x.d;
}
#endif

/* Two or three rows of n columns, or columns of n elements, times a reflection: reflect_left() and
 * reflect_right() in one pass. */
static void turn_rows(const schur_form *f, scalar *c, int64_t n, int64_t count, const scalar *v,
                      scalar tau) {
    const scalar v1 = v[1], v2 = count > 2 ? v[2] : 0;
    for (int64_t j = 0; j < n; j++, c += f->n) {
        const scalar c2 = count > 2 ? c[2] : 0;
        const scalar sum = times(tau, c[0] + times(conjugate(v1), c[1]) + times(conjugate(v2), c2));
        c[0] -= sum;
        c[1] -= times(sum, v1);
        if (count > 2)
            c[2] -= times(sum, v2);
    }
}

static void turn_columns(const schur_form *f, scalar *restrict c, int64_t n, int64_t count,
                         const scalar *v, scalar tau) {
    scalar *restrict c1 = c + f->n, *restrict c2 = c + 2 * f->n;
    const scalar v1 = v[1], v2 = v[2];
    for (int64_t i = 0; i < n && count == 2; i++) {
        const scalar sum = times(tau, c[i] + times(v1, c1[i]));
        c[i] -= sum;
        c1[i] -= times(sum, conjugate(v1));
    }
    for (int64_t i = 0; i < n && count == 3; i++) {
        const scalar sum = times(tau, c[i] + times(v1, c1[i]) + times(v2, c2[i]));
        c[i] -= sum;
        c1[i] -= times(sum, conjugate(v1));
        c2[i] -= times(sum, conjugate(v2));
    }
}

/* One step on rows first to last: a reflection of a few rows makes a bulge below the subdiagonal,
 * those that follow move it out at the end. */
static void qr_step(schur_form *f, int64_t first, int64_t last, int n_steps) {
    scalar v[3] = {0};
    const int64_t start = start_step(f, first, last, n_steps, v), n = f->n;
    for (int64_t k = start; k < last; k++) {
        const int64_t count = last - k < SHIFTS ? last - k + 1 : SHIFTS + 1;
        if (k > start)
            memcpy(v, at(f, k, k - 1), (size_t)count * sizeof *v);
        const scalar tau = LINALG(reflection)(count - 1, v, v + 1);
        if (k > start) {
            memset(at(f, k, k - 1), 0, (size_t)count * sizeof *v);
            *at(f, k, k - 1) = v[0];
        } else if (start > first) {
            *at(f, k, k - 1) *= 1 - conjugate(tau);
        }
        const int64_t n_rows = (k + SHIFTS + 1 < last ? k + SHIFTS + 1 : last) + 1;
        turn_rows(f, at(f, k, k), n - k, count, v, conjugate(tau));
        turn_columns(f, at(f, 0, k), n_rows, count, v, tau);
        turn_columns(f, f->z + k * n, n, count, v, tau);
    }
}

static bool triangularise(schur_form *f) {
    for (int64_t last = f->n - 1; last >= 0;) {
        int64_t first;
        for (int n_steps = 0; (first = block_start(f, last)) + SHIFTS <= last; n_steps++) {
            if (n_steps == MAX_STEPS_PER_VALUE * SHIFTS)
                return false;
            qr_step(f, first, last, n_steps);
        }
        if (first < last)
            finish_pair(f, last);
        last = first - 1;
    }
    return true;
}

bool LINALG(schur)(void *matrix, int64_t n, void *vectors, void *work) {
    scalar *a = matrix, *z = vectors, *tau = work;
    const double factor = scale_to_one(n * n, a);
    schur_form f = {.h = a, .z = z, .n = n};
    LINALG(hessenberg)(a, n, tau, tau + n);
    if (n)
        memcpy(z, a, (size_t)(n * n) * sizeof *a);
    LINALG(shifted_product)(z, n, tau);
    for (int64_t j = 0; j + 2 < n; j++)
        memset(a + j * n + j + 2, 0, (size_t)(n - j - 2) * sizeof *a);
    if (!triangularise(&f))
        return false;
    scale(n * n, 1 / factor, a);
    return true;
}
