/* What happens to the process as a whole: it forks, or its user asks a run to stop. */
#ifndef VTRN_BASE_PROCESS_H
#define VTRN_BASE_PROCESS_H

#include "base/status.h"

#include <stdint.h>

/* How many forks lie between the first process that asked and this one. What keeps the number when
 * it starts threads knows later whether they are there: a fork has only the thread that forked. */
uint32_t process_n_forks(void);

/* Who knows whether a run is to stop: is_asked is called now and then by the thread that executes,
 * has_stopped when the run is over for it. NULL: runs go on to their end. */
void process_set_interrupt(bool (*is_asked)(void *ctx), void (*has_stopped)(void *ctx), void *ctx);
/* Whether it is, asked at most once in some 20 ms. */
bool process_is_interrupted(void);
void process_has_stopped(void);

#endif
