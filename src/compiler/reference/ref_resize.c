/* Images of another size: the calls ResizeNearest and ResizeBilinear by which XLA writes them, and
 * their gradients. Images are [batch][y][x][channel]. The configuration is two digits: whether the
 * corner pixels' centres stay where they are, and whether positions are those of pixel centres. */
#include "compiler/reference/ref_internal.h"

#include <math.h>

enum { Y = 1, X = 2, CHANNELS = 3 };

/* Along one dimension, the two pixels of the original that make a pixel of the resized image. */
typedef struct resize_axis {
    int64_t *source[2]; /* [n resized] */
    double *weight[2];
} resize_axis;

typedef struct resize {
    bool is_bilinear, is_gradient, keeps_corners, has_centers;
    const graph_type *original, *resized;
    resize_axis axis[2];
} resize;

static bool read_config(const char *config, resize *r) {
    config += *config == '"';
    for (int i = 0; i < 2; i++)
        if (config[i] != '0' && config[i] != '1')
            return false;
    r->keeps_corners = config[0] == '1';
    r->has_centers = config[1] == '1';
    return !config[2] || !strcmp(config + 2, "\"");
}

static bool read_resize(const graph *g, const graph_op *op, resize *r) {
    if (op->n_operands != 1 || op->n_results != 1)
        return false;
    *r = (resize){.is_bilinear = !strncmp(op->name, "ResizeBilinear", 14),
                  .is_gradient = !strcmp(op->name + strlen(op->name) - 4, "Grad"),
                  .original = &g->types[op->operands[0]],
                  .resized = &g->types[op->results[0]]};
    if (r->is_gradient) {
        const graph_type *gradient = r->original;
        r->original = r->resized;
        r->resized = gradient;
    }
    const graph_type *from = r->original, *to = r->resized;
    bool has_pixels = from->rank == 4 && to->rank == 4 && from->dims[0] == to->dims[0] &&
                      from->dims[CHANNELS] == to->dims[CHANNELS];
    for (int d = Y; has_pixels && d <= X; d++)
        has_pixels = from->dims[d] > 0 && to->dims[d] > 0;
    bool only_moves = !r->is_bilinear && !r->is_gradient;
    return has_pixels && from->dtype == to->dtype && (only_moves || dtype_is_float(from->dtype)) &&
           read_config(op->attrs.custom_call.backend_config, r);
}

bool ref_resize_fits(const graph *g, const graph_op *op) {
    resize r;
    return read_resize(g, op, &r);
}

/* In single precision, as PyTorch has it: a position that is rounded otherwise would be another
 * pixel. */
static float position_of(const resize *r, int d, int64_t i) {
    const int64_t n = r->original->dims[d], n_resized = r->resized->dims[d];
    const float scale = r->keeps_corners
                            ? n_resized > 1 ? (float)(n - 1) / (float)(n_resized - 1) : 0
                            : (float)n / (float)n_resized;
    if (!r->has_centers)
        return scale * (float)i;
    return scale * ((float)i + 0.5f) - (r->is_bilinear ? 0.5f : 0);
}

static vtrn_status make_axis(ref_call *c, const resize *r, int d, resize_axis *out) {
    const int64_t n = r->resized->dims[d], last = r->original->dims[d] - 1;
    for (int k = 0; k < 2; k++) {
        VTRN_RETURN_IF_ERROR(ref_scratch(c, n, sizeof *out->source[k], (void **)&out->source[k]));
        VTRN_RETURN_IF_ERROR(ref_scratch(c, n, sizeof *out->weight[k], (void **)&out->weight[k]));
    }
    for (int64_t i = 0; i < n; i++) {
        float at = position_of(r, d, i);
        at = at < 0 ? 0 : at > (float)last ? (float)last : at;
        const float first = r->is_bilinear || !r->keeps_corners ? floorf(at) : roundf(at);
        out->source[0][i] = (int64_t)first;
        out->source[1][i] = (int64_t)first < last ? (int64_t)first + 1 : last;
        out->weight[1][i] = r->is_bilinear ? at - first : 0;
        out->weight[0][i] = 1 - out->weight[1][i];
    }
    return NULL;
}

/* The place of a pixel's first channel. */
static int64_t pixel(const graph_type *t, int64_t batch, int64_t y, int64_t x) {
    return ((batch * t->dims[Y] + y) * t->dims[X] + x) * t->dims[CHANNELS];
}

static void take_nearest(const resize *r, const char *in, char *out) {
    const size_t size = (size_t)r->original->dims[CHANNELS] * dtype_size(r->original->dtype);
    const int64_t *sources_x = r->axis[1].source[0];
    for (int64_t b = 0; b < r->resized->dims[0]; b++)
        for (int64_t y = 0; y < r->resized->dims[Y]; y++)
            for (int64_t x = 0; x < r->resized->dims[X]; x++, out += size) {
                const int64_t from = pixel(r->original, b, r->axis[0].source[0][y], sources_x[x]);
                memcpy(out, in + from * (int64_t)dtype_size(r->original->dtype), size);
            }
}

/* Weighs the pixels that make pixel (y, x), or gives them its gradient. */
static void weigh(const resize *r, const int64_t at[3], double *original, double *resized) {
    const int64_t n_channels = r->original->dims[CHANNELS], y = at[1], x = at[2];
    double *one = resized + pixel(r->resized, at[0], y, x);
    for (int k = 0; k < (r->is_bilinear ? 4 : 1); k++) {
        const resize_axis *ys = &r->axis[0], *xs = &r->axis[1];
        const double weight = ys->weight[k >> 1][y] * xs->weight[k & 1][x];
        double *of =
            original + pixel(r->original, at[0], ys->source[k >> 1][y], xs->source[k & 1][x]);
        for (int64_t i = 0; i < n_channels; i++)
            if (r->is_gradient)
                of[i] += weight * one[i];
            else
                one[i] += weight * of[i];
    }
}

static vtrn_status weigh_all(ref_call *c, const resize *r) {
    void *original, *resized, *tmp;
    const int64_t n = ref_count(r->original), n_resized = ref_count(r->resized);
    VTRN_RETURN_IF_ERROR(ref_scratch(c, n, sizeof(double), &original));
    VTRN_RETURN_IF_ERROR(ref_scratch(c, n_resized, sizeof(double), &resized));
    double *in = r->is_gradient ? resized : original, *out = r->is_gradient ? original : resized;
    const int64_t n_in = r->is_gradient ? n_resized : n, n_out = r->is_gradient ? n : n_resized;
    const vtrn_dtype t = (vtrn_dtype)r->original->dtype;
    const bool is_wide = ref_class_of(t) == REF_F64;
    VTRN_RETURN_IF_ERROR(ref_scratch(c, n_in > n_out ? n_in : n_out, sizeof(double), &tmp));
    ref_load(t, c->in[0], is_wide ? (void *)in : tmp, n_in);
    for (int64_t i = 0; i < n_in && !is_wide; i++)
        in[i] = ((float *)tmp)[i];
    memset(out, 0, (size_t)n_out * sizeof *out);
    int64_t at[3] = {0};
    do
        weigh(r, at, original, resized);
    while (ref_next(at, r->resized->dims, 3));
    for (int64_t i = 0; i < n_out && !is_wide; i++)
        ((float *)tmp)[i] = (float)out[i];
    ref_store(t, is_wide ? (void *)out : tmp, c->out[0], n_out);
    return NULL;
}

vtrn_status ref_resize(ref_call *c) {
    resize r;
    if (!read_resize(c->g, c->op, &r))
        return ref_malformed(c->op, "images are [batch][y][x][channel], of one type in and out, "
                                    "the configuration is two digits 0 or 1");
    if (!ref_count(r.original))
        return NULL;
    for (int k = 0; k < 2; k++)
        VTRN_RETURN_IF_ERROR(make_axis(c, &r, Y + k, &r.axis[k]));
    if (r.is_bilinear || r.is_gradient)
        return weigh_all(c, &r);
    take_nearest(&r, c->in[0], c->out[0]);
    return NULL;
}
