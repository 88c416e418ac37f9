#include "compiler/graph/conv_geometry.h"

#include <string.h>

static int64_t floor_div(int64_t a, int64_t b) {
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

static int64_t ceil_div(int64_t a, int64_t b) {
    return -floor_div(-a, b);
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static bool is_type(const graph_type *t) {
    return dtype_is_float((vtrn_dtype)t->dtype) && dtype_size((vtrn_dtype)t->dtype) <= 4;
}

bool conv_has_geometry(const graph *g, const graph_op *op) {
    const graph_attrs *at = &op->attrs;
    const graph_type *lhs = &g->types[op->operands[0]], *rhs = &g->types[op->operands[1]];
    const graph_type *out = &g->types[op->results[0]];
    int64_t n_taps = 1;
    if (at->conv.feature_groups != 1 || at->conv.batch_groups != 1 || !is_type(lhs) ||
        !is_type(rhs) || !is_type(out) || at->conv.lhs_spatial.n >= CONV_MAX_AXES ||
        graph_type_count(lhs) == 0 || graph_type_count(rhs) == 0 || graph_type_count(out) == 0)
        return false;
    for (int64_t i = 0; i < at->conv.lhs_spatial.n; i++) {
        n_taps *= rhs->dims[at->conv.rhs_spatial.v[i]];
        if (n_taps > CONV_MAX_TAPS || (at->conv.stride.v[i] > 1 && at->conv.lhs_dilation.v[i] > 1))
            return false;
    }
    return true;
}

static void add_axis(conv_geometry *c, conv_axis a) {
    c->axis[c->n_axes++] = a;
    c->n_taps *= a.n_taps;
    c->n_in_pixels *= a.n_in;
    c->n_out_pixels *= a.n_out;
}

conv_geometry conv_geometry_of(const graph *g, const graph_op *op) {
    const graph_attrs *at = &op->attrs;
    const graph_type *lhs = &g->types[op->operands[0]], *rhs = &g->types[op->operands[1]];
    const graph_type *out = &g->types[op->results[0]];
    int64_t batch = lhs->dims[at->conv.lhs_batch_dim];
    conv_geometry c = {.n_axes = 1,
                       .axis = {{batch, batch, 1, 1, 0, 1, 1, false}},
                       .n_in = lhs->dims[at->conv.lhs_feature_dim],
                       .n_out = out->dims[at->conv.out_feature_dim],
                       .n_taps = 1,
                       .n_in_pixels = batch,
                       .n_out_pixels = batch};
    for (int64_t i = 0; i < at->conv.lhs_spatial.n && c.n_axes < CONV_MAX_AXES; i++) {
        conv_axis a = {.n_in = lhs->dims[at->conv.lhs_spatial.v[i]],
                       .n_out = out->dims[at->conv.out_spatial.v[i]],
                       .n_taps = rhs->dims[at->conv.rhs_spatial.v[i]],
                       .stride = at->conv.stride.v[i],
                       .pad = at->conv.pad_low.v[i],
                       .in_dilation = at->conv.lhs_dilation.v[i],
                       .tap_dilation = at->conv.rhs_dilation.v[i],
                       .is_reversed = at->conv.reversal.n > i && at->conv.reversal.v[i]};
        add_axis(&c, a);
    }
    return c;
}

conv_geometry conv_pooling_of(const graph *g, const graph_op *op, int first_axis) {
    const graph_attrs *at = &op->attrs;
    const graph_type *in = &g->types[op->operands[0]], *out = &g->types[op->results[0]];
    conv_geometry c = {.n_in = 1, .n_out = 1, .n_taps = 1, .n_in_pixels = 1, .n_out_pixels = 1};
    for (int d = 0; d < in->rank; d++) {
        if (d < first_axis) {
            c.n_in = c.n_out *= in->dims[d];
            continue;
        }
        conv_axis a = {.n_in = in->dims[d],
                       .n_out = out->dims[d],
                       .n_taps = at->window.window.v[d],
                       .stride = at->window.stride.v[d],
                       .pad = at->window.pad_low.v[d],
                       .in_dilation = 1,
                       .tap_dilation = at->window.window_dilation.v[d]};
        add_axis(&c, a);
    }
    return c;
}

bool conv_has_pooling(const graph *g, const graph_op *op, int first_axis) {
    const graph_attrs *at = &op->attrs;
    const graph_type *in = &g->types[op->operands[0]], *out = &g->types[op->results[0]];
    if (in->rank - first_axis > CONV_MAX_AXES || in->rank == first_axis ||
        graph_type_count(in) == 0 || graph_type_count(out) == 0)
        return false;
    for (int d = 0; d < in->rank; d++)
        if (at->window.base_dilation.v[d] != 1 || at->window.window.v[d] > CONV_MAX_TAPS ||
            (d < first_axis && in->dims[d] != out->dims[d]))
            return false;
    conv_geometry c = conv_pooling_of(g, op, first_axis);
    for (int i = 0; i < c.n_axes; i++)
        for (int64_t o = 0; o < c.axis[i].n_out; o++) {
            int64_t begin, end;
            conv_axis_taps(&c.axis[i], o, &begin, &end);
            if (begin == end) /* a window of padding alone */
                return false;
        }
    return c.n_taps <= CONV_MAX_TAPS;
}

void conv_axis_taps(const conv_axis *a, int64_t o, int64_t *begin, int64_t *end) {
    int64_t low = a->pad - o * a->stride; /* input of tap t is t * tap_dilation - low */
    *begin = most(0, ceil_div(low, a->tap_dilation));
    *end = least(a->n_taps, floor_div(a->n_in - 1 + low, a->tap_dilation) + 1);
    *end = most(*begin, *end);
}

conv_range conv_axis_range(const conv_axis *a, int64_t tap, int64_t begin, int64_t end) {
    int64_t shift = a->pad - tap * a->tap_dilation; /* o * stride is in * in_dilation + shift */
    conv_range r = {.out_step = a->in_dilation, .in_step = a->stride};
    r.out = most(begin, ceil_div(shift, a->stride));
    if (a->in_dilation > 1) {
        int64_t behind = (r.out - shift) % a->in_dilation;
        r.out += behind ? a->in_dilation - behind : 0;
    }
    int64_t last = least(end - 1, floor_div((a->n_in - 1) * a->in_dilation + shift, a->stride));
    r.n = last < r.out ? 0 : (last - r.out) / r.out_step + 1;
    r.in = (r.out * a->stride - shift) / a->in_dilation;
    return r;
}

conv_span conv_axis_span(const conv_axis *a, int64_t begin, int64_t end) {
    conv_span s = {0, 0};
    for (int64_t tap = 0; tap < a->n_taps; tap++) {
        conv_range r = conv_axis_range(a, tap, begin, end);
        int64_t last = r.in + (r.n - 1) * r.in_step;
        if (r.n == 0)
            continue;
        s.begin = s.end == 0 ? r.in : least(s.begin, r.in);
        s.end = most(s.end, last + 1);
    }
    return s;
}

int64_t conv_axis_reach(const conv_axis *a, int64_t n) {
    int64_t reach = (n - 1) * a->stride + (a->n_taps - 1) * a->tap_dilation;
    return least(a->n_in, reach / a->in_dilation + 1);
}

void conv_tap_at(const conv_geometry *g, int64_t tap, int64_t *at) {
    for (int i = g->n_axes - 1; i >= 0; i--) {
        at[i] = tap % g->axis[i].n_taps;
        tap /= g->axis[i].n_taps;
    }
}

void conv_weight_at(const conv_geometry *g, const int64_t *tap_at, int64_t *at) {
    for (int i = 0; i < g->n_axes; i++)
        at[i] = g->axis[i].is_reversed ? g->axis[i].n_taps - 1 - tap_at[i] : tap_at[i];
}
