/* PSUM banks and their owners: a kernel takes the banks that it needs when it starts, and nothing
 * else hands banks out. What two parts of one kernel hold at the same time never overlaps. */
#ifndef VTRN_COMPILER_EMIT_PSUM_H
#define VTRN_COMPILER_EMIT_PSUM_H

#include "compiler/emit/emitter.h"
#include "compiler/plan/psum_banks.h"

/* Starts a kernel: every bank is free. Banks are numbered from where the kernel before ended. */
void psum_begin(emitter *e);
/* Takes the next n_banks until the next kernel starts. An internal error if fewer are free: the
 * kernel was planned with more banks than the chip has. */
vtrn_status psum_take(emitter *e, int n_banks, psum_banks *out);
/* Bank i of those taken, as fp32. */
tile psum_tile(emitter *e, const psum_banks *banks, int i);
/* The next n_tiles of the banks, in turn: tiles that are in use together, so an internal error if
 * there are fewer banks. The scheduler orders their later uses. */
vtrn_status psum_next(emitter *e, psum_banks *banks, int n_tiles, tile *out);

#endif
