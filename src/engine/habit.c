#include "engine/habit.h"

enum { ALONE_RUNS = 15, TEAM_RUNS = 63 }; /* until the other way is tried again */

bool habit_is_alone(const engine_habit *h) {
    return h->phase == HABIT_TRIAL || h->phase == HABIT_ALONE;
}

static void settle(engine_habit *h, habit_phase phase, uint32_t n_left) {
    h->phase = phase;
    h->n_left = n_left;
}

static void learn_of_team(engine_habit *h, double seconds, uint32_t n_blocks, bool has_slept) {
    h->team_s = seconds;
    h->n_blocks = n_blocks;
    if (h->n_left)
        h->n_left--;
    else if (has_slept)
        h->phase = HABIT_TRIAL;
}

static void learn_of_trial(engine_habit *h, double seconds, uint32_t n_blocks) {
    h->alone_s = seconds;
    if (n_blocks == h->n_blocks && seconds < h->team_s)
        h->phase = HABIT_AGAIN;
    else
        settle(h, HABIT_TEAM, TEAM_RUNS);
}

static void learn_of_second(engine_habit *h, double seconds, uint32_t n_blocks) {
    if (n_blocks == h->n_blocks && h->alone_s < seconds)
        settle(h, HABIT_ALONE, ALONE_RUNS);
    else
        settle(h, HABIT_TEAM, TEAM_RUNS);
}

void habit_learn(engine_habit *h, double seconds, uint32_t n_blocks, bool has_slept) {
    switch (h->phase) {
    case HABIT_COLD:
        settle(h, HABIT_TEAM, 0);
        break;
    case HABIT_TEAM:
        learn_of_team(h, seconds, n_blocks, has_slept);
        break;
    case HABIT_TRIAL:
        learn_of_trial(h, seconds, n_blocks);
        break;
    case HABIT_AGAIN:
        learn_of_second(h, seconds, n_blocks);
        break;
    case HABIT_ALONE:
        if (!--h->n_left)
            settle(h, HABIT_TEAM, 0);
        break;
    }
}
