/* batch_norm_training, _inference and _grad, in double and rounded once. */
#include "compiler/reference/ref_internal.h"

#include <math.h>

typedef struct norm_shape {
    int64_t n_features, inner, n, per_feature;
} norm_shape;

static vtrn_status shape_of(ref_call *c, norm_shape *s) {
    const graph_type *t = ref_in_type(c, 0);
    const int64_t d = c->op->attrs.batch_norm.feature_index;
    if (!dtype_is_float(t->dtype) || d < 0 || d >= t->rank)
        return ref_malformed(c->op, "a float operand with a feature dimension");
    *s = (norm_shape){t->dims[d], 1, ref_count(t), 0};
    for (int k = (int)d + 1; k < t->rank; k++)
        s->inner *= t->dims[k];
    s->per_feature = s->n_features ? s->n / s->n_features : 0;
    return NULL;
}

static int64_t feature_of(const norm_shape *s, int64_t i) {
    return i / s->inner % s->n_features;
}

static vtrn_status load_double(ref_call *c, uint32_t i, double **out) {
    void *p = NULL;
    VTRN_RETURN_IF_ERROR(ref_load_all(c, i, REF_F64, &p));
    *out = p;
    return NULL;
}

static vtrn_status new_doubles(ref_call *c, int64_t n, double **out) {
    void *p = NULL;
    VTRN_RETURN_IF_ERROR(ref_scratch(c, n, sizeof(double), &p));
    *out = p;
    return NULL;
}

static void store_double(ref_call *c, uint32_t i, const double *v) {
    const graph_type *t = ref_out_type(c, i);
    for (int64_t k = 0; k < ref_count(t); k++) {
        const float f = (float)v[k];
        ref_store(t->dtype, t->dtype == VTRN_DTYPE_FP64 ? (const void *)(v + k) : &f,
                  (char *)c->out[i] + k * dtype_size(t->dtype), 1);
    }
}

/* A number of each feature. */
typedef struct norm_features {
    const double *mean, *var, *scale, *offset;
} norm_features;

static void normalise(double *x, const norm_shape *s, const norm_features *of, double epsilon) {
    for (int64_t i = 0; i < s->n; i++) {
        const int64_t f = feature_of(s, i);
        x[i] = (x[i] - of->mean[f]) / sqrt(of->var[f] + epsilon) * of->scale[f] + of->offset[f];
    }
}

vtrn_status ref_batch_norm_training(ref_call *c) {
    norm_shape s = {0};
    double *x, *scale, *offset, *mean, *var;
    VTRN_RETURN_IF_ERROR(shape_of(c, &s));
    VTRN_RETURN_IF_ERROR(load_double(c, 0, &x));
    VTRN_RETURN_IF_ERROR(load_double(c, 1, &scale));
    VTRN_RETURN_IF_ERROR(load_double(c, 2, &offset));
    VTRN_RETURN_IF_ERROR(new_doubles(c, s.n_features, &mean));
    VTRN_RETURN_IF_ERROR(new_doubles(c, s.n_features, &var));
    for (int64_t i = 0; i < s.n; i++)
        mean[feature_of(&s, i)] += x[i] / (double)s.per_feature;
    for (int64_t i = 0; i < s.n; i++) {
        const double d = x[i] - mean[feature_of(&s, i)];
        var[feature_of(&s, i)] += d * d / (double)s.per_feature;
    }
    normalise(x, &s, &(norm_features){mean, var, scale, offset}, c->op->attrs.batch_norm.epsilon);
    store_double(c, 0, x);
    store_double(c, 1, mean);
    store_double(c, 2, var);
    return NULL;
}

vtrn_status ref_batch_norm_inference(ref_call *c) {
    norm_shape s = {0};
    double *x, *scale, *offset, *mean, *var;
    VTRN_RETURN_IF_ERROR(shape_of(c, &s));
    VTRN_RETURN_IF_ERROR(load_double(c, 0, &x));
    VTRN_RETURN_IF_ERROR(load_double(c, 1, &scale));
    VTRN_RETURN_IF_ERROR(load_double(c, 2, &offset));
    VTRN_RETURN_IF_ERROR(load_double(c, 3, &mean));
    VTRN_RETURN_IF_ERROR(load_double(c, 4, &var));
    normalise(x, &s, &(norm_features){mean, var, scale, offset}, c->op->attrs.batch_norm.epsilon);
    store_double(c, 0, x);
    return NULL;
}

/* Operands: x, scale, mean, variance, gradient of the output. Results: gradients of x, scale and
 * offset. */
vtrn_status ref_batch_norm_grad(ref_call *c) {
    norm_shape s = {0};
    double *x = NULL, *scale = NULL, *mean = NULL, *var = NULL, *g = NULL, *g_scale = NULL,
           *g_offset = NULL;
    VTRN_RETURN_IF_ERROR(shape_of(c, &s));
    VTRN_RETURN_IF_ERROR(load_double(c, 0, &x));
    VTRN_RETURN_IF_ERROR(load_double(c, 1, &scale));
    VTRN_RETURN_IF_ERROR(load_double(c, 2, &mean));
    VTRN_RETURN_IF_ERROR(load_double(c, 3, &var));
    VTRN_RETURN_IF_ERROR(load_double(c, 4, &g));
    VTRN_RETURN_IF_ERROR(new_doubles(c, s.n_features, &g_scale));
    VTRN_RETURN_IF_ERROR(new_doubles(c, s.n_features, &g_offset));
    for (int64_t i = 0; i < s.n; i++) {
        const int64_t f = feature_of(&s, i);
        x[i] = (x[i] - mean[f]) / sqrt(var[f] + c->op->attrs.batch_norm.epsilon);
        g_scale[f] += g[i] * x[i];
        g_offset[f] += g[i];
    }
    const double n = (double)s.per_feature;
    for (int64_t i = 0; i < s.n; i++) {
        const int64_t f = feature_of(&s, i);
        const double r = scale[f] / sqrt(var[f] + c->op->attrs.batch_norm.epsilon);
        x[i] = r * (g[i] - g_offset[f] / n - x[i] * g_scale[f] / n);
    }
    store_double(c, 0, x);
    store_double(c, 1, g_scale);
    store_double(c, 2, g_offset);
    return NULL;
}
