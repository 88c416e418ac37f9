/* Results that are written straight into the tensor that they become a part of. */
#include "compiler/lower/parts.h"

#include "compiler/lower/narrow.h"

#include <string.h>

/* Whether the operation is in the region that is being lowered: what an enclosing region makes is
 * made once, where the tensor is made anew each time that the inner one runs. */
static bool is_in_region(const lower *l, const graph_op *op) {
    return l->region && op >= l->region->ops && op < l->region->ops + l->region->n_ops;
}

static bool moves_as_elements(vtrn_dtype t) {
    return dtype_size(t) <= 4; /* movement.c copies these */
}

vtrn_status parts_whole(lower *l, graph_value v, view *out) {
    vtrn_dtype dtype;
    bool is_narrow = !l->values[v].is_reserved && narrow_value(l, v, &dtype);
    return is_narrow ? narrow_result(l, v, dtype, out) : parts_result(l, v, out);
}

/* Reserves the tensor's memory, of which *out is the view. */
static vtrn_status reserve(lower *l, graph_value v, view *out) {
    lower_value *value = &l->values[v];
    if (!value->is_reserved) {
        view whole;
        VTRN_RETURN_IF_ERROR(parts_whole(l, v, &whole));
        value->view = whole;
        value->state = VALUE_UNSET; /* until the operation that joins the parts is lowered */
        value->is_reserved = true;
    }
    *out = value->view;
    return NULL;
}

/* The place of operand v of a concatenation in the result. */
static vtrn_status find_in_concatenation(lower *l, const graph_op *op, graph_value v, view *out,
                                         bool *is_found) {
    graph_value whole = op->results[0];
    int64_t dim = op->attrs.dims.dims.v[0], at = 0;
    const graph_type *t = &l->g->types[whole];
    int first[GRAPH_MAX_RANK + 1];
    view there;
    if (l->options->reference_only || !moves_as_elements((vtrn_dtype)t->dtype) ||
        graph_type_count(t) == 0)
        return NULL;
    for (uint32_t i = 0; op->operands[i] != v; i++)
        at += l->g->types[op->operands[i]].dims[dim];
    VTRN_RETURN_IF_ERROR(reserve(l, whole, &there));
    int64_t strides[GRAPH_MAX_RANK];
    if (!view_split_dims(&there, t->dims, t->rank, first) ||
        !view_dim_strides(&there, t->dims, t->rank, strides))
        return NULL;
    const graph_type *part = &l->g->types[v];
    *out = (view){.slot = there.slot,
                  .dtype = there.dtype,
                  .offset = there.offset + at * strides[dim],
                  .n = part->rank};
    for (int d = 0; d < part->rank; d++)
        out->f[d] = (view_factor){part->dims[d], strides[d]};
    *is_found = true;
    return NULL;
}

/* The place of a transposed value -> that of its operand. */
static bool undo_transpose(const lower *l, const graph_op *op, view *at) {
    const graph_type *t = &l->g->types[op->results[0]];
    int64_t strides[GRAPH_MAX_RANK];
    if (!view_dim_strides(at, t->dims, t->rank, strides))
        return false;
    at->n = t->rank;
    for (int i = 0; i < t->rank; i++)
        at->f[op->attrs.dims.dims.v[i]] = (view_factor){t->dims[i], strides[i]};
    return true;
}

static bool keeps_order(const lower *l, const graph_op *op) {
    graph_ints dims = op->attrs.dims.dims;
    if (op->kind == GRAPH_RESHAPE)
        return true;
    if (op->kind != GRAPH_BROADCAST_IN_DIM || graph_type_count(&l->g->types[op->operands[0]]) !=
                                                  graph_type_count(&l->g->types[op->results[0]]))
        return false;
    for (int64_t i = 1; i < dims.n; i++)
        if (dims.v[i] <= dims.v[i - 1])
            return false;
    return true;
}

/* The place of v as the operand of `user`. */
static vtrn_status find_in_user(lower *l, const graph_op *user, graph_value v, view *out,
                                bool *is_found) {
    *is_found = false;
    if (!is_in_region(l, user) || user->n_results != 1 || l->values[user->results[0]].uses == 0)
        return NULL;
    if (user->kind == GRAPH_CONCATENATE)
        return find_in_concatenation(l, user, v, out, is_found);
    if (user->kind != GRAPH_TRANSPOSE && !keeps_order(l, user))
        return NULL;
    VTRN_RETURN_IF_ERROR(parts_find(l, user->results[0], out, is_found));
    if (*is_found && user->kind == GRAPH_TRANSPOSE)
        *is_found = undo_transpose(l, user, out);
    return NULL;
}

vtrn_status parts_find(lower *l, graph_value v, view *out, bool *is_found) {
    const lower_value *value = &l->values[v];
    *is_found = false;
    /* Other readers, as of windows at places that data decide, may read the tensor whole, before
     * all of its parts are written. */
    if (value->output >= 0 || value->uses > 1)
        return NULL;
    for (uint32_t i = 0; i < value->n_uses && !*is_found; i++) {
        uint32_t op_i = l->use_op_i[value->first_use + i];
        if (op_i >= l->op_i)
            VTRN_RETURN_IF_ERROR(find_in_user(l, l->ops[op_i], v, out, is_found));
    }
    return NULL;
}

vtrn_status parts_result(lower *l, graph_value v, view *out) {
    lower_value *value = &l->values[v];
    bool is_part = false;
    if (value->is_reserved) {
        *out = value->view;
        lower_set_view(l, v, out);
        return NULL;
    }
    VTRN_RETURN_IF_ERROR(parts_find(l, v, out, &is_part));
    if (!is_part)
        return lower_result(l, v, out);
    lower_set_view(l, v, out);
    return NULL;
}

bool parts_are_missing(const lower *l, uint32_t slot) {
    for (uint32_t i = 0; i < l->g->n_values; i++) {
        const lower_value *value = &l->values[i];
        if (value->is_reserved && value->state == VALUE_UNSET && value->view.slot == slot)
            return true;
    }
    return false;
}

bool parts_is_there(const view *from, const view *part) {
    view a = *from, b = *part;
    view_coalesce(&a);
    view_coalesce(&b);
    return view_is_same(&a, &b);
}
