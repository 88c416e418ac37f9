/* An invariant of ours that breaks far below reaches the user of `vtrn` as exit code 4, with the
 * place in the source. No input does it, so the linker puts a defect in (see meson.build): the
 * runtime's execution fails its check. */
#include "base/status.h"
#include "runtime/execute.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

int vtrn_main(int argc, char **argv);
vtrn_status __real_runtime_execute(runtime_program *loaded, runtime_call *call);
vtrn_status __wrap_runtime_execute(runtime_program *loaded, runtime_call *call);

static bool is_broken;

vtrn_status __wrap_runtime_execute(runtime_program *loaded, runtime_call *call) {
    VTRN_CHECK(!is_broken, "the defect of this test");
    return __real_runtime_execute(loaded, call);
}

static const char program_text[] =
    "program \"copy\" chip \"trn1\" gen 2\n"
    "arguments 1\noutputs _\nscratch 0\n"
    "slot 0 argument fp32 4096 bytes number 0\n"
    "slot 1 output fp32 4096 bytes number 0\n"
    "block 0\n"
    "Sync dma_copy sbuf[0:32, 0]:fp32(1:32), hbm[0, 0, 32*32]:fp32(1:32), ring 0, inc s0+16\n"
    "Sync dma_copy hbm[1, 0, 32*32]:fp32(1:32), sbuf[0:32, 0]:fp32(1:32), ring 1, wait s0>=16\n"
    "stop\n";

typedef struct outcome {
    int exit_code;
    char out[4096], err[4096];
} outcome;

static void read_all(FILE *f, char *text, size_t size) {
    rewind(f);
    text[fread(text, 1, size - 1, f)] = 0;
    fclose(f);
}

/* The command in a process of its own, as a shell runs it. */
static outcome command(int argc, const char **argv) {
    FILE *out = tmpfile(), *err = tmpfile();
    assert_non_null(out);
    assert_non_null(err);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(fileno(out), STDOUT_FILENO);
        dup2(fileno(err), STDERR_FILENO);
        int code = vtrn_main(argc, (char **)argv);
        fflush(NULL);
        _exit(code);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    outcome o = {.exit_code = WEXITSTATUS(status)};
    read_all(out, o.out, sizeof o.out);
    read_all(err, o.err, sizeof o.err);
    return o;
}

static void write_program(char *path) {
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, program_text, strlen(program_text)), strlen(program_text));
    close(fd);
}

static void a_broken_invariant_exits_4_and_says_where(void **state) {
    (void)state;
    char path[] = "internal_error_test_XXXXXX";
    write_program(path);
    const char *run[] = {"vtrn", "run", path, "--zeros", NULL};
    is_broken = false;
    outcome sound = command(4, run);
    is_broken = true;
    outcome broken = command(4, run);
    remove(path);
    assert_string_equal(sound.err, "");
    assert_int_equal(sound.exit_code, 0);
    assert_int_equal(broken.exit_code, 4);
    static const char begin[] = "error: internal: invariant broken: the defect of this test";
    assert_memory_equal(broken.err, begin, strlen(begin));
    assert_non_null(strstr(broken.err, "internal_error_test.c:"));
    assert_string_equal(broken.out, "");
}

static void a_self_test_that_breaks_makes_doctor_exit_4(void **state) {
    (void)state;
    const char *doctor[] = {"vtrn", "doctor", NULL};
    is_broken = false;
    assert_int_equal(command(2, doctor).exit_code, 0);
    is_broken = true;
    outcome broken = command(2, doctor);
    assert_int_equal(broken.exit_code, 4);
    assert_non_null(strstr(broken.out, "BAD  self test        invariant broken"));
}

int main(void) {
    unsetenv("VTRN_INSTANCE");
    unsetenv("VTRN_CHIP");
    unsetenv("VTRN_PROFILE");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_broken_invariant_exits_4_and_says_where),
        cmocka_unit_test(a_self_test_that_breaks_makes_doctor_exit_4),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
