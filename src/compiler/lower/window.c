/* Pooling: a window is a handful of shifted views of the same tensor, so pooling is elementwise. */
#include "compiler/lower/conv_channels.h"
#include "compiler/lower/fusion.h"
#include "compiler/lower/movement.h"

enum { MAX_TAPS = 40 };

/* A window op's geometry. `in` is the operand with its padding in memory. */
typedef struct windows {
    int rank;
    const graph_attrs *at;
    graph_type padded;
    view in;
    int64_t stride[GRAPH_MAX_RANK]; /* of the padded operand, elements */
    int64_t out[GRAPH_MAX_RANK];    /* windows a dim */
    int64_t n_taps, n_windows;
    bool is_padded;
} windows;

static bool read_geometry(const lower *l, const graph_op *op, graph_value windows_of, windows *w) {
    const graph_type *in = &l->g->types[op->operands[0]], *out = &l->g->types[windows_of];
    w->at = &op->attrs;
    w->rank = in->rank;
    w->padded = *in;
    w->n_taps = w->n_windows = 1;
    for (int d = 0; d < in->rank; d++) {
        int64_t low = w->at->window.pad_low.v[d], high = w->at->window.pad_high.v[d];
        int64_t dilation = w->at->window.base_dilation.v[d];
        w->is_padded = w->is_padded || low || high || dilation != 1;
        w->padded.dims[d] = low + high + in->dims[d] + (in->dims[d] - 1) * (dilation - 1);
        w->n_taps *= w->at->window.window.v[d];
        w->out[d] = out->dims[d];
        w->n_windows *= out->dims[d];
    }
    return w->n_taps <= MAX_TAPS && w->n_windows > 0 && graph_type_count(in) > 0;
}

static vtrn_status pad_operand(lower *l, const graph_op *op, uint64_t value, windows *w) {
    VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[0], &w->in));
    const graph_type *t = &l->g->types[op->operands[0]];
    if (w->is_padded) {
        int64_t interior[GRAPH_MAX_RANK];
        for (int d = 0; d < w->rank; d++)
            interior[d] = w->at->window.base_dilation.v[d] - 1;
        VTRN_RETURN_IF_ERROR(
            movement_pad(l, &w->in, &(padding){t, w->at->window.pad_low.v, interior, &w->padded},
                         value, &w->in));
    }
    return movement_strides(l, &w->in, &w->padded, w->stride);
}

/* What tap number `tap` of every window sees, in memory laid out by `stride` from `base`. */
static view tap_view(const windows *w, const view *base, const int64_t *stride, int64_t tap) {
    view v = {.slot = base->slot, .dtype = base->dtype, .offset = base->offset, .n = w->rank};
    for (int d = w->rank - 1; d >= 0; d--) {
        int64_t size = w->at->window.window.v[d];
        v.offset += tap % size * w->at->window.window_dilation.v[d] * stride[d];
        tap /= size;
        v.f[d] = (view_factor){w->out[d], stride[d] * w->at->window.stride.v[d]};
    }
    return v;
}

static fusion_node binary(graph_kind kind, uint8_t dtype, fusion_in a, fusion_in b) {
    return (fusion_node){

        .op = (uint16_t)kind, .dtype = dtype, .n_in = 2, .in = {a, b}};
}

/* Windows of one element each, at every element, of any type: nothing is combined but with an
 * identity. */
static vtrn_status take_whole(lower *l, const graph_op *op, bool *is_done) {
    const graph_type *t = &l->g->types[op->operands[0]];
    const graph_attrs *at = &op->attrs;
    double init;
    bool is_whole = op->n_operands == 2 && lower_splat_float(l, op->operands[1], &init) &&
                    fusion_is_identity((graph_reducer)op->reducer, t->dtype, init);
    for (int d = 0; is_whole && d < t->rank; d++)
        is_whole = at->window.window.v[d] == 1 && at->window.stride.v[d] == 1 &&
                   at->window.base_dilation.v[d] == 1 && at->window.pad_low.v[d] == 0 &&
                   at->window.pad_high.v[d] == 0;
    if (!is_whole)
        return NULL;
    view v;
    VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[0], &v));
    lower_set_view(l, op->results[0], &v);
    *is_done = true;
    return NULL;
}

static vtrn_status lower_reduce_window(lower *l, const graph_op *op, bool *is_done) {
    windows w = {0};
    graph_kind kind;
    vtrn_alu alu;
    double init;
    VTRN_RETURN_IF_ERROR(pool_by_channels(l, op, is_done));
    if (*is_done)
        return NULL;
    if (op->n_operands != 2 || !lower_reducer((graph_reducer)op->reducer, &kind, &alu) ||
        !read_geometry(l, op, op->results[0], &w) ||
        !lower_splat_float(l, op->operands[1], &init) || !dtype_is_float(w.padded.dtype) ||
        dtype_size(w.padded.dtype) > 4 ||
        !fusion_is_identity((graph_reducer)op->reducer, w.padded.dtype, init))
        return NULL;
    *is_done = true;
    VTRN_RETURN_IF_ERROR(pad_operand(l, op, l->values[op->operands[1]].splat_bits, &w));
    fusion *f;
    VTRN_RETURN_IF_ERROR(fusion_open(l, w.n_windows, &f));
    fusion_in total, next;
    view v = tap_view(&w, &w.in, w.stride, 0);
    VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &v, false, &total));
    if (w.n_taps == 1) { /* nothing to reduce */
        fusion_node copy = {.op = GRAPH_CONVERT, .dtype = w.padded.dtype, .n_in = 1, .in = {total}};
        VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &copy, &total));
    }
    for (int64_t tap = 1; tap < w.n_taps; tap++) {
        v = tap_view(&w, &w.in, w.stride, tap);
        VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &v, false, &next));
        fusion_node node = binary(kind, w.padded.dtype, total, next);
        VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &node, &total));
    }
    return fusion_name(l, f, op->results[0], total.node, NULL);
}

/* Where the result of select_and_scatter is assembled: in place, or padded and cut afterwards. */
static vtrn_status scatter_target(lower *l, const graph_op *op, const windows *w, bool is_covered,
                                  view *target, view *result) {
    VTRN_RETURN_IF_ERROR(lower_result(l, op->results[0], result));
    *target = *result;
    if (w->is_padded) {
        uint32_t slot;
        VTRN_RETURN_IF_ERROR(build_slot_add(l->build, VTRN_SLOT_SCRATCH, w->padded.dtype,
                                            graph_type_bytes(&w->padded), 0, &slot));
        *target = view_dense(slot, &w->padded);
    }
    if (is_covered)
        return NULL;
    uint32_t zero_slot;
    uint64_t zero = 0;
    graph_type scalar = {.dtype = w->padded.dtype};
    VTRN_RETURN_IF_ERROR(
        build_constant_add(l->build, scalar.dtype, &zero, dtype_size(scalar.dtype), &zero_slot));
    view one = view_dense(zero_slot, &scalar);
    return movement_fill(l, &one, target);
}

/* The gradient of max-pooling: each window gives its source to its first greatest element. */
static vtrn_status lower_select_and_scatter(lower *l, const graph_op *op, bool *is_done) {
    windows w = {0};
    double init;
    bool is_max = op->select == GRAPH_GE || op->select == GRAPH_GT;
    bool is_min = op->select == GRAPH_LE || op->select == GRAPH_LT;
    if (op->reducer != GRAPH_REDUCER_ADD || !(is_max || is_min) ||
        !read_geometry(l, op, op->operands[1], &w) || w.n_taps > MAX_TAPS ||
        !lower_splat_float(l, op->operands[2], &init) || init != 0 ||
        (w.padded.dtype != VTRN_DTYPE_FP32 && w.padded.dtype != VTRN_DTYPE_BF16))
        return NULL;
    *is_done = true;
    uint8_t dtype = w.padded.dtype;
    float edge = is_max ? -INFINITY : INFINITY;
    uint64_t edge_bits = 0;
    dtype_store_fp32(dtype, &edge, &edge_bits, 1);
    VTRN_RETURN_IF_ERROR(pad_operand(l, op, edge_bits, &w));
    view source;
    VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[1], &source));
    bool is_overlapping = false, is_covered = true;
    int64_t stride[GRAPH_MAX_RANK], step = 1;
    for (int d = w.rank - 1; d >= 0; d--) {
        int64_t size = w.at->window.window.v[d], move = w.at->window.stride.v[d];
        is_overlapping = is_overlapping || (move < size && w.out[d] > 1);
        is_covered = is_covered && move == size && w.out[d] * size == w.padded.dims[d];
        stride[d] = step;
        step *= w.padded.dims[d];
    }
    view target, result;
    VTRN_RETURN_IF_ERROR(scatter_target(l, op, &w, is_covered, &target, &result));

    fusion *f;
    VTRN_RETURN_IF_ERROR(fusion_open(l, w.n_windows, &f));
    fusion_in taps[MAX_TAPS], best, free_share, dy;
    graph_kind kind = is_max ? GRAPH_MAXIMUM : GRAPH_MINIMUM;
    for (int64_t tap = 0; tap < w.n_taps; tap++) {
        view v = tap_view(&w, &w.in, w.stride, tap);
        VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &v, false, &taps[tap]));
        if (tap == 0) {
            best = taps[0];
            continue;
        }
        fusion_node node = binary(kind, dtype, best, taps[tap]);
        VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &node, &best));
    }
    VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &source, false, &dy));
    free_share = (fusion_in){.node = FUSION_NO_NODE, .imm = 1}; /* 1 until a tap has taken it */
    for (int64_t tap = 0; tap < w.n_taps; tap++) {
        fusion_in is_best, taken, given;
        fusion_node node = binary(GRAPH_COMPARE, dtype, taps[tap], best);
        node.direction = GRAPH_EQ;
        VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &node, &is_best));
        taken = is_best;
        if (tap > 0) {
            node = binary(GRAPH_MULTIPLY, dtype, is_best, free_share);
            VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &node, &taken));
        }
        node = binary(GRAPH_MULTIPLY, dtype, taken, dy);
        node.is_stored = true;
        node.is_accumulated = is_overlapping;
        node.store_view = tap_view(&w, &target, stride, tap);
        VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &node, &given));
        node = binary(GRAPH_SUBTRACT, dtype, free_share, taken);
        VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &node, &free_share));
    }
    VTRN_RETURN_IF_ERROR(fusion_close(l, f));
    if (!w.is_padded)
        return NULL;
    const graph_type *t = &l->g->types[op->operands[0]];
    view inner = target;
    for (int d = 0; d < w.rank; d++) {
        inner.offset += w.at->window.pad_low.v[d] * target.f[d].stride;
        inner.f[d].size = t->dims[d];
        inner.f[d].stride = target.f[d].stride * w.at->window.base_dilation.v[d];
    }
    return plan_copy(l->plan, &inner, &result);
}

vtrn_status lower_window(lower *l, const graph_op *op, bool *is_done) {
    if (op->kind == GRAPH_SELECT_AND_SCATTER)
        return lower_select_and_scatter(l, op, is_done);
    VTRN_RETURN_IF_ERROR(take_whole(l, op, is_done));
    return *is_done ? NULL : lower_reduce_window(l, op, is_done);
}
