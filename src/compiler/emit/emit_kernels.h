/* From kernels to instructions in program order. */
#ifndef VTRN_COMPILER_EMIT_EMIT_KERNELS_H
#define VTRN_COMPILER_EMIT_EMIT_KERNELS_H

#include "compiler/emit/emitter.h"
#include "compiler/plan/kernel_list.h"

/* Emits every kernel of the plan, block after block, into the plan's builder. */
vtrn_status emit_plan(const plan *p);

/* emit_<name>_kernel: the instructions of one kernel of that kind. */
#define KERNEL(kind, name, text) vtrn_status emit_##name##_kernel(emitter *e, const kernel *k);
#include "compiler/plan/kernels.def"
#undef KERNEL

#endif
