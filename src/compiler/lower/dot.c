/* dot_general as a contraction. */
#include "compiler/lower/dot.h"

#include "compiler/lower/fusion.h"
#include "compiler/lower/parts.h"

#include <string.h>

bool contract_dtype(const vtrn_chip *chip, vtrn_dtype a, vtrn_dtype b, vtrn_dtype *out) {
    if (a == VTRN_DTYPE_INT8 && b == a && chip->cost.int8_speedup > 0) {
        *out = a;
        return true;
    }
    bool is_ok = dtype_is_float(a) && dtype_is_float(b) && dtype_size(a) <= 4 && dtype_size(b) <= 4;
    /* fp32 mixes with nothing narrower; other types are all exact in bf16's or their own width. The
     * PE array takes fp8e4m3fn from v4; bf16 holds it exactly. */
    bool is_widened = a == VTRN_DTYPE_FP8E4M3FN && chip->gen < 4;
    *out = a != b ? VTRN_DTYPE_FP32 : is_widened ? VTRN_DTYPE_BF16 : a;
    return is_ok;
}

bool contract_nothing(lower *l, const graph_op *op) {
    lower_value *result = &l->values[op->results[0]];
    if (graph_type_count(&l->g->types[op->operands[0]]) > 0 &&
        graph_type_count(&l->g->types[op->operands[1]]) > 0)
        return false;
    result->state = VALUE_SPLAT;
    result->splat_bits = 0;
    return true;
}

static bool contains(graph_ints list, int64_t v) {
    for (int64_t i = 0; i < list.n; i++)
        if (list.v[i] == v)
            return true;
    return false;
}

static void add_dim(view_factor *to, int *n, const view *v, const int *first, int64_t dim) {
    for (int i = first[dim]; i < first[dim + 1]; i++)
        to[(*n)++] = v->f[i];
}

/* The operand's view, `whole` and cut at its dims; a copy is made when it cannot be. */
static vtrn_status cut_dims(lower *l, graph_value value, view *v, int *first, view *whole) {
    const graph_type *t = &l->g->types[value];
    VTRN_RETURN_IF_ERROR(lower_materialise(l, value, v));
    *whole = *v;
    if (view_split_dims(v, t->dims, t->rank, first))
        return NULL;
    VTRN_RETURN_IF_ERROR(lower_dense(l, value, v));
    *whole = *v;
    VTRN_CHECK(view_split_dims(v, t->dims, t->rank, first), "a dense view can be cut at its dims");
    return NULL;
}

void contract_operand_start(contract_operand *o, const view *v) {
    o->slot = v->slot;
    o->dtype = v->dtype;
    o->offset = v->offset;
}

static vtrn_status dot_operand(lower *l, graph_value value, graph_ints batch, graph_ints contract,
                               contract_operand *o, view *whole) {
    view v;
    int first[GRAPH_MAX_RANK + 1];
    const graph_type *t = &l->g->types[value];
    VTRN_RETURN_IF_ERROR(cut_dims(l, value, &v, first, whole));
    contract_operand_start(o, &v);
    for (int64_t i = 0; i < batch.n; i++)
        add_dim(o->batch, &o->n_batch, &v, first, batch.v[i]);
    for (int64_t i = 0; i < contract.n; i++)
        add_dim(o->k, &o->n_k, &v, first, contract.v[i]);
    for (int d = 0; d < t->rank; d++)
        if (!contains(batch, d) && !contains(contract, d))
            add_dim(o->x, &o->n_x, &v, first, d);
    return NULL;
}

/* Whether a conversion to fp32 is all that happens to v. */
static bool is_only_widened(const lower *l, graph_value v) {
    const graph_op *user = l->values[v].user;
    while (user && user->kind == GRAPH_RESHAPE)
        user = l->values[user->results[0]].user;
    return user && user->kind == GRAPH_CONVERT &&
           l->g->types[user->results[0]].dtype == VTRN_DTYPE_FP32;
}

vtrn_dtype contract_result_dtype(const lower *l, graph_value v) {
    return is_only_widened(l, v) ? VTRN_DTYPE_FP32 : (vtrn_dtype)l->g->types[v].dtype;
}

vtrn_status contract_finish(lower *l, graph_value result, contract_spec *spec, bool is_row_major) {
    fusion_rows rows;
    spec->origin.result = spec->out;
    if (is_row_major && contract_is_tileable(l->plan, spec, &rows.step, &rows.batch)) {
        contract_spec *kept = ARENA_NEW(&l->tmp, contract_spec, 1);
        if (!kept)
            return VTRN_OUT_OF_MEMORY(sizeof *kept);
        *kept = *spec;
        int64_t cols = 1;
        for (int i = 0; i < spec->out.n_n; i++)
            cols *= spec->out.n[i].size;
        rows.cols = cols;
        return fusion_contract(l, kept, result, contract_result_dtype(l, result), rows);
    }
    view out;
    bool is_part = false;
    if (is_row_major)
        VTRN_RETURN_IF_ERROR(parts_find(l, result, &out, &is_part));
    if (is_part && contract_write_at(&spec->out, &out)) {
        VTRN_RETURN_IF_ERROR(parts_result(l, result, &out));
        return contract_record(l->plan, spec);
    }
    VTRN_RETURN_IF_ERROR(lower_result(l, result, &out));
    spec->out.slot = out.slot;
    return contract_record(l->plan, spec);
}

/* The transpose that is all that happens to a dot's result, when it swaps the lhs's dims and the
 * rhs's behind the batch dims: the dot then makes the transposed result at once. */
static const graph_op *swapping_transpose(const lower *l, const graph_op *dot, int64_t n_batch,
                                          int64_t n_m) {
    const graph_op *user = l->values[dot->results[0]].user;
    int64_t rank = l->g->types[dot->results[0]].rank, n_n = rank - n_batch - n_m;
    if (!user || user->kind != GRAPH_TRANSPOSE || n_m == 0 || n_n == 0 ||
        l->values[user->results[0]].uses == 0)
        return NULL;
    const int64_t *from = user->attrs.dims.dims.v;
    for (int64_t d = 0; d < rank; d++) {
        int64_t want = d < n_batch ? d : d < n_batch + n_n ? d + n_m : d - n_n;
        if (from[d] != want)
            return NULL;
    }
    return user;
}

/* Rows of m where the result is a part of a tensor in which m is contiguous, and n is not: a DMA
 * would name each element of a row of n. */
static vtrn_status write_across(lower *l, graph_value made, const contract_spec *spec,
                                bool *is_done) {
    view at;
    contract_output along = spec->out;
    VTRN_RETURN_IF_ERROR(parts_find(l, made, &at, is_done));
    *is_done = *is_done && contract_write_at(&along, &at) && along.n_m && along.n_n &&
               along.m[along.n_m - 1].stride == 1 && along.n[along.n_n - 1].stride != 1;
    if (!*is_done)
        return NULL;
    contract_spec across = *spec;
    across.a = spec->b;
    across.b = spec->a;
    across.origin.is_lhs_moving = !spec->origin.is_lhs_moving;
    across.out = along;
    across.out.n_m = along.n_n;
    across.out.n_n = along.n_m;
    memcpy(across.out.m, along.n, sizeof along.n);
    memcpy(across.out.n, along.m, sizeof along.m);
    VTRN_RETURN_IF_ERROR(parts_result(l, made, &at));
    return contract_record(l->plan, &across);
}

vtrn_status lower_dot(lower *l, const graph_op *op, bool *is_done) {
    const graph_attrs *at = &op->attrs;
    const graph_type *a = &l->g->types[op->operands[0]], *b = &l->g->types[op->operands[1]];
    const graph_type *result = &l->g->types[op->results[0]];
    contract_spec spec = {.origin.op = op};
    if (!contract_dtype(l->chip, a->dtype, b->dtype, &spec.compute) ||
        !dtype_is_float(result->dtype) || dtype_size(result->dtype) > 4)
        return NULL;
    *is_done = true;
    if (contract_nothing(l, op))
        return NULL;
    VTRN_RETURN_IF_ERROR(dot_operand(l, op->operands[0], at->dot.lhs_batch, at->dot.lhs_contract,
                                     &spec.a, &spec.origin.lhs));
    VTRN_RETURN_IF_ERROR(dot_operand(l, op->operands[1], at->dot.rhs_batch, at->dot.rhs_contract,
                                     &spec.b, &spec.origin.rhs));
    view out = view_dense(0, result);
    spec.out.dtype = out.dtype;
    int64_t n_batch = at->dot.lhs_batch.n;
    int64_t n_m = a->rank - n_batch - at->dot.lhs_contract.n;
    const graph_op *transpose = swapping_transpose(l, op, n_batch, n_m);
    graph_value made = op->results[0];
    if (transpose) {
        contract_operand swap = spec.a;
        spec.a = spec.b;
        spec.b = swap;
        spec.origin.is_lhs_moving = true;
        made = transpose->results[0];
        n_m = result->rank - n_batch - n_m;
        result = &l->g->types[made];
        out = view_dense(0, result);
        lower_used(l, op->results[0]);
    }
    for (int d = 0; d < result->rank; d++) {
        view_factor f = out.f[d];
        if (d < n_batch)
            spec.out.batch[spec.out.n_batch++] = f;
        else if (d < n_batch + n_m)
            spec.out.m[spec.out.n_m++] = f;
        else
            spec.out.n[spec.out.n_n++] = f;
    }
    bool is_done_across;
    VTRN_RETURN_IF_ERROR(write_across(l, made, &spec, &is_done_across));
    return is_done_across ? NULL : contract_finish(l, made, &spec, true);
}
