/* Which op families may lower which kind of op; and those families that need no file of their own:
 * constants, their folding, and changes of views. */
#include "compiler/lower/lower.h"
#include "compiler/reference/reference.h"

#include <string.h>

static vtrn_status lower_constant(lower *l, const graph_op *op, bool *is_done) {
    *is_done = true;
    const graph_type *type = &l->g->types[op->results[0]];
    lower_value *value = &l->values[op->results[0]];
    size_t size = dtype_size(type->dtype);
    if ((op->attrs.constant.is_splat || graph_type_count(type) == 1) && size <= 8) {
        value->state = VALUE_SPLAT;
        memcpy(&value->splat_bits, op->attrs.constant.data, size);
        return NULL;
    }
    uint32_t slot;
    if (op->attrs.constant.is_splat) {
        VTRN_RETURN_IF_ERROR(
            build_constant_add(l->build, type->dtype, op->attrs.constant.data, size, &slot));
        view v = view_dense(slot, type);
        for (int i = 0; i < v.n; i++)
            v.f[i].stride = 0;
        lower_set_view(l, op->results[0], &v);
        return NULL;
    }
    VTRN_RETURN_IF_ERROR(build_constant_add(l->build, type->dtype, op->attrs.constant.data,
                                            graph_type_bytes(type), &slot));
    view v = view_dense(slot, type);
    lower_set_view(l, op->results[0], &v);
    return NULL;
}

static vtrn_status lower_view_op(lower *l, const graph_op *op, bool *is_done) {
    if (op->kind == GRAPH_OPTIMIZATION_BARRIER && op->n_operands != 1)
        return NULL;
    lower_value *from = &l->values[op->operands[0]], *to = &l->values[op->results[0]];
    bool is_of_bits =
        op->kind == GRAPH_BITCAST_CONVERT || op->kind == GRAPH_UNPACK || op->kind == GRAPH_PACK;
    if (from->state == VALUE_SPLAT && !is_of_bits) {
        to->state = VALUE_SPLAT;
        to->splat_bits = from->splat_bits;
        *is_done = true;
        return NULL;
    }
    view operand, result;
    VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[0], &operand));
    if (!view_apply(l->g, op, &operand, &result)) {
        VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[0], &operand));
        if (!view_apply(l->g, op, &operand, &result))
            return NULL;
    }
    lower_set_view(l, op->results[0], &result);
    *is_done = true;
    return NULL;
}

/* Values that only contractions read stay packed in memory: they are unpacked when they are in SBUF
 * (passes/small_types.h). Their view has the type of the packed values. */
static vtrn_status lower_packed(lower *l, const graph_op *op, bool *is_done) {
    static const vtrn_dtype types[2][2] = {{VTRN_DTYPE_UINT2, VTRN_DTYPE_UINT4},
                                           {VTRN_DTYPE_INT2, VTRN_DTYPE_INT4}};
    const graph_type *type = &l->g->types[op->results[0]];
    const int64_t bits = op->attrs.dims.dims.v[0];
    if (bits == 8)
        return NULL;
    *is_done = true;
    view bytes;
    VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[0], &bytes));
    view v = view_dense(bytes.slot, type);
    v.dtype = (uint8_t)types[dtype_is_signed_int((vtrn_dtype)type->dtype)][bits == 4];
    v.offset = bytes.offset * (8 / bits);
    lower_set_view(l, op->results[0], &v);
    return NULL;
}

/* An elementwise op on splats is a splat: evaluated here, once. */
static vtrn_status fold_splats(lower *l, const graph_op *op, bool *is_done) {
    const void *inputs[REFERENCE_MAX_ELEMENTS];
    if (op->n_results != 1 || op->n_operands == 0 || op->n_operands > REFERENCE_MAX_ELEMENTS ||
        dtype_size(l->g->types[op->results[0]].dtype) > 8)
        return NULL;
    for (uint32_t i = 0; i < op->n_operands; i++) {
        graph_value v = op->operands[i];
        if (dtype_size(l->g->types[v].dtype) > 8 || l->values[v].state != VALUE_SPLAT)
            return NULL;
        inputs[i] = &l->values[v].splat_bits;
    }
    uint64_t bits = 0;
    VTRN_RETURN_IF_ERROR(reference_elements(l->g, op, inputs, &bits, is_done));
    if (!*is_done)
        return NULL;
    l->values[op->results[0]].splat_bits = bits;
    l->values[op->results[0]].state = VALUE_SPLAT;
    return NULL;
}

/* The families of a kind are asked in this order, up to the one that lowers the op. A kind without
 * families, and what all of its families decline, runs as a reference operation. */
enum { MAX_FAMILIES = 4 };
typedef lower_fn *family_list[MAX_FAMILIES];

static const family_list elementwise_families = {fold_splats, lower_fused};

/* Kinds other than elementwise ones, and elementwise kinds for which other families are asked
 * first.
 */
static const family_list families_by_kind[GRAPH_KIND_COUNT] = {
    [GRAPH_ADD] = {fold_splats, lower_affine, lower_pad_sum, lower_fused},
    [GRAPH_SUBTRACT] = {fold_splats, lower_affine, lower_fused},
    [GRAPH_MULTIPLY] = {fold_splats, lower_affine, lower_fused},
    [GRAPH_SHIFT_RIGHT_LOGICAL] = {fold_splats, lower_affine, lower_fused},
    [GRAPH_CONVERT] = {fold_splats, lower_affine, lower_cast, lower_fused},

    [GRAPH_CONSTANT] = {lower_constant},
    [GRAPH_IOTA] = {lower_affine, lower_fused},
    [GRAPH_RESHAPE] = {lower_fused, lower_view_op},
    [GRAPH_BROADCAST_IN_DIM] = {lower_fused, lower_view_op},
    [GRAPH_TRANSPOSE] = {lower_view_op},
    [GRAPH_REVERSE] = {lower_view_op},
    [GRAPH_SLICE] = {lower_view_op},
    [GRAPH_BITCAST_CONVERT] = {lower_view_op},
    [GRAPH_UNPACK] = {lower_packed, lower_view_op},
    [GRAPH_PACK] = {lower_view_op},
    [GRAPH_OPTIMIZATION_BARRIER] = {lower_view_op},
    [GRAPH_PAD] = {lower_pad_sum, lower_movement},
    [GRAPH_CONCATENATE] = {lower_movement},

    [GRAPH_DOT_GENERAL] = {lower_dot},
    [GRAPH_CONVOLUTION] = {lower_convolution},
    [GRAPH_REDUCE] = {lower_fused, lower_arg_reduce},
    [GRAPH_REDUCE_WINDOW] = {lower_cumulative, lower_window},
    [GRAPH_SELECT_AND_SCATTER] = {lower_window},
    [GRAPH_SORT] = {lower_sort},

    [GRAPH_GATHER] = {lower_indexed, lower_dynamic},
    [GRAPH_SCATTER] = {lower_indexed, lower_dynamic},
    [GRAPH_DYNAMIC_SLICE] = {lower_dynamic},
    [GRAPH_DYNAMIC_UPDATE_SLICE] = {lower_dynamic},

    [GRAPH_WHILE] = {lower_control},
    [GRAPH_IF] = {lower_control},
    [GRAPH_CASE] = {lower_control},
    [GRAPH_CUSTOM_CALL] = {lower_callback, lower_native},

    [GRAPH_PARTITION_ID] = {lower_rank_word},
    [GRAPH_REPLICA_ID] = {lower_rank_word},
    [GRAPH_ALL_REDUCE] = {lower_collective},
    [GRAPH_ALL_GATHER] = {lower_collective},
    [GRAPH_REDUCE_SCATTER] = {lower_collective},
    [GRAPH_ALL_TO_ALL] = {lower_collective},
    [GRAPH_COLLECTIVE_PERMUTE] = {lower_collective},
    [GRAPH_COLLECTIVE_BROADCAST] = {lower_collective},
};

static lower_fn *const *families_of(uint16_t kind) {
    bool is_listed = families_by_kind[kind][0];
    bool is_elementwise = kind <= GRAPH_REDUCE_PRECISION || graph_kind_is_composite(kind);
    return is_elementwise && !is_listed ? elementwise_families : families_by_kind[kind];
}

/* What has no reference routine, or is none of the engines' business. */
static bool has_no_reference(lower_fn *family) {
    return family == lower_constant || family == lower_view_op || family == lower_control ||
           family == lower_callback || family == lower_native || family == lower_collective ||
           family == lower_rank_word;
}

/* Whether a value of the op has a type without a hardware format: the reference routine computes
 * it, since the families take every type of up to 4 bytes for one of the engines. */
static bool has_type_without_format(const graph *g, const graph_op *op) {
    for (uint32_t i = 0; i < op->n_operands + op->n_results; i++) {
        const graph_value v =
            i < op->n_operands ? op->operands[i] : op->results[i - op->n_operands];
        if (!g->types[v].is_token && dtype_has_no_format((vtrn_dtype)g->types[v].dtype))
            return true;
    }
    return false;
}

vtrn_status lower_op(lower *l, const graph_op *op, bool *is_reference) {
    lower_fn *const *families = families_of(op->kind);
    bool is_done = false;
    const bool is_left_out = l->options->reference_only || has_type_without_format(l->g, op);
    for (int i = 0; i < MAX_FAMILIES && families[i] && !is_done; i++)
        if (!is_left_out || has_no_reference(families[i]))
            VTRN_RETURN_IF_ERROR(families[i](l, op, &is_done));
    *is_reference = !is_done;
    return is_done ? NULL : lower_custom(l, op);
}
