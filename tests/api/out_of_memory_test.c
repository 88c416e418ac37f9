/* Every allocation fails once: what the user calls returns RESOURCE, loses nothing, breaks nothing.
 *
 * The linker sends the library's allocations through here (see meson.build). */
#include "vtrn.h"

#include "base/status.h"
#include "chip/chip_file.h"
#include "isa/asm.h"
#include "isa/container.h"

#include "artifact_x_plus_1.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static long n_until_failure = -1; /* -1: none fails */
static bool fails_for_good;       /* all later ones fail too */
static bool has_failed;
static long n_live;

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
char *__real_strdup(const char *text);
void __real_free(void *p);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
char *__wrap_strdup(const char *text);
void __wrap_free(void *p);

static bool refuses(void) {
    if (n_until_failure < 0)
        return false;
    if (n_until_failure > 0) {
        n_until_failure--;
        return false;
    }
    has_failed = true;
    if (!fails_for_good)
        n_until_failure = -1;
    return true;
}

static void *count(void *p) {
    n_live += p != NULL;
    return p;
}

void *__wrap_malloc(size_t size) {
    return refuses() ? NULL : count(__real_malloc(size));
}

void *__wrap_calloc(size_t n, size_t size) {
    return refuses() ? NULL : count(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t size) {
    if (refuses())
        return NULL;
    return p ? __real_realloc(p, size) : count(__real_realloc(p, size));
}

void *__wrap_aligned_alloc(size_t align, size_t size) {
    return refuses() ? NULL : count(__real_aligned_alloc(align, size));
}

char *__wrap_strdup(const char *text) {
    return refuses() ? NULL : count(__real_strdup(text));
}

void __wrap_free(void *p) {
    n_live -= p != NULL;
    __real_free(p);
}

static char directory[] = "out_of_memory_test_XXXXXX";

/* From the artifact to the values and the profile. */
static vtrn_status run_artifact(vtrn_device *device) {
    static const float values[6] = {0, 1, 2, 3, 4, -5.5f}, expected[6] = {1, 2, 3, 4, 5, -4.5f};
    float result[6] = {0};
    const int64_t dims[] = {2, 3};
    int fp32;
    vtrn_dtype_from_name("fp32", &fp32);
    vtrn_executable *e = NULL;
    vtrn_buffer *in = NULL, *out = NULL;
    vtrn_profile profile = {.struct_size = sizeof profile};
    vtrn_status status = vtrn_compile(device, artifact_x_plus_1, sizeof artifact_x_plus_1, &e);
    if (!status)
        status = vtrn_buffer_create(device, 0, fp32, 2, dims, values, &in);
    for (int i = 0; i < 2 && !status; i++) {
        vtrn_buffer_destroy(out);
        out = NULL;
        status = vtrn_execute(e, 0, &in, 1, &(bool){true}, &out, 1);
        if (!status)
            status = vtrn_buffer_read(out, result, sizeof result);
        if (!status)
            assert_memory_equal(result, expected, sizeof result);
    }
    if (!status)
        status = vtrn_executable_profile(e, &profile);
    if (!status)
        status = vtrn_executable_profile_write(e, directory);
    vtrn_buffer_destroy(in);
    vtrn_buffer_destroy(out);
    vtrn_executable_destroy(e);
    return status;
}

/* Container to text and back, and onto a device. */
static vtrn_status convert_program(vtrn_device *device, const void *bytes, size_t size) {
    vtrn_program *p = NULL, *again = NULL;
    vtrn_executable *e = NULL;
    char *text = NULL;
    void *saved = NULL;
    size_t n_text = 0, n_saved = 0;
    vtrn_status status = program_load(bytes, size, NULL, &p);
    if (!status)
        status = program_disassemble(p, &text, &n_text);
    if (!status)
        status = program_assemble(text, n_text, "text", &again);
    if (!status)
        status = program_save(again, &saved, &n_saved);
    if (!status)
        status = vtrn_program_load(device, saved, n_saved, &e);
    if (!status)
        assert_int_equal(n_saved, size);
    program_destroy(p);
    program_destroy(again);
    free(text);
    free(saved);
    vtrn_executable_destroy(e);
    return status;
}

static void *container;
static size_t container_size;

static vtrn_status scenario(void) {
    const vtrn_device_options options = {
        .struct_size = sizeof options, .instance = "trn1.2xlarge", .n_threads = 1};
    vtrn_device *device = NULL;
    vtrn_status status = vtrn_device_open(&options, &device);
    if (!status)
        status = run_artifact(device);
    setenv("VTRN_REFERENCE_ONLY", "1", 1);
    if (!status)
        status = run_artifact(device);
    unsetenv("VTRN_REFERENCE_ONLY");
    if (!status && container)
        status = convert_program(device, container, container_size);
    vtrn_device_close(device);
    return status;
}

static void fail_each(bool for_good) {
    for (long i = 0;; i++) {
        long before = n_live;
        fails_for_good = for_good;
        has_failed = false;
        n_until_failure = i;
        vtrn_status status = scenario();
        n_until_failure = -1;
        vtrn_category category = vtrn_status_category(status);
        if (category != VTRN_OK && category != VTRN_RESOURCE)
            fail_msg("allocation %ld: %s", i, vtrn_status_text(status));
        vtrn_status_free(status);
        if (n_live != before)
            fail_msg("allocation %ld: %ld blocks are lost", i, n_live - before);
        if (!has_failed) {
            assert_true(i > 100); /* it did count the library's */
            return;
        }
    }
}

static void an_allocation_that_fails_once_is_reported_and_loses_nothing(void **state) {
    (void)state;
    fail_each(false);
}

static void memory_that_is_gone_for_good_is_reported_and_loses_nothing(void **state) {
    (void)state;
    fail_each(true);
}

/* Puts a trn1 of 1 GiB into the directory. Hundreds of devices are opened here, and where the tests
 * run under an emulator, that writes down something for each page of their HBM. */
static bool write_little_chip(void) {
    static const char key[] = "\nhbm_bytes = ";
    char path[CHIP_PATH_MAX], *text;
    if (chip_file_read("trn1", path, &text))
        return false;
    char *value = strstr(text, key);
    assert_non_null(value);
    value += strlen(key);
    snprintf(path, sizeof path, "%s/trn1.toml", directory);
    FILE *file = fopen(path, "w");
    if (!file)
        return false;
    fprintf(file, "%.*s1_073_741_824%s", (int)(value - text), text, strpbrk(value, " \n"));
    free(text);
    return !fclose(file) && !setenv("VTRN_CHIPS_PATH", directory, 1);
}

static int make_container(void **state) {
    (void)state;
    vtrn_device *device;
    vtrn_executable *e;
    if (!mkdtemp(directory) || !write_little_chip() || vtrn_device_open(NULL, &device) ||
        vtrn_compile(device, artifact_x_plus_1, sizeof artifact_x_plus_1, &e) ||
        vtrn_executable_program(e, &container, &container_size))
        return -1;
    vtrn_executable_destroy(e);
    vtrn_device_close(device);
    vtrn_status status = scenario(); /* whatever is made once, is made now */
    return status ? -1 : 0;
}

static int free_container(void **state) {
    (void)state;
    free(container);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", directory);
    return system(command);
}

int main(void) {
    unsetenv("VTRN_INSTANCE");
    unsetenv("VTRN_CHIP");
    unsetenv("VTRN_PROFILE");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_allocation_that_fails_once_is_reported_and_loses_nothing),
        cmocka_unit_test(memory_that_is_gone_for_good_is_reported_and_loses_nothing),
    };
    return cmocka_run_group_tests(tests, make_container, free_container);
}
