/* Triangular factors and what solves with them: LU with row pivots, Cholesky, triangular systems.
 */
#include "compiler/linalg/linalg_routines.h"

enum {
    PANEL = 32,  /* columns whose updates a column takes while it is in the cache */
    GROUP = 4,   /* of these at once, while an element is in a register */
    ABREAST = 4, /* columns that take them together */
};

static int64_t lesser(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Brings the largest element of column k of m rows to row k, in columns [first, end), and divides
 * by it. */
static int64_t pivot_column(scalar *a, int64_t m, int64_t k, int64_t first, int64_t end) {
    scalar *column = a + k * m;
    int64_t best = k;
    for (int64_t i = k + 1; i < m; i++)
        if (magnitude1(column[i]) > magnitude1(column[best]))
            best = i;
    if (best != k)
        for (int64_t j = first; j < end; j++)
            swap(1, a + j * m + k, a + j * m + best);
    const scalar pivot = column[k];
    if (pivot == 0)
        return best;
    if (magnitude1(pivot) > 1e-140 && magnitude1(pivot) < 1e140)
        scale(m - k - 1, quotient(1, pivot), column + k + 1);
    else
        for (int64_t i = k + 1; i < m; i++)
            column[i] = quotient(column[i], pivot);
    return best;
}

/* Takes column k, times its own element k, from column y. */
static void eliminate(const scalar *a, int64_t m, int64_t k, scalar *y) {
    if (a[k * m + k] != 0)
        add_scaled(m - k - 1, -y[k], a + k * m + k + 1, y + k + 1);
}

/* Rows k to k + GROUP of column y, which the columns k to k + GROUP of the panel change themselves.
 * factor[GROUP]: what each of these columns is to be taken times. */
static void eliminate_top(const scalar *a, int64_t m, int64_t k, scalar *y, scalar *factor) {
    for (int g = 0; g < GROUP; g++) {
        for (int h = 0; h < g; h++)
            y[k + g] += times(factor[h], a[(k + h) * m + k + g]);
        factor[g] = -y[k + g];
    }
}

/* Takes columns k to k + GROUP from column y, in that order for each element. */
static void eliminate_group(const scalar *a, int64_t m, int64_t k, scalar *restrict y) {
    scalar factor[GROUP];
    const scalar *restrict x = a + k * m;
    eliminate_top(a, m, k, y, factor);
    for (int64_t i = k + GROUP; i < m; i++) {
        scalar sum = y[i];
        for (int g = 0; g < GROUP; g++)
            sum += times(factor[g], x[g * m + i]);
        y[i] = sum;
    }
}

/* The same for ABREAST columns from y on, for which elements of x are read once. */
static void eliminate_group_abreast(const scalar *a, int64_t m, int64_t k, scalar *restrict y) {
    scalar factor[ABREAST][GROUP];
    const scalar *restrict x = a + k * m;
    for (int c = 0; c < ABREAST; c++)
        eliminate_top(a, m, k, y + c * m, factor[c]);
    for (int64_t i = k + GROUP; i < m; i++) {
        scalar sum[ABREAST];
        for (int c = 0; c < ABREAST; c++)
            sum[c] = y[c * m + i];
        for (int g = 0; g < GROUP; g++)
            for (int c = 0; c < ABREAST; c++)
                sum[c] += times(factor[c][g], x[g * m + i]);
        for (int c = 0; c < ABREAST; c++)
            y[c * m + i] = sum[c];
    }
}

/* Takes columns [k, end) from n_columns columns from y on, 1 or ABREAST. */
static void eliminate_panel(const scalar *a, int64_t m, int64_t k, int64_t end, scalar *y,
                            int n_columns) {
    while (k < end) {
        bool is_group = k + GROUP <= end;
        for (int g = 0; g < GROUP && is_group; g++)
            is_group = a[(k + g) * m + k + g] != 0;
        if (is_group && n_columns == ABREAST)
            eliminate_group_abreast(a, m, k, y);
        else if (is_group)
            eliminate_group(a, m, k, y);
        for (int c = 0; c < n_columns && !is_group; c++)
            eliminate(a, m, k, y + c * m);
        k += is_group ? GROUP : 1;
    }
}

/* Panel by panel. Each element has the operations of an elimination column by column, in the same
 * order. */
void LINALG(lu)(void *matrix, int64_t m, int64_t n, int64_t *pivots) {
    scalar *a = matrix;
    const int64_t n_pivots = lesser(m, n);
    for (int64_t first = 0; first < n_pivots; first += PANEL) {
        const int64_t end = lesser(first + PANEL, n_pivots);
        for (int64_t k = first; k < end; k++) {
            pivots[k] = pivot_column(a, m, k, first, end);
            for (int64_t j = k + 1; j < end; j++)
                eliminate(a, m, k, a + j * m);
        }
        for (int64_t j = 0; j < n; j++)
            for (int64_t k = first; (j < first || j >= end) && k < end; k++)
                if (pivots[k] != k)
                    swap(1, a + j * m + k, a + j * m + pivots[k]);
        int64_t j = end;
        for (; j + ABREAST <= n; j += ABREAST)
            eliminate_panel(a, m, first, end, a + j * m, ABREAST);
        for (; j < n; j++)
            eliminate_panel(a, m, first, end, a + j * m, 1);
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
