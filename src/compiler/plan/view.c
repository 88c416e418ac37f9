/* Views of values in HBM: composition and decomposition into boxes. */
#include "compiler/plan/view.h"

#include <math.h>
#include <string.h>

view view_dense(uint32_t slot, const graph_type *type) {
    view v = {.slot = slot, .dtype = type->dtype, .n = type->rank};
    int64_t stride = 1;
    for (int i = type->rank - 1; i >= 0; i--) {
        v.f[i] = (view_factor){type->dims[i], stride};
        stride *= type->dims[i];
    }
    return v;
}

int64_t view_count(const view *v) {
    int64_t count = 1;
    for (int i = 0; i < v->n; i++)
        count *= v->f[i].size;
    return count;
}

static int coalesce_factors(view_factor *f, int n) {
    int m = 0;
    for (int i = 0; i < n; i++) {
        if (f[i].size == 1)
            continue;
        if (m > 0 && f[m - 1].stride == f[i].size * f[i].stride) {
            f[m - 1].size *= f[i].size;
            f[m - 1].stride = f[i].stride;
        } else {
            f[m++] = f[i];
        }
    }
    return m;
}

void view_coalesce(view *v) {
    v->n = coalesce_factors(v->f, v->n);
}

bool view_is_repeated(const view_factor *f, int n) {
    for (int i = 0; i < n; i++)
        if (f[i].size > 1 && f[i].stride)
            return false;
    return true;
}

bool view_is_same(const view *a, const view *b) {
    bool is_same =
        a->slot == b->slot && a->dtype == b->dtype && a->offset == b->offset && a->n == b->n;
    for (int i = 0; is_same && i < a->n; i++)
        is_same = a->f[i].size == b->f[i].size && a->f[i].stride == b->f[i].stride;
    return is_same;
}

bool view_is_dense(const view *v) {
    view c = *v;
    view_coalesce(&c);
    return c.n == 0 || (c.n == 1 && c.f[0].stride == 1);
}

/* Ensures a boundary such that the factors behind it have product `inner`. Returns the boundary's
 * index or -1. */
static int split_inner(view *v, int64_t inner) {
    int64_t product = 1;
    for (int i = v->n; i >= 0; i--) {
        if (product == inner) {
            /* keep factors of size 1 with the outer side as far as possible */
            return i;
        }
        if (i == 0)
            break;
        int64_t size = v->f[i - 1].size;
        if (product * size <= inner && inner % (product * size) == 0) {
            product *= size;
            continue;
        }
        if (inner % product)
            return -1;
        int64_t low = inner / product; /* this factor's inner share */
        if (size % low || v->n == VIEW_MAX_FACTORS)
            return -1;
        memmove(&v->f[i], &v->f[i - 1], (size_t)(v->n - i + 1) * sizeof v->f[0]);
        v->n++;
        v->f[i] = (view_factor){low, v->f[i].stride};
        v->f[i - 1] = (view_factor){size / low, v->f[i].stride * low};
        return i;
    }
    return -1;
}

bool view_split_at(view *v, int64_t inner, int *n_outer) {
    int at = split_inner(v, inner);
    if (at < 0) { /* a boundary of the factors may be none of the memory */
        view_coalesce(v);
        at = split_inner(v, inner);
    }
    *n_outer = at;
    return at >= 0;
}

bool view_split_dims(view *v, const int64_t *dims, int n, int *first) {
    for (int i = 0; i < n; i++)
        if (dims[i] == 0)
            return false;
    view_coalesce(v); /* what a dim can have as one factor is one, and none has size 1 */
    /* Boundaries from the inside out; splitting at one moves those behind it by one, so the indices
     * are collected afterwards. */
    int64_t inner = 1;
    for (int i = n - 1; i > 0; i--) {
        inner *= dims[i];
        if (split_inner(v, inner) < 0)
            return false;
    }
    int at = v->n;
    first[n] = at;
    for (int i = n - 1; i >= 0; i--) {
        int64_t product = 1;
        while (product < dims[i] && at > 0)
            product *= v->f[--at].size;
        if (product != dims[i])
            return false;
        first[i] = at;
    }
    return at == 0;
}

bool view_dim_strides(const view *v, const int64_t *dims, int n, int64_t *strides) {
    view cut = *v;
    int first[VIEW_MAX_FACTORS + 1];
    for (int i = 0; i < n; i++)
        strides[i] = 0;
    if (view_count(v) == 0)
        return true;
    if (n > VIEW_MAX_FACTORS || !view_split_dims(&cut, dims, n, first))
        return false;
    for (int i = 0; i < n; i++) {
        if (first[i + 1] - first[i] > 1)
            return false;
        if (first[i + 1] > first[i])
            strides[i] = cut.f[first[i]].stride;
    }
    return true;
}

bool view_packs(const view *v) {
    const int64_t per = dtype_per_byte((vtrn_dtype)v->dtype);
    bool packs = v->offset % per == 0;
    int n_whole = 0;
    for (int i = 0; i < v->n; i++) {
        bool is_whole = v->f[i].stride == 1 && v->f[i].size % per == 0;
        n_whole += is_whole;
        packs = packs && (is_whole || v->f[i].size == 1 || v->f[i].stride % per == 0);
    }
    return per == 1 || (packs && n_whole == 1);
}

view view_of_bytes(const view *v) {
    const int64_t per = dtype_per_byte((vtrn_dtype)v->dtype);
    view bytes = *v;
    if (per == 1)
        return bytes;
    bytes.dtype = VTRN_DTYPE_UINT8;
    bytes.offset /= per;
    for (int i = 0; i < bytes.n; i++) {
        if (bytes.f[i].stride == 1)
            bytes.f[i].size /= bytes.f[i].size == 1 ? 1 : per;
        else
            bytes.f[i].stride /= per;
    }
    return bytes;
}

bool view_is_view_kind(graph_kind kind) {
    switch (kind) {
    case GRAPH_BROADCAST_IN_DIM:
    case GRAPH_RESHAPE:
    case GRAPH_TRANSPOSE:
    case GRAPH_SLICE:
    case GRAPH_REVERSE:
    case GRAPH_BITCAST_CONVERT:
    case GRAPH_OPTIMIZATION_BARRIER:
        return true;
    default:
        return false;
    }
}

static bool append(view *v, const view_factor *f, int n) {
    if (v->n + n > VIEW_MAX_FACTORS)
        return false;
    memcpy(&v->f[v->n], f, (size_t)n * sizeof *f);
    v->n += n;
    return true;
}

static bool apply_broadcast(const graph_op *op, const graph_type *in, const graph_type *result,
                            view *src, view *out) {
    int first[GRAPH_MAX_RANK + 1] = {0};
    if (!view_split_dims(src, in->dims, in->rank, first))
        return false;
    for (int d = 0; d < result->rank; d++) {
        int from = -1;
        for (int64_t j = 0; j < op->attrs.dims.dims.n; j++)
            if (op->attrs.dims.dims.v[j] == d)
                from = (int)j;
        bool is_copied = from >= 0 && in->dims[from] == result->dims[d];
        view_factor repeated = {result->dims[d], 0};
        if (is_copied ? !append(out, &src->f[first[from]], first[from + 1] - first[from])
                      : !append(out, &repeated, 1))
            return false;
    }
    return true;
}

/* One factor for a dim that is to be sliced or reversed. */
static bool single_factor(view *src, int begin, int end, view_factor *out) {
    view_factor f[VIEW_MAX_FACTORS];
    memcpy(f, &src->f[begin], (size_t)(end - begin) * sizeof *f);
    int n = coalesce_factors(f, end - begin);
    if (n > 1)
        return false;
    *out = n ? f[0] : (view_factor){1, 0};
    return true;
}

/* Elements as others of the same bytes: as many, or several narrower ones for each, side by side,
 * or the reverse. */
static bool apply_bitcast(const graph_type *in, const graph_type *result, const view *src,
                          view *out) {
    const int64_t from = dtype_bits(in->dtype), to = dtype_bits(result->dtype);
    *out = *src;
    out->dtype = result->dtype;
    if (from == to)
        return graph_type_count(in) == graph_type_count(result);
    if (from % 8 || to % 8 || in->dtype == VTRN_DTYPE_PRED || result->dtype == VTRN_DTYPE_PRED)
        return false;
    if (from > to) {
        const view_factor parts = {from / to, 1};
        out->offset *= parts.size;
        for (int i = 0; i < out->n; i++)
            out->f[i].stride *= parts.size;
        return append(out, &parts, 1);
    }
    const int64_t n = to / from;
    view_coalesce(out);
    bool is_whole = out->n > 0 && out->offset % n == 0 && out->f[out->n - 1].stride == 1 &&
                    out->f[out->n - 1].size % n == 0;
    for (int i = 0; is_whole && i < out->n; i++) {
        is_whole = i + 1 == out->n || out->f[i].stride % n == 0;
        out->f[i].stride /= i + 1 == out->n ? 1 : n;
    }
    if (is_whole)
        out->f[out->n - 1].size /= n;
    out->offset /= n;
    return is_whole;
}

bool view_apply(const graph *g, const graph_op *op, const view *operand, view *out) {
    const graph_type *in = &g->types[op->operands[0]], *result = &g->types[op->results[0]];
    view src = *operand;
    if (graph_type_count(in) == 0 || graph_type_count(result) == 0)
        return false;
    *out = (view){.slot = src.slot, .dtype = src.dtype, .offset = src.offset};
    int first[GRAPH_MAX_RANK + 1];
    switch ((graph_kind)op->kind) {
    case GRAPH_OPTIMIZATION_BARRIER:
        *out = src;
        return op->n_operands == 1;
    case GRAPH_REDUCE: /* over dims of size 1 */
    case GRAPH_RESHAPE:
        *out = src;
        return graph_type_count(in) == graph_type_count(result);
    case GRAPH_BITCAST_CONVERT:
        return apply_bitcast(in, result, &src, out);
    case GRAPH_UNPACK: /* of bytes: codes of another type */
    case GRAPH_PACK:
        *out = src;
        out->dtype = result->dtype;
        return op->attrs.dims.dims.v[0] == 8;
    case GRAPH_BROADCAST_IN_DIM:
        return apply_broadcast(op, in, result, &src, out);
    case GRAPH_TRANSPOSE:
        if (!view_split_dims(&src, in->dims, in->rank, first))
            return false;
        for (int d = 0; d < in->rank; d++) {
            int64_t from = op->attrs.dims.dims.v[d];
            if (!append(out, &src.f[first[from]], first[from + 1] - first[from]))
                return false;
        }
        return true;
    case GRAPH_SLICE:
    case GRAPH_REVERSE:
        if (!view_split_dims(&src, in->dims, in->rank, first))
            return false;
        for (int d = 0; d < in->rank; d++) {
            int64_t start = 0, step = 1;
            bool is_touched;
            if (op->kind == GRAPH_SLICE) {
                start = op->attrs.slice.start.v[d];
                step = op->attrs.slice.stride.v[d];
                is_touched = result->dims[d] != in->dims[d];
            } else {
                is_touched = false;
                for (int64_t j = 0; j < op->attrs.dims.dims.n; j++)
                    is_touched |= op->attrs.dims.dims.v[j] == d;
                start = is_touched ? in->dims[d] - 1 : 0;
                step = -1;
            }
            if (!is_touched) {
                if (!append(out, &src.f[first[d]], first[d + 1] - first[d]))
                    return false;
                continue;
            }
            view_factor f;
            if (!single_factor(&src, first[d], first[d + 1], &f))
                return false;
            out->offset += start * f.stride;
            f = (view_factor){result->dims[d], f.stride * step};
            if (!append(out, &f, 1))
                return false;
        }
        return true;
    default:
        return false;
    }
}

typedef struct box_walk {
    vtrn_status (*fn)(void *ctx, const view_box *box);
    void *ctx;
    int64_t begin;
    const view_factor *f; /* [n] */
    int n;
} box_walk;

/* Elements [begin, end) of what factors from f[first] on span; they start at element `base` of the
 * whole view, with `offset`. */
static vtrn_status walk(const box_walk *w, int first, int64_t begin, int64_t end, int64_t base,
                        int64_t offset) {
    if (begin >= end)
        return NULL;
    const view_factor *f = w->f + first;
    const int n = w->n - first;
    int64_t inner = 1;
    for (int i = 1; i < n; i++)
        inner *= f[i].size;
    if (n == 0) {
        view_box box = {.start = base - w->begin, .offset = offset};
        return w->fn(w->ctx, &box);
    }
    int64_t i0 = begin / inner, i1 = (end - 1) / inner;
    if (i0 == i1 && !(begin % inner == 0 && end % inner == 0))
        return walk(w, first + 1, begin - i0 * inner, end - i0 * inner, base + i0 * inner,
                    offset + i0 * f[0].stride);
    if (begin % inner) {
        VTRN_RETURN_IF_ERROR(walk(w, first + 1, begin - i0 * inner, inner, base + i0 * inner,
                                  offset + i0 * f[0].stride));
        i0++;
    }
    int64_t whole_end = end / inner; /* outer indices [i0, whole_end) are complete */
    if (whole_end > i0) {
        view_box box = {.start = base + i0 * inner - w->begin, .offset = offset + i0 * f[0].stride};
        box.n = n;
        memcpy(box.f, f, (size_t)n * sizeof *f);
        box.f[0].size = whole_end - i0;
        box.n = coalesce_factors(box.f, box.n);
        VTRN_RETURN_IF_ERROR(w->fn(w->ctx, &box));
    }
    if (end % inner)
        VTRN_RETURN_IF_ERROR(walk(w, first + 1, 0, end % inner, base + whole_end * inner,
                                  offset + whole_end * f[0].stride));
    return NULL;
}

vtrn_status view_for_boxes(const view_factor *f, int n, int64_t begin, int64_t end,
                           vtrn_status (*fn)(void *ctx, const view_box *box), void *ctx) {
    view_factor c[VIEW_MAX_FACTORS];
    memcpy(c, f, (size_t)n * sizeof *f);
    n = coalesce_factors(c, n);
    box_walk w = {fn, ctx, begin, c, n};
    return walk(&w, 0, begin, end, 0, 0);
}

double view_mean_boxes(const view_factor *f, int n, int64_t span) {
    double n_boxes = 1;
    int64_t run = 1; /* indices after which the factors from i on begin anew */
    int first = 0;
    while (first < n && f[first].size == 1)
        first++;
    for (int i = n - 1; i > first; i--) {
        run *= f[i].size;
        if (span % run == 0 || run % span == 0)
            continue;
        /* A short run is cut at both ends of the span unless these happen to fit, a long one now
         * and then. */
        double n_cuts = fmin(2, (double)span / (double)run);
        n_boxes += n_cuts * (1 - 1 / (double)f[i].size);
    }
    return n_boxes;
}

int view_refine(const view *src, const view *dst, joint_factor *out) {
    view a = *src, b = *dst;
    view_coalesce(&a);
    view_coalesce(&b);
    int n = 0, i = a.n, j = b.n;
    joint_factor reversed[2 * VIEW_MAX_FACTORS];
    while (i > 0 && j > 0) {
        view_factor *x = &a.f[i - 1], *y = &b.f[j - 1];
        int64_t size = x->size < y->size ? x->size : y->size;
        if (x->size % size || y->size % size || n == 2 * VIEW_MAX_FACTORS)
            return -1;
        reversed[n++] = (joint_factor){size, x->stride, y->stride};
        x->size /= size;
        x->stride *= size;
        y->size /= size;
        y->stride *= size;
        i -= x->size == 1;
        j -= y->size == 1;
    }
    for (int k = 0; k < n; k++)
        out[k] = reversed[n - 1 - k];
    return n;
}

int64_t view_run(const view_factor *f, int n) {
    int64_t run = 1;
    for (int i = n - 1; i >= 0; i--) {
        if (f[i].size == 1)
            continue;
        if (f[i].stride != run)
            break;
        run *= f[i].size;
    }
    return run;
}
