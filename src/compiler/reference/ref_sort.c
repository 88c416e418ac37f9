/* sort: a stable merge sort in which each level ranks all its elements at once, so that the
 * comparator region is evaluated for whole blocks of lanes. */
#include "compiler/reference/ref_internal.h"

typedef struct sorter {
    ref_call *c;
    ref_region *region;
    uint32_t n;     /* arrays sorted together */
    int64_t n_elem; /* along the sorted dimension */
    char **row;     /* [n][n_elem]: the elements of one row, in their first order */
    void **a, **b;  /* [n][REF_BLOCK] lanes */
    size_t *size;
} sorter;

/* out[lane] = less(row[left[lane]], row[right[lane]]) */
static vtrn_status less_lanes(sorter *s, const int64_t *left, const int64_t *right, uint8_t *out,
                              int64_t n) {
    const void *args[128];
    for (uint32_t i = 0; i < s->n; i++) {
        for (int64_t k = 0; k < n; k++) {
            memcpy((char *)s->a[i] + k * s->size[i], s->row[i] + left[k] * s->size[i], s->size[i]);
            memcpy((char *)s->b[i] + k * s->size[i], s->row[i] + right[k] * s->size[i], s->size[i]);
        }
        args[2 * i] = s->a[i];
        args[2 * i + 1] = s->b[i];
    }
    void *results[1] = {out};
    return ref_region_eval(s->region, args, results, n);
}

/* The elements [first, first + n) of one merge level: each finds its rank in the other run by a
 * binary search, all lanes in step. order: runs of `run` elements, each sorted. */
static vtrn_status rank_block(sorter *s, const int64_t *order, int64_t run, int64_t first,
                              int64_t n, int64_t *merged) {
    int64_t lo[REF_BLOCK], hi[REF_BLOCK], left[REF_BLOCK], right[REF_BLOCK], mid[REF_BLOCK],
        lane[REF_BLOCK];
    uint8_t less[REF_BLOCK];
    for (int64_t k = 0; k < n; k++) {
        const int64_t pair = (first + k) / (2 * run) * (2 * run);
        const bool is_left = first + k - pair < run;
        lo[k] = is_left ? pair + run : pair;
        hi[k] = lo[k] + run;
        lo[k] = lo[k] < s->n_elem ? lo[k] : s->n_elem;
        hi[k] = hi[k] < s->n_elem ? hi[k] : s->n_elem;
    }
    for (;;) {
        int64_t m = 0;
        for (int64_t k = 0; k < n; k++) {
            if (lo[k] >= hi[k])
                continue;
            const bool is_left = (first + k) % (2 * run) < run;
            mid[m] = (lo[k] + hi[k]) / 2;
            /* A left element goes before its equals on the right, and only there. */
            left[m] = is_left ? order[mid[m]] : order[first + k];
            right[m] = is_left ? order[first + k] : order[mid[m]];
            lane[m++] = k;
        }
        if (m == 0)
            break;
        VTRN_RETURN_IF_ERROR(less_lanes(s, left, right, less, m));
        for (int64_t j = 0; j < m; j++) {
            const int64_t k = lane[j];
            const bool is_left = (first + k) % (2 * run) < run;
            if (is_left ? less[j] : !less[j])
                lo[k] = mid[j] + 1;
            else
                hi[k] = mid[j];
        }
    }
    for (int64_t k = 0; k < n; k++) {
        const int64_t pair = (first + k) / (2 * run) * (2 * run);
        const bool is_left = first + k - pair < run;
        const int64_t own = is_left ? first + k - pair : first + k - pair - run;
        const int64_t other =
            is_left ? lo[k] - (pair + run < s->n_elem ? pair + run : s->n_elem) : lo[k] - pair;
        merged[pair + own + other] = order[first + k];
    }
    return NULL;
}

static vtrn_status sort_row(sorter *s, int64_t *order, int64_t *other, int64_t **out) {
    for (int64_t i = 0; i < s->n_elem; i++)
        order[i] = i;
    for (int64_t run = 1; run < s->n_elem; run *= 2) {
        memcpy(other, order, (size_t)s->n_elem * sizeof(*other));
        for (int64_t i = 0; i < s->n_elem; i += REF_BLOCK)
            VTRN_RETURN_IF_ERROR(rank_block(
                s, order, run, i, s->n_elem - i < REF_BLOCK ? s->n_elem - i : REF_BLOCK, other));
        int64_t *swap = order;
        order = other;
        other = swap;
    }
    *out = order;
    return NULL;
}

static vtrn_status sorter_open(ref_call *c, sorter *s, int64_t n_elem) {
    void *p;
    *s = (sorter){.c = c, .n = c->op->n_results, .n_elem = n_elem};
    VTRN_RETURN_IF_ERROR(ref_region_open(c, 0, REF_BLOCK, &s->region));
    VTRN_RETURN_IF_ERROR(ref_scratch(c, INT64_C(3) * s->n, sizeof(void *), &p));
    s->row = p;
    s->a = (void **)p + s->n;
    s->b = s->a + s->n;
    VTRN_RETURN_IF_ERROR(ref_scratch(c, s->n, sizeof(size_t), &p));
    s->size = p;
    for (uint32_t i = 0; i < s->n; i++) {
        s->size[i] = dtype_size(ref_in_type(c, i)->dtype);
        VTRN_RETURN_IF_ERROR(ref_scratch(c, n_elem, s->size[i], &p));
        s->row[i] = p;
        VTRN_RETURN_IF_ERROR(ref_scratch(c, REF_BLOCK, s->size[i], &s->a[i]));
        VTRN_RETURN_IF_ERROR(ref_scratch(c, REF_BLOCK, s->size[i], &s->b[i]));
    }
    return NULL;
}

vtrn_status ref_sort(ref_call *c) {
    const graph_type *t = ref_in_type(c, 0);
    int64_t dim = c->op->attrs.sort.dimension, strides[GRAPH_MAX_RANK];
    dim += dim < 0 ? t->rank : 0;
    if (c->op->n_operands != c->op->n_results || c->op->n_results > 64)
        return ref_unimplemented(c->op,
                                 "more than 64 arrays, or results that differ from operands");
    if (t->rank == 0)
        return ref_identity(c);
    if (ref_count(t) == 0)
        return NULL;
    ref_strides(t, strides);
    const int64_t n = t->dims[dim], step = strides[dim], n_rows = ref_count(t) / n;
    sorter s;
    void *order, *other;
    VTRN_RETURN_IF_ERROR(sorter_open(c, &s, n));
    VTRN_RETURN_IF_ERROR(ref_scratch(c, n, 8, &order));
    VTRN_RETURN_IF_ERROR(ref_scratch(c, n, 8, &other));
    for (int64_t r = 0; r < n_rows; r++) {
        const int64_t base = r / step * step * n + r % step;
        for (uint32_t i = 0; i < s.n; i++)
            for (int64_t k = 0; k < n; k++)
                memcpy(s.row[i] + k * s.size[i],
                       (const char *)c->in[i] + (base + k * step) * s.size[i], s.size[i]);
        int64_t *sorted;
        VTRN_RETURN_IF_ERROR(sort_row(&s, order, other, &sorted));
        for (uint32_t i = 0; i < s.n; i++)
            for (int64_t k = 0; k < n; k++)
                memcpy((char *)c->out[i] + (base + k * step) * s.size[i],
                       s.row[i] + sorted[k] * s.size[i], s.size[i]);
    }
    return NULL;
}
