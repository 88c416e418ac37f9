/* The compile options decoder on hand-assembled wire bytes, good and bad. */
#include "pjrt/compile_options.h"

#include "test_seed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static vtrn_status decode(const char *bytes, size_t size, plugin_compile_options *out) {
    return compile_options_decode(bytes, size, out);
}

#define DECODE(text, out) decode(text, sizeof text - 1, out)

static void nothing_means_one_replica_on_device_0(void **state) {
    (void)state;
    plugin_compile_options o;
    assert_null(DECODE("", &o));
    assert_int_equal(o.n_replicas, 1);
    assert_int_equal(o.n_partitions, 1);
    assert_int_equal(o.device_id, 0);
    assert_false(o.compile.reference_only);
}

static void the_device_assignment_names_the_device(void **state) {
    (void)state;
    plugin_compile_options o;
    /* build options { ordinal -1, replicas 1, partitions 1, assignment {1, 1, {[1]}} } */
    assert_null(DECODE("\x1a\x1a\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x20\x01\x28\x01"
                       "\x4a\x09\x08\x01\x10\x01\x1a\x03\x0a\x01\x01",
                       &o));
    assert_int_equal(o.device_id, 1);
    assert_int_equal(o.n_partitions, 1);
}

static void each_replica_has_its_device(void **state) {
    (void)state;
    plugin_compile_options o;
    int64_t devices[3] = {-1, -1, -1};
    /* build options { replicas 3, partitions 1, assignment {3, 1, {[4, 200, 2]}} } */
    assert_null(DECODE("\x1a\x12\x20\x03\x28\x01"
                       "\x4a\x0c\x08\x03\x10\x01\x1a\x06\x0a\x04\x04\xc8\x01\x02",
                       &o));
    assert_int_equal(o.n_replicas, 3);
    assert_int_equal(o.compile.n_replicas, 3);
    assert_int_equal(o.device_id, 4);
    assert_null(compile_options_devices(&o, devices));
    assert_int_equal(devices[0], 4);
    assert_int_equal(devices[1], 200);
    assert_int_equal(devices[2], 2);
    /* without an assignment they are counted */
    assert_null(DECODE("\x1a\x02\x20\x03", &o));
    assert_null(compile_options_devices(&o, devices));
    assert_int_equal(devices[2], 2);
    vtrn_status status = DECODE("\x1a\x0d\x20\x03\x4a\x09\x08\x01\x10\x01\x1a\x03\x0a\x01\x01", &o);
    assert_int_equal(vtrn_status_category(status), VTRN_BAD_ARGUMENT);
    assert_non_null(
        strstr(vtrn_status_message(status), "3 replicas of 1 partitions on 1 assigned devices"));
    vtrn_status_free(status);
    status = DECODE("\x1a\x02\x20\x00", &o);
    assert_int_equal(vtrn_status_category(status), VTRN_BAD_ARGUMENT);
    vtrn_status_free(status);
}

static void each_partition_of_each_replica_has_its_device(void **state) {
    (void)state;
    plugin_compile_options o;
    int64_t devices[6];
    /* replicas 2, partitions 3, assignment {2, 3, {[7, 1]}, {[2, 5]}, {[4, 3]}} */
    assert_null(DECODE("\x1a\x1c\x20\x02\x28\x03"
                       "\x4a\x16\x08\x02\x10\x03\x1a\x04\x0a\x02\x07\x01"
                       "\x1a\x04\x0a\x02\x02\x05\x1a\x04\x0a\x02\x04\x03",
                       &o));
    assert_int_equal(o.n_partitions, 3);
    assert_null(compile_options_devices(&o, devices));
    static const int64_t expected[6] = {7, 2, 4, 1, 5, 3}; /* replica by replica */
    for (int i = 0; i < 6; i++)
        assert_int_equal(devices[i], expected[i]);
    vtrn_status status = DECODE("\x1a\x02\x28\x00", &o);
    assert_int_equal(vtrn_status_category(status), VTRN_BAD_ARGUMENT);
    vtrn_status_free(status);
}

static void known_overrides_switch_and_unknown_ones_are_named(void **state) {
    (void)state;
    plugin_compile_options o;
    assert_null(DECODE("\x3a\x11\x0a\x0bvtrn_strict\x12\x02\x10\x01", &o));
    assert_true(o.compile.is_strict && !o.compile.is_verified);
    assert_null(DECODE("\x3a\x11\x0a\x0bvtrn_verify\x12\x02\x10\x01", &o));
    assert_true(o.compile.is_verified && !o.compile.is_strict);
    vtrn_status status = DECODE("\x3a\x09\x0a\x03"
                                "foo"
                                "\x12\x02\x10\x01",
                                &o);
    assert_int_equal(vtrn_status_category(status), VTRN_BAD_ARGUMENT);
    assert_non_null(strstr(vtrn_status_message(status), "No such compile option: 'foo'"));
    vtrn_status_free(status);
}

static void random_bytes_never_crash(void **state) {
    (void)state;
    srand((unsigned)test_seed());
    int n_refused = 0;
    for (int i = 0; i < 20000; i++) {
        size_t size = (size_t)(rand() % 40);
        char *bytes = malloc(size + 1); /* exact size: a sanitizer sees every overrun */
        for (size_t j = 0; j < size; j++)
            bytes[j] = (char)(rand() % 3 ? rand() % 64 : rand());
        plugin_compile_options o;
        vtrn_status status = compile_options_decode(bytes, size, &o);
        n_refused += status != NULL;
        vtrn_status_free(status);
        free(bytes);
    }
    assert_true(n_refused > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_means_one_replica_on_device_0),
        cmocka_unit_test(the_device_assignment_names_the_device),
        cmocka_unit_test(each_replica_has_its_device),
        cmocka_unit_test(each_partition_of_each_replica_has_its_device),
        cmocka_unit_test(known_overrides_switch_and_unknown_ones_are_named),
        cmocka_unit_test(random_bytes_never_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
