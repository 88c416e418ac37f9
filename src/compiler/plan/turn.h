/* Copies between layouts that are contiguous along different factors. */
#ifndef VTRN_COMPILER_PLAN_TURN_H
#define VTRN_COMPILER_PLAN_TURN_H

#include "compiler/plan/kernel_list.h"

enum { TURN_BUFFERS = 4 /* tiles on their way, each way */ };

/* Records a copy of src to dst, whose common factors are f[0..n), by way of SBUF and the PE array,
 * when moving element by element would take longer. *is_done: whether it did. */
vtrn_status turn_copy(plan *p, const view *src, const view *dst, const joint_factor *f, int n,
                      bool *is_done);

/* Whether a dense copy made so is quicker than loading v element by element. */
bool turn_helps(const plan *p, const view *v);

#endif
