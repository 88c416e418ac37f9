/* Transfers to scratch tensors that nothing reads. */
#ifndef VTRN_COMPILER_BUILD_DEAD_STORES_H
#define VTRN_COMPILER_BUILD_DEAD_STORES_H

#include "compiler/build/builder.h"

/* Takes them out of the list, and what only they read, until none is left. */
vtrn_status dead_stores_drop(builder *b);

#endif
