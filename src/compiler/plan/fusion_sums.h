/* Which sums over its rows a fusion can make, and in which PSUM banks. */
#ifndef VTRN_COMPILER_PLAN_FUSION_SUMS_H
#define VTRN_COMPILER_PLAN_FUSION_SUMS_H

#include "compiler/plan/fusion_nodes.h"

/* Those of up to so many columns keep a row tile whole in SBUF, and their banks through the whole
 * kernel. Wider ones leave after each block of columns. */
enum { FUSION_MAX_WHOLE_SUM_COLS = 2048 };
bool fusion_is_wide_sum(const fusion *f, const fusion_node *node);
bool fusion_has_wide_sums(const fusion *f);
/* PSUM banks that hold a column reduction's sums. */
int fusion_sum_banks(const vtrn_chip *chip, const fusion *f, const fusion_node *sum);
/* Whether a fusion (NULL: a new one) can sum up n_rows rows of `cols` too. */
bool fusion_can_sum(const vtrn_chip *chip, const fusion *f, int64_t n_rows, int64_t cols);
/* Whether one fusion has the banks for what two do. */
bool fusion_can_merge(const vtrn_chip *chip, const fusion *a, const fusion *b);
/* Columns of a fusion that sums up n rows of `cols`: those of several rows where they are few. */
int64_t fusion_sum_cols(const vtrn_chip *chip, int64_t n, int64_t cols);

#endif
