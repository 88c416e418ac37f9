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

void fusion_fold(fusion *f) {
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        node->folds = node->sum = FUSION_NO_NODE;
        node->is_folded = node->is_square = node->is_summed = node->has_negative = false;
    }
    fold_conversions(f);
    elementwise_fold(f);
    fold_activations(f);
}
