/* Thread team: the same function on every thread, with a cheap barrier in between. */
#ifndef VTRN_BASE_TEAM_H
#define VTRN_BASE_TEAM_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct team team;

/* n_threads 1 to 64; 0 means VTRN_THREADS or else the number of usable cores. Threads sleep while
 * no work is given, spin briefly between barriers. */
vtrn_status team_create(int n_threads, team **out);
void team_destroy(team *t);
int team_size(const team *t);
/* Cores of the host that this process may use. */
int team_usable_cores(void);

/* Calls fn(arg, thread_i) on each thread (thread 0 is the caller) and returns when all are done.
 * Callers on several threads take turns; fn must not call team_run. */
void team_run(team *t, void (*fn)(void *arg, int thread_i), void *arg);

/* Inside team_run: waits until every thread of the team has arrived. Orders memory. */
void team_barrier(team *t);

enum { TEAM_MAX_SHARES = 64 };

/* Begins a job: threads of the team call fn(arg, share_i) once for each share_i < n_shares, 1 to
 * TEAM_MAX_SHARES, while the caller continues. team_finish() runs the shares that no thread has
 * taken, and returns when all are done; from then on the caller sees what they wrote. Between the
 * two no other function of the team may be called, by whatever thread. A thread that has no core is
 * not waited for, unless it has begun a share. team_finish() returns false in a fork of the process
 * that made the team, which has none of its threads: shares that they had begun end nowhere. */
void team_post(team *t, void (*fn)(void *arg, int share_i), void *arg, int n_shares);
bool team_finish(team *t);

/* How often a thread has slept at a barrier: the others took long, or did not have a core. */
uint32_t team_n_sleeps(team *t);

#endif
