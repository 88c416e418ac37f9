/* reduce_window and select_and_scatter: reductions over sliding windows. */
#include "compiler/reference/ref_internal.h"

typedef struct window_plan {
    int rank;
    const int64_t *in, *out; /* dims of the operand, and of window positions */
    int64_t size[GRAPH_MAX_RANK], stride[GRAPH_MAX_RANK], base_dilation[GRAPH_MAX_RANK],
        dilation[GRAPH_MAX_RANK], low[GRAPH_MAX_RANK], in_stride[GRAPH_MAX_RANK];
} window_plan;

static int64_t at_or(graph_ints list, int64_t i, int64_t otherwise) {
    return i < list.n ? list.v[i] : otherwise;
}

static void fill_plan(ref_call *c, const graph_type *operand, const graph_type *positions,
                      window_plan *p) {
    p->rank = operand->rank;
    p->in = operand->dims;
    p->out = positions->dims;
    ref_strides(operand, p->in_stride);
    for (int d = 0; d < p->rank; d++) {
        p->size[d] = at_or(c->op->attrs.window.window, d, 1);
        p->stride[d] = at_or(c->op->attrs.window.stride, d, 1);
        p->base_dilation[d] = at_or(c->op->attrs.window.base_dilation, d, 1);
        p->dilation[d] = at_or(c->op->attrs.window.window_dilation, d, 1);
        p->low[d] = at_or(c->op->attrs.window.pad_low, d, 0);
    }
}

/* Operand element under window element w at position o; -1 in the padding or between dilated
 * elements. */
static int64_t element_under(const window_plan *p, const int64_t *o, const int64_t *w) {
    int64_t flat = 0;
    for (int d = 0; d < p->rank; d++) {
        const int64_t at = o[d] * p->stride[d] + w[d] * p->dilation[d] - p->low[d];
        if (at < 0 || at % p->base_dilation[d] || at / p->base_dilation[d] >= p->in[d])
            return -1;
        flat += at / p->base_dilation[d] * p->in_stride[d];
    }
    return flat;
}

typedef struct lanes {
    uint32_t n;
    void **acc, **x, **in, **init;
    vtrn_dtype dtype[64];
} lanes;

/* A recognised reduction of narrow floats runs in fp32; everything else in its own type. */
static vtrn_status lanes_open(ref_call *c, lanes *l, bool is_recognised) {
    void *p;
    l->n = c->op->n_results;
    if (l->n > 64)
        return ref_unimplemented(c->op, "more than 64 reductions at once");
    VTRN_RETURN_IF_ERROR(ref_scratch(c, INT64_C(4) * l->n, sizeof(void *), &p));
    l->acc = p;
    l->x = l->acc + l->n;
    l->in = l->x + l->n;
    l->init = l->in + l->n;
    for (uint32_t i = 0; i < l->n; i++) {
        const vtrn_dtype t = ref_in_type(c, i)->dtype;
        const bool widens = is_recognised && ref_class_of(t) == REF_F32;
        l->dtype[i] = widens ? VTRN_DTYPE_FP32 : t;
        VTRN_RETURN_IF_ERROR(ref_scratch(c, REF_BLOCK, dtype_size(l->dtype[i]), &l->acc[i]));
        VTRN_RETURN_IF_ERROR(ref_scratch(c, REF_BLOCK, dtype_size(l->dtype[i]), &l->x[i]));
        l->in[i] = (void *)c->in[i];
        l->init[i] = (void *)c->in[l->n + i];
        if (!widens)
            continue;
        VTRN_RETURN_IF_ERROR(ref_load_all(c, i, REF_F32, &l->in[i]));
        VTRN_RETURN_IF_ERROR(ref_load_all(c, l->n + i, REF_F32, &l->init[i]));
    }
    return NULL;
}

/* x[lane] = operand element under window element w at position[lane], or the initial value. */
static void gather_lanes(const window_plan *p, lanes *l, int64_t (*position)[GRAPH_MAX_RANK],
                         const int64_t *w, int64_t n) {
    for (int64_t k = 0; k < n; k++) {
        const int64_t at = element_under(p, position[k], w);
        for (uint32_t i = 0; i < l->n; i++) {
            const size_t size = dtype_size(l->dtype[i]);
            memcpy((char *)l->x[i] + k * size,
                   at < 0 ? (char *)l->init[i] : (char *)l->in[i] + at * size, size);
        }
    }
}

static void store_lanes(ref_call *c, const lanes *l, int64_t first, int64_t n) {
    for (uint32_t i = 0; i < l->n; i++) {
        const vtrn_dtype t = ref_out_type(c, i)->dtype;
        char *dst = (char *)c->out[i] + first * dtype_size(t);
        if (l->dtype[i] != t)
            ref_store(t, l->acc[i], dst, n);
        else
            memcpy(dst, l->acc[i], (size_t)n * dtype_size(t));
    }
}

/* The dim along which the windows are all prefixes (everything up to the position) or all suffixes
 * of the operand, as a cumulative reduction is written; -1 when they are not. */
static int cumulative_dim(const window_plan *p, bool *is_suffix) {
    int found = -1;
    for (int d = 0; d < p->rank; d++) {
        if (p->stride[d] != 1 || p->base_dilation[d] != 1 || p->in[d] != p->out[d])
            return -1;
        if (p->size[d] == 1 && p->low[d] == 0)
            continue;
        if (found >= 0 || p->dilation[d] != 1 || p->size[d] < p->in[d])
            return -1;
        if (p->low[d] != 0 && p->low[d] != p->size[d] - 1)
            return -1;
        *is_suffix = p->low[d] == 0;
        found = d;
    }
    return found;
}

/* Whether padding changes nothing: f(initial values, initial values) gives the initial values. */
static vtrn_status init_is_neutral(ref_reducer *r, const lanes *l, bool *out) {
    *out = true;
    VTRN_CHECK(l->acc, "lanes were opened");
    for (uint32_t i = 0; i < l->n; i++)
        memcpy(l->acc[i], l->init[i], dtype_size(l->dtype[i]));
    VTRN_RETURN_IF_ERROR(ref_reducer_apply(r, l->acc, (const void *const *)l->init, 1));
    for (uint32_t i = 0; i < l->n; i++)
        *out = *out && memcmp(l->acc[i], l->init[i], dtype_size(l->dtype[i])) == 0;
    return NULL;
}

/* Copies n elements of size bytes between neighbouring lanes and places pitch elements apart. */
static void copy_lane(char *lane, char *place, int64_t pitch, int64_t n, size_t size,
                      bool to_lane) {
    for (int64_t k = 0; k < n; k++, lane += size, place += pitch * (int64_t)size)
        memcpy(to_lane ? lane : place, to_lane ? place : lane, size);
}

/* Cumulative reductions side by side: n of them, pitch elements apart. */
typedef struct lines {
    int64_t n, pitch;
    bool is_suffix;
    void **sum; /* results in the lanes' types */
} lines;

/* One step of them, whose first element is number `at`. */
static vtrn_status step_along(lanes *l, ref_reducer *r, const lines *of, int64_t at) {
    for (uint32_t i = 0; i < l->n; i++) {
        const size_t size = dtype_size(l->dtype[i]);
        copy_lane(l->x[i], (char *)l->in[i] + at * (int64_t)size, of->pitch, of->n, size, true);
        void *x = l->x[i];
        if (of->is_suffix) { /* it grows at its front: the new element is the left argument */
            l->x[i] = l->acc[i];
            l->acc[i] = x;
        }
    }
    VTRN_RETURN_IF_ERROR(ref_reducer_apply(r, l->acc, (const void *const *)l->x, of->n));
    for (uint32_t i = 0; i < l->n; i++) {
        const size_t size = dtype_size(l->dtype[i]);
        copy_lane(l->acc[i], (char *)of->sum[i] + at * (int64_t)size, of->pitch, of->n, size,
                  false);
    }
    return NULL;
}

/* A cumulative reduction needs one application an element, not one for each element of its window:
 * the accumulator goes along the dim. Up to REF_BLOCK lines of the operand go side by side. */
static vtrn_status reduce_along(ref_call *c, const window_plan *p, lanes *l, ref_reducer *r,
                                int dim, bool is_suffix) {
    const int64_t steps = p->in[dim], inner = p->in_stride[dim],
                  total = ref_count(ref_out_type(c, 0));
    const int64_t outer = steps ? total / steps / inner : 0;
    /* Lines are neighbours within an outer index, or steps * inner elements apart when inner is 1.
     */
    const int64_t n_lines = inner > 1 ? inner : outer, pitch = inner > 1 ? 1 : steps;
    const int64_t n_groups = inner > 1 ? outer : 1;
    void *sums;
    VTRN_RETURN_IF_ERROR(ref_scratch(c, l->n, sizeof(void *), &sums));
    void **sum = sums;
    for (uint32_t i = 0; i < l->n; i++)
        VTRN_RETURN_IF_ERROR(ref_scratch(c, total, dtype_size(l->dtype[i]), &sum[i]));
    for (int64_t group = 0; group < n_groups; group++) {
        for (int64_t first = 0; first < n_lines; first += REF_BLOCK) {
            const int64_t n = n_lines - first < REF_BLOCK ? n_lines - first : REF_BLOCK;
            const lines of = {n, pitch, is_suffix, sum};
            const int64_t line = group * steps * inner + first * pitch;
            for (uint32_t i = 0; i < l->n; i++)
                ref_fill(l->acc[i], l->init[i], n, dtype_size(l->dtype[i]));
            for (int64_t step = 0; step < steps; step++) {
                const int64_t at = line + (is_suffix ? steps - 1 - step : step) * inner;
                VTRN_RETURN_IF_ERROR(step_along(l, r, &of, at));
            }
        }
    }
    for (uint32_t i = 0; i < l->n; i++) {
        const vtrn_dtype t = ref_out_type(c, i)->dtype;
        if (l->dtype[i] != t)
            ref_store(t, sum[i], c->out[i], total);
        else if (total)
            memcpy(c->out[i], sum[i], (size_t)total * dtype_size(t));
    }
    return NULL;
}

vtrn_status ref_reduce_window(ref_call *c) {
    const graph_type *t = ref_out_type(c, 0);
    window_plan p = {0};
    lanes l = {0};
    ref_reducer r;
    if (c->op->n_results == 0 || c->op->n_operands != 2 * c->op->n_results)
        return ref_malformed(c->op, "n operands, then n initial values");
    const bool is_recognised =
        c->op->n_results == 1 && ref_reducer_kind(c->op->reducer) != GRAPH_UNKNOWN;
    fill_plan(c, ref_in_type(c, 0), t, &p);
    VTRN_RETURN_IF_ERROR(lanes_open(c, &l, is_recognised));
    VTRN_RETURN_IF_ERROR(ref_reducer_open(c, 0, l.n, l.dtype[0], REF_BLOCK, &r));
    int64_t position[REF_BLOCK][GRAPH_MAX_RANK], o[GRAPH_MAX_RANK] = {0};
    const int64_t total = ref_count(t);
    bool window_is_empty = false, is_suffix = false, is_neutral = false;
    const int along = cumulative_dim(&p, &is_suffix);
    if (along >= 0 && total)
        VTRN_RETURN_IF_ERROR(init_is_neutral(&r, &l, &is_neutral));
    if (is_neutral)
        return reduce_along(c, &p, &l, &r, along, is_suffix);
    for (int d = 0; d < p.rank; d++)
        window_is_empty = window_is_empty || p.size[d] <= 0;
    for (int64_t first = 0; first < total; first += REF_BLOCK) {
        const int64_t n = total - first < REF_BLOCK ? total - first : REF_BLOCK;
        for (int64_t k = 0; k < n; k++, ref_next(o, p.out, p.rank))
            memcpy(position[k], o, sizeof(o));
        for (uint32_t i = 0; i < l.n; i++) {
            VTRN_CHECK(l.acc, "lanes were opened");
            ref_fill(l.acc[i], l.init[i], n, dtype_size(l.dtype[i]));
        }
        int64_t w[GRAPH_MAX_RANK] = {0};
        if (!window_is_empty)
            do {
                gather_lanes(&p, &l, position, w, n);
                VTRN_RETURN_IF_ERROR(ref_reducer_apply(&r, l.acc, (const void *const *)l.x, n));
            } while (ref_next(w, p.size, p.rank));
        store_lanes(c, &l, first, n);
    }
    return NULL;
}

/* Whether the select region keeps the chosen element a over the candidate b. */
static vtrn_status keeps(ref_region *r, vtrn_dtype t, graph_direction direction, const char *a,
                         const char *b, bool *out) {
    if (r) {
        const void *args[2] = {a, b};
        uint8_t keep;
        void *results[1] = {&keep};
        VTRN_RETURN_IF_ERROR(ref_region_eval(r, args, results, 1));
        *out = keep != 0;
        return NULL;
    }
    const float x = *(const float *)a, y = *(const float *)b;
    (void)t;
    *out = direction == GRAPH_GE   ? x >= y
           : direction == GRAPH_GT ? x > y
           : direction == GRAPH_LE ? x <= y
                                   : x < y;
    return NULL;
}

/* The element of the window at o that the select region chooses; -1 when all is padding. */
static vtrn_status choose(const window_plan *p, ref_call *c, ref_region *select, const int64_t *o,
                          int64_t *out) {
    const vtrn_dtype t = ref_in_type(c, 0)->dtype;
    const size_t size = dtype_size(t);
    int64_t w[GRAPH_MAX_RANK] = {0};
    *out = -1;
    do {
        const int64_t at = element_under(p, o, w);
        if (at < 0)
            continue;
        bool is_kept = false;
        if (*out >= 0)
            VTRN_RETURN_IF_ERROR(keeps(select, t, c->op->select,
                                       (const char *)c->in[0] + *out * size,
                                       (const char *)c->in[0] + at * size, &is_kept));
        if (!is_kept)
            *out = at;
    } while (ref_next(w, p->size, p->rank));
    return NULL;
}

vtrn_status ref_select_and_scatter(ref_call *c) {
    const graph_type *t = ref_in_type(c, 0), *source = ref_in_type(c, 1);
    if (c->op->n_operands != 3 || c->op->n_results != 1)
        return ref_malformed(c->op, "operand, source and initial value");
    window_plan p = {0};
    fill_plan(c, t, source, &p);
    const bool widens =
        ref_reducer_kind(c->op->reducer) != GRAPH_UNKNOWN && ref_class_of(t->dtype) == REF_F32;
    const vtrn_dtype sum_type = widens ? VTRN_DTYPE_FP32 : t->dtype;
    const size_t size = dtype_size(sum_type);
    ref_region *select = NULL;
    ref_reducer r;
    void *acc, *src = (void *)c->in[1], *init = (void *)c->in[2];
    if (c->op->select < GRAPH_GE || t->dtype != VTRN_DTYPE_FP32)
        VTRN_RETURN_IF_ERROR(ref_region_open(c, 0, 1, &select));
    VTRN_RETURN_IF_ERROR(ref_reducer_open(c, 1, 1, sum_type, 1, &r));
    if (widens) {
        VTRN_RETURN_IF_ERROR(ref_load_all(c, 1, REF_F32, &src));
        VTRN_RETURN_IF_ERROR(ref_load_all(c, 2, REF_F32, &init));
    }
    VTRN_RETURN_IF_ERROR(ref_scratch(c, ref_count(t), size, &acc));
    ref_fill(acc, init, ref_count(t), size);
    int64_t o[GRAPH_MAX_RANK] = {0}, i = 0;
    if (ref_count(source) && ref_count(t))
        do {
            int64_t at;
            VTRN_RETURN_IF_ERROR(choose(&p, c, select, o, &at));
            const void *x = (char *)src + i++ * size;
            void *place = (char *)acc + at * size;
            if (at >= 0)
                VTRN_RETURN_IF_ERROR(ref_reducer_apply(&r, &place, &x, 1));
        } while (ref_next(o, p.out, p.rank));
    if (widens)
        ref_store(t->dtype, acc, c->out[0], ref_count(t));
    else if (ref_count(t))
        memcpy(c->out[0], acc, (size_t)ref_count(t) * size);
    return NULL;
}
