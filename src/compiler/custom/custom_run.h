/* Custom ops of a program on their tensors. */
#ifndef VTRN_COMPILER_CUSTOM_CUSTOM_RUN_H
#define VTRN_COMPILER_CUSTOM_CUSTOM_RUN_H

#include "isa/program.h"

/* Runs custom op custom_i of a program, a reference op or a check, on its tensors. */
vtrn_status custom_run(const vtrn_program *program, uint32_t custom_i, void *const *inputs,
                       void *const *outputs);

/* Adds `change`, 1 or -1, to the holders of each callback that the program calls (host_callback.h).
 * On error none is held. */
vtrn_status custom_hold_callbacks(const vtrn_program *program, int change);

#endif
