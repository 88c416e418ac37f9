/* Whether a program's next execution is worth waking the team for, as its past executions showed:
 * on a host whose cores are in use, a thread alone is sooner done. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef enum habit_phase {
    HABIT_COLD,  /* the next execution is the first: it also fills memory and caches */
    HABIT_TEAM,  /* the team executes; n_left more executions before a trial may begin */
    HABIT_TRIAL, /* a thread alone has the next execution, to see */
    HABIT_AGAIN, /* the team has it, so that a pause of the host in one of its two does not decide
                  */
    HABIT_ALONE, /* a thread alone has the next n_left executions */
} habit_phase;

/* All 0 at first. */
typedef struct engine_habit {
    habit_phase phase;
    uint32_t n_left;
    uint32_t n_blocks; /* of the team's execution before the trial: others do not compare */
    double team_s, alone_s;
} engine_habit;

bool habit_is_alone(const engine_habit *h);

/* After an execution as habit_is_alone() said: how long it took, how many blocks it executed, and
 * whether a thread of the team slept at a barrier, which it does where it waits for a core. */
void habit_learn(engine_habit *h, double seconds, uint32_t n_blocks, bool has_slept);
