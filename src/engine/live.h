/* Which bytes of SBUF are read again: a walk over a block's steps from its end to its start. */
#ifndef VTRN_ENGINE_LIVE_H
#define VTRN_ENGINE_LIVE_H

#include "engine/plan.h"

typedef struct live live;

/* NULL when host memory is short. All memory is the arena's. */
live *live_create(arena *a, const vtrn_program *program, const vtrn_chip *chip);

/* The walk begins, behind a block's last step. kept_rows, see engine/cells.h: what blocks behind it
 * may read; NULL: the program ends there. */
void live_begin(live *l, const uint16_t *kept_rows);

/* Goes to the place in front of the instruction. */
void live_step_back(live *l, const vtrn_instr *instr);

/* Whether some instruction behind the place may read one of the operand's bytes before all that
 * are read are overwritten. True of all that does not lie in SBUF. */
bool live_is_read(const live *l, const vtrn_ap *ap);

#endif
