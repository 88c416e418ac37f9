/* What a convolution's tiles become on their way out of PSUM. */
#include "compiler/plan/conv_plan.h"
#include "compiler/plan/fusion_fold.h"

static int find_convolution(const fusion *f) {
    for (int i = 0; i < f->n_nodes; i++)
        if (f->nodes[i].is_live && f->nodes[i].op == FUSION_CONV)
            return i;
    return FUSION_NO_NODE;
}

/* The one node that reads node i, once; FUSION_NO_NODE: none, or several. */
static int only_reader(const fusion *f, int i) {
    int reader = FUSION_NO_NODE;
    for (int j = i + 1; j < f->n_nodes; j++)
        for (int k = 0; f->nodes[j].is_live && k < f->nodes[j].n_in; k++) {
            if (f->nodes[j].in[k].node != i)
                continue;
            if (reader != FUSION_NO_NODE)
                return FUSION_NO_NODE;
            reader = j;
        }
    return reader;
}

static bool is_float_node(const fusion *f, int i, node_shape shape) {
    return i >= 0 && f->nodes[i].shape == shape && dtype_is_float((vtrn_dtype)f->nodes[i].dtype);
}

static bool has_shift(const conv_exit *x) {
    return x->bias >= 0 || x->other >= 0;
}

/* Takes one more node into the exit, which then ends with it; false: the exit ends before it. */
static bool extend(const fusion *f, int i, conv_exit *x) {
    const fusion_node *node = &f->nodes[i], *last = &f->nodes[x->node];
    int at = node->n_in > 0 && node->in[0].node == x->node ? 0 : 1;
    const fusion_in *by = node->n_in == 2 ? &node->in[1 - at] : NULL;
    bool is_exact = fusion_may_stay_wide(last);
    if (!dtype_is_float((vtrn_dtype)node->dtype) || node->shape != NODE_FULL || last->is_stored)
        return false;
    if (node->op == GRAPH_CONVERT)
        return node->n_in == 1;
    if (!by || by->node == x->node)
        return false;
    if (node->op == GRAPH_MAXIMUM && by->node < 0 && by->imm == 0 && !x->is_relu) {
        x->is_relu = true;
        return true;
    }
    if (!is_exact || x->is_relu)
        return false;
    if (node->op == GRAPH_MULTIPLY && x->scale < 0 && x->scale_imm == 1 && !has_shift(x)) {
        if (by->node < 0)
            x->scale_imm = (float)by->imm;
        else if (is_float_node(f, by->node, NODE_ROW))
            x->scale = by->node;
        return by->node < 0 || x->scale >= 0;
    }
    if (node->op != GRAPH_ADD)
        return false;
    if (x->bias < 0 && is_float_node(f, by->node, NODE_ROW))
        x->bias = by->node;
    else if (x->other < 0 && is_float_node(f, by->node, NODE_FULL))
        x->other = by->node;
    else
        return false;
    return true;
}

conv_exit conv_find_exit(fusion *f) {
    conv_exit x = {
        .scale = FUSION_NO_NODE, .scale_imm = 1, .bias = FUSION_NO_NODE, .other = FUSION_NO_NODE};
    x.node = x.sum = (int16_t)find_convolution(f);
    if (x.node < 0 || f->conv->is_pooling)
        return x;
    for (int next; (next = only_reader(f, x.node)) >= 0 && extend(f, next, &x);) {
        f->nodes[x.node].is_folded = true;
        x.node = (int16_t)next;
    }
    f->nodes[x.node].is_exit = true;
    return x;
}
