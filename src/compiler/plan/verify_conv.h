/* Convolutions and poolings with channels on the partitions, against the index arithmetic of the
 * op. */
#ifndef VTRN_COMPILER_PLAN_VERIFY_CONV_H
#define VTRN_COMPILER_PLAN_VERIFY_CONV_H

#include "compiler/plan/conv_plan.h"

/* Internal errors name operand and elements. */
vtrn_status verify_convolution(const plan *p, const graph *g, const kernel *k, const conv_plan *c);

#endif
