/* The API from many threads: donation against readers, and everything at once. Runs under the
 * thread sanitizer too (make test-threads). */
#include "api/api.h"

#include "artifact_x_plus_1.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { N = 6, BAD_ARGUMENT = 1, N_THREADS = 4, N_ROUNDS = 25 };

static const float input_values[N] = {0, 1, 2, 3, 4, -5.5f};
static const float output_values[N] = {1, 2, 3, 4, 5, -4.5f};

static void ok(vtrn_status status) {
    if (status)
        fail_msg("%s", vtrn_error_message(status));
}

static vtrn_device *open_device(void) {
    vtrn_device_options options = {
        .struct_size = sizeof options, .instance = "trn1.2xlarge", .n_threads = 2};
    vtrn_device *device;
    ok(vtrn_device_open(&options, &device));
    return device;
}

static vtrn_status make_input(vtrn_device *device, vtrn_buffer **out) {
    const int64_t dims[] = {2, 3};
    return vtrn_buffer_create(device, 0, VTRN_DTYPE_FP32, 2, dims, input_values, out);
}

/* What a reader on another thread does between taking the memory and copying it. */
static void who_reads_a_buffer_while_it_is_donated_keeps_its_values(void **state) {
    (void)state;
    vtrn_device *device = open_device();
    vtrn_executable *e;
    vtrn_buffer *in, *out;
    runtime_memory *reader;
    float values[N];
    ok(vtrn_compile(device, artifact_x_plus_1, sizeof artifact_x_plus_1, &e));
    assert_true(vtrn_executable_input_alias(e, 0) >= 0);
    ok(make_input(device, &in));
    ok(api_buffer_hold(in, &reader));
    ok(vtrn_execute(e, 0, &in, 1, NULL, &out, 1));
    assert_memory_equal(reader->host, input_values, sizeof input_values);
    ok(vtrn_buffer_read(out, values, sizeof values));
    assert_memory_equal(values, output_values, sizeof values);
    assert_true(api_buffer_is_deleted(in));
    runtime_memory_release(reader);
    vtrn_buffer_destroy(in);
    vtrn_buffer_destroy(out);
    vtrn_executable_destroy(e);
    vtrn_device_close(device);
}

static void an_execution_that_never_began_gives_its_donated_input_back(void **state) {
    (void)state;
    vtrn_device *device = open_device();
    vtrn_executable *e;
    vtrn_buffer *in, *out;
    float values[N];
    ok(vtrn_compile(device, artifact_x_plus_1, sizeof artifact_x_plus_1, &e));
    ok(make_input(device, &in));
    vtrn_status status = vtrn_execute(e, 9, &in, 1, NULL, &out, 1);
    assert_int_equal(vtrn_error_category(status), BAD_ARGUMENT);
    vtrn_error_free(status);
    ok(vtrn_buffer_read(in, values, sizeof values));
    assert_memory_equal(values, input_values, sizeof values);
    ok(vtrn_execute(e, 0, &in, 1, NULL, &out, 1));
    vtrn_buffer_destroy(in);
    vtrn_buffer_destroy(out);
    vtrn_executable_destroy(e);
    vtrn_device_close(device);
}

typedef struct shared {
    vtrn_device *device;
    vtrn_executable *executable;
    vtrn_buffer *input; /* of every thread: none may donate it */
    atomic_int n_wrong;
} shared;

static void expect(shared *s, bool is_right) {
    if (!is_right)
        atomic_fetch_add(&s->n_wrong, 1);
}

/* True when it succeeded; frees the status otherwise. */
static bool succeeds(vtrn_status status) {
    vtrn_error_free(status);
    return !status;
}

static void run_and_check(shared *s, vtrn_executable *e, vtrn_buffer *in, bool keep) {
    vtrn_buffer *out = NULL;
    float values[N] = {0};
    expect(s, succeeds(vtrn_execute(e, 0, &in, 1, &keep, &out, 1)));
    expect(s, out && succeeds(vtrn_buffer_read(out, values, sizeof values)));
    expect(s, memcmp(values, output_values, sizeof values) == 0);
    vtrn_buffer_destroy(out);
}

static void *work(void *arg) {
    shared *s = arg;
    for (int round = 0; round < N_ROUNDS; round++) {
        vtrn_executable *own = NULL;
        vtrn_buffer *in = NULL;
        vtrn_profile profile = {.struct_size = sizeof profile};
        expect(s, succeeds(
                      vtrn_compile(s->device, artifact_x_plus_1, sizeof artifact_x_plus_1, &own)) &&
                      succeeds(make_input(s->device, &in)));
        if (!own || !in)
            return NULL;
        run_and_check(s, s->executable, s->input, true);
        run_and_check(s, round % 2 ? own : s->executable, in, false);
        expect(s, succeeds(vtrn_executable_profile(s->executable, &profile)));
        expect(s, api_buffer_is_deleted(in));
        if (round % 8 == 0)
            expect(s, succeeds(vtrn_profile_flush()));
        vtrn_buffer_destroy(in);
        vtrn_executable_destroy(own);
    }
    return NULL;
}

static void threads_compile_run_read_and_profile_at_once(void **state) {
    (void)state;
    char directory[] = "concurrent_test_XXXXXX";
    assert_non_null(mkdtemp(directory));
    setenv("VTRN_PROFILE", directory, 1);
    shared s = {.device = open_device()};
    unsetenv("VTRN_PROFILE");
    ok(vtrn_compile(s.device, artifact_x_plus_1, sizeof artifact_x_plus_1, &s.executable));
    ok(make_input(s.device, &s.input));
    pthread_t threads[N_THREADS];
    for (int i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, work, &s), 0);
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&s.n_wrong), 0);
    vtrn_buffer_destroy(s.input);
    vtrn_executable_destroy(s.executable);
    vtrn_device_close(s.device);
    char path[64];
    snprintf(path, sizeof path, "%s/summary.json", directory);
    assert_int_equal(access(path, R_OK), 0);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", directory);
    assert_int_equal(system(command), 0);
}

int main(void) {
    unsetenv("VTRN_INSTANCE");
    unsetenv("VTRN_CHIP");
    unsetenv("VTRN_PROFILE");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_reads_a_buffer_while_it_is_donated_keeps_its_values),
        cmocka_unit_test(an_execution_that_never_began_gives_its_donated_input_back),
        cmocka_unit_test(threads_compile_run_read_and_profile_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
