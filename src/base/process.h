/* What happens to the process as a whole: it forks, or its user asks a run to stop. */
#ifndef VTRN_BASE_PROCESS_H
#define VTRN_BASE_PROCESS_H

#include "base/status.h"

#include <stdint.h>

/* How many forks lie between the first process that asked and this one. What keeps the number when
 * it starts threads knows later whether they are there: a fork has only the thread that forked. */
uint32_t process_n_forks(void);

/* Sets the functions by which a run learns of an interrupt. The thread that executes calls is_asked
 * about every 20 ms and ends the run with VTRN_INTERRUPTED where it returns true; has_stopped is
 * called behind such a run. NULL: runs execute to their end. */
void process_set_interrupt(bool (*is_asked)(void *ctx), void (*has_stopped)(void *ctx), void *ctx);
/* Calls is_asked, at most once in 20 ms; false between these calls. */
bool process_is_interrupted(void);
void process_has_stopped(void);

#endif
