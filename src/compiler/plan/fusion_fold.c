#include "compiler/plan/fusion_fold.h"

bool fusion_may_stay_wide(const fusion_node *node) {
    return node->dtype == VTRN_DTYPE_FP32 ||
           (!node->is_rounded &&
            (node->dtype == VTRN_DTYPE_BF16 || node->dtype == VTRN_DTYPE_FP16));
}

void fusion_count_uses(const fusion *f, int n_uses[FUSION_MAX_NODES]) {
    for (int i = 0; i < f->n_nodes; i++)
        n_uses[i] = 0;
    for (int i = 0; i < f->n_nodes; i++)
        for (int k = 0; f->nodes[i].is_live && k < f->nodes[i].n_in; k++)
            if (f->nodes[i].in[k].node >= 0)
                n_uses[f->nodes[i].in[k].node]++;
}

/* x / c and -x as multiplications, so that they fold like them. */
static void normalise(fusion_node *node) {
    if (node->op == GRAPH_DIVIDE && node->in[1].node < 0 && node->in[0].node >= 0 &&
        dtype_is_float(node->dtype)) {
        node->op = GRAPH_MULTIPLY;
        node->in[1].imm = (float)(1.0 / node->in[1].imm);
    } else if (node->op == GRAPH_NEGATE && node->in[0].node >= 0 && dtype_is_float(node->dtype)) {
        node->op = GRAPH_MULTIPLY;
        node->in[1] = (fusion_in){.node = FUSION_NO_NODE, .imm = -1};
        node->n_in = 2;
    }
}

void fusion_fold(fusion *f, bool has_whole_rows, conv_exit *exit) {
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        node->folds = node->sum = node->moments = FUSION_NO_NODE;
        node->is_moments = node->is_folded = node->is_square = node->is_summed =
            node->has_negative = node->is_only_negative = node->is_exit = false;
        if (node->is_live)
            normalise(node);
    }
    fold_conversions(f);
    if (f->conv)
        *exit = conv_find_exit(f);
    if (has_whole_rows)
        fold_moments(f);
    elementwise_fold(f);
    fold_activations(f, has_whole_rows);
    fold_contracts(f);
}
