/* The thread team: everyone takes part, and a barrier lets nobody pass early. */
#include "base/team.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_THREADS = 8, N_ROUNDS = 300 };

typedef struct shared {
    team *threads;
    int cell[2][MAX_THREADS]; /* plain memory: the barrier alone orders it */
    int n_wrong[MAX_THREADS];
} shared;

/* Each round every thread writes its cell, meets, and reads all cells. */
static void write_meet_read(void *arg, int thread_i) {
    shared *s = arg;
    int n = team_size(s->threads);
    for (int round = 1; round <= N_ROUNDS; round++) {
        int *cell = s->cell[round % 2];
        cell[thread_i] = round;
        team_barrier(s->threads);
        for (int i = 0; i < n; i++)
            s->n_wrong[thread_i] += cell[i] != round;
    }
}

static void nobody_passes_a_barrier_before_all_arrive(void **state) {
    (void)state;
    for (int n = 1; n <= MAX_THREADS; n++) {
        shared s = {0};
        assert_null(team_create(n, &s.threads));
        assert_int_equal(team_size(s.threads), n);
        for (int run = 0; run < 3; run++) {
            memset(s.cell, 0, sizeof s.cell);
            team_run(s.threads, write_meet_read, &s);
        }
        for (int i = 0; i < n; i++)
            assert_int_equal(s.n_wrong[i], 0);
        team_destroy(s.threads);
    }
}

static void count_me(void *arg, int thread_i) {
    ((int *)arg)[thread_i]++;
}

static void each_run_calls_each_thread_once(void **state) {
    (void)state;
    team *t;
    int n_calls[4] = {0};
    assert_null(team_create(4, &t));
    for (int run = 0; run < 1000; run++)
        team_run(t, count_me, n_calls);
    for (int i = 0; i < 4; i++)
        assert_int_equal(n_calls[i], 1000);
    team_destroy(t);
}

typedef struct shares {
    team *threads;
    int n_calls[TEAM_MAX_SHARES]; /* plain memory: a share is of one thread, and jobs are ordered */
} shares;

static void count_share(void *arg, int share_i) {
    ((shares *)arg)->n_calls[share_i]++;
}

/* Jobs of all sizes follow each other, with runs of the team in between. */
static void each_share_of_a_job_is_done_once(void **state) {
    (void)state;
    for (int n = 1; n <= MAX_THREADS; n++) {
        shares s = {0};
        int expected[TEAM_MAX_SHARES] = {0}, n_runs[MAX_THREADS] = {0};
        assert_null(team_create(n, &s.threads));
        for (int k = 0; k < 2000; k++) {
            int n_shares = 1 + k * 7 % TEAM_MAX_SHARES;
            team_post(s.threads, count_share, &s, n_shares);
            team_finish(s.threads);
            for (int i = 0; i < n_shares; i++)
                expected[i]++;
            assert_memory_equal(s.n_calls, expected, sizeof expected);
            if (k % 16 == 0)
                team_run(s.threads, count_me, n_runs);
        }
        for (int i = 0; i < n; i++)
            assert_int_equal(n_runs[i], 125);
        team_destroy(s.threads);
    }
}

static void the_environment_decides_the_size_when_asked(void **state) {
    (void)state;
    team *t;
    setenv("VTRN_THREADS", "3", 1);
    assert_null(team_create(0, &t));
    assert_int_equal(team_size(t), 3);
    team_destroy(t);
    static const char *const bad[] = {"0", "-1", "65", "two", "3x", "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        setenv("VTRN_THREADS", bad[i], 1);
        vtrn_status status = team_create(0, &t);
        assert_int_equal(vtrn_status_category(status), VTRN_BAD_ARGUMENT);
        assert_non_null(strstr(vtrn_status_message(status), bad[i]));
        vtrn_status_free(status);
    }
    unsetenv("VTRN_THREADS");
    assert_null(team_create(0, &t));
    assert_true(team_size(t) >= 1);
    team_destroy(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_passes_a_barrier_before_all_arrive),
        cmocka_unit_test(each_run_calls_each_thread_once),
        cmocka_unit_test(each_share_of_a_job_is_done_once),
        cmocka_unit_test(the_environment_decides_the_size_when_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
