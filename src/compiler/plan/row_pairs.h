/* How updates are paired with each other, and when that is quicker than a table of fp32. */
#ifndef VTRN_COMPILER_PLAN_ROW_PAIRS_H
#define VTRN_COMPILER_PLAN_ROW_PAIRS_H

#include "compiler/plan/kernel.h"
#include "compiler/plan/kernel_list.h"

/* Requires: sizes and types of *k. Gives: its blocks, columns and parts, and the bytes of a
 * partition that they take. False where the chip has no room, or the copies of the table to fp32
 * and back take less time. */
bool row_pairs_pay(const plan *p, kernel_row_pairs *k, uint64_t *sbuf_bytes);

#endif
