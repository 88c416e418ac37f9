/* The Scalar engine scales and shifts what it takes the function of, and adds up the results, at
 * no cost. */
#include "compiler/plan/fusion_fold.h"

#include <math.h>

static bool is_float(uint8_t dtype) {
    return dtype_is_float((vtrn_dtype)dtype);
}

/* x * x of a full tile. */
static bool is_square(const fusion_node *node) {
    return node->op == GRAPH_MULTIPLY && node->shape == NODE_FULL && is_float(node->dtype) &&
           node->in[0].node >= 0 && node->in[0].node == node->in[1].node;
}

/* A sum along the rows that TENSOR_REDUCE would make. */
static bool is_row_sum(const fusion *f, const fusion_node *node) {
    return node->is_live && node->op == GRAPH_REDUCE && !node->is_column &&
           node->reducer == GRAPH_REDUCER_ADD && is_float(node->dtype) &&
           is_float(f->nodes[node->in[0].node].dtype);
}

/* Sums of what activations make. */
static void fold_sums(fusion *f) {
    vtrn_act func;
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *sum = &f->nodes[i];
        if (!is_row_sum(f, sum) || sum->is_folded || sum->is_moments)
            continue;
        fusion_node *from = &f->nodes[sum->in[0].node];
        bool is_squared = is_square(from);
        if (from->shape != NODE_FULL || !fusion_may_stay_wide(from) || from->sum >= 0 ||
            from->is_folded || from->folds >= 0 ||
            (!is_squared && !elementwise_activation_of(f, from, &func)))
            continue;
        from->sum = i;
        from->is_square = is_squared;
        sum->is_summed = true;
    }
}

/* One operand of a sum, difference or product is a number or, beside a full tile, one value a row;
 * *tensor is the other one. */
static bool has_scalar(const fusion *f, const fusion_node *node, int *tensor) {
    if (node->op != GRAPH_ADD && node->op != GRAPH_SUBTRACT && node->op != GRAPH_MULTIPLY)
        return false;
    bool is_row = node->shape == NODE_ROW;
    for (int k = 0; k < 2; k++) {
        const fusion_in *s = &node->in[k], *x = &node->in[1 - k];
        bool is_scalar = is_row ? s->node < 0 : elementwise_is_scalar(f, node, k);
        bool is_tensor = x->node >= 0 && (is_row || !elementwise_is_scalar(f, node, 1 - k));
        if (!is_scalar || !is_tensor || (s->node >= 0 && !is_float(f->nodes[s->node].dtype)))
            continue;
        *tensor = 1 - k;
        return true;
    }
    return false;
}

/* Whether a node can become scale and bias of the activation that reads it. */
static bool is_affine(const fusion *f, const fusion_node *node, uint8_t shape) {
    int tensor, inner_tensor;
    if (!node->is_live || node->is_stored || node->is_folded || node->is_exit ||
        node->op >= FUSION_LOAD || node->shape != shape || node->moments >= 0 ||
        !fusion_may_stay_wide(node) || !has_scalar(f, node, &tensor) ||
        !is_float(elementwise_in_dtype(f, node, tensor)))
        return false;
    if (node->folds < 0)
        return true;
    const fusion_node *inner = &f->nodes[node->in[node->folds].node];
    bool is_scaled = node->op != GRAPH_MULTIPLY && node->folds == tensor &&
                     inner->op == GRAPH_MULTIPLY && has_scalar(f, inner, &inner_tensor);
    /* s - x * t has a scale of -t, which is a number or not at hand */
    return is_scaled &&
           !(node->op == GRAPH_SUBTRACT && tensor == 1 && inner->in[1 - inner_tensor].node >= 0);
}

folded_activation fold_activation_of(const fusion *f, const fusion_node *node) {
    folded_activation a = {.reader = node,
                           .scale = {.node = FUSION_NO_NODE, .imm = 1},
                           .bias = {.node = FUSION_NO_NODE, .imm = -0.0}};
    if (node->folds < 0)
        return a;
    const fusion_node *shift = &f->nodes[node->in[0].node];
    int tensor = 0;
    has_scalar(f, shift, &tensor);
    a.reader = shift;
    a.operand = tensor;
    if (shift->op == GRAPH_MULTIPLY) {
        a.scale = shift->in[1 - tensor];
        return a;
    }
    a.bias = shift->in[1 - tensor];
    if (shift->folds >= 0) {
        const fusion_node *product = &f->nodes[shift->in[tensor].node];
        has_scalar(f, product, &a.operand);
        a.reader = product;
        a.scale = product->in[1 - a.operand];
    }
    if (shift->op == GRAPH_SUBTRACT && tensor == 0) {
        a.is_minus_bias = a.bias.node >= 0;
        a.bias.imm = -a.bias.imm;
    } else if (shift->op == GRAPH_SUBTRACT) {
        a.scale.imm = -a.scale.imm;
    }
    return a;
}

/* A reduction whose result is its operand's elements, or fp32: its negative is the same whether it
 * is made at once or from the result. */
static bool can_negate(const fusion *f, const fusion_node *node) {
    return node->op == GRAPH_REDUCE && !node->is_stored && !node->is_summed && !node->is_moments &&
           is_float(node->dtype) && is_float(f->nodes[node->in[0].node].dtype) &&
           (node->dtype == VTRN_DTYPE_FP32 || node->reducer == GRAPH_REDUCER_MAXIMUM ||
            node->reducer == GRAPH_REDUCER_MINIMUM);
}

void fold_activations(fusion *f, bool has_whole_rows) {
    int n_uses[FUSION_MAX_NODES], n_negative[FUSION_MAX_NODES] = {0};
    vtrn_act func;
    fusion_count_uses(f, n_uses);
    if (!f->n_side) /* the engine has one register a partition */
        fold_sums(f);
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live || node->is_folded || node->is_exit || node->folds >= 0 ||
            !elementwise_activation_of(f, node, &func) || node->in[0].node < 0)
            continue;
        fusion_node *in = &f->nodes[node->in[0].node];
        if (n_uses[node->in[0].node] != node->n_in || !is_affine(f, in, node->shape))
            continue;
        node->folds = 0;
        in->is_folded = true;
        folded_activation a = fold_activation_of(f, node);
        if (!a.is_minus_bias)
            continue;
        fusion_node *row = &f->nodes[a.bias.node];
        row->has_negative = true;
        row->is_only_negative = has_whole_rows &&
                                ++n_negative[a.bias.node] == n_uses[a.bias.node] &&
                                can_negate(f, row);
    }
}
