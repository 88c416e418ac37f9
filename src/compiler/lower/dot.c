/* dot_general and convolution as contractions. */
#include "compiler/lower/contract.h"
#include "compiler/lower/fusion.h"
#include "compiler/lower/movement.h"

#include <string.h>

bool contract_dtype(vtrn_dtype a, vtrn_dtype b, vtrn_dtype *out) {
    bool is_ok = dtype_is_float(a) && dtype_is_float(b) && dtype_size(a) <= 4 && dtype_size(b) <= 4;
    /* fp32 mixes with nothing narrower; other types are all exact in bf16's or their own width */
    *out = a == b ? a : VTRN_DTYPE_FP32;
    return is_ok;
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

/* The operand's view cut at its dims; a copy is made when it cannot be. */
static vtrn_status cut_dims(lower *l, graph_value value, view *v, int *first) {
    const graph_type *t = &l->g->types[value];
    VTRN_RETURN_IF_ERROR(lower_materialise(l, value, v));
    view saved = *v;
    if (view_split_dims(v, t->dims, t->rank, first))
        return NULL;
    *v = saved;
    VTRN_RETURN_IF_ERROR(lower_dense(l, value, v));
    VTRN_CHECK(view_split_dims(v, t->dims, t->rank, first), "a dense view can be cut at its dims");
    return NULL;
}

static void start_operand(contract_operand *o, const view *v) {
    o->slot = v->slot;
    o->dtype = v->dtype;
    o->offset = v->offset;
}

static vtrn_status dot_operand(lower *l, graph_value value, graph_ints batch, graph_ints contract,
                               contract_operand *o) {
    view v;
    int first[GRAPH_MAX_RANK + 1];
    const graph_type *t = &l->g->types[value];
    VTRN_RETURN_IF_ERROR(cut_dims(l, value, &v, first));
    start_operand(o, &v);
    for (int64_t i = 0; i < batch.n; i++)
        add_dim(o->batch, &o->n_batch, &v, first, batch.v[i]);
    for (int64_t i = 0; i < contract.n; i++)
        add_dim(o->k, &o->n_k, &v, first, contract.v[i]);
    for (int d = 0; d < t->rank; d++)
        if (!contains(batch, d) && !contains(contract, d))
            add_dim(o->x, &o->n_x, &v, first, d);
    return NULL;
}

/* Whether a conversion to fp32 is all that happens to v. XLA then does not round v either. */
static bool is_only_widened(const lower *l, graph_value v) {
    const graph_op *user = l->values[v].user;
    while (user && user->kind == GRAPH_RESHAPE)
        user = l->values[user->results[0]].user;
    return user && user->kind == GRAPH_CONVERT &&
           l->g->types[user->results[0]].dtype == VTRN_DTYPE_FP32;
}

/* Emits the contraction, or leaves its tiles to a fusion when the result lies in row-major order of
 * (batch, m, n). */
static vtrn_status finish(lower *l, graph_value result, contract_spec *spec, bool is_row_major) {
    int64_t row_step;
    if (is_row_major && contract_is_tileable(l, spec, &row_step)) {
        contract_spec *kept = ARENA_NEW(&l->tmp, contract_spec, 1);
        if (!kept)
            return VTRN_OUT_OF_MEMORY(sizeof *kept);
        *kept = *spec;
        int64_t cols = 1;
        for (int i = 0; i < spec->out.n_n; i++)
            cols *= spec->out.n[i].size;
        vtrn_dtype dtype =
            is_only_widened(l, result) ? VTRN_DTYPE_FP32 : (vtrn_dtype)l->g->types[result].dtype;
        return fusion_contract(l, kept, result, dtype, cols, row_step);
    }
    view out;
    VTRN_RETURN_IF_ERROR(lower_result(l, result, &out));
    spec->out.slot = out.slot;
    return contract_emit(l, spec);
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

static vtrn_status lower_dot(lower *l, const graph_op *op, bool *is_done) {
    const graph_attrs *at = &op->attrs;
    const graph_type *a = &l->g->types[op->operands[0]], *b = &l->g->types[op->operands[1]];
    const graph_type *result = &l->g->types[op->results[0]];
    contract_spec spec = {0};
    if (!contract_dtype(a->dtype, b->dtype, &spec.compute) || !dtype_is_float(result->dtype) ||
        dtype_size(result->dtype) > 4 || graph_type_count(a) == 0 || graph_type_count(b) == 0)
        return NULL;
    *is_done = true;
    VTRN_RETURN_IF_ERROR(
        dot_operand(l, op->operands[0], at->dot.lhs_batch, at->dot.lhs_contract, &spec.a));
    VTRN_RETURN_IF_ERROR(
        dot_operand(l, op->operands[1], at->dot.rhs_batch, at->dot.rhs_contract, &spec.b));
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
    return finish(l, made, &spec, true);
}

/* A dim of a convolution as the operands see it. */
typedef struct conv_dim {
    view_factor lhs, rhs, out;
} conv_dim;

static bool any_not(graph_ints list, int64_t value) {
    for (int64_t i = 0; i < list.n; i++)
        if (list.v[i] != value)
            return true;
    return false;
}

/* lhs with its padding and dilation in memory (negative padding: a smaller view). */
static vtrn_status padded_lhs(lower *l, const graph_op *op, graph_type *type, view *out) {
    const graph_attrs *at = &op->attrs;
    const graph_type *t = &l->g->types[op->operands[0]];
    *type = *t;
    VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[0], out));
    if (!any_not(at->conv.pad_low, 0) && !any_not(at->conv.pad_high, 0) &&
        !any_not(at->conv.lhs_dilation, 1))
        return NULL;
    int64_t low[GRAPH_MAX_RANK] = {0}, high[GRAPH_MAX_RANK] = {0}, interior[GRAPH_MAX_RANK] = {0};
    for (int64_t i = 0; i < at->conv.lhs_spatial.n; i++) {
        int64_t d = at->conv.lhs_spatial.v[i];
        low[d] = at->conv.pad_low.v[i];
        high[d] = at->conv.pad_high.v[i];
        interior[d] = at->conv.lhs_dilation.v[i] - 1;
        type->dims[d] =
            t->dims[d] + low[d] + high[d] + (t->dims[d] > 1 ? t->dims[d] - 1 : 0) * interior[d];
    }
    uint64_t zero = 0;
    return movement_pad(l, out, t, low, high, interior, zero, type, out);
}

static void sort_by_lhs(conv_dim *d, int n) {
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && d[j].lhs.stride > d[j - 1].lhs.stride; j--) {
            conv_dim swap = d[j];
            d[j] = d[j - 1];
            d[j - 1] = swap;
        }
}

static vtrn_status lower_conv(lower *l, const graph_op *op, bool *is_done) {
    const graph_attrs *at = &op->attrs;
    const graph_type *lhs_t = &l->g->types[op->operands[0]], *rhs_t = &l->g->types[op->operands[1]];
    const graph_type *out_t = &l->g->types[op->results[0]];
    contract_spec spec = {0};
    if (!contract_dtype(lhs_t->dtype, rhs_t->dtype, &spec.compute) ||
        !dtype_is_float(out_t->dtype) || dtype_size(out_t->dtype) > 4 ||
        graph_type_count(lhs_t) == 0 || graph_type_count(rhs_t) == 0)
        return NULL;
    *is_done = true;
    graph_type type;
    view lhs, rhs, out;
    VTRN_RETURN_IF_ERROR(padded_lhs(l, op, &type, &lhs));
    int lf[GRAPH_MAX_RANK + 1], rf[GRAPH_MAX_RANK + 1];
    bool is_simple = view_split_dims(&lhs, type.dims, type.rank, lf);
    for (int d = 0; d < type.rank; d++) /* a window needs one stride a dim */
        is_simple = is_simple && lf[d + 1] - lf[d] <= 1;
    if (!is_simple) {
        VTRN_RETURN_IF_ERROR(movement_densify(l, &lhs, &type));
        VTRN_CHECK(view_split_dims(&lhs, type.dims, type.rank, lf), "a dense view can be cut");
    }
    VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[1], &rhs));
    VTRN_CHECK(view_split_dims(&rhs, rhs_t->dims, rhs_t->rank, rf), "a dense view can be cut");
    out = view_dense(0, out_t);

    int64_t lhs_stride[GRAPH_MAX_RANK], rhs_stride[GRAPH_MAX_RANK], out_stride[GRAPH_MAX_RANK];
    for (int d = 0; d < type.rank; d++) {
        lhs_stride[d] = lf[d + 1] > lf[d] ? lhs.f[lf[d]].stride : 0;
        rhs_stride[d] = rf[d + 1] > rf[d] ? rhs.f[rf[d]].stride : 0;
        out_stride[d] = out.f[d].stride;
    }
    int64_t groups = at->conv.feature_groups, batch_groups = at->conv.batch_groups;
    int64_t n_groups = groups * batch_groups;
    int64_t lfd = at->conv.lhs_feature_dim, lbd = at->conv.lhs_batch_dim;
    int64_t in_features = type.dims[lfd] / groups, batch = type.dims[lbd] / batch_groups;
    int64_t out_features = rhs_t->dims[at->conv.rhs_out_dim] / n_groups;
    int64_t rhs_offset = 0;

    conv_dim contract[GRAPH_MAX_RANK], position[GRAPH_MAX_RANK];
    int n_contract = 0, n_position = 0;
    contract[n_contract++] = (conv_dim){.lhs = {in_features, lhs_stride[lfd]},
                                        .rhs = {in_features, rhs_stride[at->conv.rhs_in_dim]}};
    position[n_position++] = (conv_dim){.lhs = {batch, lhs_stride[lbd]},
                                        .out = {batch, out_stride[at->conv.out_batch_dim]}};
    for (int64_t i = 0; i < at->conv.lhs_spatial.n; i++) {
        int64_t ld = at->conv.lhs_spatial.v[i], rd = at->conv.rhs_spatial.v[i];
        int64_t od = at->conv.out_spatial.v[i], taps = rhs_t->dims[rd];
        view_factor tap = {taps, rhs_stride[rd]};
        if (at->conv.reversal.n > i && at->conv.reversal.v[i]) {
            rhs_offset += (taps - 1) * tap.stride;
            tap.stride = -tap.stride;
        }
        contract[n_contract++] =
            (conv_dim){.lhs = {taps, lhs_stride[ld] * at->conv.rhs_dilation.v[i]}, .rhs = tap};
        position[n_position++] =
            (conv_dim){.lhs = {out_t->dims[od], lhs_stride[ld] * at->conv.stride.v[i]},
                       .out = {out_t->dims[od], out_stride[od]}};
    }
    sort_by_lhs(contract, n_contract);
    sort_by_lhs(position, n_position);

    /* Positions are stationary when the features are innermost in the result, so that rows are
     * stored whole; else the other way round. */
    bool is_channels_last = out_stride[at->conv.out_feature_dim] == 1;
    contract_operand *patches = is_channels_last ? &spec.a : &spec.b;
    contract_operand *kernel = is_channels_last ? &spec.b : &spec.a;
    start_operand(patches, &lhs);
    start_operand(kernel, &rhs);
    kernel->offset += rhs_offset;
    spec.out.dtype = out.dtype;
    view_factor *out_pos = is_channels_last ? spec.out.m : spec.out.n;
    view_factor *out_feat = is_channels_last ? spec.out.n : spec.out.m;
    *(is_channels_last ? &spec.out.n_m : &spec.out.n_n) = n_position;
    *(is_channels_last ? &spec.out.n_n : &spec.out.n_m) = 1;
    for (int i = 0; i < n_contract; i++) {
        patches->k[patches->n_k++] = contract[i].lhs;
        kernel->k[kernel->n_k++] = contract[i].rhs;
    }
    for (int i = 0; i < n_position; i++) {
        patches->x[patches->n_x++] = position[i].lhs;
        out_pos[i] = position[i].out;
    }
    kernel->x[kernel->n_x++] = (view_factor){out_features, rhs_stride[at->conv.rhs_out_dim]};
    out_feat[0] = (view_factor){out_features, out_stride[at->conv.out_feature_dim]};
    if (n_groups > 1) {
        int64_t step = groups > 1 ? in_features * lhs_stride[lfd] : batch * lhs_stride[lbd];
        patches->batch[patches->n_batch++] = (view_factor){n_groups, step};
        kernel->batch[kernel->n_batch++] =
            (view_factor){n_groups, out_features * rhs_stride[at->conv.rhs_out_dim]};
        spec.out.batch[spec.out.n_batch++] =
            (view_factor){n_groups, out_features * out_stride[at->conv.out_feature_dim]};
    }
    view order = {.n = spec.out.n_m + spec.out.n_n};
    memcpy(order.f, spec.out.m, (size_t)spec.out.n_m * sizeof *order.f);
    memcpy(order.f + spec.out.n_m, spec.out.n, (size_t)spec.out.n_n * sizeof *order.f);
    return finish(l, op->results[0], &spec, n_groups == 1 && view_is_dense(&order));
}

vtrn_status lower_contraction(lower *l, const graph_op *op, bool *is_done) {
    if (op->kind == GRAPH_DOT_GENERAL)
        return lower_dot(l, op, is_done);
    if (op->kind == GRAPH_CONVOLUTION)
        return lower_conv(l, op, is_done);
    return NULL;
}
