/* Conversions that cost nothing: engines compute in fp32 whatever they read, and round what they
 * write. */
#include "compiler/plan/fusion_fold.h"

static bool is_conversion(const fusion *f, const fusion_node *node) {
    return node->is_live && node->op == GRAPH_CONVERT && node->in[0].node >= 0 &&
           dtype_is_float((vtrn_dtype)node->dtype) &&
           dtype_is_float((vtrn_dtype)f->nodes[node->in[0].node].dtype);
}

bool fold_reads_as_fp32(const fusion *f, const fusion_node *node) {
    if (node->op == GRAPH_REDUCE)
        return !node->is_column;
    if (node->op >= FUSION_LOAD || node->is_total_order)
        return false;
    switch ((elementwise_emitter_id)elementwise_op_of(f, node)->emitter) {
    case ELEMENTWISE_BY_BINARY:
    case ELEMENTWISE_BY_COMPARE:
        return elementwise_engine_of(elementwise_op_of(f, node)) == VTRN_ENGINE_VECTOR;
    case ELEMENTWISE_BY_DIVIDE:
    case ELEMENTWISE_BY_ACTIVATION:
    case ELEMENTWISE_BY_NEGATE:
    case ELEMENTWISE_BY_CONVERT:
        return true;
    default:
        return false;
    }
}

/* Operands that only became wider are read as they were. */
static void read_narrow(fusion *f, fusion_node *node) {
    if (!node->is_live || !fold_reads_as_fp32(f, node))
        return;
    for (int k = 0; k < node->n_in; k++) {
        const fusion_node *in = node->in[k].node < 0 ? NULL : &f->nodes[node->in[k].node];
        while (in && is_conversion(f, in) && in->dtype == VTRN_DTYPE_FP32 && !in->is_stored) {
            node->in[k].node = in->in[0].node;
            in = &f->nodes[node->in[k].node];
        }
    }
}

/* A node whose last instruction alone writes its tile, from fp32. */
static bool writes_once(const fusion *f, const fusion_node *node) {
    if (!node->is_live || node->is_stored || node->op >= FUSION_LOAD || node->op == GRAPH_REDUCE ||
        node->shape != NODE_FULL || node->dtype != VTRN_DTYPE_FP32)
        return false;
    switch ((elementwise_emitter_id)elementwise_op_of(f, node)->emitter) {
    case ELEMENTWISE_BY_BINARY:
        return elementwise_engine_of(elementwise_op_of(f, node)) == VTRN_ENGINE_VECTOR;
    case ELEMENTWISE_BY_DIVIDE:
    case ELEMENTWISE_BY_ACTIVATION:
    case ELEMENTWISE_BY_NEGATE:
        return true;
    default:
        return false;
    }
}

/* A conversion to a narrower type of what nothing else reads is the operation itself, into a tile
 * of that type. */
static void write_narrow(fusion *f, fusion_node *node, int n_uses[FUSION_MAX_NODES]) {
    if (!is_conversion(f, node) || node->shape != NODE_FULL)
        return;
    int from_i = node->in[0].node;
    fusion_node *from = &f->nodes[from_i];
    if (n_uses[from_i] != 1 || !writes_once(f, from))
        return;
    node->op = from->op;
    node->n_in = from->n_in;
    node->is_truth = from->is_truth;
    node->is_rounded = true;
    for (int k = 0; k < from->n_in; k++)
        node->in[k] = from->in[k];
    from->is_live = false;
    n_uses[from_i] = 0;
}

void fold_conversions(fusion *f) {
    int n_uses[FUSION_MAX_NODES];
    for (int i = 0; i < f->n_nodes; i++)
        read_narrow(f, &f->nodes[i]);
    fusion_count_uses(f, n_uses);
    for (int i = f->n_nodes - 1; i >= 0; i--) {
        fusion_node *node = &f->nodes[i];
        if (n_uses[i] || node->is_stored || !node->is_live)
            continue;
        node->is_live = false;
        for (int k = 0; k < node->n_in; k++)
            if (node->in[k].node >= 0)
                n_uses[node->in[k].node]--;
    }
    for (int i = 0; i < f->n_nodes; i++)
        write_narrow(f, &f->nodes[i], n_uses);
}
