/* Loops over a row that find values or sum it up. See search_kernels.h. */
#include "engine/search_kernels.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Elements that are looked at together: first many, then those in which there is something. Loops
 * without an exit are what the compiler makes vectors of. */
enum { FEW = 16, MANY = 64, LANES = 16, PARITIES = 2 };

#define PASS(name, n_elements, condition)                                                          \
    /* The first block from `from` on with an element that the condition holds of. */              \
    static inline size_t name(const float *row, size_t from, size_t n, float value) {              \
        for (; from + (n_elements) <= n; from += (n_elements)) {                                   \
            uint32_t is_there = 0;                                                                 \
            for (size_t i = 0; i < (n_elements); i++)                                              \
                is_there |= row[from + i] condition value;                                         \
            if (is_there)                                                                          \
                break;                                                                             \
        }                                                                                          \
        return from;                                                                               \
    }
PASS(pass_many_unequal, MANY, ==)
PASS(pass_few_unequal, FEW, ==)
PASS(pass_many_not_greater, MANY, >)
PASS(pass_few_not_greater, FEW, >)

static size_t find_equal(const float *row, size_t from, size_t n, float value) {
    from = pass_many_unequal(row, from, n, value);
    from = pass_few_unequal(row, from, n, value);
    while (from < n && !(row[from] == value))
        from++;
    return from;
}

static inline void insert(float best[SEARCH_N], int at, float x) {
    for (; at > 0 && x > best[at - 1]; at--)
        best[at] = best[at - 1];
    best[at] = x;
}

/* The same of numbers, without branches, which the host could not predict: `from` has infinity and
 * then the eight. */
static inline void insert_number(float from[SEARCH_N + 1], float x) {
    float next[SEARCH_N];
    for (int j = 0; j < SEARCH_N; j++) {
        float other = x > from[j + 1] ? x : from[j + 1];
        next[j] = x > from[j] ? from[j] : other;
    }
    for (int j = 0; j < SEARCH_N; j++)
        from[j + 1] = next[j];
}

/* Of a row that begins with eight numbers. */
static void largest_numbers(const float *row, size_t n, float best[SEARCH_N]) {
    float from[SEARCH_N + 1] = {INFINITY};
    memcpy(from + 1, best, SEARCH_N * sizeof *best);
    for (size_t i = SEARCH_N; i < n;) {
        i = pass_many_not_greater(row, i, n, from[SEARCH_N]);
        size_t end = i + MANY < n ? i + MANY : n;
        while (i < end) {
            i = pass_few_not_greater(row, i, end, from[SEARCH_N]);
            for (size_t k = i + FEW < end ? i + FEW : end; i < k; i++)
                if (row[i] > from[SEARCH_N])
                    insert_number(from, row[i]);
        }
    }
    memcpy(best, from + 1, SEARCH_N * sizeof *best);
}

static void largest(const float *row, size_t n, float best[SEARCH_N]) {
    size_t i = 0;
    bool has_nan = false;
    for (; i < SEARCH_N; i++) {
        insert(best, (int)i, row[i]);
        has_nan |= row[i] != row[i];
    }
    if (!has_nan) {
        largest_numbers(row, n, best);
        return;
    }
    while (i < n) {
        i = pass_many_not_greater(row, i, n, best[SEARCH_N - 1]);
        size_t end = i + MANY < n ? i + MANY : n;
        while (i < end) {
            i = pass_few_not_greater(row, i, end, best[SEARCH_N - 1]);
            for (size_t k = i + FEW < end ? i + FEW : end; i < k; i++)
                if (row[i] > best[SEARCH_N - 1])
                    insert(best, SEARCH_N - 1, row[i]);
        }
    }
}

static void join(double lanes[LANES], double out[PARITIES]) {
    for (int half = LANES / 2; half >= PARITIES; half /= 2)
        for (int l = 0; l < half; l++)
            lanes[l] += lanes[l + half];
    for (int p = 0; p < PARITIES; p++)
        out[p] = lanes[p];
}

static void moments(const float *x, size_t n, double mean[PARITIES], double squares[PARITIES]) {
    double lanes[LANES] = {0}, means[LANES];
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            lanes[l] += x[i + l];
    for (size_t l = 0; i + l < n; l++)
        lanes[l] += x[i + l];
    join(lanes, mean);
    for (size_t p = 0; p < PARITIES; p++) {
        size_t count = (n + 1 - p) / PARITIES;
        mean[p] = count ? mean[p] / (double)count : 0;
    }
    for (size_t l = 0; l < LANES; l++) {
        means[l] = mean[l % PARITIES];
        lanes[l] = 0;
    }
    for (i = 0; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            lanes[l] += (x[i + l] - means[l]) * (x[i + l] - means[l]);
    for (size_t l = 0; i + l < n; l++)
        lanes[l] += (x[i + l] - means[l]) * (x[i + l] - means[l]);
    join(lanes, squares);
}

const search_kernels VTRN_AT_LEVEL(search_kernel_table) = {
    .find_equal = find_equal,
    .largest = largest,
    .moments = moments,
};
