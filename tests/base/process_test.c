/* base/process.h: the number of forks, and how often a run looks for an interrupt. */
#include "base/process.h"
#include "base/team.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static void wait_long(void *arg, int share_i) {
    (void)arg, (void)share_i;
    usleep(20000);
}

/* Exit code of a child: 0 when it counts one fork more and leaves the parent's team alone. */
static int child(team *t, uint32_t before) {
    if (process_n_forks() != before + 1)
        return 1;
    if (team_finish(t)) /* shares that threads of the parent have begun */
        return 2;
    team_destroy(t);
    return 0;
}

static void a_fork_is_counted_and_has_no_team(void **state) {
    (void)state;
    team *t;
    assert_null(team_create(2, &t));
    uint32_t before = process_n_forks();
    team_post(t, wait_long, NULL, 4);
    usleep(5000);
    pid_t pid = fork();
    if (pid == 0)
        _exit(child(t, before));
    int status;
    assert_true(team_finish(t));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(process_n_forks(), before);
    team_destroy(t);
}

typedef struct counts {
    int n_asked, n_stopped;
    bool is_asked;
} counts;

static bool is_asked(void *ctx) {
    counts *c = ctx;
    c->n_asked++;
    return c->is_asked;
}

static void has_stopped(void *ctx) {
    counts *c = ctx;
    c->n_stopped++;
}

static void the_question_for_interrupts_is_put_at_intervals(void **state) {
    (void)state;
    counts c = {.is_asked = true};
    process_set_interrupt(is_asked, has_stopped, &c);
    assert_true(process_is_interrupted());
    assert_false(process_is_interrupted()); /* too soon to ask again */
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    assert_true(process_is_interrupted());
    assert_int_equal(c.n_asked, 2);
    process_has_stopped();
    assert_int_equal(c.n_stopped, 1);
    process_set_interrupt(NULL, NULL, NULL);
    assert_false(process_is_interrupted());
    process_has_stopped();
    assert_int_equal(c.n_asked, 2);
    assert_int_equal(c.n_stopped, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fork_is_counted_and_has_no_team),
        cmocka_unit_test(the_question_for_interrupts_is_put_at_intervals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
