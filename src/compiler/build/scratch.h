/* Addresses for scratch tensors in HBM: tensors whose lifetimes do not meet share memory. */
#ifndef VTRN_COMPILER_BUILD_SCRATCH_H
#define VTRN_COMPILER_BUILD_SCRATCH_H

#include "compiler/build/builder.h"

/* Sets slot.offset of each SCRATCH slot; *out_size is the arena's size. has_control_flow: lifetimes
 * in list order mean nothing across blocks, so nothing is shared. */
vtrn_status scratch_assign(build_slot *slots, uint32_t n_slots, bool has_control_flow,
                           uint64_t *out_size);

#endif
