/* gather and scatter: windows at computed places. Gather clamps its starts, scatter drops a window
 * that is not wholly inside. */
#include "compiler/reference/ref_internal.h"

static bool contains(graph_ints list, int64_t v, int64_t *out_i) {
    for (int64_t i = 0; i < list.n; i++)
        if (list.v[i] == v) {
            if (out_i)
                *out_i = i;
            return true;
        }
    return false;
}

/* What gather and scatter share: the walk over windows of one operand.
 *   array   gather's result, scatter's updates: window dimensions and batch dimensions interleaved
 */
typedef struct window_walk {
    const graph_type *operand, *array, *indices;
    graph_ints window_dims;          /* of the array */
    graph_ints skipped, op_batching; /* operand dimensions that the window does not have */
    graph_ints index_batching, index_map;
    int64_t index_vector_dim;
    int n_batch, n_window;
    int64_t batch_dims[GRAPH_MAX_RANK], batch_stride[GRAPH_MAX_RANK];   /* array elements */
    int64_t index_stride[GRAPH_MAX_RANK], index_vector_stride;          /* indices elements */
    int64_t window_size[GRAPH_MAX_RANK], window_stride[GRAPH_MAX_RANK]; /* of the array */
    int64_t operand_stride[GRAPH_MAX_RANK]; /* of the operand, by window dimension */
    int64_t extent[GRAPH_MAX_RANK];         /* window size by operand dimension */
    int64_t own_stride[GRAPH_MAX_RANK];     /* operand strides */
} window_walk;

static void walk_prepare(window_walk *w) {
    int64_t array_stride[GRAPH_MAX_RANK], index_stride[GRAPH_MAX_RANK + 1];
    ref_strides(w->array, array_stride);
    ref_strides(w->indices, index_stride);
    ref_strides(w->operand, w->own_stride);
    int b = 0;
    for (int d = 0; d < w->array->rank; d++) {
        if (contains(w->window_dims, d, NULL)) {
            w->window_size[w->n_window] = w->array->dims[d];
            w->window_stride[w->n_window++] = array_stride[d];
            continue;
        }
        w->batch_dims[w->n_batch] = w->array->dims[d];
        w->batch_stride[w->n_batch++] = array_stride[d];
    }
    for (int d = 0; d < w->indices->rank; d++)
        if (d != w->index_vector_dim && b < w->n_batch)
            w->index_stride[b++] = index_stride[d];
    w->index_vector_stride =
        w->index_vector_dim < w->indices->rank ? index_stride[w->index_vector_dim] : 0;
    int k = 0;
    for (int d = 0; d < w->operand->rank; d++) {
        w->extent[d] = 1;
        if (contains(w->skipped, d, NULL) || contains(w->op_batching, d, NULL))
            continue;
        w->extent[d] = w->window_size[k];
        w->operand_stride[k++] = w->own_stride[d];
    }
}

/* Where the window of batch position idx starts in the operand (elements), clamped or checked;
 * false when it is not wholly inside. */
static bool walk_start(const window_walk *w, const void *indices, const int64_t *idx, bool clamps,
                       int64_t *out_offset) {
    int64_t at = 0, offset = 0;
    for (int b = 0; b < w->n_batch; b++)
        at += idx[b] * w->index_stride[b];
    for (int64_t k = 0; k < w->index_map.n; k++) {
        const int64_t d = w->index_map.v[k], last = w->operand->dims[d] - w->extent[d];
        int64_t start = ref_index_at(w->indices->dtype, indices, at + k * w->index_vector_stride);
        if (!clamps && (start < 0 || start > last))
            return false;
        start = start > last ? last : start;
        offset += (start < 0 ? 0 : start) * w->own_stride[d];
    }
    for (int64_t k = 0; k < w->op_batching.n; k++) {
        const int64_t d = w->index_batching.v[k];
        offset += idx[d > w->index_vector_dim ? d - 1 : d] * w->own_stride[w->op_batching.v[k]];
    }
    *out_offset = offset;
    return true;
}

static int64_t walk_array_offset(const window_walk *w, const int64_t *idx) {
    int64_t offset = 0;
    for (int b = 0; b < w->n_batch; b++)
        offset += idx[b] * w->batch_stride[b];
    return offset;
}

static void scale(const int64_t *strides, size_t size, int64_t *out, int n) {
    for (int i = 0; i < n; i++)
        out[i] = strides[i] * (int64_t)size;
}

vtrn_status ref_gather(ref_call *c) {
    const graph_type *t = ref_out_type(c, 0), *f = ref_in_type(c, 0);
    window_walk w = {
        .operand = f,
        .array = t,
        .indices = ref_in_type(c, 1),
        .window_dims = c->op->attrs.gather.offset_dims,
        .skipped = c->op->attrs.gather.collapsed,
        .op_batching = c->op->attrs.gather.operand_batching,
        .index_batching = c->op->attrs.gather.indices_batching,
        .index_map = c->op->attrs.gather.start_index_map,
        .index_vector_dim = c->op->attrs.gather.index_vector_dim,
    };
    if (ref_count(t) == 0)
        return NULL;
    if (ref_count(f) == 0)
        return ref_malformed(c->op, "the operand has elements when the result has");
    walk_prepare(&w);
    const size_t size = dtype_size(t->dtype);
    int64_t ds[GRAPH_MAX_RANK], ss[GRAPH_MAX_RANK], idx[GRAPH_MAX_RANK] = {0};
    scale(w.window_stride, size, ds, w.n_window);
    scale(w.operand_stride, size, ss, w.n_window);
    const ref_box box = {w.window_size, w.n_window, size};
    do {
        int64_t offset;
        walk_start(&w, c->in[1], idx, true, &offset);
        ref_copy((char *)c->out[0] + walk_array_offset(&w, idx) * size, ds,
                 (const char *)c->in[0] + offset * size, ss, box);
    } while (ref_next(idx, w.batch_dims, w.n_batch));
    return NULL;
}

/* Contiguous strides (bytes) for a window copied out into a buffer. */
static void packed_strides(const window_walk *w, size_t size, int64_t *out) {
    int64_t n = (int64_t)size;
    for (int k = w->n_window - 1; k >= 0; k--) {
        out[k] = n;
        n *= w->window_size[k];
    }
}

typedef struct scatter_state {
    ref_reducer reducer;
    uint32_t n;
    bool replaces;
    int64_t n_window; /* elements */
    size_t *size;
    void **acc, **x; /* [n][n_window] */
    int64_t (*packed)[GRAPH_MAX_RANK], (*operand)[GRAPH_MAX_RANK], (*update)[GRAPH_MAX_RANK];
} scatter_state;

static vtrn_status scatter_prepare(ref_call *c, const window_walk *w, scatter_state *s) {
    void *p;
    s->n = c->op->n_results;
    s->replaces = s->n == 1 && c->op->reducer == GRAPH_REDUCER_REPLACE;
    s->n_window = 1;
    for (int k = 0; k < w->n_window; k++)
        s->n_window *= w->window_size[k];
    VTRN_RETURN_IF_ERROR(ref_scratch(c, s->n, sizeof(size_t), &p));
    s->size = p;
    VTRN_RETURN_IF_ERROR(ref_scratch(c, INT64_C(2) * s->n, sizeof(void *), &p));
    s->acc = p;
    s->x = s->acc + s->n;
    VTRN_RETURN_IF_ERROR(ref_scratch(c, INT64_C(3) * s->n, sizeof(int64_t[GRAPH_MAX_RANK]), &p));
    s->packed = p;
    s->operand = s->packed + s->n;
    s->update = s->operand + s->n;
    for (uint32_t i = 0; i < s->n; i++) {
        s->size[i] = dtype_size(ref_in_type(c, i)->dtype);
        VTRN_RETURN_IF_ERROR(ref_scratch(c, s->n_window, s->size[i], &s->acc[i]));
        VTRN_RETURN_IF_ERROR(ref_scratch(c, s->n_window, s->size[i], &s->x[i]));
        packed_strides(w, s->size[i], s->packed[i]);
        scale(w->operand_stride, s->size[i], s->operand[i], w->n_window);
        scale(w->window_stride, s->size[i], s->update[i], w->n_window);
    }
    if (s->replaces)
        return NULL;
    return ref_reducer_open(c, 0, s->n, ref_in_type(c, 0)->dtype, s->n_window, &s->reducer);
}

static vtrn_status scatter_window(ref_call *c, const window_walk *w, scatter_state *s,
                                  int64_t offset, int64_t update_offset) {
    for (uint32_t i = 0; i < s->n; i++) {
        const ref_box box = {w->window_size, w->n_window, s->size[i]};
        char *place = (char *)c->out[i] + offset * s->size[i];
        const char *update = (const char *)c->in[s->n + 1 + i] + update_offset * s->size[i];
        if (s->replaces) {
            ref_copy(place, s->operand[i], update, s->update[i], box);
            return NULL;
        }
        ref_copy(s->acc[i], s->packed[i], place, s->operand[i], box);
        ref_copy(s->x[i], s->packed[i], update, s->update[i], box);
    }
    VTRN_RETURN_IF_ERROR(
        ref_reducer_apply(&s->reducer, s->acc, (const void *const *)s->x, s->n_window));
    for (uint32_t i = 0; i < s->n; i++)
        ref_copy((char *)c->out[i] + offset * s->size[i], s->operand[i], s->acc[i], s->packed[i],
                 (ref_box){w->window_size, w->n_window, s->size[i]});
    return NULL;
}

vtrn_status ref_scatter(ref_call *c) {
    const uint32_t n = c->op->n_results;
    if (c->op->n_operands != 2 * n + 1)
        return ref_malformed(c->op, "n operands, indices, n updates");
    for (uint32_t i = 0; i < n; i++)
        if (ref_count(ref_out_type(c, i)))
            memcpy(c->out[i], c->in[i],
                   (size_t)ref_count(ref_out_type(c, i)) * dtype_size(ref_out_type(c, i)->dtype));
    window_walk w = {
        .operand = ref_in_type(c, 0),
        .array = ref_in_type(c, n + 1),
        .indices = ref_in_type(c, n),
        .window_dims = c->op->attrs.scatter.update_window,
        .skipped = c->op->attrs.scatter.inserted_window,
        .op_batching = c->op->attrs.scatter.input_batching,
        .index_batching = c->op->attrs.scatter.indices_batching,
        .index_map = c->op->attrs.scatter.scatter_dims_to_operand,
        .index_vector_dim = c->op->attrs.scatter.index_vector_dim,
    };
    if (ref_count(w.array) == 0 || ref_count(w.operand) == 0)
        return NULL;
    walk_prepare(&w);
    scatter_state s;
    VTRN_RETURN_IF_ERROR(scatter_prepare(c, &w, &s));
    int64_t idx[GRAPH_MAX_RANK] = {0};
    do {
        int64_t offset;
        if (walk_start(&w, c->in[n], idx, false, &offset))
            VTRN_RETURN_IF_ERROR(scatter_window(c, &w, &s, offset, walk_array_offset(&w, idx)));
    } while (ref_next(idx, w.batch_dims, w.n_batch));
    return NULL;
}
