/* Copies between layouts that are contiguous along different factors. */
#ifndef VTRN_COMPILER_LOWER_TURN_H
#define VTRN_COMPILER_LOWER_TURN_H

#include "compiler/lower/lower.h"

/* A factor that both sides of a copy have: its stride in each, in elements. */
typedef struct joint_factor {
    int64_t size, from, to;
} joint_factor;

/* Records a copy of src to dst, whose common factors are f[0..n), by way of SBUF and the PE array,
 * when moving element by element would take longer. *is_done: whether it did. */
vtrn_status turn_copy(lower *l, const view *src, const view *dst, const joint_factor *f, int n,
                      bool *is_done);

/* Whether a dense copy made so is quicker than loading v element by element. */
bool turn_helps(const lower *l, const view *v);

#endif
