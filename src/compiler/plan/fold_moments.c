/* Mean and variance of rows are computed together from the Vector engine's statistics, which read a
 * row once. */
#include "compiler/plan/fusion_fold.h"

#include <math.h>

enum {
    MIN_COLS = 256 /* of a row; shorter ones take the Vector engine longer than two sums: assumed */
};

static const fusion_node *node_at(const fusion *f, int i) {
    return i < 0 ? NULL : &f->nodes[i];
}

/* A row's sum of what is not one value a row. */
static bool is_sum(const fusion *f, const fusion_node *node) {
    return node && node->is_live && node->op == GRAPH_REDUCE && !node->is_column &&
           node->reducer == GRAPH_REDUCER_ADD && node->dtype == VTRN_DTYPE_FP32 &&
           node_at(f, node->in[0].node)->shape == NODE_FULL &&
           dtype_is_float((vtrn_dtype)node_at(f, node->in[0].node)->dtype);
}

/* A sum divided by the columns: the sum, or FUSION_NO_NODE. */
static int sum_of_mean(const fusion *f, const fusion_node *mean) {
    if (!mean->is_live || mean->op != GRAPH_MULTIPLY || mean->shape != NODE_ROW ||
        mean->dtype != VTRN_DTYPE_FP32 || mean->in[1].node >= 0 ||
        fabs(mean->in[1].imm * (double)f->cols - 1) > 0x1p-20)
        return FUSION_NO_NODE;
    return is_sum(f, node_at(f, mean->in[0].node)) ? mean->in[0].node : FUSION_NO_NODE;
}

/* Only the one node that is left out, too, or replaced reads it. */
static bool is_private(const fusion_node *node, int n_uses) {
    return n_uses == 1 && !node->is_stored;
}

/* variance = mean of (x - mean of x)^2 */
static void fold_variance(fusion *f, int variance_i, const int *n_uses) {
    fusion_node *variance = &f->nodes[variance_i];
    int squares_i = sum_of_mean(f, variance);
    if (squares_i < 0 || !is_private(&f->nodes[squares_i], n_uses[squares_i]))
        return;
    int square_i = f->nodes[squares_i].in[0].node;
    const fusion_node *square = &f->nodes[square_i];
    if (square->op != GRAPH_MULTIPLY || square->in[0].node < 0 ||
        square->in[0].node != square->in[1].node || !is_private(square, n_uses[square_i]))
        return;
    int difference_i = square->in[0].node;
    fusion_node *difference = &f->nodes[difference_i];
    if (difference->op != GRAPH_SUBTRACT || difference->in[0].node < 0 ||
        difference->in[1].node < 0)
        return;
    fusion_node *mean = &f->nodes[difference->in[1].node];
    int sum_i = sum_of_mean(f, mean);
    if (sum_i < 0 || f->nodes[sum_i].in[0].node != difference->in[0].node ||
        !is_private(&f->nodes[sum_i], n_uses[sum_i]))
        return;
    f->nodes[sum_i].is_moments = true;
    mean->moments = variance->moments = sum_i;
    f->nodes[squares_i].is_folded = f->nodes[square_i].is_folded = true;
    difference->is_folded = n_uses[difference_i] == 2 && !difference->is_stored;
}

int fold_moments_parts(int64_t cols) {
    return (int)((cols + MOMENTS_PART_COLS - 1) / MOMENTS_PART_COLS);
}

bool fold_moments_takes_temp(const fusion *f, const fusion_node *node) {
    return node->is_moments && fold_moments_parts(f->cols) > MOMENTS_MAX_PARTS;
}

void fold_moments(fusion *f) {
    int n_uses[FUSION_MAX_NODES];
    if (f->cols < MIN_COLS)
        return;
    fusion_count_uses(f, n_uses);
    for (int i = 0; i < f->n_nodes; i++)
        fold_variance(f, i, n_uses);
}
