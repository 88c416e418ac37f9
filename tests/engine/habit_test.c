/* When a program's executions are by the team, and when by one thread. */
#include "engine/habit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* Executions of one program on a host where the team and one thread take so long. Returns how many
 * of the n executions one thread had. */
static int n_alone_of(engine_habit *h, int n, double team_s, double alone_s) {
    int n_alone = 0;
    for (int i = 0; i < n; i++) {
        bool is_alone = habit_is_alone(h);
        habit_learn(h, is_alone ? alone_s : team_s, 10, !is_alone);
        n_alone += is_alone;
    }
    return n_alone;
}

static void test_a_slow_first_execution_decides_nothing(void **state) {
    (void)state;
    engine_habit h = {0};
    habit_learn(&h, 1, 10, true); /* memory is filled: slower than a thread alone will be */
    assert_int_equal(n_alone_of(&h, 64, .1, .17), 1);
}

static void test_a_pause_of_the_host_decides_nothing(void **state) {
    (void)state;
    engine_habit h = {0};
    habit_learn(&h, .1, 10, false);
    habit_learn(&h, .5, 10, true);
    assert_int_equal(n_alone_of(&h, 64, .1, .17), 1);
}

static void test_busy_cores_give_a_thread_alone_most_executions(void **state) {
    (void)state;
    engine_habit h = {0};
    assert_in_range(n_alone_of(&h, 180, 1, .2), 155, 170);
}

static void test_the_team_has_it_again_when_the_cores_are_free(void **state) {
    (void)state;
    engine_habit h = {0};
    n_alone_of(&h, 100, 1, .2);
    n_alone_of(&h, 20, .1, .2);
    assert_int_equal(n_alone_of(&h, 40, .1, .2), 0);
}

static void test_a_team_that_does_not_sleep_is_not_tried(void **state) {
    (void)state;
    engine_habit h = {0};
    for (int i = 0; i < 100; i++) {
        assert_false(habit_is_alone(&h));
        habit_learn(&h, 1, 10, false);
    }
}

static void test_executions_of_other_lengths_do_not_compare(void **state) {
    (void)state;
    engine_habit h = {0};
    habit_learn(&h, 1, 10, true);
    habit_learn(&h, 1, 10, true);
    assert_true(habit_is_alone(&h));
    habit_learn(&h, .1, 3, false);
    assert_false(habit_is_alone(&h));
    habit_learn(&h, 1, 10, true);
    assert_false(habit_is_alone(&h));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_slow_first_execution_decides_nothing),
        cmocka_unit_test(test_a_pause_of_the_host_decides_nothing),
        cmocka_unit_test(test_busy_cores_give_a_thread_alone_most_executions),
        cmocka_unit_test(test_the_team_has_it_again_when_the_cores_are_free),
        cmocka_unit_test(test_a_team_that_does_not_sleep_is_not_tried),
        cmocka_unit_test(test_executions_of_other_lengths_do_not_compare),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
