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

/* Whether whatever reads node i scales it, or adds it to another tile: it is rounded again there.
 */
static bool is_only_added(const fusion *f, int i) {
    bool is_added = !f->nodes[i].is_stored;
    for (int n = i + 1; is_added && n < f->n_nodes; n++) {
        const fusion_node *node = &f->nodes[n];
        for (int k = 0; node->is_live && k < node->n_in; k++) {
            if (node->in[k].node != i)
                continue;
            int other = node->n_in == 2 ? node->in[1 - k].node : FUSION_NO_NODE;
            bool is_tile = other >= 0 && other != i && f->nodes[other].shape != NODE_ROW;
            bool is_scaled = node->op == GRAPH_MULTIPLY && !is_tile && other != i;
            bool is_sum = node->op == GRAPH_ADD || node->op == GRAPH_SUBTRACT;
            is_added = is_added && ((is_sum && is_tile) || (is_scaled && is_only_added(f, n)));
        }
    }
    return is_added;
}

/* A quotient of two full tiles in fp32 is corrected, unless the last bit is lost anyway: its
 * reciprocal takes as long as eight products, the correction as long as eighteen more. Of rows,
 * whose instructions take their start-up time alone, and of what a row or a constant divides, the
 * correction would be most of the work; a narrower type has no such bits. */
static void find_exact_quotients(fusion *f) {
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        int num = node->in[0].node, den = node->in[1].node;
        node->is_exact = node->is_live && node->op == GRAPH_DIVIDE && node->shape == NODE_FULL &&
                         node->dtype == VTRN_DTYPE_FP32 && num >= 0 && den >= 0 &&
                         f->nodes[den].shape != NODE_ROW && !is_only_added(f, i);
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
    find_exact_quotients(f);
}
