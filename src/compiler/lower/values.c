/* Where values are: views, splats, memory for results. */
#include "compiler/lower/lower.h"
#include "compiler/lower/movement.h"

#include <string.h>

void lower_set_view(lower *l, graph_value v, const view *at) {
    l->values[v].state = VALUE_VIEW;
    l->values[v].view = *at;
}

void lower_used(lower *l, graph_value v) {
    if (l->values[v].uses)
        l->values[v].uses--;
}

uint32_t lower_next_use(const lower *l, graph_value v, uint32_t from) {
    const lower_value *value = &l->values[v];
    for (uint32_t i = 0; i < value->n_uses; i++)
        if (l->use_op_i[value->first_use + i] >= from)
            return l->use_op_i[value->first_use + i];
    return LOWER_NEVER;
}

bool lower_splat_float(const lower *l, graph_value v, double *out) {
    const lower_value *value = &l->values[v];
    if (value->state != VALUE_SPLAT)
        return false;
    vtrn_dtype t = l->g->types[v].dtype;
    if (t == VTRN_DTYPE_INT32) {
        *out = (int32_t)value->splat_bits;
        return true;
    }
    if (t == VTRN_DTYPE_UINT32) {
        *out = (uint32_t)value->splat_bits;
        return true;
    }
    if (dtype_size(t) > 4)
        return false;
    float f;
    dtype_load_fp32(t, &value->splat_bits, &f, 1);
    *out = f;
    return true;
}

/* A splat as memory: one element that every index reads. */
static vtrn_status splat_view(lower *l, graph_value v, view *out) {
    const graph_type *type = &l->g->types[v];
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(build_constant_add(l->build, type->dtype, &l->values[v].splat_bits,
                                            dtype_size(type->dtype), &slot));
    *out = view_dense(slot, type);
    for (int i = 0; i < out->n; i++)
        out->f[i].stride = 0;
    return NULL;
}

vtrn_status lower_materialise(lower *l, graph_value v, view *out) {
    lower_value *value = &l->values[v];
    if (value->state == VALUE_NODE)
        VTRN_RETURN_IF_ERROR(lower_close_value(l, v));
    if (value->state == VALUE_SPLAT)
        return splat_view(l, v, out);
    if (value->state == VALUE_AFFINE)
        return lower_affine_constant(l, v, out);
    if (value->state == VALUE_PADS)
        VTRN_RETURN_IF_ERROR(movement_place_pads(l, v));
    VTRN_CHECK(value->state == VALUE_VIEW, "a value is lowered before it is used");
    *out = value->view;
    return NULL;
}

vtrn_status lower_dense(lower *l, graph_value v, view *out) {
    VTRN_RETURN_IF_ERROR(lower_materialise(l, v, out));
    if (view_is_dense(out))
        return NULL;
    uint32_t slot;
    const graph_type *type = &l->g->types[v];
    VTRN_RETURN_IF_ERROR(
        build_slot_add(l->build, VTRN_SLOT_SCRATCH, type->dtype, graph_type_bytes(type), 0, &slot));
    view dense = view_dense(slot, type);
    VTRN_RETURN_IF_ERROR(plan_copy(l->plan, out, &dense));
    /* a copy made in one block may not have happened when another runs */
    if (l->values[v].state == VALUE_VIEW && !l->has_control_flow)
        l->values[v].view = dense;
    *out = dense;
    return NULL;
}

vtrn_status lower_strided(lower *l, graph_value v, view *out, int64_t *strides) {
    const graph_type *t = &l->g->types[v];
    VTRN_RETURN_IF_ERROR(lower_materialise(l, v, out));
    if (view_dim_strides(out, t->dims, t->rank, strides))
        return NULL;
    VTRN_RETURN_IF_ERROR(lower_dense(l, v, out));
    VTRN_CHECK(view_dim_strides(out, t->dims, t->rank, strides), "a dense view has strides");
    return NULL;
}

vtrn_status lower_result(lower *l, graph_value v, view *out) {
    const graph_type *type = &l->g->types[v];
    uint32_t slot;
    if (l->values[v].output >= 0)
        slot = l->output_slot[l->values[v].output];
    else
        VTRN_RETURN_IF_ERROR(build_slot_add(l->build, VTRN_SLOT_SCRATCH, type->dtype,
                                            graph_type_bytes(type), 0, &slot));
    *out = view_dense(slot, type);
    lower_set_view(l, v, out);
    return NULL;
}

bool lower_reducer(graph_reducer r, graph_kind *kind, vtrn_alu *alu) {
    switch (r) {
    case GRAPH_REDUCER_ADD:
        *kind = GRAPH_ADD;
        *alu = VTRN_ALU_ADD;
        return true;
    case GRAPH_REDUCER_MULTIPLY:
        *kind = GRAPH_MULTIPLY;
        *alu = VTRN_ALU_MULTIPLY;
        return true;
    case GRAPH_REDUCER_MAXIMUM:
        *kind = GRAPH_MAXIMUM;
        *alu = VTRN_ALU_MAX;
        return true;
    case GRAPH_REDUCER_MINIMUM:
        *kind = GRAPH_MINIMUM;
        *alu = VTRN_ALU_MIN;
        return true;
    default:
        *kind = GRAPH_UNKNOWN;
        *alu = VTRN_ALU_NONE;
        return false;
    }
}
