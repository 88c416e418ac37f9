/* Folding: two elementwise nodes in one instruction, (x op s) op t. */
#include "compiler/plan/fusion_fold.h"

#include <math.h>

enum {
    MIN_EXPONENT = -32 /* of a scale: what it makes too small is far below any result's last bit */
};

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

/* Whether a multiplication by it is exact, but for what becomes too small. */
static bool is_power_of_two(double x) {
    int exponent;
    return x > 0 && x <= 1 && frexp(x, &exponent) == 0.5 && exponent > MIN_EXPONENT;
}

/* (a * b) * 2^-n is (a * 2^-n) * b, which folds. Not in fp16, whose smallest numbers are not far
 * below 1. */
static void scale_before(fusion *f, fusion_node *node, const int n_uses[FUSION_MAX_NODES]) {
    if (!node->is_live || node->op != GRAPH_MULTIPLY || !is_vector_arith(f, node) ||
        node->dtype == VTRN_DTYPE_FP16)
        return;
    int number = node->in[0].node < 0 ? 0 : 1, product_i = node->in[1 - number].node;
    if (node->in[number].node >= 0 || product_i < 0 || !is_power_of_two(node->in[number].imm))
        return;
    fusion_node *product = &f->nodes[product_i];
    if (!product->is_live || product->is_folded || product->is_exit || product->is_stored ||
        n_uses[product_i] != 1 || product->op != GRAPH_MULTIPLY || !is_vector_arith(f, product) ||
        product->dtype == VTRN_DTYPE_FP16 || !fusion_may_stay_wide(product) ||
        elementwise_is_scalar(f, product, 0) || elementwise_is_scalar(f, product, 1))
        return;
    const fusion_in factor = product->in[1];
    product->in[1] = node->in[number];
    node->in[number] = factor;
}

void elementwise_fold(fusion *f) {
    int n_uses[FUSION_MAX_NODES];
    fusion_count_uses(f, n_uses);
    for (int i = 0; i < f->n_nodes; i++)
        scale_before(f, &f->nodes[i], n_uses);
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
