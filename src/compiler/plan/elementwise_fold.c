/* Folding: two elementwise nodes in one instruction, (x op s) op t. */
#include "compiler/plan/fusion_fold.h"

/* Arithmetic of two floats that is one instruction of the Vector engine on tiles. */
static bool is_vector_arith(const fusion *f, const fusion_node *node) {
    if (node->n_in != 2 || node->op >= FUSION_LOAD || node->shape != NODE_FULL ||
        !dtype_is_float(node->dtype) || !dtype_is_float(elementwise_in_dtype(f, node, 0)))
        return false;
    const elementwise_op *op = elementwise_op_of(f, node);
    return op->emitter == ELEMENTWISE_BY_BINARY &&
           elementwise_engine_of(op) == VTRN_ENGINE_VECTOR &&
           isa_alu_class((vtrn_alu)elementwise_code_of(op)) == 'A';
}

void elementwise_fold(fusion *f) {
    int n_uses[FUSION_MAX_NODES];
    fusion_count_uses(f, n_uses);
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live || node->is_folded || node->is_exit || !is_vector_arith(f, node))
            continue;
        for (int k = 0; k < 2 && node->folds < 0; k++) {
            if (node->in[k].node < 0)
                continue;
            fusion_node *in = &f->nodes[node->in[k].node];
            bool is_foldable = in->is_live && !in->is_folded && !in->is_exit && !in->is_stored &&
                               n_uses[node->in[k].node] == 1 && in->folds < 0 &&
                               in->op != FUSION_LOAD && is_vector_arith(f, in) &&
                               fusion_may_stay_wide(in) &&
                               elementwise_is_scalar(f, in, 0) != elementwise_is_scalar(f, in, 1);
            if (!is_foldable)
                continue;
            in->is_folded = true;
            node->folds = k;
        }
    }
}
