/* Directories are made with their parents, or refused with the reason. */
#include "base/directory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void refused(vtrn_status status, vtrn_category category, const char *text) {
    assert_int_equal(vtrn_status_category(status), category);
    assert_non_null(strstr(vtrn_status_message(status), text));
    vtrn_status_free(status);
}

static void parents_are_made_and_what_exists_is_fine(void **state) {
    (void)state;
    char root[] = "directory_test_XXXXXX", path[64];
    assert_non_null(mkdtemp(root));
    snprintf(path, sizeof path, "%s/a/b/", root);
    assert_null(directory_make(path));
    assert_null(directory_make(path));
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISDIR(st.st_mode));
    rmdir(path);
    snprintf(path, sizeof path, "%s/a", root);
    rmdir(path);
    rmdir(root);
}

static void a_file_in_the_way_is_named(void **state) {
    (void)state;
    char file[] = "directory_test_XXXXXX", path[64];
    int fd = mkstemp(file);
    assert_true(fd >= 0);
    close(fd);
    refused(directory_make(file), VTRN_RESOURCE, file);
    snprintf(path, sizeof path, "%s/below", file);
    refused(directory_make(path), VTRN_RESOURCE, "Not a directory");
    unlink(file);
}

static void a_path_of_no_or_too_many_bytes_is_refused(void **state) {
    (void)state;
    static char path[DIRECTORY_PATH_MAX + 1];
    refused(directory_make(""), VTRN_BAD_ARGUMENT, "not 0");
    memset(path, 'x', sizeof path - 1);
    refused(directory_make(path), VTRN_BAD_ARGUMENT, "not 4096");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parents_are_made_and_what_exists_is_fine),
        cmocka_unit_test(a_file_in_the_way_is_named),
        cmocka_unit_test(a_path_of_no_or_too_many_bytes_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
