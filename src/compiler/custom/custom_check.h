/* Custom ops that were read from a file. */
#ifndef VTRN_COMPILER_CUSTOM_CUSTOM_CHECK_H
#define VTRN_COMPILER_CUSTOM_CUSTOM_CHECK_H

#include "isa/program.h"

/* Whether each custom op is one that a reference routine evaluates, well formed, with slots as
 * large as its tensors: custom_run() relies on it. The structure of the program is known to be
 * valid. */
vtrn_status custom_check(const vtrn_program *program);

#endif
