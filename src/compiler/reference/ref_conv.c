/* convolution: operands packed channels-last, then one multiply-add row a kernel element. */
#include "compiler/reference/ref_internal.h"

/* Operands in the class: x[batch][spatial][in channels], w[kernel][in/groups][out channels],
 * y[batch out][spatial out][out channels]. */
typedef struct conv_plan {
    ref_class cls;
    int n_spatial;
    int64_t n_batch, n_in, n_out, n_group_in, n_group_out, batch_groups, feature_groups;
    int64_t n_in_positions, n_out_positions; /* of all spatial dimensions; set where none is 0 */
    int64_t in[GRAPH_MAX_RANK], kernel[GRAPH_MAX_RANK], out[GRAPH_MAX_RANK];
    int64_t stride[GRAPH_MAX_RANK], low[GRAPH_MAX_RANK], in_dilation[GRAPH_MAX_RANK],
        kernel_dilation[GRAPH_MAX_RANK];
    bool reversed[GRAPH_MAX_RANK];
} conv_plan;

static int64_t at_or(graph_ints list, int64_t i, int64_t otherwise) {
    return i < list.n ? list.v[i] : otherwise;
}

/* Reorders a class buffer of the dims of t to the dimensions order[rank]. */
static vtrn_status reorder(ref_call *c, const graph_type *t, const void *src, const int64_t *order,
                           size_t size, void *dst) {
    int64_t own[GRAPH_MAX_RANK], ss[GRAPH_MAX_RANK], ds[GRAPH_MAX_RANK], dims[GRAPH_MAX_RANK];
    (void)c;
    ref_strides(t, own);
    int64_t n = (int64_t)size;
    for (int d = t->rank - 1; d >= 0; d--) {
        dims[d] = t->dims[order[d]];
        ss[d] = own[order[d]] * (int64_t)size;
        ds[d] = n;
        n *= dims[d];
    }
    ref_copy(dst, ds, src, ss, (ref_box){dims, t->rank, size});
    return NULL;
}

static void set_order(int64_t *order, int64_t first, graph_ints spatial, int64_t last) {
    order[0] = first;
    for (int64_t i = 0; i < spatial.n; i++)
        order[1 + i] = spatial.v[i];
    order[1 + spatial.n] = last;
}

#define TAP(NAME, T)                                                                               \
    static void NAME(const T *x, const T *w, T *y, int64_t n_in, int64_t n_out,                    \
                     int64_t w_stride) {                                                           \
        for (int64_t i = 0; i < n_in; i++) {                                                       \
            const T v = x[i];                                                                      \
            const T *restrict row = w + i * w_stride;                                              \
            T *restrict o = y;                                                                     \
            for (int64_t j = 0; j < n_out; j++)                                                    \
                o[j] += v * row[j];                                                                \
        }                                                                                          \
    }
TAP(tap_f32, float)
TAP(tap_f64, double)
TAP(tap_u64, uint64_t)
TAP(tap_c128, double complex)

/* y[n_group_out] += x[n_group_in] w[n_group_in][n_group_out] */
static void tap(const conv_plan *p, const void *x, const void *w, void *y) {
    switch (p->cls) {
    case REF_F32:
        tap_f32(x, w, y, p->n_group_in, p->n_group_out, p->n_out);
        break;
    case REF_F64:
        tap_f64(x, w, y, p->n_group_in, p->n_group_out, p->n_out);
        break;
    case REF_C128:
        tap_c128(x, w, y, p->n_group_in, p->n_group_out, p->n_out);
        break;
    default:
        tap_u64(x, w, y, p->n_group_in, p->n_group_out, p->n_out);
    }
}

/* Input position (flat, spatial only) under kernel element k at output o; false in the padding or
 * between dilated elements. */
static bool input_position(const conv_plan *p, const int64_t *o, const int64_t *k, int64_t *out) {
    int64_t flat = 0;
    for (int d = 0; d < p->n_spatial; d++) {
        const int64_t kd = p->reversed[d] ? p->kernel[d] - 1 - k[d] : k[d];
        const int64_t at = o[d] * p->stride[d] + kd * p->kernel_dilation[d] - p->low[d];
        if (at < 0 || at % p->in_dilation[d] || at / p->in_dilation[d] >= p->in[d])
            return false;
        flat = flat * p->in[d] + at / p->in_dilation[d];
    }
    *out = flat;
    return true;
}

static int64_t product_of(const int64_t *v, int n) {
    int64_t p = 1;
    for (int i = 0; i < n; i++)
        p *= v[i];
    return p;
}

/* All channels and batches of one output position and one kernel element. */
static void position_tap(const conv_plan *p, const char *x, const char *w, char *y) {
    const size_t size = ref_class_size(p->cls);
    const int64_t groups = p->feature_groups * p->batch_groups;
    const int64_t n_batch_out = p->n_batch / p->batch_groups;
    for (int64_t b = 0; b < n_batch_out; b++)
        for (int64_t g = 0; g < groups; g++) {
            /* Either kind of group, never both: a feature group is a slice of the input channels,
             * a batch group a slice of the batch. */
            const int64_t batch = p->batch_groups > 1 ? g * n_batch_out + b : b;
            const int64_t channel = p->feature_groups > 1 ? g * p->n_group_in : 0;
            tap(p, x + (batch * p->n_in_positions * p->n_in + channel) * size,
                w + g * p->n_group_out * size,
                y + (b * p->n_out_positions * p->n_out + g * p->n_group_out) * size);
        }
}

static void convolve(const conv_plan *p, const char *x, const char *w, char *y) {
    const size_t size = ref_class_size(p->cls);
    int64_t o[GRAPH_MAX_RANK] = {0};
    int64_t flat_o = 0;
    do {
        int64_t k[GRAPH_MAX_RANK] = {0}, flat_k = 0;
        do {
            int64_t at;
            if (input_position(p, o, k, &at))
                position_tap(p, x + at * p->n_in * size,
                             w + flat_k * p->n_group_in * p->n_out * size,
                             y + flat_o * p->n_out * size);
            flat_k++;
        } while (ref_next(k, p->kernel, p->n_spatial));
        flat_o++;
    } while (ref_next(o, p->out, p->n_spatial));
}

static void fill_plan(ref_call *c, conv_plan *p) {
    const graph_type *x = ref_in_type(c, 0), *w = ref_in_type(c, 1), *t = ref_out_type(c, 0);
    p->cls = ref_class_of(t->dtype);
    p->n_spatial = (int)c->op->attrs.conv.lhs_spatial.n;
    p->n_batch = x->dims[c->op->attrs.conv.lhs_batch_dim];
    p->n_in = x->dims[c->op->attrs.conv.lhs_feature_dim];
    p->n_group_in = w->dims[c->op->attrs.conv.rhs_in_dim];
    p->n_out = w->dims[c->op->attrs.conv.rhs_out_dim];
    p->batch_groups = c->op->attrs.conv.batch_groups > 0 ? c->op->attrs.conv.batch_groups : 1;
    p->feature_groups = c->op->attrs.conv.feature_groups > 0 ? c->op->attrs.conv.feature_groups : 1;
    p->n_group_out = p->n_out / (p->feature_groups * p->batch_groups);
    for (int d = 0; d < p->n_spatial; d++) {
        p->in[d] = x->dims[c->op->attrs.conv.lhs_spatial.v[d]];
        p->kernel[d] = w->dims[c->op->attrs.conv.rhs_spatial.v[d]];
        p->out[d] = t->dims[c->op->attrs.conv.out_spatial.v[d]];
        p->stride[d] = at_or(c->op->attrs.conv.stride, d, 1);
        p->low[d] = at_or(c->op->attrs.conv.pad_low, d, 0);
        p->in_dilation[d] = at_or(c->op->attrs.conv.lhs_dilation, d, 1);
        p->kernel_dilation[d] = at_or(c->op->attrs.conv.rhs_dilation, d, 1);
        p->reversed[d] = at_or(c->op->attrs.conv.reversal, d, 0) != 0;
    }
}

vtrn_status ref_convolution(ref_call *c) {
    const graph_type *x = ref_in_type(c, 0), *w = ref_in_type(c, 1), *t = ref_out_type(c, 0);
    conv_plan p = {0};
    fill_plan(c, &p);
    const size_t size = ref_class_size(p.cls);
    void *x0, *w0, *xp, *wp, *y, *packed;
    VTRN_RETURN_IF_ERROR(ref_load_all(c, 0, p.cls, &x0));
    VTRN_RETURN_IF_ERROR(ref_load_all(c, 1, p.cls, &w0));
    VTRN_RETURN_IF_ERROR(ref_scratch(c, ref_count(x), size, &xp));
    VTRN_RETURN_IF_ERROR(ref_scratch(c, ref_count(w), size, &wp));
    VTRN_RETURN_IF_ERROR(ref_scratch(c, ref_count(t), size, &packed));
    VTRN_RETURN_IF_ERROR(ref_scratch(c, ref_count(t), size, &y));
    int64_t order[GRAPH_MAX_RANK] = {0};
    set_order(order, c->op->attrs.conv.lhs_batch_dim, c->op->attrs.conv.lhs_spatial,
              c->op->attrs.conv.lhs_feature_dim);
    VTRN_RETURN_IF_ERROR(reorder(c, x, x0, order, size, xp));
    const graph_ints ks = c->op->attrs.conv.rhs_spatial;
    for (int64_t d = 0; d < ks.n; d++)
        order[d] = ks.v[d];
    order[ks.n] = c->op->attrs.conv.rhs_in_dim;
    order[ks.n + 1] = c->op->attrs.conv.rhs_out_dim;
    VTRN_RETURN_IF_ERROR(reorder(c, w, w0, order, size, wp));
    if (ref_count(t) && ref_count(x) && ref_count(w)) {
        p.n_in_positions = product_of(p.in, p.n_spatial);
        p.n_out_positions = product_of(p.out, p.n_spatial);
        convolve(&p, xp, wp, packed);
    }

    /* Back from [batch][spatial][channels] to the order of the result. */
    graph_type from = {.dtype = t->dtype, .rank = t->rank};
    int64_t back[GRAPH_MAX_RANK] = {0};
    set_order(order, c->op->attrs.conv.out_batch_dim, c->op->attrs.conv.out_spatial,
              c->op->attrs.conv.out_feature_dim);
    for (int d = 0; d < t->rank; d++) {
        from.dims[d] = t->dims[order[d]];
        back[order[d]] = d;
    }
    VTRN_RETURN_IF_ERROR(reorder(c, &from, packed, back, size, y));
    ref_store(t->dtype, y, c->out[0], ref_count(t));
    return NULL;
}
