/* Every host computes the same bits: what the engines' functions give for a fixed sweep of numbers,
 * as checksums. They hold for each instruction-set level, processor and C library. A function that
 * is made more exact changes its own; the failure shows the new one. NaN counts as one number, for
 * its sign and payload are the processor's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cpu.h"
#include "base/dtype.h"
#include "base/dtype_bits.h"
#include "engine/act_kernels.h"
#include "engine/alu_kernels.h"
#include "engine/tensor_kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 1 << 16, N_ROWS = 64, N_COLS = N / N_ROWS };

static float x[N], y[N], out[N];
static int n_wrong;

/* Any exponent and either sign at even places, at odd ones -20..20 closely. */
static void fill_sweep(void) {
    for (uint32_t i = 0; i < N; i++) {
        x[i] = i & 1 ? (float)i * (40.0f / N) - 20.0f : bits_to_float(i * 0x9e3779b1u);
        y[i] = i & 2 ? (float)(i % 401) * 0.03125f - 6.0f : bits_to_float(i * 0x85ebca6bu);
    }
}

static uint64_t checksum(const float *values, size_t n) {
    uint64_t sum = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = values[i] != values[i] ? 0x7fc00000u : float_to_bits(values[i]);
        sum = (sum ^ bits) * 0x100000001b3u;
        sum ^= sum >> 29;
    }
    return sum;
}

static const struct {
    const char *name;
    uint64_t sum;
} known[] = {
#include "same_bits.inc"
};

static void expect(const char *kind, const char *name, size_t n) {
    char label[64];
    snprintf(label, sizeof label, "%s %s", kind, name);
    uint64_t sum = checksum(out, n), expected = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, label))
            expected = known[i].sum;
    if (sum == expected)
        return;
    printf("    {\"%s\", 0x%016llx}, /* at level %s */\n", label, (unsigned long long)sum,
           cpu_level_name(cpu_level_get()));
    n_wrong++;
}

static void check_activations(void) {
    for (int f = 0; f < VTRN_ACT_COUNT; f++) {
        CPU_TABLE(act_kernel_table)->act[f](x, 1.25f, -0.5f, 0.25f, out, N);
        expect("act", isa_act_name((vtrn_act)f), N);
    }
}

static void check_operations(void) {
    const alu_kernels *k = CPU_TABLE(alu_kernel_table);
    for (int op = 0; op < VTRN_ALU_COUNT; op++) {
        if (k->tt[op]) {
            k->tt[op](x, y, out, N);
            expect("alu", isa_alu_name((vtrn_alu)op), N);
        }
        if (k->reduce_rows[op]) {
            k->reduce_rows[op](y, N_ROWS, N_COLS, N_COLS - 3, out);
            expect("reduce", isa_alu_name((vtrn_alu)op), N_ROWS);
        }
    }
    k->reciprocal(x, out, N);
    expect("alu", "reciprocal", N);
}

static void check_conversions(void) {
    static uint8_t stored[16 * N];
    for (int t = 0; t < VTRN_DTYPE_COUNT; t++) {
        if (dtype_of_packed((vtrn_dtype)t) != (vtrn_dtype)t)
            continue; /* never converted */
        dtype_store_fp32((vtrn_dtype)t, x, stored, N);
        dtype_load_fp32((vtrn_dtype)t, stored, out, N);
        expect("convert", dtype_name((vtrn_dtype)t), N);
    }
}

/* 128 rows against 8 columns of weights, on moderate numbers: one chain of fused multiply-adds an
 * element. */
static void check_products(void) {
    static float panels[TENSOR_PANEL_STRIDE], moving[128 * TENSOR_STRIP_COLS];
    for (int i = 0; i < 128 * TENSOR_BLOCK_ROWS; i++)
        panels[i] = (float)(i * 37 % 1009) / 1009 - 0.5f;
    for (int i = 0; i < 128 * TENSOR_STRIP_COLS; i++)
        moving[i] = (float)(i * 53 % 4093) / 4093 - 0.5f;
    tensor_moving b = tensor_moving_of(moving, TENSOR_STRIP_COLS);
    b.coming.moving = (tensor_ahead){0, 1 << 20, 200, 4, 100}; /* no rows of anything */
    b.coming.weights = b.coming.moving;
    CPU_TABLE(tensor_kernel_table)
        ->multiply[2]((tensor_stationary){panels, 1, 128}, b,
                      (tensor_sums){out, TENSOR_STRIP_COLS, false});
    expect("pe", "matmul", TENSOR_BLOCK_ROWS * TENSOR_STRIP_COLS);
}

static void functions_give_the_same_bits_on_every_host(void **state) {
    (void)state;
    cpu_level highest = cpu_level_get();
    fill_sweep();
    for (int level = 0; level <= (int)highest; level++) {
        cpu_level_set((cpu_level)level);
        check_activations();
        check_operations();
        check_conversions();
        check_products();
    }
    cpu_level_set(highest);
    assert_int_equal(n_wrong, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(functions_give_the_same_bits_on_every_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
