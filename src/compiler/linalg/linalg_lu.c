/* Triangular factors and what solves with them: LU with row pivots, Cholesky, triangular systems.
 */
#include "compiler/linalg/linalg_routines.h"

void LINALG(lu)(void *matrix, int64_t m, int64_t n, int64_t *pivots) {
    scalar *a = matrix;
    for (int64_t k = 0; k < m && k < n; k++) {
        scalar *column = a + k * m;
        int64_t best = k;
        for (int64_t i = k + 1; i < m; i++)
            if (magnitude1(column[i]) > magnitude1(column[best]))
                best = i;
        pivots[k] = best;
        if (best != k)
            for (int64_t j = 0; j < n; j++)
                swap(1, a + j * m + k, a + j * m + best);
        if (column[k] == 0)
            continue;
        const scalar pivot = column[k];
        if (magnitude1(pivot) > 1e-140 && magnitude1(pivot) < 1e140)
            scale(m - k - 1, quotient(1, pivot), column + k + 1);
        else
            for (int64_t i = k + 1; i < m; i++)
                column[i] = quotient(column[i], pivot);
        for (int64_t j = k + 1; j < n; j++)
            add_scaled(m - k - 1, -a[j * m + k], column + k + 1, a + j * m + k + 1);
    }
}

bool LINALG(cholesky)(void *matrix, int64_t n) {
    scalar *a = matrix;
    for (int64_t k = 0; k < n; k++) {
        scalar *column = a + k * n;
        double pivot = real_part(column[k]);
        if (pivot <= 0) /* NaN and infinity spread by themselves */
            return false;
        column[k] = sqrt(pivot);
        for (int64_t i = k + 1; i < n; i++)
            column[i] /= real_part(column[k]);
        for (int64_t j = k + 1; j < n; j++)
            add_scaled(n - j, -conjugate(column[j]), column + j, a + j * n + j);
        memset(column, 0, (size_t)k * sizeof *column);
    }
    return true;
}

/* An element of op(a) whose place in a is row i, column j. */
static scalar element(const linalg_triangle *t, const scalar *a, int64_t n, int64_t i, int64_t j) {
    scalar x = a[j * n + i];
    return t->is_conjugated ? conjugate(x) : x;
}

static void conjugate_all(int64_t n, scalar *x) {
    for (int64_t i = 0; i < n && LINALG_COMPLEX; i++)
        x[i] = conjugate(x[i]);
}

/* op(a) x = b for one x. op(a) is conj(a) where only that is asked: conj(a) x = b is a conj(x) =
 * conj(b). */
static void solve_column(const linalg_triangle *t, const scalar *a, int64_t n, scalar *x) {
    const bool is_forward = t->is_lower != t->is_transposed;
    const bool has_conjugated_x = t->is_conjugated != t->is_transposed;
    if (has_conjugated_x) /* the loops below use a, or its adjoint */
        conjugate_all(n, x);
    for (int64_t step = 0; step < n; step++) {
        const int64_t i = is_forward ? step : n - 1 - step;
        const int64_t from = t->is_lower ? i + 1 : 0, count = t->is_lower ? n - i - 1 : i;
        const scalar *column = a + i * n;
        const scalar pivot = t->is_transposed ? conjugate(column[i]) : column[i];
        if (t->is_transposed)
            x[i] -= dot(count, column + from, x + from);
        if (!t->has_unit_diagonal)
            x[i] = quotient(x[i], pivot);
        if (!t->is_transposed)
            add_scaled(count, -x[i], column + from, x + from);
    }
    if (has_conjugated_x)
        conjugate_all(n, x);
}

void LINALG(solve_left)(const linalg_triangle *t, const void *a, int64_t n, void *b,
                        int64_t n_columns) {
    for (int64_t j = 0; j < n_columns; j++)
        solve_column(t, a, n, (scalar *)b + j * n);
}

void LINALG(solve_right)(const linalg_triangle *t, const void *matrix, int64_t n, void *b,
                         int64_t n_rows) {
    const scalar *a = matrix;
    scalar *x = b;
    /* column j of x op(a) takes column i of x times element (i, j) of op(a) */
    const bool is_forward = t->is_lower == t->is_transposed;
    for (int64_t step = 0; step < n; step++) {
        const int64_t j = is_forward ? step : n - 1 - step;
        for (int64_t k = 0; k < step; k++) {
            const int64_t i = is_forward ? k : n - 1 - k;
            const scalar factor =
                t->is_transposed ? element(t, a, n, j, i) : element(t, a, n, i, j);
            add_scaled(n_rows, -factor, x + i * n_rows, x + j * n_rows);
        }
        if (!t->has_unit_diagonal)
            for (int64_t r = 0; r < n_rows; r++)
                x[j * n_rows + r] = quotient(x[j * n_rows + r], element(t, a, n, j, j));
    }
}
