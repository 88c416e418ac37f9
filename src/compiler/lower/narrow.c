/* Who wants a result in a narrower type only, and storing it so: half the traffic, and no
 * conversion on the way back. */
#include "compiler/lower/narrow.h"

/* Whether each element of the result is one of the operand's, whatever else it depends on: rounding
 * keeps the order, so it may be done first. */
static bool passes_values_on(const graph_op *op) {
    bool is_extreme =
        op->kind == GRAPH_REDUCE_WINDOW && op->n_operands == 2 &&
        (op->reducer == GRAPH_REDUCER_MAXIMUM || op->reducer == GRAPH_REDUCER_MINIMUM);
    return is_extreme || op->kind == GRAPH_CONCATENATE ||
           (view_is_view_kind((graph_kind)op->kind) && op->kind != GRAPH_BITCAST_CONVERT);
}

/* Whether every operation from number `from` on that names v converts it to *dtype, which the first
 * one decides. */
static bool is_narrowed(const lower *l, graph_value v, uint32_t from, vtrn_dtype *dtype) {
    const lower_value *value = &l->values[v];
    uint32_t n = 0;
    for (uint32_t i = 0; i < value->n_uses; i++) {
        uint32_t op_i = l->use_op_i[value->first_use + i];
        if (op_i < from)
            continue;
        n++;
        const graph_op *op = l->ops[op_i];
        vtrn_dtype to = (vtrn_dtype)l->g->types[op->results[0]].dtype;
        if (op->kind == GRAPH_CONVERT) {
            if (!dtype_is_float(to) || dtype_size(to) != 2 ||
                (*dtype != VTRN_DTYPE_FP32 && *dtype != to))
                return false;
            *dtype = to;
        } else if (!passes_values_on(op) || op->n_results != 1 ||
                   !is_narrowed(l, op->results[0], 0, dtype)) {
            return false;
        }
    }
    return n > 0 && n == value->uses && !value->is_result;
}

bool narrow_node(const lower *l, const fusion *f, int node, vtrn_dtype *out) {
    *out = VTRN_DTYPE_FP32;
    if (f->nodes[node].dtype != VTRN_DTYPE_FP32 || f->nodes[node].is_stored ||
        f->nodes[node].is_column || f->nodes[node].is_reduced || f->n_nodes == FUSION_MAX_NODES)
        return false;
    for (int i = 0; i < f->n_values; i++) {
        graph_value v = f->values[i].value;
        if ((int)l->values[v].node == node && l->values[v].uses && !is_narrowed(l, v, l->op_i, out))
            return false;
    }
    return *out != VTRN_DTYPE_FP32;
}

bool narrow_value(const lower *l, graph_value v, vtrn_dtype *out) {
    *out = VTRN_DTYPE_FP32;
    return l->g->types[v].dtype == VTRN_DTYPE_FP32 && l->values[v].output < 0 &&
           is_narrowed(l, v, 0, out);
}

vtrn_status narrow_result(lower *l, graph_value v, vtrn_dtype dtype, view *out) {
    graph_type type = l->g->types[v];
    type.dtype = (uint8_t)dtype;
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(
        build_slot_add(l->build, VTRN_SLOT_SCRATCH, dtype, graph_type_bytes(&type), 0, &slot));
    *out = view_dense(slot, &type);
    lower_set_view(l, v, out);
    return NULL;
}

/* A node whose last instruction alone writes its tile, from fp32. */
static bool is_one_instruction(const fusion_node *node) {
    return node->op == FUSION_CONTRACT || node->op == FUSION_CONV || node->op == GRAPH_ADD ||
           node->op == GRAPH_SUBTRACT || node->op == GRAPH_MULTIPLY;
}

vtrn_status narrow_store(lower *l, fusion *f, int node, vtrn_dtype dtype, int *out_node) {
    bool is_used = false;
    for (int i = 0; i < f->n_nodes; i++)
        for (int k = 0; k < f->nodes[i].n_in; k++)
            is_used |= f->nodes[i].in[k].node == node;
    *out_node = node;
    if (!is_used && is_one_instruction(&f->nodes[node])) {
        f->nodes[node].dtype = (uint8_t)dtype;
        return NULL;
    }
    fusion_node convert = {
        .op = GRAPH_CONVERT, .dtype = (uint8_t)dtype, .n_in = 1, .in = {{.node = (int16_t)node}}};
    fusion_in made;
    VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &convert, &made));
    *out_node = made.node;
    return NULL;
}
