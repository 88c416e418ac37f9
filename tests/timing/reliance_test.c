/* Which assumed constants a program's time rests on. */
#include "timing/reliance.h"

#include "timing/round_chip.h"
#include "timing/tiny.h"

static tiny t;

static int key_of(const char *table, const char *name) {
    for (int key = 0; key < CHIP_N_KEYS; key++)
        if (strcmp(chip_key_table(key), table) == 0 && strcmp(chip_key_name(key), name) == 0)
            return key;
    fail_msg("no key %s.%s", table, name);
    return -1;
}

/* Nothing is assumed but what a test says. */
static vtrn_chip known_chip(void) {
    vtrn_chip chip = round_chip();
    memset(chip.basis, CHIP_MEASURED, sizeof chip.basis);
    return chip;
}

static timing_reliances rely(const vtrn_chip *chip) {
    const uint32_t trace[] = {0};
    timing_result result;
    timing_reliances out;
    const vtrn_program *program = tiny_finish(&t);
    assert_null(timing_replay(chip, program, trace, 1, false, &result));
    assert_null(timing_rely(chip, program, trace, 1, result.summary.total_ns, &out));
    timing_result_free(&result);
    return out;
}

static void add_load_and_copy(void) {
    tiny_init(&t);
    vtrn_ap a = tiny_ap(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, 128, 250, 0);
    vtrn_ap b = tiny_ap(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, 128, 250, 4096);
    vtrn_ap far = tiny_ap(VTRN_SPACE_HBM, VTRN_DTYPE_FP32, 128, 250, 0);
    tiny_signal(tiny_add2(&t, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC, a, far), 0, 16);
    tiny_wait(tiny_add2(&t, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_SCALAR, b, a), 0, 16);
}

static void a_time_rests_on_no_constant_that_is_measured(void **state) {
    (void)state;
    vtrn_chip chip = known_chip();
    add_load_and_copy();
    timing_reliances r = rely(&chip);
    assert_int_equal(r.n_assumed, 0);
    assert_int_equal(r.n, 0);
    assert_true(r.together == 0);
}

static void assumed_constants_are_named_by_what_they_change(void **state) {
    (void)state;
    vtrn_chip chip = known_chip();
    chip.basis[key_of("dma", "start_ns")] = CHIP_ASSUMED;
    chip.basis[key_of("dma", "complete_ns")] = CHIP_ASSUMED;
    chip.basis[key_of("cost", "tensor_latency_ns")] = CHIP_ASSUMED; /* no matmul here */
    add_load_and_copy();
    timing_reliances r = rely(&chip);
    double data_ns = 8 * (10 + 100),
           total_ns = 1000 + 100 + 700 + data_ns + 300 + 20 + 250 + 170 + 500;
    assert_int_equal(r.n_assumed, 3);
    assert_int_equal(r.n, 2);
    assert_int_equal(r.of[0].key, key_of("dma", "start_ns"));
    assert_int_equal(r.of[1].key, key_of("dma", "complete_ns"));
    assert_ns(1e6 * r.of[0].change, 1e6 * 70 / total_ns);
    assert_ns(1e6 * r.of[1].change, 1e6 * 30 / total_ns);
    assert_ns(1e6 * r.together, 1e6 * 100 / total_ns);
}

static void those_that_matter_most_are_kept_in_order(void **state) {
    (void)state;
    vtrn_chip chip = known_chip();
    memset(chip.basis, CHIP_ASSUMED, sizeof chip.basis);
    add_load_and_copy();
    timing_reliances r = rely(&chip);
    assert_true(r.n_assumed > TIMING_MAX_RELIANCES);
    assert_int_equal(r.n, TIMING_MAX_RELIANCES);
    for (int i = 1; i < r.n; i++)
        assert_true(fabs(r.of[i - 1].change) >= fabs(r.of[i].change));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_time_rests_on_no_constant_that_is_measured),
        cmocka_unit_test(assumed_constants_are_named_by_what_they_change),
        cmocka_unit_test(those_that_matter_most_are_kept_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
