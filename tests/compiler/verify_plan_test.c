/* The plan verifier on plans of one kernel. */
#include "compiler/plan/verify_plan.h"

#include "base/status.h"
#include "compiler/plan/kernel.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const vtrn_chip chip = {.name = "few banks", .n_psum_banks = 3};

/* What the verifier says of a plan whose one kernel needs so many PSUM banks. */
static vtrn_status verify_banks(int n_banks) {
    static const compile_options options = {0};
    static const graph no_ops = {0};
    builder b = {.chip = &chip};
    plan p = {.chip = &chip, .options = &options, .build = &b};
    kernel_custom spec = {0};
    assert_null(build_source_set(&b, "dot_general", "model.py:42"));
    kernel_demand demand = {.psum_banks = n_banks};
    assert_null(plan_kernel(&p, KERNEL_CUSTOM, &spec, sizeof spec, demand));
    vtrn_status status = verify_plan(&p, &no_ops);
    plan_free(&p);
    build_free(&b);
    return status;
}

static void a_kernel_may_need_all_banks_of_the_chip(void **state) {
    (void)state;
    assert_null(verify_banks(0));
    assert_null(verify_banks(3));
}

static void a_kernel_that_needs_more_banks_than_there_are_is_refused(void **state) {
    (void)state;
    vtrn_status status = verify_banks(4);
    assert_non_null(status);
    assert_int_equal(vtrn_status_category(status), VTRN_INTERNAL);
    assert_non_null(strstr(vtrn_status_message(status),
                           "custom kernel 0 of dot_general model.py:42: it needs 4 PSUM banks, few "
                           "banks has 3"));
    vtrn_status_free(status);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kernel_may_need_all_banks_of_the_chip),
        cmocka_unit_test(a_kernel_that_needs_more_banks_than_there_are_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
