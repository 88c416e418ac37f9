/* Folding: two elementwise nodes in one instruction, (x op s) op t. */
#include "compiler/lower/elementwise_parts.h"

/* Arithmetic of two floats that is one instruction of the Vector engine on tiles. */
static bool is_vector_arith(const fusion *f, const fusion_node *node) {
    if (node->n_in != 2 || node->op >= FUSION_LOAD || node->shape != NODE_FULL ||
        !dtype_is_float(node->dtype) || !dtype_is_float(elementwise_in_dtype(f, node, 0)))
        return false;
    const elementwise_op *op = elementwise_op_of(f, node);
    return op->emit == elementwise_binary && elementwise_engine_of(op) == VTRN_ENGINE_VECTOR &&
           isa_alu_class((vtrn_alu)elementwise_code_of(op)) == 'A';
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

void elementwise_fold(fusion *f) {
    int n_uses[FUSION_MAX_NODES] = {0};
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        node->folds = FUSION_NO_NODE;
        node->is_folded = false;
        if (!node->is_live)
            continue;
        normalise(node);
        for (int k = 0; k < node->n_in; k++)
            if (node->in[k].node >= 0)
                n_uses[node->in[k].node]++;
    }
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live || !is_vector_arith(f, node))
            continue;
        for (int k = 0; k < 2 && node->folds < 0; k++) {
            if (node->in[k].node < 0)
                continue;
            fusion_node *in = &f->nodes[node->in[k].node];
            /* a narrower intermediate would have been rounded */
            bool is_foldable = in->is_live && !in->is_stored && n_uses[node->in[k].node] == 1 &&
                               in->folds < 0 && in->op != FUSION_LOAD && is_vector_arith(f, in) &&
                               in->dtype == VTRN_DTYPE_FP32 &&
                               elementwise_is_scalar(f, in, 0) != elementwise_is_scalar(f, in, 1);
            if (!is_foldable)
                continue;
            in->is_folded = true;
            node->folds = k;
        }
    }
}

/* (x op0 s0) op1 s1 or (x op0 s0) op1 tile in one instruction. */
vtrn_status elementwise_folded(emit_env *env, const fusion_node *node) {
    const fusion *f = env->f;
    const fusion_node *in = &f->nodes[node->in[node->folds].node];
    int scalar0 = elementwise_is_scalar(f, in, 0) ? 0 : 1, other = 1 - node->folds;
    const fusion_in *s0 = &in->in[scalar0], *s1 = &node->in[other];
    bool is_scalar = elementwise_is_scalar(f, node, other);
    vtrn_ap dst = elementwise_dst_ap(env, node), x, y = {0};
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, in, 1 - scalar0, &x));
    if (!is_scalar)
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, other, &y));
    vtrn_instr *instr =
        lower_append(env->l, is_scalar ? VTRN_OP_TENSOR_SCALAR : VTRN_OP_SCALAR_TENSOR_TENSOR,
                     VTRN_ENGINE_VECTOR);
    if (!instr)
        return VTRN_OUT_OF_MEMORY(sizeof *instr);
    instr->op0 = elementwise_code_of(elementwise_op_of(f, in));
    instr->op1 = elementwise_code_of(elementwise_op_of(f, node));
    instr->flags = (scalar0 == 0 ? VTRN_FLAG_REVERSE0 : 0) | (other == 0 ? VTRN_FLAG_REVERSE1 : 0);
    instr->ap[0] = dst;
    instr->ap[1] = x;
    instr->imm[0].f = (float)s0->imm;
    if (s0->node >= 0)
        instr->ap[2] = elementwise_scalar_ap(&f->nodes[s0->node].t, env->rows);
    if (!is_scalar) {
        instr->ap[3] = y;
        return NULL;
    }
    instr->imm[1].f = (float)s1->imm;
    if (s1->node >= 0)
        instr->ap[3] = elementwise_scalar_ap(&f->nodes[s1->node].t, env->rows);
    return NULL;
}
