/* Singular values and vectors: reflections from both sides make the matrix bidiagonal and real,
 * implicit QR steps on its square make it diagonal (Golub and Reinsch). */
#include "compiler/linalg/linalg_routines.h"

enum { MAX_STEPS_PER_VALUE = 75 };

/* An upper bidiagonal matrix of n rows, and the vectors that its rotations are applied to. */
typedef struct bidiagonal {
    int64_t n;
    double *d, *e; /* e[i] is above d[i]; e[0] is 0 */
    double negligible;
    scalar *u, *v; /* columns of m and of n elements */
    int64_t m_u, m_v;
} bidiagonal;

/* a[m][n], m >= n, becomes Q B P^H: the reflections of Q below the diagonal, those of P in the rows
 * right of the superdiagonal. taus[2 n], work[m + n]. */
static void reduce(scalar *a, int64_t m, const bidiagonal *b, scalar *taus, scalar *work) {
    const int64_t n = b->n;
    scalar *row = work, *product = work + n;
    for (int64_t k = 0; k < n; k++) {
        scalar *v = a + k * m + k;
        taus[k] = LINALG(reflection)(m - k - 1, v, v + 1);
        b->d[k] = real_part(v[0]);
        LINALG(reflect_left)(m - k, n - k - 1, v, conjugate(taus[k]), v + m, m);
        const int64_t left = n - k - 1;
        if (!left)
            break;
        for (int64_t j = 0; j < left; j++)
            row[j] = conjugate(v[(j + 1) * m]);
        taus[n + k] = LINALG(reflection)(left - 1, row, row + 1);
        b->e[k + 1] = real_part(row[0]);
        LINALG(reflect_right)
        (&(linalg_block){v + m + 1, m - k - 1, left, m}, row, taus[n + k], product);
        for (int64_t j = 0; j < left; j++)
            v[(j + 1) * m] = row[j];
    }
}

/* Q and P out of what reduce() left. */
static void unfold(const scalar *a, int64_t m, const bidiagonal *b, int64_t n_u,
                   const scalar *taus) {
    const int64_t n = b->n;
    if (n)
        memcpy(b->u, a, (size_t)(m * n) * sizeof *a);
    LINALG(reflections_product)(b->u, m, n_u, n, taus);
    for (int64_t k = 0; k < n; k++)
        for (int64_t j = k + 2; j < n; j++)
            b->v[k * n + j] = a[j * m + k];
    LINALG(shifted_product)(b->v, n, taus + n);
}

static void rotate_pair(scalar *columns, int64_t m, int64_t j, int64_t i, const double cs[2]) {
    if (columns)
        rotate(m, columns + j * m, columns + i * m, cs[0], cs[1]);
}

/* d[first - 1] is negligible: rotations of rows take e[first] away. */
static void cancel(bidiagonal *b, int64_t first, int64_t last) {
    double c = 0, s = 1;
    for (int64_t i = first; i <= last; i++) {
        double f = s * b->e[i];
        b->e[i] *= c;
        if (fabs(f) <= b->negligible)
            break;
        double h = hypot(f, b->d[i]);
        c = b->d[i] / h;
        s = -f / h;
        b->d[i] = h;
        rotate_pair(b->u, b->m_u, first - 1, i, (double[]){c, s});
    }
}

/* The first row of the block that ends in row last and has no negligible element above its
 * diagonal. */
static int64_t block_start(bidiagonal *b, int64_t last) {
    for (int64_t first = last; first > 0; first--) {
        if (fabs(b->e[first]) <= b->negligible) {
            b->e[first] = 0;
            return first;
        }
        if (fabs(b->d[first - 1]) <= b->negligible) {
            cancel(b, first, last);
            return first;
        }
    }
    return 0;
}

/* What the first rotation of a step turns: the shift is the eigenvalue of B^T B's last 2 x 2 block
 * that is nearer to its last element. */
static double shifted_start(const bidiagonal *b, int64_t first, int64_t last) {
    double x = b->d[first], y = b->d[last - 1], z = b->d[last];
    double g = last - 1 > first ? b->e[last - 1] : 0, h = b->e[last];
    double f = ((y - z) * (y + z) + (g - h) * (g + h)) / (2 * h * y);
    return ((x - z) * (x + z) + h * (y / (f + copysign(hypot(f, 1), f)) - h)) / x;
}

static void qr_step(bidiagonal *b, int64_t first, int64_t last) {
    double f = shifted_start(b, first, last), x = b->d[first], c = 1, s = 1;
    for (int64_t j = first; j < last; j++) {
        double g = c * b->e[j + 1], h = s * b->e[j + 1], y = b->d[j + 1];
        double r = hypot(f, h);
        b->e[j] = j > first ? r : 0;
        c = r > 0 ? f / r : 1;
        s = r > 0 ? h / r : 0;
        f = x * c + g * s;
        g = g * c - x * s;
        h = y * s;
        y *= c;
        rotate_pair(b->v, b->m_v, j, j + 1, (double[]){c, s});
        r = hypot(f, h);
        b->d[j] = r;
        if (r > 0) {
            c = f / r;
            s = h / r;
        }
        f = c * g + s * y;
        x = c * y - s * g;
        rotate_pair(b->u, b->m_u, j, j + 1, (double[]){c, s});
    }
    b->e[last] = f;
    b->d[last] = x;
}

static bool diagonalise(bidiagonal *b) {
    double largest = 0;
    for (int64_t i = 0; i < b->n; i++)
        largest = fmax(largest, fabs(b->d[i]) + fabs(b->e[i]));
    b->negligible = largest * DBL_EPSILON / 2;
    for (int64_t last = b->n - 1; last >= 0; last--)
        for (int n_steps = 0;; n_steps++) {
            int64_t first = block_start(b, last);
            if (first == last)
                break;
            if (n_steps == MAX_STEPS_PER_VALUE)
                return false;
            qr_step(b, first, last);
        }
    return true;
}

static void make_positive_and_sort(bidiagonal *b) {
    double *s = b->d;
    for (int64_t i = 0; i < b->n; i++) {
        int64_t most = i;
        for (int64_t j = i + 1; j < b->n; j++)
            if (fabs(s[j]) > fabs(s[most]))
                most = j;
        double value = s[most];
        s[most] = s[i];
        s[i] = fabs(value);
        if (!b->u)
            continue;
        scalar *u = b->u + i * b->m_u, *v = b->v + i * b->m_v;
        if (most != i) {
            swap(b->m_u, u, b->u + most * b->m_u);
            swap(b->m_v, v, b->v + most * b->m_v);
        }
        scalar factor = positive_factor(b->m_u, u);
        scale(b->m_u, factor, u);
        scale(b->m_v, value < 0 ? -factor : factor, v);
    }
}

bool LINALG(svd)(void *matrix, int64_t m, int64_t n, const linalg_vectors *vectors, double *s,
                 void *work) {
    scalar *taus = work, *more = taus + 2 * n;
    bidiagonal b = {.n = n, .d = s, .e = (double *)(more + m + n)};
    double factor = scale_to_one(m * n, matrix);
    b.e[0] = 0;
    reduce(matrix, m, &b, taus, more);
    if (vectors) {
        b.u = vectors->left;
        b.v = vectors->right;
        b.m_u = m;
        b.m_v = n;
        unfold(matrix, m, &b, vectors->n_left, taus);
    }
    if (!diagonalise(&b))
        return false;
    make_positive_and_sort(&b);
    for (int64_t i = 0; i < n; i++)
        s[i] /= factor;
    return true;
}
