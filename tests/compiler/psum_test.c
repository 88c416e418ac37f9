/* Banks of PSUM: each has one owner, and what does not fit is refused. */
#include "compiler/emit/psum.h"

#include "base/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const vtrn_chip chip = {
    .name = "few banks", .n_psum_banks = 5, .psum_bank_bytes = 1536, .tensor_max_n = 512};

static void assert_internal(vtrn_status status, const char *part) {
    assert_non_null(status);
    assert_int_equal(vtrn_status_category(status), VTRN_INTERNAL);
    assert_non_null(strstr(vtrn_status_message(status), part));
    vtrn_status_free(status);
}

static void a_bank_has_one_owner_until_the_next_kernel(void **state) {
    (void)state;
    emitter e = {.chip = &chip};
    psum_banks a, b, c;
    psum_begin(&e);
    assert_null(psum_take(&e, 2, &a));
    assert_null(psum_take(&e, 3, &b));
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 3; j++)
            assert_int_not_equal(psum_tile(&e, &a, i).addr, psum_tile(&e, &b, j).addr);
    assert_internal(psum_take(&e, 1, &c), "takes 1 banks when 5 of few banks's 5 are taken");
    psum_begin(&e);
    assert_null(psum_take(&e, 5, &c));
    assert_int_equal(e.psum_peak_banks, 5);
}

static void tiles_in_use_together_are_in_different_banks(void **state) {
    (void)state;
    emitter e = {.chip = &chip};
    psum_banks banks;
    tile pair[2], all[4];
    psum_begin(&e);
    assert_null(psum_take(&e, 3, &banks));
    for (int i = 0; i < 6; i++) {
        assert_null(psum_next(&e, &banks, 2, pair));
        assert_int_not_equal(pair[0].addr, pair[1].addr);
        assert_true(pair[0].addr < 3 * chip.psum_bank_bytes);
    }
    assert_internal(psum_next(&e, &banks, 4, all), "4 tiles are in use together in 3 banks");
}

static void columns_fill_banks_as_far_as_a_matmul_reaches(void **state) {
    (void)state;
    assert_int_equal(psum_cols(&chip), 384);
    assert_int_equal(psum_banks_for(&chip, 384), 1);
    assert_int_equal(psum_banks_for(&chip, 385), 2);
    vtrn_chip wide = chip;
    wide.psum_bank_bytes = 8192;
    assert_int_equal(psum_cols(&wide), 512);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bank_has_one_owner_until_the_next_kernel),
        cmocka_unit_test(tiles_in_use_together_are_in_different_banks),
        cmocka_unit_test(columns_fill_banks_as_far_as_a_matmul_reaches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
