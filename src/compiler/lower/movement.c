/* pad, concatenate and copies: DMA from HBM to HBM. */
#include "compiler/lower/movement.h"

#include "compiler/lower/parts.h"
#include <string.h>

vtrn_status movement_densify(lower *l, view *v, const graph_type *type) {
    uint32_t slot;
    graph_type t = *type;
    t.dtype = v->dtype;
    VTRN_RETURN_IF_ERROR(
        build_slot_add(l->build, VTRN_SLOT_SCRATCH, t.dtype, graph_type_bytes(&t), 0, &slot));
    view dense = view_dense(slot, &t);
    VTRN_RETURN_IF_ERROR(plan_copy(l->plan, v, &dense));
    *v = dense;
    return NULL;
}

vtrn_status movement_strides(lower *l, view *v, const graph_type *type, int64_t *strides) {
    if (view_dim_strides(v, type->dims, type->rank, strides))
        return NULL;
    VTRN_RETURN_IF_ERROR(movement_densify(l, v, type));
    VTRN_CHECK(view_dim_strides(v, type->dims, type->rank, strides), "a dense view has strides");
    return NULL;
}

/* The element that a view of a constant repeats. */
static bool constant_element(const lower *l, const view *value, uint64_t *bits) {
    const vtrn_slot *slot = &l->build->slots[value->slot].slot;
    size_t size = dtype_size((vtrn_dtype)value->dtype);
    if (slot->kind != VTRN_SLOT_CONSTANT || slot->size_bytes != size || size > 4)
        return false;
    *bits = 0;
    memcpy(bits, l->build->data + slot->offset, size);
    return true;
}

vtrn_status movement_fill(lower *l, const view *value, const view *out) {
    enum { MAX_COLS = 2048 };
    int64_t n = view_count(out),
            cols = n / tile_max_rows(l->chip) < MAX_COLS ? n / tile_max_rows(l->chip) : MAX_COLS;
    int64_t size = (int64_t)dtype_size((vtrn_dtype)out->dtype);
    VTRN_CHECK(size > 0, "a tensor has a type");
    int64_t most = l->plan->sbuf_limit / SBUF_ALIGN * SBUF_ALIGN / size;
    uint64_t bits;
    cols = cols < most ? cols : most;
    if (!constant_element(l, value, &bits) || cols == 0) {
        view one = *value;
        one.n = 1;
        one.f[0] = (view_factor){n, 0};
        return plan_copy(l->plan, &one, out);
    }
    uint64_t sbuf_bytes = sbuf_round((uint64_t)(cols * size));
    kernel_fill spec = {.out = *out, .bits = bits, .n = n, .cols = cols};
    VTRN_RETURN_IF_ERROR(plan_kernel(l->plan, KERNEL_FILL, &spec, sizeof spec,
                                     (kernel_demand){.sbuf_bytes = sbuf_bytes}));
    return plan_writes(l->plan, out);
}

vtrn_status movement_pad_into(lower *l, const view *from, const padding *pad, const view *value,
                              const view *out) {
    VTRN_RETURN_IF_ERROR(movement_fill(l, value, out));
    return movement_place(l, from, pad, out);
}

vtrn_status movement_place(lower *l, const view *from, const padding *pad, const view *out) {
    const graph_type *type = pad->type, *result = pad->result;
    const int64_t *low = pad->low, *interior = pad->interior;
    view src = *from, dst = *out;
    int64_t src_stride[GRAPH_MAX_RANK], dst_stride[GRAPH_MAX_RANK];
    if (graph_type_count(type) == 0 || graph_type_count(result) == 0)
        return NULL;
    VTRN_RETURN_IF_ERROR(movement_strides(l, &src, type, src_stride));
    VTRN_CHECK(view_dim_strides(&dst, result->dims, result->rank, dst_stride),
               "a dense view has strides");
    view cut_src = {.slot = src.slot, .dtype = src.dtype, .offset = src.offset};
    view cut_dst = {.slot = dst.slot, .dtype = dst.dtype, .offset = dst.offset};
    for (int d = 0; d < type->rank; d++) {
        int64_t step = interior[d] + 1, begin = 0, end = type->dims[d];
        if (low[d] < 0)
            begin = (-low[d] + step - 1) / step;
        while (end > begin && low[d] + (end - 1) * step >= result->dims[d])
            end = low[d] + (end - 1) * step - result->dims[d] >= step * 64 ? end - 64 : end - 1;
        if (end <= begin)
            return NULL; /* everything is cut away */
        cut_src.offset += begin * src_stride[d];
        cut_dst.offset += (low[d] + begin * step) * dst_stride[d];
        cut_src.f[cut_src.n++] = (view_factor){end - begin, src_stride[d]};
        cut_dst.f[cut_dst.n++] = (view_factor){end - begin, step * dst_stride[d]};
    }
    return plan_copy(l->plan, &cut_src, &cut_dst);
}

vtrn_status movement_pad(lower *l, const view *from, const padding *pad, uint64_t value,
                         view *out) {
    uint32_t slot, constant;
    graph_type t = *pad->result;
    t.dtype = from->dtype;
    VTRN_RETURN_IF_ERROR(
        build_slot_add(l->build, VTRN_SLOT_SCRATCH, t.dtype, graph_type_bytes(&t), 0, &slot));
    VTRN_RETURN_IF_ERROR(
        build_constant_add(l->build, t.dtype, &value, dtype_size(t.dtype), &constant));
    graph_type scalar = {.dtype = t.dtype};
    view one = view_dense(constant, &scalar), dense = view_dense(slot, &t);
    VTRN_RETURN_IF_ERROR(movement_pad_into(l, from, pad, &one, &dense));
    *out = dense;
    return NULL;
}

static vtrn_status lower_pad(lower *l, const graph_op *op) {
    view from, value, out;
    bool is_identity = true;
    for (int64_t d = 0; d < op->attrs.pad.low.n; d++)
        is_identity = is_identity && !op->attrs.pad.low.v[d] && !op->attrs.pad.high.v[d] &&
                      !op->attrs.pad.interior.v[d];
    if (is_identity) {
        VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[0], &from));
        lower_set_view(l, op->results[0], &from);
        return NULL;
    }
    VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[0], &from));
    VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[1], &value));
    VTRN_RETURN_IF_ERROR(lower_result(l, op->results[0], &out));
    return movement_pad_into(l, &from,
                             &(padding){&l->g->types[op->operands[0]], op->attrs.pad.low.v,
                                        op->attrs.pad.interior.v, &l->g->types[op->results[0]]},
                             &value, &out);
}

static vtrn_status lower_concatenate(lower *l, const graph_op *op) {
    int64_t d = op->attrs.dims.dims.v[0], at = 0;
    view out;
    view *from = ARENA_NEW(&l->tmp, view, op->n_operands);
    if (!from)
        return VTRN_OUT_OF_MEMORY(op->n_operands * sizeof *from);
    for (uint32_t i = 0; i < op->n_operands; i++)
        VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[i], &from[i]));
    const graph_type *result = &l->g->types[op->results[0]];
    int64_t strides[GRAPH_MAX_RANK];
    VTRN_RETURN_IF_ERROR(parts_whole(l, op->results[0], &out));
    if (!view_dim_strides(&out, result->dims, result->rank, strides)) {
        VTRN_RETURN_IF_ERROR(lower_result(l, op->results[0], &out));
        VTRN_CHECK(view_dim_strides(&out, result->dims, result->rank, strides),
                   "a dense view has strides");
    }
    for (uint32_t i = 0; i < op->n_operands; i++) {
        const graph_type *t = &l->g->types[op->operands[i]];
        view part = {.slot = out.slot,
                     .dtype = out.dtype,
                     .offset = out.offset + at * strides[d],
                     .n = t->rank};
        for (int k = 0; k < t->rank; k++)
            part.f[k] = (view_factor){t->dims[k], strides[k]};
        at += t->dims[d];
        if (parts_is_there(&from[i], &part))
            continue;
        VTRN_RETURN_IF_ERROR(l->values[op->operands[i]].state == VALUE_SPLAT && view_is_dense(&part)
                                 ? movement_fill(l, &from[i], &part)
                                 : plan_copy(l->plan, &from[i], &part));
    }
    return NULL;
}

vtrn_status lower_movement(lower *l, const graph_op *op, bool *is_done) {
    vtrn_dtype t = op->n_results ? l->g->types[op->results[0]].dtype : VTRN_DTYPE_FP32;
    if (dtype_size(t) > 4) /* DMA moves elements of up to 4 bytes */
        return NULL;
    *is_done = true;
    return op->kind == GRAPH_PAD ? lower_pad(l, op) : lower_concatenate(l, op);
}
