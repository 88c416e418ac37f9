/* The C API from end to end: open, compile, run, donate, profile, and every way to be refused. */
#include "vtrn.h"

#include "artifact_x_plus_1.h"

#include <fenv.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 6, BAD_ARGUMENT = 1, CAPACITY = 4 };

static void ok(vtrn_status status) {
    if (status)
        fail_msg("%s", vtrn_error_message(status));
}

static void refused(vtrn_status status, int category, const char *text) {
    assert_non_null(status);
    if (vtrn_error_category(status) != category || !strstr(vtrn_error_message(status), text))
        fail_msg("category %d with '%s' expected, not %d: %s", category, text,
                 vtrn_error_category(status), vtrn_error_message(status));
    vtrn_error_free(status);
}

static vtrn_device *open_device(void) {
    vtrn_device_options options = {
        .struct_size = sizeof options, .instance = "trn1.2xlarge", .n_threads = 2};
    vtrn_device *device;
    ok(vtrn_device_open(&options, &device));
    return device;
}

static vtrn_executable *compile(vtrn_device *device) {
    vtrn_executable *e;
    ok(vtrn_compile(device, artifact_x_plus_1, sizeof artifact_x_plus_1, &e));
    return e;
}

static vtrn_buffer *make_input(vtrn_device *device, int core_i) {
    int fp32;
    assert_true(vtrn_dtype_from_name("fp32", &fp32));
    vtrn_buffer *b;
    ok(vtrn_buffer_create(device, core_i, fp32, 2, (int64_t[]){2, 3},
                          (float[]){0, 1, 2, 3, 4, -5.5f}, &b));
    return b;
}

static void check_output(const vtrn_buffer *b) {
    static const float expected[N] = {1, 2, 3, 4, 5, -4.5f};
    float values[N];
    ok(vtrn_buffer_read(b, values, sizeof values));
    assert_memory_equal(values, expected, sizeof values);
}

static void x_plus_1_runs_on_both_cores(void **state) {
    (void)state;
    vtrn_device *device = open_device();
    assert_int_equal(vtrn_device_n_cores(device), 2);
    assert_string_equal(vtrn_device_chip_name(device), "trn1");
    vtrn_executable *e = compile(device);
    assert_int_equal(vtrn_executable_n_inputs(e), 1);
    assert_int_equal(vtrn_executable_n_outputs(e), 1);
    int dtype, rank;
    int64_t dims[VTRN_MAX_RANK];
    vtrn_executable_output_type(e, 0, &dtype, &rank, dims);
    assert_int_equal(rank, 2);
    assert_int_equal(dims[0], 2);
    assert_int_equal(dims[1], 3);
    for (int core_i = 0; core_i < 2; core_i++) {
        vtrn_buffer *in = make_input(device, core_i), *out;
        ok(vtrn_execute(e, core_i, &in, 1, &(bool){true}, &out, 1));
        check_output(out);
        float kept[N];
        ok(vtrn_buffer_read(in, kept, sizeof kept));
        assert_true(kept[5] == -5.5f);
        vtrn_buffer_destroy(in);
        vtrn_buffer_destroy(out);
    }
    vtrn_executable_destroy(e);
    vtrn_device_close(device);
}

static void a_donated_input_is_consumed(void **state) {
    (void)state;
    vtrn_device *device = open_device();
    vtrn_executable *e = compile(device);
    assert_int_not_equal(vtrn_executable_input_alias(e, 0), -1);
    vtrn_buffer *in = make_input(device, 0), *out;
    ok(vtrn_execute(e, 0, &in, 1, NULL, &out, 1));
    check_output(out);
    float values[N];
    refused(vtrn_buffer_read(in, values, sizeof values), BAD_ARGUMENT, "was donated");
    vtrn_buffer *again;
    refused(vtrn_execute(e, 0, &in, 1, NULL, &again, 1), BAD_ARGUMENT, "input 0 of");
    vtrn_buffer_destroy(in);
    /* buffers may outlive the device handle */
    vtrn_executable_destroy(e);
    vtrn_device_close(device);
    check_output(out);
    vtrn_buffer_destroy(out);
}

static void the_profile_exists_once_it_has_run(void **state) {
    (void)state;
    vtrn_device *device = open_device();
    vtrn_executable *e = compile(device);
    vtrn_profile p = {.struct_size = sizeof p};
    refused(vtrn_executable_profile(e, &p), BAD_ARGUMENT, "has not run yet");
    vtrn_buffer *in = make_input(device, 0), *out;
    ok(vtrn_execute(e, 0, &in, 1, NULL, &out, 1));
    ok(vtrn_executable_profile(e, &p));
    assert_true(p.step_ns > 0);
    assert_true(p.n_instructions > 0);
    assert_true(p.hbm_read_bytes >= N * 4);
    assert_true(p.hbm_write_bytes >= N * 4);
    assert_int_equal(p.instance_cores, 2);
    assert_int_equal(p.n_reference_ops, 0);
    double first = p.step_ns;
    vtrn_buffer *more;
    ok(vtrn_execute(e, 0, &out, 1, NULL, &more, 1));
    ok(vtrn_executable_profile(e, &p));
    assert_true(p.step_ns == first);
    struct {
        size_t struct_size;
        double step_ns;
        double guard;
    } old = {.struct_size = 16, .guard = 42};
    ok(vtrn_executable_profile(e, (vtrn_profile *)&old));
    assert_true(old.step_ns == first && old.guard == 42);
    vtrn_buffer_destroy(in);
    vtrn_buffer_destroy(out);
    vtrn_buffer_destroy(more);
    vtrn_executable_destroy(e);
    vtrn_device_close(device);
}

static void the_program_can_be_taken_out(void **state) {
    (void)state;
    vtrn_device *device = open_device();
    vtrn_executable *e = compile(device);
    void *bytes;
    size_t size;
    ok(vtrn_executable_program(e, &bytes, &size));
    assert_true(size > 24);
    assert_memory_equal(bytes, "VTRN", 4);
    vtrn_free(bytes);
    vtrn_executable_destroy(e);
    vtrn_device_close(device);
}

static void every_truncation_of_an_artifact_is_refused(void **state) {
    (void)state;
    vtrn_device *device = open_device();
    for (size_t size = 0; size < sizeof artifact_x_plus_1 - 8; size++) {
        unsigned char *part = malloc(size + 1);
        memcpy(part, artifact_x_plus_1, size);
        vtrn_executable *e = NULL;
        vtrn_status status = vtrn_compile(device, part, size, &e);
        if (!status)
            fail_msg("the first %zu of %zu bytes were taken for a program", size,
                     sizeof artifact_x_plus_1);
        vtrn_error_free(status);
        free(part);
    }
    vtrn_executable *e = compile(device);
    vtrn_executable_destroy(e);
    vtrn_device_close(device);
}

static void flags_of_the_compiler_are_taken_or_named(void **state) {
    (void)state;
    vtrn_device *device = open_device();
    const size_t size = sizeof artifact_x_plus_1;
    vtrn_executable *e;
    ok(vtrn_compile_flags(device, artifact_x_plus_1, size, "--auto-cast=matmult -O2", &e));
    vtrn_executable_destroy(e);
    refused(vtrn_compile_flags(device, artifact_x_plus_1, size, "--auto-cast=some", &e),
            BAD_ARGUMENT, "some");
    vtrn_status status =
        vtrn_compile_flags(device, artifact_x_plus_1, size, "--weights-stay=1", &e);
    refused(status, vtrn_error_category(status), "reads weights from HBM in every call");
    vtrn_device_close(device);
}

static void wrong_arguments_are_named(void **state) {
    (void)state;
    vtrn_device *device = open_device();
    vtrn_executable *e = compile(device);
    vtrn_buffer *in = make_input(device, 0), *other, *out;
    refused(vtrn_execute(e, 7, &in, 1, NULL, &out, 1), BAD_ARGUMENT, "core 7");
    refused(vtrn_execute(e, 0, &in, 0, NULL, &out, 1), BAD_ARGUMENT, "0 inputs");
    int fp32, unknown;
    vtrn_dtype_from_name("fp32", &fp32);
    assert_false(vtrn_dtype_from_name("fp7", &unknown));
    ok(vtrn_buffer_create(device, 0, fp32, 1, (int64_t[]){6}, NULL, &other));
    refused(vtrn_execute(e, 0, &other, 1, NULL, &out, 1), BAD_ARGUMENT,
            "input 0 is fp32[6], the program takes fp32[2,3]");
    vtrn_buffer *none;
    refused(vtrn_buffer_create(device, 0, fp32, 1, (int64_t[]){-1}, NULL, &none), BAD_ARGUMENT,
            "dim 0 is -1");
    refused(
        vtrn_buffer_create(device, 0, fp32, 3, (int64_t[]){1 << 30, 1 << 30, 1 << 30}, NULL, &none),
        CAPACITY, "2^63");
    refused(vtrn_buffer_create(device, 0, fp32, 2, (int64_t[]){1 << 20, 1 << 20}, NULL, &none),
            CAPACITY, "4398046511104 bytes requested");
    float values[N];
    refused(vtrn_buffer_read(in, values, 4), BAD_ARGUMENT, "4 bytes given");
    vtrn_device *nowhere = device;
    refused(vtrn_device_open(
                &(vtrn_device_options){.struct_size = sizeof(vtrn_device_options), .chip = "trn9"},
                &nowhere),
            BAD_ARGUMENT, "trn9");
    assert_null(nowhere); /* nothing comes with an error */
    out = in;
    refused(vtrn_execute(e, 7, &in, 1, NULL, &out, 1), BAD_ARGUMENT, "core 7");
    assert_null(out);
    ok(vtrn_execute(e, 0, &in, 1, NULL, &out, 1));
    check_output(out);
    vtrn_buffer_destroy(in);
    vtrn_buffer_destroy(other);
    vtrn_buffer_destroy(out);
    vtrn_executable_destroy(e);
    vtrn_device_close(device);
}

/* XLA calls from threads that flush subnormal numbers; a rounding mode shows the same. */
static void values_do_not_depend_on_the_rounding_mode_of_the_thread(void **state) {
    (void)state;
    assert_int_equal(fesetround(FE_UPWARD), 0);
    vtrn_device *device = open_device(); /* whose threads begin now */
    vtrn_executable *e = compile(device);
    int fp32;
    assert_true(vtrn_dtype_from_name("fp32", &fp32));
    static const float tiny[N] = {1e-30f, 1e-30f, 1e-30f, 1e-30f, 1e-30f, 1e-30f};
    vtrn_buffer *in, *out;
    ok(vtrn_buffer_create(device, 0, fp32, 2, (int64_t[]){2, 3}, tiny, &in));
    ok(vtrn_execute(e, 0, &in, 1, NULL, &out, 1));
    assert_int_equal(fegetround(), FE_UPWARD);
    float values[N];
    ok(vtrn_buffer_read(out, values, sizeof values));
    assert_int_equal(fesetround(FE_TONEAREST), 0);
    for (int i = 0; i < N; i++)
        assert_true(values[i] == 1);
    vtrn_buffer_destroy(in);
    vtrn_buffer_destroy(out);
    vtrn_executable_destroy(e);
    vtrn_device_close(device);
}

int main(void) {
    unsetenv("VTRN_INSTANCE");
    unsetenv("VTRN_PROFILE");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(x_plus_1_runs_on_both_cores),
        cmocka_unit_test(a_donated_input_is_consumed),
        cmocka_unit_test(the_profile_exists_once_it_has_run),
        cmocka_unit_test(the_program_can_be_taken_out),
        cmocka_unit_test(every_truncation_of_an_artifact_is_refused),
        cmocka_unit_test(flags_of_the_compiler_are_taken_or_named),
        cmocka_unit_test(wrong_arguments_are_named),
        cmocka_unit_test(values_do_not_depend_on_the_rounding_mode_of_the_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
