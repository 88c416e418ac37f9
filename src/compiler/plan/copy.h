/* Copies between tensors in HBM. */
#ifndef VTRN_COMPILER_PLAN_COPY_H
#define VTRN_COMPILER_PLAN_COPY_H

#include "compiler/plan/kernel_list.h"

/* Records a copy, or as many as it takes: HBM to HBM, equal element counts; casts when dtypes
 * differ. */
vtrn_status plan_copy(plan *p, const view *src, const view *dst);

/* Makes *v a copy of itself in row-major order, in fresh memory. */
vtrn_status plan_densify(plan *p, view *v);

#endif
