/* Which nodes of a fusion one instruction does together. */
#ifndef VTRN_COMPILER_PLAN_FUSION_FOLD_H
#define VTRN_COMPILER_PLAN_FUSION_FOLD_H

#include "compiler/plan/elementwise_table.h"

/* All of the following, in this order; nodes have their shapes. What was folded before is not.
 * has_whole_rows: a tile has all columns of its rows. *exit: of the convolution, where there is
 * one. */
void fusion_fold(fusion *f, bool has_whole_rows, conv_exit *exit);

/* fold_conversions.c: conversions that engines make as they read an operand or write a result. */
void fold_conversions(fusion *f);
/* There, too: whether a node's instructions read every operand by arithmetic in fp32, neither by
 * its bits nor through the PE array. */
bool fold_reads_as_fp32(const fusion *f, const fusion_node *node);
/* fold_moments.c: mean and variance of whole rows. */
void fold_moments(fusion *f);
enum {
    MOMENTS_PART_COLS = 512, /* columns that an instruction makes statistics of: isa.def */
    MOMENTS_STATS = 6,       /* numbers that it makes */
    MOMENTS_MAX_PARTS = 2,   /* whose statistics have room in a tile of one value a row */
    MOMENTS_STATS_AT = 16,   /* bytes: behind mean, variance and a negative */
};
/* Parts of a row, and whether their statistics take a temporary tile. */
int fold_moments_parts(int64_t cols);
bool fold_moments_takes_temp(const fusion *f, const fusion_node *node);
/* conv_exit.c: how a convolution's tiles leave PSUM. Marks the nodes: is_exit the one that gets the
 * tile, is_folded those before it. Poolings have none. */
conv_exit conv_find_exit(fusion *f);
/* elementwise_fold.c: (x op s) op t on the Vector engine. */
void elementwise_fold(fusion *f);
/* fold_activations.c: func(x * scale + bias) on the Scalar engine, and the sum of each row of it.
 */
void fold_activations(fusion *f, bool has_whole_rows);
/* fold_contracts.c: contractions whose one reader takes their sums from PSUM. */
void fold_contracts(fusion *f);
/* That contraction among what a node folds, or FUSION_NO_NODE. */
int fold_contract_of(const fusion *f, const fusion_node *node);

/* Whether a node's value may be passed on in fp32 though its type is narrower: arithmetic in bf16
 * and fp16 need not round in between, conversions and narrower types must. */
bool fusion_may_stay_wide(const fusion_node *node);
/* How often live nodes read each. */
void fusion_count_uses(const fusion *f, int n_uses[FUSION_MAX_NODES]);

/* What an activation is folded from: func(x * scale + bias). */
typedef struct folded_activation {
    const fusion_node *reader; /* operand reader->in[operand] is x */
    int operand;
    fusion_in scale, bias; /* one value a row, or a number */
    bool is_minus_bias;    /* the row's negative counts */
} folded_activation;
/* Of a node for which elementwise_activation_of() finds a function. */
folded_activation fold_activation_of(const fusion *f, const fusion_node *node);

#endif
