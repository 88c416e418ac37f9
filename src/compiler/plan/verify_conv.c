/* For elements of the result and of the windows, drawn by a fixed rule: which element of the image
 * a matmul of the plan reads, or none where the window is in the padding; and which weight it
 * multiplies. The op's attributes must say the same. */
#include "compiler/plan/verify_conv.h"

#include "compiler/plan/verify_failed.h"
#include "compiler/plan/verify_sample.h"

enum { PADDING = -1 }; /* in place of an element */

/* What is looked at. */
typedef struct look {
    int64_t channel, pixel; /* of the result */
    int64_t k;              /* input channel and tap */
} look;

static vtrn_status wrong(const plan *p, const kernel *k, const char *operand, int64_t is,
                         int64_t wanted) {
    return verify_failed(p, k, "element %lld of the %s is read where the operation reads %lld",
                         (long long)is, operand, (long long)wanted);
}

static void pixel_at(const conv_geometry *g, int64_t pixel, int64_t *at) {
    for (int i = g->n_axes - 1; i >= 0; i--) {
        at[i] = pixel % g->axis[i].n_out;
        pixel /= g->axis[i].n_out;
    }
}

/* --- what the plan reads ------------------------------------------------------------------------
 */

/* Index of the input along an axis, by the range that the tap serves; PADDING: the tap does not
 * serve the output. */
static int64_t served_input(const conv_axis *a, int64_t tap, int64_t out) {
    conv_range r = conv_axis_range(a, tap, 0, a->n_out);
    int64_t behind = out - r.out;
    bool is_served = behind >= 0 && behind % r.out_step == 0 && behind / r.out_step < r.n;
    return is_served ? r.in + behind / r.out_step * r.in_step : PADDING;
}

/* The same for one of the elements that a pooling combines. */
static int64_t pooled_input(const conv_axis *a, int64_t tap, int64_t out) {
    int64_t begin, end;
    conv_axis_taps(a, out, &begin, &end);
    return tap >= begin && tap < end ? out * a->stride + tap * a->tap_dilation - a->pad : PADDING;
}

static int64_t image_element(const conv_spec *s, int64_t channel, const int64_t *at, int n_axes) {
    int64_t element = s->image.offset + channel * s->image.f[0].stride;
    for (int i = 0; i < n_axes; i++) {
        if (at[i] == PADDING)
            return PADDING;
        element += at[i] * s->image.f[1 + i].stride;
    }
    return element;
}

static int64_t planned_element(const conv_spec *s, const look *x) {
    const conv_geometry *g = &s->geometry;
    int64_t out[CONV_MAX_AXES] = {0}, tap[CONV_MAX_AXES] = {0}, in[CONV_MAX_AXES];
    pixel_at(g, x->pixel, out);
    conv_tap_at(g, x->k % g->n_taps, tap);
    for (int i = 0; i < g->n_axes; i++)
        in[i] = s->is_pooling ? pooled_input(&g->axis[i], tap[i], out[i])
                              : served_input(&g->axis[i], tap[i], out[i]);
    return image_element(s, s->is_pooling ? x->channel : x->k / g->n_taps, in, g->n_axes);
}

/* Row k of the patches: an element of a line, which has zeros at its begin. */
static int64_t patch_element(const conv_spec *s, const look *x) {
    const conv_patches *p = &s->patches;
    const conv_axis *rows = &p->of.axis[1], *cols = &p->of.axis[2];
    int64_t out[CONV_MAX_AXES] = {0}, in[CONV_MAX_AXES];
    int64_t per_col = p->has_inner_channels ? p->of.n_in : 1;
    pixel_at(&s->geometry, x->pixel, out);
    int64_t line = x->k / p->run;
    int64_t element = out[2] * p->step + x->k % p->run - p->zeros;
    in[0] = out[0];
    in[1] = served_input(rows, line % rows->n_taps, out[1]);
    in[2] = element >= 0 && element / per_col < cols->n_in ? element / per_col : PADDING;
    int64_t channel = p->has_inner_channels ? (element + p->zeros) % per_col : line / rows->n_taps;
    return image_element(s, channel, in, 3);
}

/* --- what the operation reads -------------------------------------------------------------------
 */

/* Channel and number of each tap of row k. */
static void unravel_k(const conv_spec *s, int64_t k, int64_t *channel, int64_t *tap) {
    const conv_geometry *g = s->is_patched ? &s->patches.of : &s->geometry;
    bool is_inner = s->is_patched && s->patches.has_inner_channels;
    *channel = is_inner ? k % g->n_in : k / g->n_taps;
    conv_tap_at(g, is_inner ? k / g->n_in : k % g->n_taps, tap);
}

static int64_t conv_element(const graph *g, const conv_spec *s, const look *x) {
    const graph_op *op = s->op;
    const graph_attrs *at = &op->attrs;
    const graph_type *lhs = &g->types[op->operands[0]];
    int64_t out[CONV_MAX_AXES] = {0}, tap[CONV_MAX_AXES] = {0}, channel, in[GRAPH_MAX_RANK] = {0};
    pixel_at(&s->geometry, x->pixel, out);
    unravel_k(s, x->k, &channel, tap);
    in[at->conv.lhs_feature_dim] = channel;
    in[at->conv.lhs_batch_dim] = out[0];
    for (int64_t i = 0; i < at->conv.lhs_spatial.n; i++) {
        int64_t d = at->conv.lhs_spatial.v[i], step = at->conv.lhs_dilation.v[i];
        int64_t at_padded = out[1 + i] * at->conv.stride.v[i] +
                            tap[1 + i] * at->conv.rhs_dilation.v[i] - at->conv.pad_low.v[i];
        if (at_padded < 0 || at_padded % step || at_padded / step >= lhs->dims[d])
            return PADDING;
        in[d] = at_padded / step;
    }
    return sample_element(&s->lhs, sample_ravel(lhs, in));
}

static int64_t pool_element(const graph *g, const conv_spec *s, const look *x) {
    const graph_op *op = s->op;
    const graph_attrs *at = &op->attrs;
    const graph_type *from = &g->types[op->operands[0]];
    int64_t out[CONV_MAX_AXES] = {0}, tap[CONV_MAX_AXES] = {0}, in[GRAPH_MAX_RANK] = {0};
    int64_t channel = x->channel;
    int first = from->rank - s->geometry.n_axes;
    pixel_at(&s->geometry, x->pixel, out);
    conv_tap_at(&s->geometry, x->k % s->geometry.n_taps, tap);
    for (int d = first - 1; d >= 0; d--) {
        in[d] = channel % from->dims[d];
        channel /= from->dims[d];
    }
    for (int d = first; d < from->rank; d++) {
        in[d] = out[d - first] * at->window.stride.v[d] +
                tap[d - first] * at->window.window_dilation.v[d] - at->window.pad_low.v[d];
        if (in[d] < 0 || in[d] >= from->dims[d])
            return PADDING;
    }
    return sample_element(&s->lhs, sample_ravel(from, in));
}

static int64_t weight_of_op(const graph *g, const conv_spec *s, const look *x) {
    const graph_op *op = s->op;
    const graph_attrs *at = &op->attrs;
    const graph_type *rhs = &g->types[op->operands[1]];
    int64_t tap[CONV_MAX_AXES], channel, w[GRAPH_MAX_RANK] = {0};
    unravel_k(s, x->k, &channel, tap);
    w[at->conv.rhs_in_dim] = channel;
    w[at->conv.rhs_out_dim] = x->channel;
    for (int64_t i = 0; i < at->conv.rhs_spatial.n; i++) {
        int64_t d = at->conv.rhs_spatial.v[i];
        bool is_reversed = at->conv.reversal.n > i && at->conv.reversal.v[i];
        w[d] = is_reversed ? rhs->dims[d] - 1 - tap[1 + i] : tap[1 + i];
    }
    return sample_element(&s->rhs, sample_ravel(rhs, w));
}

/* A row of weights per input channel, or per row of the patches, with the taps as the image has
 * them. */
static int64_t planned_weight(const conv_spec *s, const look *x) {
    const conv_geometry *g = &s->geometry;
    const view *v = &s->weights;
    int64_t tap[CONV_MAX_AXES], at[CONV_MAX_AXES];
    conv_tap_at(g, x->k % g->n_taps, tap);
    conv_weight_at(g, tap, at);
    int64_t element = v->offset + x->k / g->n_taps * v->f[0].stride;
    for (int i = 1; i < g->n_axes && !s->is_patched; i++)
        element += at[i] * v->f[i].stride;
    return element + x->channel * v->f[v->n - 1].stride;
}

/* --- all ----------------------------------------------------------------------------------------
 */

static vtrn_status check_look(const plan *p, const graph *g, const kernel *k, const conv_spec *s,
                              const look *x) {
    int64_t is = s->is_patched ? patch_element(s, x) : planned_element(s, x);
    int64_t wanted = s->is_pooling ? pool_element(g, s, x) : conv_element(g, s, x);
    if (is != wanted)
        return wrong(p, k, "image", is, wanted);
    if (s->is_pooling || s->weights.slot != s->rhs.slot) /* else a copy, whose views are checked */
        return NULL;
    is = planned_weight(s, x);
    wanted = weight_of_op(g, s, x);
    return is == wanted ? NULL : wrong(p, k, "weights", is, wanted);
}

/* Each tile is in one band, whose inputs have those of the tile. */
static vtrn_status check_bands(const plan *p, const kernel *k, const conv_plan *c) {
    const conv_geometry *g = &c->spec->geometry;
    for (int64_t pixel = 0, end; pixel < g->n_out_pixels; pixel = end) {
        end = pixel + conv_tile_cols(c, pixel);
        int64_t begin = conv_band_begin(c, pixel);
        if (begin > pixel || conv_band_end(c, begin) < end)
            return verify_failed(p, k, "pixels %lld..%lld are not in one band", (long long)pixel,
                                 (long long)end);
        conv_box part = conv_box_of(g, &c->tile, pixel, end);
        conv_box band = conv_box_of(g, &c->band, begin, conv_band_end(c, begin));
        conv_box in_tile = conv_inputs_of(g, &part), in_band = conv_inputs_of(g, &band);
        if (conv_box_pixels(&in_band, g->n_axes) > c->band_pixels)
            return verify_failed(p, k, "a band has %lld pixels, its buffer room for %lld",
                                 (long long)conv_box_pixels(&in_band, g->n_axes),
                                 (long long)c->band_pixels);
        for (int i = 0; i < g->n_axes; i++)
            if (in_tile.end[i] > in_tile.begin[i] &&
                (in_tile.begin[i] < in_band.begin[i] || in_tile.end[i] > in_band.end[i]))
                return verify_failed(p, k, "inputs of pixel %lld are not in its band",
                                     (long long)pixel);
    }
    return NULL;
}

vtrn_status verify_convolution(const plan *p, const graph *g, const kernel *k, const conv_plan *c) {
    const conv_spec *s = c->spec;
    const conv_geometry *geometry = &s->geometry;
    int64_t n_k = s->is_pooling ? geometry->n_taps : geometry->n_in * geometry->n_taps;
    for (int i = 0; i < SAMPLE_COUNT; i++) {
        look x = {.channel = sample_index(geometry->n_out, (i * 5 + 1) % 29),
                  .pixel = sample_index(geometry->n_out_pixels, (i * 7 + 1) % 31),
                  .k = sample_index(n_k, i)};
        VTRN_RETURN_IF_ERROR(check_look(p, g, k, s, &x));
    }
    return check_bands(p, k, c);
}
