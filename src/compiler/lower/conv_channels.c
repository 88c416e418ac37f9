#include "compiler/lower/conv_channels.h"

#include "compiler/lower/dot.h"
#include "compiler/lower/fusion.h"
#include "compiler/plan/conv_plan.h"

enum { MIN_POOLED_CHANNELS = 16 /* fewer leave most partitions idle: assumed */ };

static bool is_outermost(int64_t feature, int64_t batch, graph_ints spatial) {
    for (int64_t i = 0; i < spatial.n; i++)
        if (spatial.v[i] != 2 + i)
            return false;
    return feature == 0 && batch == 1;
}

static view with_factors(const view *v) {
    return (view){.slot = v->slot, .dtype = v->dtype, .offset = v->offset};
}

/* One factor for the first n dims, if they have one. */
static bool merge_channels(view *v, int n) {
    view_factor channels = {1, 0};
    for (int i = n - 1; i >= 0; i--) {
        if (v->f[i].size == 1)
            continue;
        if (channels.size > 1 && v->f[i].stride != channels.size * channels.stride)
            return false;
        channels.stride = channels.size > 1 ? channels.stride : v->f[i].stride;
        channels.size *= v->f[i].size;
    }
    v->f[0] = channels;
    for (int i = n; i < v->n; i++)
        v->f[i - n + 1] = v->f[i];
    v->n -= n - 1;
    return true;
}

/* Rows that are loaded in the order of memory: the last axis that has several elements is
 * contiguous. */
static bool has_runs(const view *v) {
    for (int i = v->n - 1; i > 0; i--)
        if (v->f[i].size > 1)
            return v->f[i].stride == 1;
    return true;
}

/* The operand as channels, which its first n_channel_dims are, and axes. */
static vtrn_status read_image(lower *l, const graph_op *op, int n_channel_dims, conv_spec *spec) {
    const graph_type *t = &l->g->types[op->operands[0]];
    int64_t strides[GRAPH_MAX_RANK];
    for (int is_dense = 0; is_dense < 2; is_dense++) {
        if (is_dense)
            VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[0], &spec->lhs));
        else
            VTRN_RETURN_IF_ERROR(lower_strided(l, op->operands[0], &spec->lhs, strides));
        VTRN_CHECK(view_dim_strides(&spec->lhs, t->dims, t->rank, strides),
                   "the view of an image has strides");
        spec->image = with_factors(&spec->lhs);
        for (int d = 0; d < t->rank; d++)
            spec->image.f[spec->image.n++] = (view_factor){t->dims[d], strides[d]};
        if (merge_channels(&spec->image, n_channel_dims) && has_runs(&spec->image))
            return NULL;
    }
    return VTRN_ERROR(VTRN_INTERNAL, "a dense image has channels of one stride");
}

/* Sets up patches of the operand in the order of its memory, where they pay. */
static vtrn_status find_patches(lower *l, const graph_op *op, conv_spec *spec) {
    const graph_type *t = &l->g->types[op->operands[0]];
    int64_t strides[GRAPH_MAX_RANK];
    VTRN_RETURN_IF_ERROR(lower_strided(l, op->operands[0], &spec->lhs, strides));
    spec->image = with_factors(&spec->lhs);
    for (int d = 0; d < t->rank; d++)
        spec->image.f[spec->image.n++] = (view_factor){t->dims[d], strides[d]};
    spec->is_patched = conv_find_patches(l->chip, &spec->geometry, &spec->image, &spec->patches);
    if (!spec->is_patched)
        return NULL;
    conv_geometry whole = spec->geometry;
    spec->geometry = conv_geometry_of_patches(&spec->patches);
    spec->is_patched = conv_fits(l->plan, spec);
    if (!spec->is_patched)
        spec->geometry = whole;
    return NULL;
}

/* The weights with their factors in the order of the rows of the stationary tiles and, behind them,
 * the output channels: contiguous, as they are the tiles' columns. */
static vtrn_status read_weights(lower *l, const graph_op *op, conv_spec *spec) {
    const graph_type *t = &l->g->types[op->operands[1]];
    const graph_attrs *at = &op->attrs;
    bool is_channel_first = !spec->is_patched || !spec->patches.has_inner_channels;
    int64_t strides[GRAPH_MAX_RANK], step = 1;
    VTRN_RETURN_IF_ERROR(lower_strided(l, op->operands[1], &spec->rhs, strides));
    view from = with_factors(&spec->rhs);
    view_factor channels = {t->dims[at->conv.rhs_in_dim], strides[at->conv.rhs_in_dim]};
    if (is_channel_first)
        from.f[from.n++] = channels;
    for (int64_t i = 0; i < at->conv.rhs_spatial.n; i++) {
        int64_t d = at->conv.rhs_spatial.v[i];
        from.f[from.n++] = (view_factor){t->dims[d], strides[d]};
    }
    if (!is_channel_first)
        from.f[from.n++] = channels;
    from.f[from.n++] = (view_factor){t->dims[at->conv.rhs_out_dim], strides[at->conv.rhs_out_dim]};
    view rows = from;
    bool is_dense_rows = !spec->is_patched || merge_channels(&rows, from.n - 1);
    if (is_dense_rows && (from.f[from.n - 1].size == 1 || from.f[from.n - 1].stride == 1)) {
        spec->weights = rows;
        return NULL;
    }
    view to = with_factors(&from);
    to.offset = 0;
    to.n = from.n;
    for (int i = to.n - 1; i >= 0; i--) {
        to.f[i] = (view_factor){from.f[i].size, step};
        step *= from.f[i].size;
    }
    VTRN_RETURN_IF_ERROR(build_slot_add(l->build, VTRN_SLOT_SCRATCH, (vtrn_dtype)to.dtype,
                                        (uint64_t)step * dtype_size((vtrn_dtype)to.dtype), 0,
                                        &to.slot));
    VTRN_RETURN_IF_ERROR(plan_copy(l->plan, &from, &to));
    spec->weights = to;
    VTRN_CHECK(!spec->is_patched || merge_channels(&spec->weights, to.n - 1),
               "dense rows have one stride");
    return NULL;
}

vtrn_status conv_by_channels(lower *l, const graph_op *op, vtrn_dtype compute, bool *is_done) {
    const graph_attrs *at = &op->attrs;
    conv_spec spec = {.compute = compute, .op = op};
    if (!conv_has_geometry(l->g, op) ||
        !is_outermost(at->conv.lhs_feature_dim, at->conv.lhs_batch_dim, at->conv.lhs_spatial) ||
        !is_outermost(at->conv.out_feature_dim, at->conv.out_batch_dim, at->conv.out_spatial))
        return NULL;
    spec.geometry = conv_geometry_of(l->g, op);
    if (!conv_fits(l->plan, &spec))
        return NULL;
    *is_done = true;
    VTRN_RETURN_IF_ERROR(find_patches(l, op, &spec));
    if (!spec.is_patched)
        VTRN_RETURN_IF_ERROR(read_image(l, op, 1, &spec));
    VTRN_RETURN_IF_ERROR(read_weights(l, op, &spec));
    conv_spec *kept = ARENA_NEW(&l->tmp, conv_spec, 1);
    if (!kept)
        return VTRN_OUT_OF_MEMORY(sizeof *kept);
    *kept = spec;
    return fusion_convolve(l, kept, op->results[0], contract_result_dtype(l, op->results[0]));
}

/* The dims before the windows, as many as fill the partitions. */
static int channel_dims(const lower *l, const graph_op *op) {
    const graph_type *in = &l->g->types[op->operands[0]];
    const graph_attrs *at = &op->attrs;
    int64_t n = 1;
    int d = 0;
    for (; d < in->rank - 1 && n < tile_max_rows(l->chip); d++) {
        if (at->window.window.v[d] != 1 || at->window.stride.v[d] != 1 ||
            at->window.pad_low.v[d] != 0 || at->window.pad_high.v[d] != 0)
            break;
        n *= in->dims[d];
    }
    return n >= MIN_POOLED_CHANNELS ? d : 0;
}

vtrn_status pool_by_channels(lower *l, const graph_op *op, bool *is_done) {
    const graph_type *in = &l->g->types[op->operands[0]];
    const graph_attrs *at = &op->attrs;
    graph_kind kind;
    double init;
    conv_spec spec = {.is_pooling = true, .op = op};
    int last = in->rank - 1, n_channel_dims = in->rank > 1 ? channel_dims(l, op) : 0;
    bool is_innermost =
        in->rank > 1 && (at->window.window.v[last] > 1 || at->window.stride.v[last] > 1);
    if (!is_innermost || n_channel_dims == 0 || op->n_operands != 2 ||
        !lower_reducer((graph_reducer)op->reducer, &kind, &spec.alu) || kind == GRAPH_MULTIPLY ||
        !dtype_is_float((vtrn_dtype)in->dtype) || dtype_size((vtrn_dtype)in->dtype) > 4 ||
        !lower_splat_float(l, op->operands[1], &init) ||
        !fusion_is_identity((graph_reducer)op->reducer, (vtrn_dtype)in->dtype, init) ||
        !conv_has_pooling(l->g, op, n_channel_dims))
        return NULL;
    spec.geometry = conv_pooling_of(l->g, op, n_channel_dims);
    spec.compute = (vtrn_dtype)in->dtype;
    if (!conv_fits(l->plan, &spec))
        return NULL;
    *is_done = true;
    VTRN_RETURN_IF_ERROR(read_image(l, op, n_channel_dims, &spec));
    spec.compute = (vtrn_dtype)spec.image.dtype; /* perhaps narrower in memory */
    conv_spec *kept = ARENA_NEW(&l->tmp, conv_spec, 1);
    if (!kept)
        return VTRN_OUT_OF_MEMORY(sizeof *kept);
    *kept = spec;
    return fusion_convolve(l, kept, op->results[0], spec.compute);
}
