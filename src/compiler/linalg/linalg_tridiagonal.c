/* Systems of equations with a tridiagonal matrix: elimination with row pivots. */
#include "compiler/linalg/linalg_routines.h"

/* Row i of U is pivots[i], above[i], above2[i]. */
typedef struct factors {
    scalar *pivots, *above, *above2;
} factors;

/* Takes below[i + 1] away by row i, or by row i + 1 when it has the larger element. */
static void eliminate(const linalg_tridiagonal *t, const factors *f, int64_t i, scalar *b,
                      int64_t n_columns) {
    const scalar below = ((const scalar *)t->below)[i + 1];
    const int64_t n = t->n;
    f->above2[i] = 0;
    scalar factor;
    if (magnitude1(f->pivots[i]) >= magnitude1(below)) {
        factor = below == 0 ? 0 : quotient(below, f->pivots[i]);
        f->pivots[i + 1] -= factor * f->above[i];
    } else {
        const scalar next = f->pivots[i + 1];
        factor = quotient(f->pivots[i], below);
        f->pivots[i] = below;
        f->pivots[i + 1] = f->above[i] - factor * next;
        f->above[i] = next;
        if (i + 2 < n) {
            f->above2[i] = f->above[i + 1];
            f->above[i + 1] *= -factor;
        }
        for (int64_t j = 0; j < n_columns; j++)
            swap(1, b + j * n + i, b + j * n + i + 1);
    }
    for (int64_t j = 0; j < n_columns; j++)
        b[j * n + i + 1] -= factor * b[j * n + i];
}

/* Pivots smaller than a rounding of the largest element of U become that. */
static void perturb(const factors *f, int64_t n, double epsilon) {
    double largest = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(fmax(largest, magnitude(f->pivots[i])),
                       i + 1 < n ? fmax(magnitude(f->above[i]), magnitude(f->above2[i])) : 0);
    const double least = fmax(largest, DBL_MIN / DBL_EPSILON) * epsilon;
    for (int64_t i = 0; i < n; i++)
        if (magnitude(f->pivots[i]) < least)
            f->pivots[i] = real_part(f->pivots[i]) < 0 ? -least : least;
}

bool LINALG(solve_tridiagonal)(const linalg_tridiagonal *t, void *right, int64_t n_columns,
                               void *work) {
    const int64_t n = t->n;
    scalar *b = right;
    const factors f = {
        .pivots = work, .above = (scalar *)work + n, .above2 = (scalar *)work + 2 * n};
    if (n) {
        memcpy(f.pivots, t->diagonal, (size_t)n * sizeof *b);
        memcpy(f.above, t->above, (size_t)n * sizeof *b);
        f.above2[n - 1] = 0;
    }
    for (int64_t i = 0; i + 1 < n; i++)
        eliminate(t, &f, i, b, n_columns);
    if (t->epsilon > 0)
        perturb(&f, n, t->epsilon);
    for (int64_t i = 0; i < n; i++)
        if (f.pivots[i] == 0)
            return false;
    for (int64_t j = 0; j < n_columns; j++, b += n)
        for (int64_t i = n - 1; i >= 0; i--) {
            scalar sum = b[i];
            if (i + 1 < n)
                sum -= f.above[i] * b[i + 1];
            if (i + 2 < n)
                sum -= f.above2[i] * b[i + 2];
            b[i] = quotient(sum, f.pivots[i]);
        }
    return true;
}
