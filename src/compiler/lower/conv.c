/* Convolutions: contractions over windows. Those of one channel each go elementwise, a shifted view
 * a tap, for a matmul would use one row of the PE array. */
#include "compiler/lower/conv_channels.h"
#include "compiler/lower/dot.h"
#include "compiler/lower/fusion.h"
#include "compiler/lower/movement.h"

#include <string.h>

enum {
    MAX_TAPS = FUSION_MAX_NODES / 4 - 2,     /* two loads, a product and a sum each */
    MAX_INT_TAPS = FUSION_MAX_NODES / 6 - 2, /* and two conversions */
};

/* A dim of a convolution as the operands see it. */
typedef struct conv_dim {
    view_factor lhs, rhs, out;
} conv_dim;

typedef struct conv {
    lower *l;
    const graph_op *op;
    const graph_attrs *at;
    graph_type lhs_t; /* with its padding */
    const graph_type *rhs_t, *out_t;
    view lhs, rhs;
    int64_t lhs_stride[GRAPH_MAX_RANK], rhs_stride[GRAPH_MAX_RANK]; /* by dim, in elements */
    int64_t groups, batch_groups;
} conv;

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
    return movement_pad(l, out, &(padding){t, low, interior, type}, zero, out);
}

static vtrn_status read_operands(lower *l, const graph_op *op, conv *c) {
    const graph_type *rhs_t = &l->g->types[op->operands[1]];
    *c = (conv){.l = l,
                .op = op,
                .at = &op->attrs,
                .rhs_t = rhs_t,
                .out_t = &l->g->types[op->results[0]],
                .groups = op->attrs.conv.feature_groups,
                .batch_groups = op->attrs.conv.batch_groups};
    VTRN_RETURN_IF_ERROR(padded_lhs(l, op, &c->lhs_t, &c->lhs));
    VTRN_RETURN_IF_ERROR(movement_strides(l, &c->lhs, &c->lhs_t, c->lhs_stride));
    VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[1], &c->rhs));
    VTRN_CHECK(view_dim_strides(&c->rhs, rhs_t->dims, rhs_t->rank, c->rhs_stride),
               "a dense view has strides");
    return NULL;
}

/* --- one channel each ---------------------------------------------------------------------------
 */

static int64_t n_taps(const conv *c) {
    int64_t n = 1;
    for (int64_t i = 0; i < c->at->conv.rhs_spatial.n; i++)
        n *= c->rhs_t->dims[c->at->conv.rhs_spatial.v[i]];
    return n;
}

static bool is_depthwise(const conv *c) {
    bool is_float = dtype_is_float(c->lhs.dtype) && dtype_is_float(c->rhs.dtype);
    return c->groups > 1 && c->batch_groups == 1 &&
           c->groups == c->lhs_t.dims[c->at->conv.lhs_feature_dim] &&
           c->groups == c->rhs_t->dims[c->at->conv.rhs_out_dim] &&
           n_taps(c) <= (is_float ? MAX_TAPS : MAX_INT_TAPS);
}

/* What a tap of every window sees, and the weights that go with it, in the order of the result. */
static void tap_views(const conv *c, int64_t tap, view *lhs, view *rhs) {
    const graph_attrs *at = c->at;
    *lhs = (view){.slot = c->lhs.slot, .dtype = c->lhs.dtype, .offset = c->lhs.offset};
    *rhs = (view){.slot = c->rhs.slot, .dtype = c->rhs.dtype, .offset = c->rhs.offset};
    lhs->n = rhs->n = c->out_t->rank;
    int64_t batch_dim = at->conv.out_batch_dim, feature_dim = at->conv.out_feature_dim;
    lhs->f[batch_dim] =
        (view_factor){c->out_t->dims[batch_dim], c->lhs_stride[at->conv.lhs_batch_dim]};
    rhs->f[batch_dim] = (view_factor){c->out_t->dims[batch_dim], 0};
    lhs->f[feature_dim] = (view_factor){c->groups, c->lhs_stride[at->conv.lhs_feature_dim]};
    rhs->f[feature_dim] = (view_factor){c->groups, c->rhs_stride[at->conv.rhs_out_dim]};
    for (int64_t i = at->conv.lhs_spatial.n - 1; i >= 0; i--) {
        int64_t ld = at->conv.lhs_spatial.v[i], rd = at->conv.rhs_spatial.v[i];
        int64_t od = at->conv.out_spatial.v[i], size = c->rhs_t->dims[rd], at_tap = tap % size;
        tap /= size;
        bool is_reversed = at->conv.reversal.n > i && at->conv.reversal.v[i];
        lhs->offset += at_tap * c->lhs_stride[ld] * at->conv.rhs_dilation.v[i];
        rhs->offset += (is_reversed ? size - 1 - at_tap : at_tap) * c->rhs_stride[rd];
        lhs->f[od] = (view_factor){c->out_t->dims[od], c->lhs_stride[ld] * at->conv.stride.v[i]};
        rhs->f[od] = (view_factor){c->out_t->dims[od], 0};
    }
}

/* Rows of the fusion when the channels are innermost: whole pixels, as many as leave the weights of
 * all taps, which every partition has, half of SBUF. 0: let the fusion choose. */
static int64_t depthwise_cols(const conv *c) {
    const graph_type *t = c->out_t;
    int last = t->rank - 1;
    if (c->at->conv.out_feature_dim != last)
        return 0;
    int64_t most = c->l->plan->sbuf_limit / 2 / (n_taps(c) * (int64_t)sizeof(float));
    int64_t pixels = most / c->groups;
    if (pixels == 0)
        return 0;
    pixels = pixels < t->dims[last - 1] ? pixels : t->dims[last - 1];
    while (t->dims[last - 1] % pixels)
        pixels--;
    return pixels * c->groups;
}

/* What a product of floats takes: integers that were not widened in memory are, else the product
 * would be one of integers. */
static vtrn_status load_float(lower *l, fusion *f, const view *v, fusion_in *out) {
    VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, v, false, out));
    if (dtype_is_float(v->dtype))
        return NULL;
    fusion_node widen = {.op = GRAPH_CONVERT, .dtype = VTRN_DTYPE_FP32, .n_in = 1, .in = {*out}};
    return fusion_add(l->build, f, &widen, out);
}

static vtrn_status emit_depthwise(const conv *c) {
    lower *l = c->l;
    fusion *f;
    int64_t taps = n_taps(c);
    VTRN_RETURN_IF_ERROR(fusion_open(l, graph_type_count(c->out_t), &f));
    f->cols = depthwise_cols(c);
    fusion_in total = {.node = FUSION_NO_NODE};
    for (int64_t tap = 0; tap < taps; tap++) {
        view lhs, rhs;
        fusion_in x, weight, product;
        tap_views(c, tap, &lhs, &rhs);
        VTRN_RETURN_IF_ERROR(load_float(l, f, &lhs, &x));
        VTRN_RETURN_IF_ERROR(load_float(l, f, &rhs, &weight));
        fusion_node multiply = {.op = GRAPH_MULTIPLY,
                                .dtype = taps > 1 ? VTRN_DTYPE_FP32 : c->out_t->dtype,
                                .n_in = 2,
                                .in = {x, weight}};
        VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &multiply, &product));
        if (tap == 0) {
            total = product;
            continue;
        }
        fusion_node add = {.op = GRAPH_ADD,
                           .dtype = tap + 1 < taps ? VTRN_DTYPE_FP32 : c->out_t->dtype,
                           .n_in = 2,
                           .in = {total, product}};
        VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &add, &total));
    }
    return fusion_name(l, f, c->op->results[0], total.node, NULL);
}

/* --- contractions -------------------------------------------------------------------------------
 */

static void sort_by_lhs(conv_dim *d, int n) {
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && d[j].lhs.stride > d[j - 1].lhs.stride; j--) {
            conv_dim swap = d[j];
            d[j] = d[j - 1];
            d[j - 1] = swap;
        }
}

/* Groups of the batch whose results are few: all pairs of groups in one contraction, of which the
 * result takes those of equal groups. A matmul a group would fill `groups` times a row and a column
 * of the PE array. */
static bool crosses_groups(const conv *c) {
    return c->batch_groups > 1 && c->groups == 1 &&
           n_taps(c) * c->rhs_t->dims[c->at->conv.rhs_out_dim] <=
               (int64_t)c->l->chip->tensor_max_k * c->l->chip->tensor_max_m;
}

/* Dense memory of all pairs, [batch, spatial..., features], and its view as the result wants it. */
static vtrn_status make_pairs(const conv *c, view *all, view *wanted, int64_t *stride) {
    const graph_attrs *at = c->at;
    const graph_type *t = c->out_t;
    graph_type pairs = *t;
    int64_t features = t->dims[at->conv.out_feature_dim], batch = t->dims[at->conv.out_batch_dim];
    int64_t share = features / c->batch_groups, step = features;
    pairs.dims[at->conv.out_batch_dim] = batch * c->batch_groups;
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(build_slot_add(c->l->build, VTRN_SLOT_SCRATCH, t->dtype,
                                        graph_type_bytes(&pairs), 0, &slot));
    *all = (view){.slot = slot, .dtype = t->dtype};
    stride[at->conv.out_feature_dim] = 1;
    for (int64_t i = at->conv.out_spatial.n - 1; i >= 0; i--) {
        stride[at->conv.out_spatial.v[i]] = step;
        step *= t->dims[at->conv.out_spatial.v[i]];
    }
    stride[at->conv.out_batch_dim] = step;
    *wanted = *all;
    for (int d = 0; d < t->rank; d++) {
        if (d != at->conv.out_feature_dim) {
            wanted->f[wanted->n++] = (view_factor){t->dims[d], stride[d]};
            continue;
        }
        wanted->f[wanted->n++] = (view_factor){c->batch_groups, batch * step + share};
        wanted->f[wanted->n++] = (view_factor){share, 1};
    }
    return NULL;
}

static vtrn_status emit_contraction(const conv *c, vtrn_dtype compute) {
    lower *l = c->l;
    const graph_attrs *at = c->at;
    const graph_type *out_t = c->out_t;
    contract_spec spec = {.compute = compute};
    bool is_crossed = crosses_groups(c);
    int64_t batch_groups = is_crossed ? 1 : c->batch_groups, n_groups = c->groups * batch_groups;
    view out = view_dense(0, out_t), wanted;
    int64_t out_stride[GRAPH_MAX_RANK];
    for (int d = 0; d < out_t->rank; d++)
        out_stride[d] = out.f[d].stride;
    if (is_crossed)
        VTRN_RETURN_IF_ERROR(make_pairs(c, &out, &wanted, out_stride));
    int64_t lfd = at->conv.lhs_feature_dim, lbd = at->conv.lhs_batch_dim;
    int64_t in_features = c->lhs_t.dims[lfd] / c->groups, batch = c->lhs_t.dims[lbd] / batch_groups;
    int64_t out_features = c->rhs_t->dims[at->conv.rhs_out_dim] / n_groups;
    int64_t rhs_offset = 0;

    conv_dim contract[GRAPH_MAX_RANK], position[GRAPH_MAX_RANK];
    int n_contract = 0, n_position = 0;
    contract[n_contract++] = (conv_dim){.lhs = {in_features, c->lhs_stride[lfd]},
                                        .rhs = {in_features, c->rhs_stride[at->conv.rhs_in_dim]}};
    position[n_position++] = (conv_dim){.lhs = {batch, c->lhs_stride[lbd]},
                                        .out = {batch, out_stride[at->conv.out_batch_dim]}};
    for (int64_t i = 0; i < at->conv.lhs_spatial.n; i++) {
        int64_t ld = at->conv.lhs_spatial.v[i], rd = at->conv.rhs_spatial.v[i];
        int64_t od = at->conv.out_spatial.v[i], taps = c->rhs_t->dims[rd];
        view_factor tap = {taps, c->rhs_stride[rd]};
        if (at->conv.reversal.n > i && at->conv.reversal.v[i]) {
            rhs_offset += (taps - 1) * tap.stride;
            tap.stride = -tap.stride;
        }
        contract[n_contract++] =
            (conv_dim){.lhs = {taps, c->lhs_stride[ld] * at->conv.rhs_dilation.v[i]}, .rhs = tap};
        position[n_position++] =
            (conv_dim){.lhs = {out_t->dims[od], c->lhs_stride[ld] * at->conv.stride.v[i]},
                       .out = {out_t->dims[od], out_stride[od]}};
    }
    sort_by_lhs(contract, n_contract);
    sort_by_lhs(position, n_position);

    /* Positions are stationary when the features are innermost in the result, so that rows are
     * stored whole; else the other way round. */
    bool is_channels_last = out_stride[at->conv.out_feature_dim] == 1;
    contract_operand *patches = is_channels_last ? &spec.a : &spec.b;
    contract_operand *weights = is_channels_last ? &spec.b : &spec.a;
    contract_operand_start(patches, &c->lhs);
    contract_operand_start(weights, &c->rhs);
    if (!is_crossed)
        spec.origin = (contract_origin){.op = c->op,
                                        .lhs = c->lhs,
                                        .rhs = c->rhs,
                                        .lhs_type = c->lhs_t,
                                        .is_lhs_moving = !is_channels_last};
    weights->offset += rhs_offset;
    spec.out.dtype = out.dtype;
    view_factor *out_pos = is_channels_last ? spec.out.m : spec.out.n;
    view_factor *out_feat = is_channels_last ? spec.out.n : spec.out.m;
    *(is_channels_last ? &spec.out.n_m : &spec.out.n_n) = n_position;
    *(is_channels_last ? &spec.out.n_n : &spec.out.n_m) = 1;
    for (int i = 0; i < n_contract; i++) {
        patches->k[patches->n_k++] = contract[i].lhs;
        weights->k[weights->n_k++] = contract[i].rhs;
    }
    for (int i = 0; i < n_position; i++) {
        patches->x[patches->n_x++] = position[i].lhs;
        out_pos[i] = position[i].out;
    }
    weights->x[weights->n_x++] = (view_factor){out_features, c->rhs_stride[at->conv.rhs_out_dim]};
    out_feat[0] = (view_factor){out_features, out_stride[at->conv.out_feature_dim]};
    if (is_crossed) {
        spec.out.slot = out.slot;
        VTRN_RETURN_IF_ERROR(contract_record(l->plan, &spec));
        VTRN_RETURN_IF_ERROR(lower_result(l, c->op->results[0], &out));
        return plan_copy(l->plan, &wanted, &out);
    }
    if (n_groups > 1) {
        int64_t step =
            c->groups > 1 ? in_features * c->lhs_stride[lfd] : batch * c->lhs_stride[lbd];
        patches->batch[patches->n_batch++] = (view_factor){n_groups, step};
        weights->batch[weights->n_batch++] =
            (view_factor){n_groups, out_features * c->rhs_stride[at->conv.rhs_out_dim]};
        spec.out.batch[spec.out.n_batch++] =
            (view_factor){n_groups, out_features * out_stride[at->conv.out_feature_dim]};
    }
    view order = {.n = spec.out.n_m + spec.out.n_n};
    memcpy(order.f, spec.out.m, (size_t)spec.out.n_m * sizeof *order.f);
    memcpy(order.f + spec.out.n_m, spec.out.n, (size_t)spec.out.n_n * sizeof *order.f);
    return contract_finish(l, c->op->results[0], &spec, n_groups == 1 && view_is_dense(&order));
}

vtrn_status lower_convolution(lower *l, const graph_op *op, bool *is_done) {
    const graph_type *lhs = &l->g->types[op->operands[0]], *rhs = &l->g->types[op->operands[1]];
    const graph_type *out = &l->g->types[op->results[0]];
    vtrn_dtype compute;
    if (!contract_dtype(l->chip, lhs->dtype, rhs->dtype, &compute) || !dtype_is_float(out->dtype) ||
        dtype_size(out->dtype) > 4)
        return NULL;
    *is_done = true;
    if (contract_nothing(l, op))
        return NULL;
    bool is_by_channels = false;
    VTRN_RETURN_IF_ERROR(conv_by_channels(l, op, compute, &is_by_channels));
    if (is_by_channels)
        return NULL;
    conv c;
    VTRN_RETURN_IF_ERROR(read_operands(l, op, &c));
    return is_depthwise(&c) ? emit_depthwise(&c) : emit_contraction(&c, compute);
}
