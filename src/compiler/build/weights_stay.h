/* Weights that stay on the chip between calls: which arguments of a finished program do. */
#ifndef VTRN_COMPILER_BUILD_WEIGHTS_STAY_H
#define VTRN_COMPILER_BUILD_WEIGHTS_STAY_H

#include "isa/program.h"

/* Marks the slots of arguments below n_weights, in order, that fit into room_bytes on the chip as
 * the program's loads make them: a DMA that widens elements takes room for wide ones. Those that
 * the program writes, or of which data choose what is read, do not stay. */
vtrn_status weights_stay_mark(vtrn_program *program, uint32_t n_weights, uint64_t room_bytes);

#endif
