/* From a builder to the program: the last stages of a compilation. */
#ifndef VTRN_COMPILER_BUILD_FINISH_H
#define VTRN_COMPILER_BUILD_FINISH_H

#include "compiler/build/builder.h"

/* Drops stores that nothing reads, settles donation, places scratch tensors, adds semaphores, and
 * completes the program, which then needs the builder no more. */
vtrn_status build_finish(builder *b);

#endif
