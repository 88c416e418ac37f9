/* Tiles and layouts: rows and columns of map kernels, and the copies that give operands the layout
 * in which a kernel reads them. */
#ifndef VTRN_COMPILER_PLAN_LAYOUT_H
#define VTRN_COMPILER_PLAN_LAYOUT_H

#include "compiler/plan/kernel_list.h"

/* Requires: all kernels are formed. Gives: map kernels as `map_plan`, contract kernels as
 * `contraction`, the accesses of both, and copy kernels in front of those that need them. */
vtrn_status plan_layout(plan *p);

#endif
