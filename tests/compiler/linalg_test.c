/* The routines of compiler/linalg on small matrices of every shape: their factors give the matrix,
 * and no access leaves a buffer of exactly the size that the header states. */
#include "compiler/linalg/linalg.h"

#include "../test_seed.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_SIZE = 9, N_BUFFERS = 16 };

/* Buffers of one call, and the numbers that fill them. */
typedef struct maker {
    const linalg *la;
    bool is_complex;
    uint64_t state;
    void *buffers[N_BUFFERS];
    int n_buffers;
} maker;

static void *zeros(maker *m, int64_t n, size_t size) {
    assert_true(m->n_buffers < N_BUFFERS);
    void *p = calloc(n ? (size_t)n : 1, size);
    assert_non_null(p);
    m->buffers[m->n_buffers++] = p;
    return p;
}

static void *scalars(maker *m, int64_t n) {
    return zeros(m, n, m->la->scalar_size);
}

static void release(maker *m) {
    while (m->n_buffers)
        free(m->buffers[--m->n_buffers]);
}

static double draw(maker *m) {
    m->state = m->state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)m->state / 9223372036854775808.0;
}

static void *random_scalars(maker *m, int64_t n) {
    double *x = scalars(m, n);
    for (int64_t i = 0; i < n * (m->is_complex ? 2 : 1); i++)
        x[i] = draw(m);
    return x;
}

static void *copy_of(maker *m, const void *src, int64_t n) {
    void *p = scalars(m, n);
    memcpy(p, src, (size_t)n * m->la->scalar_size);
    return p;
}

static double complex at(const maker *m, const void *a, int64_t rows, int64_t i, int64_t j) {
    return m->is_complex ? ((const double complex *)a)[j * rows + i]
                         : ((const double *)a)[j * rows + i];
}

/* Row i of a matrix of n_rows. */
typedef struct matrix_row {
    const void *matrix;
    int64_t n_rows, i;
} matrix_row;

/* sum over k < n of x[k] w[k] conj(y[k]); w NULL: ones. */
static double complex product(const maker *m, matrix_row x, matrix_row y, const double *w,
                              int64_t n) {
    double complex sum = 0;
    for (int64_t k = 0; k < n; k++)
        sum += at(m, x.matrix, x.n_rows, x.i, k) * (w ? w[k] : 1) *
               conj(at(m, y.matrix, y.n_rows, y.i, k));
    return sum;
}

static void assert_near(double complex x, double complex y) {
    if (cabs(x - y) > 1e-13)
        fail_msg("%g%+gi is not %g%+gi", creal(x), cimag(x), creal(y), cimag(y));
}

static void check_eigh(maker *m, int64_t n) {
    void *a = random_scalars(m, n * n), *v = copy_of(m, a, n * n);
    double *w = zeros(m, n, sizeof *w);
    assert_true(m->la->eigh(v, n, w, scalars(m, linalg_work(n, n))));
    for (int64_t j = 0; j < n; j++) {
        assert_true(!j || w[j] >= w[j - 1]);
        for (int64_t i = j; i < n; i++) {
            double complex expected = at(m, a, n, i, j);
            assert_near(product(m, (matrix_row){v, n, i}, (matrix_row){v, n, j}, w, n),
                        i == j ? creal(expected) : expected);
            assert_near(product(m, (matrix_row){v, n, i}, (matrix_row){v, n, j}, NULL, n), i == j);
        }
    }
    release(m);
}

static void check_svd(maker *m, int64_t rows, int64_t n, int64_t n_left) {
    void *a = random_scalars(m, rows * n), *spoilt = copy_of(m, a, rows * n);
    double *s = zeros(m, n, sizeof *s), *alone = zeros(m, n, sizeof *s);
    linalg_vectors vectors = {scalars(m, rows * n_left), scalars(m, n * n), n_left};
    void *work = scalars(m, linalg_work(rows, n));
    assert_true(m->la->svd(spoilt, rows, n, &vectors, s, work));
    memcpy(spoilt, a, (size_t)(rows * n) * m->la->scalar_size);
    assert_true(m->la->svd(spoilt, rows, n, NULL, alone, work));
    for (int64_t j = 0; j < n; j++) {
        assert_near(s[j], alone[j]);
        for (int64_t i = 0; i < rows; i++)
            assert_near(product(m, (matrix_row){vectors.left, rows, i},
                                (matrix_row){vectors.right, n, j}, s, n),
                        at(m, a, rows, i, j));
    }
    for (int64_t i = 0; i < rows && n_left == rows; i++)
        for (int64_t j = 0; j < rows; j++)
            assert_near(product(m, (matrix_row){vectors.left, rows, i},
                                (matrix_row){vectors.left, rows, j}, NULL, rows),
                        i == j);
    release(m);
}

/* The first min(rows, n) columns of Q times R, column by column, are those of a in the order of
 * pivots. */
static void check_qr(maker *m, int64_t rows, int64_t n, bool is_pivoted) {
    const int64_t k = rows < n ? rows : n;
    void *a = random_scalars(m, rows * n), *r = copy_of(m, a, rows * n), *tau = scalars(m, k);
    int64_t *pivots = zeros(m, n, sizeof *pivots);
    if (is_pivoted)
        m->la->qr_pivoted(r, rows, n, pivots, tau, scalars(m, linalg_work(rows, n)));
    else
        m->la->qr(r, rows, n, tau);
    void *q = copy_of(m, r, rows * k);
    m->la->reflections_product(q, rows, k, k, tau);
    const linalg_reflections reflections = {r, tau, rows, k};
    void *back = copy_of(m, a, rows * n);
    m->la->reflections_apply(&reflections, true, back, n);
    for (int64_t j = 0; j < n; j++) {
        const int64_t column = is_pivoted ? pivots[j] - 1 : j;
        for (int64_t i = 0; i < rows; i++) {
            double complex sum = 0;
            for (int64_t l = 0; l < k && l <= j; l++)
                sum += at(m, q, rows, i, l) * at(m, r, rows, l, j);
            assert_near(sum, at(m, a, rows, i, column));
            assert_near(at(m, back, rows, i, column), i <= j ? at(m, r, rows, i, j) : 0);
        }
    }
    release(m);
}

static void check_eig(maker *m, int64_t n) {
    void *a = random_scalars(m, n * n), *t = copy_of(m, a, n * n), *z = scalars(m, n * n);
    void *work = scalars(m, linalg_work(n, n));
    double *d = zeros(m, n, sizeof *d);
    double complex *w = zeros(m, n, sizeof *w), *v = zeros(m, n * n, sizeof *v);
    m->la->balance(t, n, d);
    assert_true(m->la->schur(t, n, z, work));
    m->la->eigenvalues(t, n, w);
    m->la->eigenvectors(t, n, z, d, v, work);
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < n; i++) {
            double complex sum = 0;
            for (int64_t k = 0; k < n; k++)
                sum += at(m, a, n, i, k) * v[j * n + k];
            assert_near(sum, w[j] * v[j * n + i]);
        }
    release(m);
}

static void check_solve(maker *m, int64_t n, int64_t n_columns) {
    void *a = random_scalars(m, n * n), *lu = copy_of(m, a, n * n);
    void *b = random_scalars(m, n * n_columns), *x = copy_of(m, b, n * n_columns);
    int64_t *pivots = zeros(m, n, sizeof *pivots);
    m->la->lu(lu, n, n, pivots);
    for (int64_t k = 0; k < n; k++)
        for (int64_t j = 0; j < n_columns; j++) {
            char kept[sizeof(double complex)];
            const size_t size = m->la->scalar_size;
            char *p = (char *)x + (j * n + k) * (int64_t)size;
            char *q = (char *)x + (j * n + pivots[k]) * (int64_t)size;
            memcpy(kept, p, size);
            memmove(p, q, size);
            memcpy(q, kept, size);
        }
    m->la->solve_left(&(linalg_triangle){.is_lower = true, .has_unit_diagonal = true}, lu, n, x,
                      n_columns);
    m->la->solve_left(&(linalg_triangle){.is_lower = false}, lu, n, x, n_columns);
    for (int64_t j = 0; j < n_columns; j++)
        for (int64_t i = 0; i < n; i++) {
            double complex sum = 0, size = 0;
            for (int64_t k = 0; k < n; k++) {
                sum += at(m, a, n, i, k) * at(m, x, n, k, j);
                size += cabs(at(m, x, n, k, j));
            }
            assert_near(sum / (1 + size), at(m, b, n, i, j) / (1 + size));
        }
    release(m);
}

static void run_all(const linalg *la, bool is_complex) {
    maker m = {.la = la, .is_complex = is_complex, .state = test_seed()};
    for (int64_t n = 0; n <= MAX_SIZE; n++) {
        check_eigh(&m, n);
        check_eig(&m, n);
        check_solve(&m, n, 3);
        for (int64_t rows = 0; rows <= MAX_SIZE; rows++) {
            check_qr(&m, rows, n, false);
            check_qr(&m, rows, n, true);
            if (rows < n)
                continue;
            check_svd(&m, rows, n, n);
            check_svd(&m, rows, n, rows);
        }
    }
}

static void factors_of_real_matrices_give_the_matrix(void **state) {
    (void)state;
    run_all(CPU_TABLE(linalg_real), false);
}

static void factors_of_complex_matrices_give_the_matrix(void **state) {
    (void)state;
    run_all(CPU_TABLE(linalg_complex), true);
}

/* LU with row pivots, one column after the other. */
static void plain_lu(double *a, int64_t m, int64_t n, int64_t *pivots) {
    for (int64_t k = 0; k < m && k < n; k++) {
        int64_t best = k;
        for (int64_t i = k + 1; i < m; i++)
            if (fabs(a[k * m + i]) > fabs(a[k * m + best]))
                best = i;
        pivots[k] = best;
        for (int64_t j = 0; j < n; j++) {
            double kept = a[j * m + k];
            a[j * m + k] = a[j * m + best];
            a[j * m + best] = kept;
        }
        if (a[k * m + k] == 0)
            continue;
        double inverse = 1 / a[k * m + k];
        for (int64_t i = k + 1; i < m; i++)
            a[k * m + i] = inverse * a[k * m + i];
        for (int64_t j = k + 1; j < n; j++)
            for (int64_t i = k + 1; i < m; i++)
                a[j * m + i] += -a[j * m + k] * a[k * m + i];
    }
}

/* Panels of columns do with each element what a column at a time does, in the same order; of
 * columns that are zero, too. */
static void lu_by_panels_gives_the_bits_of_lu_by_columns(void **state) {
    (void)state;
    static const int64_t sizes[][2] = {{32, 32},  {33, 33},  {70, 70},
                                       {100, 37}, {37, 100}, {97, 65}};
    maker m = {.la = CPU_TABLE(linalg_real), .state = test_seed()};
    for (size_t t = 0; t < sizeof sizes / sizeof *sizes; t++) {
        const int64_t rows = sizes[t][0], n = sizes[t][1];
        double *a = random_scalars(&m, rows * n);
        for (int64_t j = 6; j < n; j += 29)
            memset(a + j * rows, 0, (size_t)rows * sizeof *a);
        double *expected = copy_of(&m, a, rows * n);
        int64_t *pivots = zeros(&m, n, sizeof *pivots), *plain = zeros(&m, n, sizeof *plain);
        m.la->lu(a, rows, n, pivots);
        plain_lu(expected, rows, n, plain);
        assert_memory_equal(pivots, plain, (size_t)n * sizeof *pivots);
        assert_memory_equal(a, expected, (size_t)(rows * n) * sizeof *a);
        release(&m);
    }
}

/* Small integers, whose products are exact: whether one is rounded before it is added shows. */
static void *integer_scalars(maker *m, int64_t n) {
    double *x = scalars(m, n);
    for (int64_t i = 0; i < n * (m->is_complex ? 2 : 1); i++)
        x[i] = floor(3 * draw(m)) / 3;
    return x;
}

static void add_bytes(uint64_t *digest, const void *bytes, size_t n) {
    for (size_t i = 0; i < n; i++)
        *digest = (*digest ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
}

static uint64_t digest_of_solution(maker *m, int64_t n, bool is_integer, uint64_t digest) {
    const size_t n_bytes = (size_t)(n * n) * m->la->scalar_size;
    void *a = (is_integer ? integer_scalars : random_scalars)(m, n * n), *x = copy_of(m, a, n * n);
    int64_t *pivots = zeros(m, n, sizeof *pivots);
    m->la->lu(a, n, n, pivots);
    m->la->solve_left(&(linalg_triangle){.is_lower = true, .has_unit_diagonal = true}, a, n, x, n);
    add_bytes(&digest, a, n_bytes);
    add_bytes(&digest, x, n_bytes);
    release(m);
    return digest;
}

static uint64_t digest_of_reflections(maker *m, int64_t n, bool is_integer, uint64_t digest) {
    const size_t n_bytes = (size_t)(n * n) * m->la->scalar_size;
    void *a = (is_integer ? integer_scalars : random_scalars)(m, n * n), *x = copy_of(m, a, n * n);
    void *taus = scalars(m, n), *left = scalars(m, n * n), *right = scalars(m, n * n);
    double *s = zeros(m, n, sizeof *s);
    m->la->qr(x, n, n, taus);
    add_bytes(&digest, x, n_bytes);
    if (m->la->svd(a, n, n, &(linalg_vectors){left, right, n}, s, scalars(m, linalg_work(n, n))))
        add_bytes(&digest, left, n_bytes);
    release(m);
    return digest;
}

static uint64_t digest_of_eigenvectors(maker *m, int64_t n, bool is_integer, uint64_t digest) {
    const size_t n_bytes = (size_t)(n * n) * m->la->scalar_size;
    void *a = (is_integer ? integer_scalars : random_scalars)(m, n * n), *x = copy_of(m, a, n * n);
    void *z = scalars(m, n * n), *work = scalars(m, linalg_work(n, n));
    double *d = zeros(m, n, sizeof *d);
    double complex *v = zeros(m, n * n, sizeof *v);
    if (m->la->eigh(x, n, d, work))
        add_bytes(&digest, x, n_bytes);
    m->la->balance(a, n, d);
    if (m->la->schur(a, n, z, work)) {
        m->la->eigenvectors(a, n, z, d, v, work);
        add_bytes(&digest, v, (size_t)(n * n) * sizeof *v);
    }
    release(m);
    return digest;
}

/* Of what routines make of matrices of n rows and columns. */
static uint64_t digest_of(const linalg *la, bool is_complex, int64_t n, bool is_integer) {
    maker m = {.la = la, .is_complex = is_complex, .state = (uint64_t)n + 7};
    uint64_t digest = digest_of_solution(&m, n, is_integer, 0xcbf29ce484222325u);
    digest = digest_of_reflections(&m, n, is_integer, digest);
    return digest_of_eigenvectors(&m, n, is_integer, digest);
}

static void every_level_gives_the_same_bits(void **state) {
    (void)state;
    const cpu_level highest = cpu_level_get();
    for (int kind = 0; kind < 4; kind++)
        for (int64_t n = 1; n <= 40; n++) {
            uint64_t first = 0;
            for (int level = 0; level <= (int)highest; level++) {
                cpu_level_set((cpu_level)level);
                const linalg *la = kind & 1 ? CPU_TABLE(linalg_complex) : CPU_TABLE(linalg_real);
                const uint64_t digest = digest_of(la, kind & 1, n, kind & 2);
                first = level ? first : digest;
                if (digest != first)
                    fail_msg("%s numbers, %d rows: %s gives other bits",
                             kind & 1 ? "complex" : "real", (int)n,
                             cpu_level_name((cpu_level)level));
            }
        }
    cpu_level_set(highest);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lu_by_panels_gives_the_bits_of_lu_by_columns),
        cmocka_unit_test(every_level_gives_the_same_bits),
        cmocka_unit_test(factors_of_real_matrices_give_the_matrix),
        cmocka_unit_test(factors_of_complex_matrices_give_the_matrix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
