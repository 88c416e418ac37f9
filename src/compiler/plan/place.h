/* Placement: where in SBUF each kernel works, and which tensors stay there between kernels. */
#ifndef VTRN_COMPILER_PLAN_PLACE_H
#define VTRN_COMPILER_PLAN_PLACE_H

#include "compiler/plan/kernel_list.h"

/* Requires: tiles and layouts are chosen. Gives: sbuf_addr of each kernel, residents of map and
 * contract kernels. CAPACITY, naming the kernel, when one takes more than SBUF has.
 *
 * Kernels work in the low part of SBUF, far enough apart to overlap; residents are above it. When
 * room is short, the resident that is read last goes. */
vtrn_status plan_place(plan *p);

#endif
