/* How many boxes tiles of a view make: the estimate that costs use, against counting. */
#include "compiler/plan/view.h"

#include "test_seed.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
// cmocka needs the headers above.
#include <cmocka.h>

enum { MAX_FACTORS = 4, N_ROUNDS = 500, MAX_SPANS = 1000 };

static uint64_t state;

static int64_t below(int64_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)(state >> 33) % n;
}

static vtrn_status count_box(void *ctx, const view_box *box) {
    (void)box;
    ++*(int64_t *)ctx;
    return NULL;
}

/* Boxes of the first spans of the factors, on average; a span that the end cuts is none. */
static double counted(const view_factor *f, int n, int64_t span) {
    int64_t n_elements = 1, n_boxes = 0, n_spans = 0;
    for (int i = 0; i < n; i++)
        n_elements *= f[i].size;
    for (int64_t begin = 0; begin + span <= n_elements && n_spans < MAX_SPANS;
         begin += span, n_spans++)
        assert_null(view_for_boxes(f, n, begin, begin + span, count_box, &n_boxes));
    return (double)n_boxes / (double)n_spans;
}

static void spans_that_fit_their_factors_are_one_box_each(void **unused) {
    (void)unused;
    const view_factor f[] = {{6, 10000}, {4, 77}, {32, 2}};
    const int64_t spans[] = {1, 8, 32, 64, 128, 256};
    for (int i = 0; i < 6; i++) {
        assert_true(view_mean_boxes(f, 3, spans[i]) == 1);
        assert_true(counted(f, 3, spans[i]) == 1);
    }
}

/* Strides are such that no two factors join. */
static void the_mean_of_random_factors_is_near_what_is_counted(void **unused) {
    (void)unused;
    double sum_error = 0;
    for (int round = 0; round < N_ROUNDS; round++) {
        view_factor f[MAX_FACTORS];
        int n = 1 + (int)below(MAX_FACTORS);
        int64_t n_elements = 1;
        for (int i = 0; i < n; i++) {
            f[i] = (view_factor){1 + below(i ? 40 : 4000), (1 << 20) - 7919 * i};
            n_elements *= f[i].size;
        }
        int64_t span = below(2) ? 128 : 1 + below(600);
        if (span * 4 > n_elements)
            continue;
        double error = view_mean_boxes(f, n, span) / counted(f, n, span);
        if (error < 0.6 || error > 1.7)
            fail_msg(
                "round %d: %.3f boxes estimated, %.3f counted in spans of %lld of [%lld, %lld, "
                "%lld, %lld]",
                round, view_mean_boxes(f, n, span), counted(f, n, span), (long long)span,
                (long long)f[0].size, n > 1 ? (long long)f[1].size : 1,
                n > 2 ? (long long)f[2].size : 1, n > 3 ? (long long)f[3].size : 1);
        sum_error += fabs(log(error));
    }
    assert_true(sum_error / N_ROUNDS < 0.1);
}

int main(void) {
    state = test_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spans_that_fit_their_factors_are_one_box_each),
        cmocka_unit_test(the_mean_of_random_factors_is_near_what_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
