/* Levels: what the host has, as the kernel tells it, and what VTRN_ISA leaves of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
/* The flags of the first processor, with a space around each. */
static const char *kernel_flags(void) {
    static char line[1 << 16];
    FILE *f = fopen("/proc/cpuinfo", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) && strncmp(line, "flags", 5))
        ;
    fclose(f);
    assert_int_equal(strncmp(line, "flags", 5), 0);
    *strchr(line, '\n') = ' ';
    return line;
}

static bool kernel_has(const char *names) {
    char copy[100], name[32], *rest = NULL;
    snprintf(copy, sizeof copy, "%s", names);
    for (char *at = strtok_r(copy, " ", &rest); at; at = strtok_r(NULL, " ", &rest)) {
        snprintf(name, sizeof name, " %s ", at);
        if (!strstr(kernel_flags(), name))
            return false;
    }
    return true;
}

static void the_level_is_the_highest_that_the_kernel_says_the_host_has(void **state) {
    (void)state;
    unsetenv("VTRN_ISA");
    bool has_avx2 = kernel_has("avx2 fma bmi2");
    bool has_avx512 = has_avx2 && kernel_has("avx512f avx512bw avx512dq avx512vl");
    assert_int_equal(cpu_level_set(CPU_LEVEL_AVX512), has_avx512 ? CPU_LEVEL_AVX512
                                                      : has_avx2 ? CPU_LEVEL_AVX2
                                                                 : CPU_LEVEL_BASE);
    assert_int_equal(cpu_level_set(CPU_LEVEL_AVX2), has_avx2 ? CPU_LEVEL_AVX2 : CPU_LEVEL_BASE);
}
#endif

static void a_test_cannot_set_a_level_above_that_of_the_environment(void **state) {
    (void)state;
    unsetenv("VTRN_ISA");
    cpu_level highest = cpu_level_set(CPU_LEVEL_AVX512);
    for (int i = 0; i <= (int)highest; i++) {
        setenv("VTRN_ISA", cpu_level_name((cpu_level)i), 1);
        assert_null(cpu_level_check());
        assert_int_equal(cpu_level_set(CPU_LEVEL_AVX512), i);
        assert_int_equal(cpu_level_set(CPU_LEVEL_BASE), CPU_LEVEL_BASE);
    }
    unsetenv("VTRN_ISA");
    assert_int_equal(cpu_level_set(CPU_LEVEL_AVX512), highest);
}

static void an_unknown_level_is_refused_with_the_known_ones(void **state) {
    (void)state;
    setenv("VTRN_ISA", "avx1024", 1);
    vtrn_status status = cpu_level_check();
    assert_int_equal(vtrn_status_category(status), VTRN_BAD_ARGUMENT);
    assert_non_null(strstr(vtrn_status_message(status), "'avx1024'"));
    assert_non_null(strstr(vtrn_status_message(status), cpu_level_name(CPU_LEVEL_BASE)));
    vtrn_status_free(status);
    unsetenv("VTRN_ISA");
}

int main(void) {
    const struct CMUnitTest tests[] = {
#if defined(__x86_64__)
        cmocka_unit_test(the_level_is_the_highest_that_the_kernel_says_the_host_has),
#endif
        cmocka_unit_test(a_test_cannot_set_a_level_above_that_of_the_environment),
        cmocka_unit_test(an_unknown_level_is_refused_with_the_known_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
