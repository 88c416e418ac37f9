/* reduce and map. A recognised reducer of narrow floats accumulates wide and rounds once. */
#include "compiler/reference/ref_internal.h"

/* The type in which a sum or product is accumulated: of fp32 and narrower floats it is fp64. */
static vtrn_dtype accumulator_type(vtrn_dtype t) {
    return ref_class_of(t) == REF_F32 ? VTRN_DTYPE_FP64 : t;
}

/* Folds n elements of x into *acc by halves; x is overwritten. */
static void fold_row(graph_kind kind, vtrn_dtype t, void *x, void *acc, int64_t n) {
    const size_t size = ref_class_size(ref_class_of(t));
    for (int64_t half = n / 2; n > 1; n -= half, half = n / 2)
        ref_binary(kind, t, x, (char *)x + (n - half) * size, x, half);
    if (n == 1)
        ref_binary(kind, t, acc, x, acc, 1);
}

static void fold_sum(vtrn_dtype t, void *x, void *acc, int64_t n) {
    const ref_class cls = ref_class_of(t);
    if (cls == REF_F64) {
        double s = *(double *)acc;
        for (int64_t i = 0; i < n; i++)
            s += ((const double *)x)[i];
        *(double *)acc = s;
    } else if (t == VTRN_DTYPE_PRED) {
        fold_row(GRAPH_OR, t, x, acc, n);
    } else if (cls == REF_C128) {
        fold_row(GRAPH_ADD, t, x, acc, n);
    } else {
        uint64_t s = *(uint64_t *)acc;
        for (int64_t i = 0; i < n; i++)
            s += ((const uint64_t *)x)[i];
        *(uint64_t *)acc = s;
    }
}

static void load_wide(vtrn_dtype t, const void *src, void *dst, int64_t n) {
    if (ref_class_of(t) != REF_F32) {
        ref_load(t, src, dst, n);
        return;
    }
    float block[REF_BLOCK];
    ref_load(t, src, block, n);
    for (int64_t i = 0; i < n; i++)
        ((double *)dst)[i] = block[i];
}

static void store_wide(vtrn_dtype t, const void *src, void *dst, int64_t n) {
    if (ref_class_of(t) != REF_F32) {
        ref_store(t, src, dst, n);
        return;
    }
    float block[REF_BLOCK];
    for (int64_t i = 0; i < n; i++)
        block[i] = (float)((const double *)src)[i];
    ref_store(t, block, dst, n);
}

/* Output strides in elements by operand dimension, 0 where reduced. */
static void output_strides(ref_call *c, int64_t *strides) {
    const graph_type *f = ref_in_type(c, 0);
    const graph_ints dims = c->op->attrs.dims.dims;
    bool is_reduced[GRAPH_MAX_RANK] = {false};
    for (int64_t i = 0; i < dims.n; i++)
        is_reduced[dims.v[i]] = true;
    int64_t n = 1;
    for (int d = f->rank - 1; d >= 0; d--) {
        strides[d] = is_reduced[d] ? 0 : n;
        n *= is_reduced[d] ? 1 : f->dims[d];
    }
}

static vtrn_status reduce_recognised(ref_call *c, graph_kind kind) {
    const graph_type *f = ref_in_type(c, 0), *t = ref_out_type(c, 0);
    const vtrn_dtype wide = accumulator_type(f->dtype);
    const size_t size = ref_class_size(ref_class_of(wide)), in_size = dtype_size(f->dtype);
    const int64_t n_out = ref_count(t);
    void *acc;
    double complex init, block[REF_BLOCK];
    VTRN_RETURN_IF_ERROR(ref_scratch(c, n_out, size, &acc));
    load_wide(f->dtype, c->in[1], &init, 1);
    if (!ref_binary(kind, wide, &init, &init, block, 1))
        return ref_unimplemented(c->op, dtype_name(f->dtype));
    ref_fill(acc, &init, n_out, size);
    if (ref_count(f)) {
        int64_t strides[GRAPH_MAX_RANK] = {0}, idx[GRAPH_MAX_RANK] = {0};
        output_strides(c, strides);
        const int64_t n_row = f->rank ? f->dims[f->rank - 1] : 1;
        const bool is_row_reduced = f->rank == 0 || strides[f->rank - 1] == 0;
        const char *src = c->in[0];
        do {
            int64_t at = 0;
            for (int d = 0; d < f->rank - 1; d++)
                at += idx[d] * strides[d];
            for (int64_t i = 0; i < n_row; i += REF_BLOCK) {
                const int64_t m = n_row - i < REF_BLOCK ? n_row - i : REF_BLOCK;
                char *a = (char *)acc + (at + (is_row_reduced ? 0 : i)) * size;
                load_wide(f->dtype, src, block, m);
                src += m * in_size;
                if (!is_row_reduced)
                    ref_binary(kind, wide, a, block, a, m);
                else if (kind == GRAPH_ADD)
                    fold_sum(wide, block, a, m);
                else
                    fold_row(kind, wide, block, a, m);
            }
        } while (ref_next(idx, f->dims, f->rank - 1));
    }
    for (int64_t i = 0; i < n_out; i += REF_BLOCK)
        store_wide(t->dtype, (char *)acc + i * size, (char *)c->out[0] + i * dtype_size(t->dtype),
                   n_out - i < REF_BLOCK ? n_out - i : REF_BLOCK);
    return NULL;
}

/* Element offsets: of output positions in the operand, and of reduced positions from there. */
static vtrn_status reduce_offsets(ref_call *c, int64_t **out_base, int64_t *n_base,
                                  int64_t **out_step, int64_t *n_step) {
    const graph_type *f = ref_in_type(c, 0);
    int64_t own[GRAPH_MAX_RANK] = {0}, strides[GRAPH_MAX_RANK] = {0},
            dims[2][GRAPH_MAX_RANK] = {{0}}, step[2][GRAPH_MAX_RANK] = {{0}}, total[2] = {1, 1};
    int rank[2] = {0, 0};
    ref_strides(f, own);
    bool is_reduced[GRAPH_MAX_RANK] = {false};
    output_strides(c, strides);
    for (int64_t i = 0; i < c->op->attrs.dims.dims.n; i++)
        is_reduced[c->op->attrs.dims.dims.v[i]] = true;
    for (int d = 0; d < f->rank; d++) {
        const int w = is_reduced[d];
        dims[w][rank[w]] = f->dims[d];
        step[w][rank[w]++] = own[d];
        total[w] *= f->dims[d];
    }
    for (int w = 0; w < 2; w++) {
        void *p;
        VTRN_RETURN_IF_ERROR(ref_scratch(c, total[w], 8, &p));
        *(w ? out_step : out_base) = p;
        *(w ? n_step : n_base) = total[w];
        int64_t idx[GRAPH_MAX_RANK] = {0}, i = 0;
        if (total[w] == 0)
            continue;
        do {
            int64_t at = 0;
            for (int d = 0; d < rank[w]; d++)
                at += idx[d] * step[w][d];
            ((int64_t *)p)[i++] = at;
        } while (ref_next(idx, dims[w], rank[w]));
    }
    return NULL;
}

static vtrn_status reduce_generic(ref_call *c) {
    const uint32_t n = c->op->n_results;
    int64_t *base = NULL, *step = NULL, n_base = 0, n_step = 0;
    ref_reducer r;
    void *p, **acc, **x;
    VTRN_RETURN_IF_ERROR(ref_reducer_open(c, 0, n, ref_in_type(c, 0)->dtype, REF_BLOCK, &r));
    VTRN_RETURN_IF_ERROR(reduce_offsets(c, &base, &n_base, &step, &n_step));
    VTRN_RETURN_IF_ERROR(ref_scratch(c, INT64_C(2) * n, sizeof(void *), &p));
    acc = p;
    x = acc + n;
    for (uint32_t i = 0; i < n; i++) {
        VTRN_RETURN_IF_ERROR(ref_scratch(c, REF_BLOCK, r.size[i], &acc[i]));
        VTRN_RETURN_IF_ERROR(ref_scratch(c, REF_BLOCK, r.size[i], &x[i]));
    }
    for (int64_t o = 0; o < n_base; o += REF_BLOCK) {
        const int64_t m = n_base - o < REF_BLOCK ? n_base - o : REF_BLOCK;
        for (uint32_t i = 0; i < n; i++)
            ref_fill(acc[i], c->in[n + i], m, r.size[i]);
        for (int64_t s = 0; s < n_step; s++) {
            for (uint32_t i = 0; i < n; i++)
                for (int64_t k = 0; k < m; k++)
                    memcpy((char *)x[i] + k * r.size[i],
                           (const char *)c->in[i] + (base[o + k] + step[s]) * r.size[i], r.size[i]);
            VTRN_RETURN_IF_ERROR(ref_reducer_apply(&r, acc, (const void *const *)x, m));
        }
        for (uint32_t i = 0; i < n; i++)
            memcpy((char *)c->out[i] + o * r.size[i], acc[i], (size_t)m * r.size[i]);
    }
    return NULL;
}

vtrn_status ref_reduce(ref_call *c) {
    const uint32_t n = c->op->n_results;
    if (n == 0 || c->op->n_operands != 2 * n)
        return ref_malformed(c->op, "n operands, then n initial values");
    const graph_kind kind = n == 1 ? ref_reducer_kind(c->op->reducer) : GRAPH_UNKNOWN;
    if (kind != GRAPH_UNKNOWN)
        return reduce_recognised(c, kind);
    for (uint32_t i = 0; i < n; i++)
        if (ref_in_type(c, i)->dtype != ref_out_type(c, i)->dtype)
            return ref_unimplemented(c->op, "a region that changes the type");
    return reduce_generic(c);
}

vtrn_status ref_map(ref_call *c) {
    const int64_t n = ref_count(ref_out_type(c, 0));
    ref_region *r;
    const void *args[64];
    void *results[1];
    if (c->op->n_operands > 64 || c->op->n_results != 1)
        return ref_unimplemented(c->op, "more than 64 operands");
    VTRN_RETURN_IF_ERROR(ref_region_open(c, 0, REF_BLOCK, &r));
    for (int64_t i = 0; i < n; i += REF_BLOCK) {
        const int64_t m = n - i < REF_BLOCK ? n - i : REF_BLOCK;
        for (uint32_t k = 0; k < c->op->n_operands; k++)
            args[k] = (const char *)c->in[k] + i * dtype_size(ref_in_type(c, k)->dtype);
        results[0] = (char *)c->out[0] + i * dtype_size(ref_out_type(c, 0)->dtype);
        VTRN_RETURN_IF_ERROR(ref_region_eval(r, args, results, m));
    }
    return NULL;
}
