/* Data types: names and sizes, hand-computed conversions, the same bits at every level. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cpu.h"
#include "base/dtype.h"

#include <math.h>
#include <string.h>

static void every_type_is_found_by_its_name(void **state) {
    (void)state;
    for (int i = 0; i < VTRN_DTYPE_COUNT; i++) {
        vtrn_dtype t;
        assert_true(dtype_from_name(dtype_name((vtrn_dtype)i), &t));
        assert_int_equal(t, i);
        assert_true(dtype_size(t) >= 1);
    }
    vtrn_dtype t;
    assert_false(dtype_from_name("int3", &t));
    assert_int_equal(dtype_size((vtrn_dtype)200), 0);
}

static void integer_stores_round_to_even_saturate_and_turn_nan_into_zero(void **state) {
    (void)state;
    const float x[] = {0.5f, 1.5f, -2.5f, 300.0f, -300.0f, NAN, INFINITY, -INFINITY};
    int8_t i8[8];
    const int8_t want[] = {0, 2, -2, 127, -128, 0, 127, -128};
    dtype_store_fp32(VTRN_DTYPE_INT8, x, i8, 8);
    assert_memory_equal(i8, want, sizeof want);
    uint32_t u32[8];
    const uint32_t want_u32[] = {0, 2, 0, 300, 0, 0, UINT32_MAX, 0};
    dtype_store_fp32(VTRN_DTYPE_UINT32, x, u32, 8);
    assert_memory_equal(u32, want_u32, sizeof want_u32);
}

static void overflow_is_infinity_or_nan_as_the_format_has_it(void **state) {
    (void)state;
    const float x[] = {240.0f, 247.9f, 248.0f, 448.0f, 464.0f, 464.1f};
    uint8_t e4m3[6], e4m3fn[6];
    const uint8_t want_e4m3[] = {0x77, 0x77, 0x78, 0x78, 0x78, 0x78};
    const uint8_t want_e4m3fn[] = {0x77, 0x77, 0x78, 0x7e, 0x7e, 0x7f};
    dtype_store_fp32(VTRN_DTYPE_FP8E4M3, x, e4m3, 6);
    dtype_store_fp32(VTRN_DTYPE_FP8E4M3FN, x, e4m3fn, 6);
    assert_memory_equal(e4m3, want_e4m3, 6);
    assert_memory_equal(e4m3fn, want_e4m3fn, 6);
}

static void convert_truncates_floats_and_keeps_64_bit_integers_exact(void **state) {
    (void)state;
    const double x[] = {-1.9, 1e30, -1e30, NAN};
    int64_t y[4];
    const int64_t want[] = {-1, INT64_MAX, INT64_MIN, 0};
    dtype_convert(VTRN_DTYPE_FP64, x, VTRN_DTYPE_INT64, y, 4);
    assert_memory_equal(y, want, sizeof want);
    const int64_t big[] = {INT64_MAX - 1, -5};
    uint64_t u[2];
    uint8_t u8[2];
    const uint8_t want_u8[] = {254, 251};
    dtype_convert(VTRN_DTYPE_INT64, big, VTRN_DTYPE_UINT64, u, 2);
    assert_memory_equal(u, big, sizeof big);
    dtype_convert(VTRN_DTYPE_INT64, big, VTRN_DTYPE_UINT8, u8, 2);
    assert_memory_equal(u8, want_u8, 2);
}

static void stochastic_rounding_is_right_on_average_and_exact_on_codes(void **state) {
    (void)state;
    uint64_t seed = 42;
    enum { N = 4096 };
    static float x[N], y[N];
    static uint16_t code[N];
    for (int i = 0; i < N; i++)
        x[i] = i & 1 ? 1024.0f : 1024.25f; /* fp16 neighbours: 1024 and 1025 */
    dtype_store_fp32_stochastic(VTRN_DTYPE_FP16, x, code, N, &seed);
    dtype_load_fp32(VTRN_DTYPE_FP16, code, y, N);
    int n_up = 0;
    for (int i = 0; i < N; i++) {
        assert_true(y[i] == 1024.0f || (y[i] == 1025.0f && !(i & 1)));
        n_up += y[i] == 1025.0f;
    }
    assert_in_range(n_up, 400, 624); /* a quarter of 2048, 5.7 sigma either side */
}

static void every_level_gives_the_same_bits(void **state) {
    (void)state;
    enum { N = 4099 };
    static float x[N], loaded[CPU_LEVEL_COUNT][N];
    static uint8_t stored[CPU_LEVEL_COUNT][N * 16];
    uint32_t bits = 12345;
    for (int i = 0; i < N; i++) {
        bits = bits * 1664525u + 1013904223u;
        memcpy(&x[i], &bits, sizeof bits);
    }
    cpu_level highest = cpu_level_get();
    for (int t = 0; t < VTRN_DTYPE_COUNT; t++)
        for (int level = 0; level <= (int)highest; level++) {
            cpu_level_set((cpu_level)level);
            memset(stored[level], 0, sizeof stored[level]);
            dtype_store_fp32((vtrn_dtype)t, x, stored[level], N);
            dtype_load_fp32((vtrn_dtype)t, stored[level], loaded[level], N);
            assert_memory_equal(stored[level], stored[0], sizeof stored[0]);
            assert_memory_equal(loaded[level], loaded[0], sizeof loaded[0]);
        }
    cpu_level_set(highest);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_is_found_by_its_name),
        cmocka_unit_test(integer_stores_round_to_even_saturate_and_turn_nan_into_zero),
        cmocka_unit_test(overflow_is_infinity_or_nan_as_the_format_has_it),
        cmocka_unit_test(convert_truncates_floats_and_keeps_64_bit_integers_exact),
        cmocka_unit_test(stochastic_rounding_is_right_on_average_and_exact_on_codes),
        cmocka_unit_test(every_level_gives_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
