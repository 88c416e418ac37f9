/* Every kind of bad input through the C API: the message says what, where, which rule and which
 * values; the device then runs a good program. Under ASan and LSan nothing may leak. */
#include "vtrn.h"

#include "artifact_x_plus_1.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* Numbers of vtrn_error_category(): the order of base/status.h. */
enum {
    BAD_ARGUMENT = 1,
    UNDEFINED = 2,
    CAPACITY = 4,
    DEADLOCK = 6,
    UNSUPPORTED = 7,
    UNIMPLEMENTED = 8,
    RESOURCE = 10,
};
enum { N = 6 };

static vtrn_device *device;
static vtrn_executable *good;

static void ok(vtrn_status status) {
    if (status)
        fail_msg("%s", vtrn_error_message(status));
}

/* Each of the texts, up to a NULL, must be in the message. */
static void refused(vtrn_status status, int category, ...) {
    assert_non_null(status);
    const char *message = vtrn_error_message(status);
    if (vtrn_error_category(status) != category)
        fail_msg("category %d, not %d: %s", vtrn_error_category(status), category, message);
    va_list texts;
    va_start(texts, category);
    for (const char *text; (text = va_arg(texts, const char *));)
        if (!strstr(message, text))
            fail_msg("no '%s' in: %s", text, message);
    va_end(texts);
    vtrn_error_free(status);
}

static vtrn_buffer *make_buffer(const char *type, int rank, const int64_t *dims, const void *data) {
    int dtype;
    assert_true(vtrn_dtype_from_name(type, &dtype));
    vtrn_buffer *b;
    ok(vtrn_buffer_create(device, 0, dtype, rank, dims, data, &b));
    return b;
}

static vtrn_buffer *make_input(void) {
    return make_buffer("fp32", 2, (int64_t[]){2, 3}, (float[]){0, 1, 2, 3, 4, -5.5f});
}

static int open_device(void **state) {
    (void)state;
    vtrn_device_options options = {
        .struct_size = sizeof options, .instance = "trn1.2xlarge", .n_threads = 2};
    ok(vtrn_device_open(&options, &device));
    ok(vtrn_compile(device, artifact_x_plus_1, sizeof artifact_x_plus_1, &good));
    return 0;
}

/* After every test: the executable of before still runs, and a new one compiles. */
static int device_still_works(void **state) {
    (void)state;
    static const float expected[N] = {1, 2, 3, 4, 5, -4.5f};
    vtrn_executable *fresh;
    ok(vtrn_compile(device, artifact_x_plus_1, sizeof artifact_x_plus_1, &fresh));
    vtrn_executable *const both[] = {good, fresh};
    for (int i = 0; i < 2; i++) {
        vtrn_buffer *in = make_input(), *out;
        ok(vtrn_execute(both[i], 0, &in, 1, NULL, &out, 1));
        float values[N];
        ok(vtrn_buffer_read(out, values, sizeof values));
        assert_memory_equal(values, expected, sizeof values);
        vtrn_buffer_destroy(in);
        vtrn_buffer_destroy(out);
    }
    vtrn_executable_destroy(fresh);
    vtrn_executable_destroy(good);
    vtrn_device_close(device);
    return 0;
}

static void a_truncated_artifact_is_refused(void **state) {
    (void)state;
    for (size_t size = 4; size < sizeof artifact_x_plus_1 - 8; size++) {
        unsigned char *part = malloc(size); /* its own block, so that ASan sees a byte too far */
        memcpy(part, artifact_x_plus_1, size);
        vtrn_executable *e;
        refused(vtrn_compile(device, part, size, &e), BAD_ARGUMENT, "VHLO artifact: ", "at byte ",
                "export it again", NULL);
        free(part);
    }
}

static void a_mutated_artifact_is_refused_or_a_program(void **state) {
    (void)state;
    int n_refused = 0;
    for (size_t i = 0; i < sizeof artifact_x_plus_1; i++)
        for (int bit = 0; bit < 8; bit++) {
            unsigned char copy[sizeof artifact_x_plus_1];
            memcpy(copy, artifact_x_plus_1, sizeof copy);
            copy[i] ^= (unsigned char)(1 << bit);
            vtrn_executable *e = NULL;
            vtrn_status status = vtrn_compile(device, copy, sizeof copy, &e);
            if (!status) {
                vtrn_executable_destroy(e);
                continue;
            }
            n_refused++;
            if (strncmp(vtrn_error_message(status), "internal", 8) == 0)
                fail_msg("byte %zu, bit %d: %s", i, bit, vtrn_error_message(status));
            vtrn_error_free(status);
        }
    assert_true(n_refused > 1000);
}

static void a_foreign_file_is_refused(void **state) {
    (void)state;
    vtrn_executable *e;
    refused(vtrn_compile(device,
                         "\x7f"
                         "ELF\2\1\1",
                         7, &e),
            BAD_ARGUMENT, "7 bytes that start with", "7f 45 4c 46", "jax.export", NULL);
    refused(vtrn_compile(device, "", 0, &e), BAD_ARGUMENT, "got no bytes", "jax.export", NULL);
    refused(vtrn_compile(device, "module @m {}", 12, &e), BAD_ARGUMENT, "got MLIR text",
            "serialise it", NULL);
    refused(vtrn_program_load(device,
                              "\x7f"
                              "ELF\0\0\0",
                              7, &e),
            BAD_ARGUMENT, "binary data", NULL);
    refused(vtrn_program_load(device, "", 0, &e), BAD_ARGUMENT, "0 bytes", NULL);
}

static void an_operation_that_is_not_implemented_is_named(void **state) {
    (void)state;
    unsigned char copy[sizeof artifact_x_plus_1];
    memcpy(copy, artifact_x_plus_1, sizeof copy);
    size_t i = 0;
    while (i < sizeof copy - 6 && memcmp(copy + i, "add_v1", 6) != 0)
        i++;
    assert_true(i < sizeof copy - 6);
    memcpy(copy + i, "adx_v1", 6);
    vtrn_executable *e;
    refused(vtrn_compile(device, copy, sizeof copy, &e), UNIMPLEMENTED, "vhlo.adx_v1",
            "neither a lowering", "run this part on the CPU", "\n  at vhlo.adx_v1", NULL);
    /* a name that is no text is still shown as text */
    memcpy(copy + i, "ad\xb1\x01v1", 6);
    refused(vtrn_compile(device, copy, sizeof copy, &e), UNIMPLEMENTED, "vhlo.ad??v1", NULL);
}

#define HEAD                                                                                       \
    "program \"p\" chip \"trn1\" gen 2\narguments 1\noutputs _\nscratch 0\n"                       \
    "slot 0 argument fp32 128 bytes number 0\nslot 1 output fp32 128 bytes number 0\nblock 0\n"
#define LOAD "Sync dma_copy sbuf[0:32, 0]:fp32(1:1), hbm[0, 0, 32*1]:fp32(1:1), ring 0, inc s0+16\n"
#define STORE                                                                                      \
    "Sync dma_copy hbm[1, 0, 32*1]:fp32(1:1), sbuf[0:32, 0]:fp32(1:1), ring 0, wait s%d>=%d\n"     \
    "stop\n"

static vtrn_status load_text(const char *text, vtrn_executable **out) {
    return vtrn_program_load(device, text, strlen(text), out);
}

static void an_illegal_instruction_is_refused(void **state) {
    (void)state;
    vtrn_executable *e;
    refused(load_text(HEAD "Tensor tensor_copy sbuf[0:32, 0]:fp32(1:1), sbuf[0:32, 0]:fp32(1:1)\n"
                           "stop\n",
                      &e),
            UNDEFINED, "tensor_copy: Tensor does not have this instruction",
            "at instruction 0 (Tensor)", NULL);
    refused(load_text(HEAD "Vector tensor_cop sbuf[0:32, 0]:fp32(1:1)\nstop\n", &e), BAD_ARGUMENT,
            "program:8:", "no instruction is called \"tensor_cop\"", "^", NULL);
    refused(load_text(HEAD "Vector memset sbuf[5:8, 0]:fp32(1:1)\nstop\n", &e), UNDEFINED,
            "3 partitions may not start at partition 5", "up to 32 start at 0, 32, 64 or 96",
            "use DMA", NULL);
}

static void an_sbuf_overflow_is_out_of_capacity(void **state) {
    (void)state;
    vtrn_executable *e;
    refused(load_text(HEAD "Vector memset sbuf[0:32, 196604]:fp32(1:2)\nstop\n", &e), CAPACITY,
            "memset: ap0: ends at byte 196612", "a partition of SBUF has 196608 (trn1)",
            "at instruction 0 (Vector)", NULL);
    refused(load_text(HEAD "Vector memset sbuf[0:129, 0]:fp32(1:1)\nstop\n", &e), CAPACITY,
            "partitions 0..128", "SBUF has 128", NULL);
}

static void a_shape_beyond_the_hbm_is_out_of_capacity(void **state) {
    (void)state;
    int fp32;
    vtrn_dtype_from_name("fp32", &fp32);
    vtrn_buffer *b;
    refused(vtrn_buffer_create(device, 0, fp32, 2, (int64_t[]){1 << 20, 1 << 20}, NULL, &b),
            CAPACITY, "HBM: 4398046511104 bytes requested", "capacity of the stack 17163091968",
            "a buffer of fp32[1048576,1048576]", NULL);
    const char *text = "program \"p\" chip \"trn1\" gen 2\narguments 0\noutputs\n"
                       "scratch 40000000000\nblock 0\nstop\n";
    vtrn_executable *e;
    ok(load_text(text, &e));
    refused(vtrn_execute(e, 0, NULL, 0, NULL, NULL, 0), CAPACITY,
            "HBM: 40000000000 bytes requested", "core 0", NULL);
    vtrn_executable_destroy(e);
}

static void a_semaphore_that_nobody_raises_is_a_deadlock(void **state) {
    (void)state;
    char text[1024];
    snprintf(text, sizeof text, HEAD LOAD STORE, 5, 16);
    vtrn_executable *e;
    vtrn_status status = load_text(text, &e);
    if (!status) {
        vtrn_buffer *in = make_buffer("fp32", 1, (int64_t[]){32}, NULL), *out;
        status = vtrn_execute(e, 0, &in, 1, NULL, &out, 1);
        vtrn_buffer_destroy(in);
        vtrn_executable_destroy(e);
    }
    refused(status, DEADLOCK, "block 0: 1 engine", "raise the semaphore before the wait",
            "at Sync: instruction 1 (dma_copy) waits for semaphore 5 >= 16, which is 0",
            "nothing left in this block raises semaphore 5", NULL);
    snprintf(text, sizeof text, HEAD LOAD STORE, 0, 16);
    ok(load_text(text, &e)); /* the wait was the only mistake */
    vtrn_executable_destroy(e);
}

static void a_damaged_program_file_is_refused(void **state) {
    (void)state;
    void *bytes;
    size_t size;
    ok(vtrn_executable_program(good, &bytes, &size));
    vtrn_executable *e;
    unsigned char *copy = malloc(size);
    for (size_t i = 24; i < size; i += 7) {
        memcpy(copy, bytes, size);
        copy[i] ^= 0x10;
        refused(vtrn_program_load(device, copy, size, &e), BAD_ARGUMENT,
                "program file: byte 16: checksum ", "the bytes give", "write it again", NULL);
    }
    free(copy);
    for (size_t n = 4; n < size; n += 5) {
        copy = malloc(n);
        memcpy(copy, bytes, n);
        refused(vtrn_program_load(device, copy, n, &e), BAD_ARGUMENT, "program file: ", "truncated",
                "write it again", NULL);
        free(copy);
    }
    vtrn_free(bytes);
}

static void a_program_for_another_chip_is_refused(void **state) {
    (void)state;
    vtrn_executable *e;
    refused(load_text("program \"p\" chip \"trn2\" gen 3\narguments 0\noutputs\nscratch 0\n"
                      "block 0\nstop\n",
                      &e),
            UNSUPPORTED, "made for NeuronCore-v3, trn1 has v2", NULL);
}

static void nan_in_data_is_data(void **state) {
    (void)state;
    const uint32_t bits[N] = {0x7fc00000, 0xffc00000, 0x7f800000, 0xff800000, 0, 0x3f800000};
    vtrn_buffer *in = make_buffer("fp32", 2, (int64_t[]){2, 3}, bits), *out;
    ok(vtrn_execute(good, 0, &in, 1, NULL, &out, 1));
    float values[N];
    ok(vtrn_buffer_read(out, values, sizeof values));
    assert_true(values[0] != values[0] && values[1] != values[1]);
    assert_true(values[2] > 3e38f && values[3] < -3e38f && values[4] == 1 && values[5] == 2);
    vtrn_buffer_destroy(in);
    vtrn_buffer_destroy(out);
}

static void inputs_of_the_wrong_type_shape_or_number_are_refused(void **state) {
    (void)state;
    vtrn_buffer *none = NULL, *out, *in[2] = {make_input(), make_input()};
    vtrn_buffer *dtype = make_buffer("int32", 2, (int64_t[]){2, 3}, NULL);
    vtrn_buffer *shape = make_buffer("fp32", 2, (int64_t[]){3, 2}, NULL);
    vtrn_buffer *empty = make_buffer("fp32", 2, (int64_t[]){0, 3}, NULL);
    refused(vtrn_execute(good, 0, &dtype, 1, NULL, &out, 1), BAD_ARGUMENT,
            "input 0 is int32[2,3], the program takes fp32[2,3]", NULL);
    refused(vtrn_execute(good, 0, &shape, 1, NULL, &out, 1), BAD_ARGUMENT,
            "input 0 is fp32[3,2], the program takes fp32[2,3]", NULL);
    refused(vtrn_execute(good, 0, &empty, 1, NULL, &out, 1), BAD_ARGUMENT, "input 0 is fp32[0,3]",
            NULL);
    refused(vtrn_execute(good, 0, &none, 1, NULL, &out, 1), BAD_ARGUMENT, "input 0 is NULL", NULL);
    refused(vtrn_execute(good, 0, in, 2, NULL, &out, 1), BAD_ARGUMENT, "2 inputs",
            "it takes 1 and gives 1", NULL);
    refused(vtrn_execute(good, 0, in, 1, NULL, &out, 0), BAD_ARGUMENT, "room for 0 outputs", NULL);
    refused(vtrn_execute(good, 9, in, 1, NULL, &out, 1), BAD_ARGUMENT, "core 9", NULL);
    refused(vtrn_execute(good, -1, in, 1, NULL, &out, 1), BAD_ARGUMENT, "core -1", NULL);
    float values[N];
    refused(vtrn_buffer_read(in[0], values, 4), BAD_ARGUMENT,
            "buffer fp32[2,3] has 24 bytes: 4 bytes given", "whole", NULL);
    ok(vtrn_buffer_read(in[0], values, sizeof values)); /* a refusal consumes nothing */
    ok(vtrn_buffer_read(empty, NULL, 0));
    vtrn_buffer *all[] = {in[0], in[1], dtype, shape, empty};
    for (int i = 0; i < 5; i++)
        vtrn_buffer_destroy(all[i]);
}

static void a_donated_buffer_is_not_taken_twice(void **state) {
    (void)state;
    vtrn_buffer *in = make_input(), *out, *again;
    ok(vtrn_execute(good, 0, &in, 1, NULL, &out, 1));
    refused(vtrn_execute(good, 0, &in, 1, NULL, &again, 1), BAD_ARGUMENT,
            "buffer fp32[2,3] was donated", "use the output", "input 0 of ", NULL);
    float values[N];
    refused(vtrn_buffer_write(in, values, sizeof values), BAD_ARGUMENT, "was donated", NULL);
    ok(vtrn_buffer_read(out, values, sizeof values));
    assert_true(values[5] == -4.5f);
    vtrn_buffer_destroy(in);
    vtrn_buffer_destroy(out);
}

static vtrn_status open_chip(const char *chip) {
    vtrn_device *d = NULL;
    vtrn_device_options options = {.struct_size = sizeof options, .chip = chip};
    vtrn_status status = vtrn_device_open(&options, &d);
    if (!status)
        vtrn_device_close(d);
    return status;
}

static void an_unknown_chip_is_refused_with_the_known_ones(void **state) {
    (void)state;
    refused(open_chip("trn9"), BAD_ARGUMENT, "no chip 'trn9'", "known are", "trn1", "trn2", NULL);
    refused(open_chip("trm1"), BAD_ARGUMENT, "no chip 'trm1'", "did you mean 'trn1'?", NULL);
}

static void an_unknown_instance_is_refused_with_the_nearest(void **state) {
    (void)state;
    vtrn_device *d = NULL;
    vtrn_device_options options = {.struct_size = sizeof options, .instance = "trn1.3xlarge"};
    refused(vtrn_device_open(&options, &d), BAD_ARGUMENT, "no instance 'trn1.3xlarge'",
            "did you mean 'trn1.2xlarge'?", NULL);
    options.chip = "trn2";
    options.instance = "trn1.2xlarge";
    refused(vtrn_device_open(&options, &d), BAD_ARGUMENT, "trn1.2xlarge", "trn2", "leave one",
            NULL);
    assert_null(d);
}

static void a_profile_directory_that_cannot_be_written_is_refused_at_once(void **state) {
    (void)state;
    char path[] = "./no_directory_XXXXXX", inside[64];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    snprintf(inside, sizeof inside, "%s/profile", path);
    const char *const places[] = {path, inside};
    for (int i = 0; i < 2; i++) {
        setenv("VTRN_PROFILE", places[i], 1);
        refused(open_chip("trn1"), RESOURCE, path, "VTRN_PROFILE", NULL);
    }
    unsetenv("VTRN_PROFILE");
    if (geteuid() != 0) { /* root writes anywhere */
        assert_int_equal(unlink(path), 0);
        assert_int_equal(mkdir(path, 0500), 0);
        setenv("VTRN_PROFILE", path, 1);
        refused(open_chip("trn1"), RESOURCE, path, "VTRN_PROFILE", NULL);
        unsetenv("VTRN_PROFILE");
        rmdir(path);
    }
    unlink(path);
}

static void a_chip_file_that_lacks_a_number_is_refused(void **state) {
    (void)state;
    char path[] = "./bad_chip_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    fputs("[chip]\nname = \"odd\"\ngeneration = 2\ncores = 2\nexecutable = true\n", f);
    fflush(f);
    refused(open_chip(path), BAD_ARGUMENT, path, " is missing in [", "; add '", NULL);
    fputs("[memory]\npartitions = -1\n", f);
    fclose(f);
    refused(open_chip(path), BAD_ARGUMENT, path, ":7: memory.partitions = -1: must lie between",
            NULL);
    unlink(path);
}

int main(void) {
    unsetenv("VTRN_INSTANCE");
    unsetenv("VTRN_CHIP");
    unsetenv("VTRN_PROFILE");
#define CASE(name) cmocka_unit_test_setup_teardown(name, open_device, device_still_works)
    const struct CMUnitTest tests[] = {
        CASE(a_truncated_artifact_is_refused),
        CASE(a_mutated_artifact_is_refused_or_a_program),
        CASE(a_foreign_file_is_refused),
        CASE(an_operation_that_is_not_implemented_is_named),
        CASE(an_illegal_instruction_is_refused),
        CASE(an_sbuf_overflow_is_out_of_capacity),
        CASE(a_shape_beyond_the_hbm_is_out_of_capacity),
        CASE(a_semaphore_that_nobody_raises_is_a_deadlock),
        CASE(a_damaged_program_file_is_refused),
        CASE(a_program_for_another_chip_is_refused),
        CASE(nan_in_data_is_data),
        CASE(inputs_of_the_wrong_type_shape_or_number_are_refused),
        CASE(a_donated_buffer_is_not_taken_twice),
        CASE(an_unknown_chip_is_refused_with_the_known_ones),
        CASE(an_unknown_instance_is_refused_with_the_nearest),
        CASE(a_profile_directory_that_cannot_be_written_is_refused_at_once),
        CASE(a_chip_file_that_lacks_a_number_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
