/* Products that an operation takes from PSUM, so that nothing copies them to SBUF first. */
#include "compiler/plan/fusion_fold.h"

/* A node whose one instruction reads each operand once, as a tile of any columns. */
static bool reads_once(const fusion *f, const fusion_node *node) {
    if (!node->is_live || node->is_folded || node->is_exit || node->op == GRAPH_REDUCE ||
        node->shape != NODE_FULL || node->sum >= 0 || !dtype_is_float((vtrn_dtype)node->dtype) ||
        !fold_reads_as_fp32(f, node))
        return false;
    const int emitter = elementwise_op_of(f, node)->emitter;
    return emitter != ELEMENTWISE_BY_DIVIDE && emitter != ELEMENTWISE_BY_COMPARE;
}

int fold_contract_of(const fusion *f, const fusion_node *node) {
    for (int k = 0; k < node->n_in; k++) {
        const fusion_node *in = node->in[k].node < 0 ? NULL : &f->nodes[node->in[k].node];
        if (!in || !in->is_folded)
            continue;
        int found = in->op == FUSION_CONTRACT ? node->in[k].node : fold_contract_of(f, in);
        if (found >= 0)
            return found;
    }
    return FUSION_NO_NODE;
}

/* Whether the node, or what it folds, reads node i. */
static bool reads(const fusion *f, const fusion_node *node, int i) {
    for (int k = 0; k < node->n_in; k++)
        if (node->in[k].node == i ||
            (node->in[k].node >= 0 && f->nodes[node->in[k].node].is_folded &&
             reads(f, &f->nodes[node->in[k].node], i)))
            return true;
    return false;
}

void fold_contracts(fusion *f) {
    int n_uses[FUSION_MAX_NODES];
    fusion_count_uses(f, n_uses);
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *product = &f->nodes[i];
        if (!product->is_live || product->op != FUSION_CONTRACT || product->is_stored ||
            n_uses[i] != 1 || !fusion_may_stay_wide(product))
            continue;
        for (int j = i + 1; j < f->n_nodes; j++) {
            const fusion_node *node = &f->nodes[j];
            if (reads_once(f, node) && reads(f, node, i) && fold_contract_of(f, node) < 0) {
                product->is_folded = true;
                break;
            }
        }
    }
}
