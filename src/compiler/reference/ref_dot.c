/* dot_general: operands packed to [batch][m][k] and [batch][k][n], then a blocked product. */
#include "compiler/reference/ref_internal.h"

typedef struct dot_sizes {
    int64_t batch, m, n, k;
} dot_sizes;

static bool listed(graph_ints list, int64_t v) {
    for (int64_t i = 0; i < list.n; i++)
        if (list.v[i] == v)
            return true;
    return false;
}

/* Copies an operand (already in the class) to the order given by the three dimension lists. */
static vtrn_status pack(ref_call *c, uint32_t i, ref_class cls, const int64_t *order, void **out) {
    const graph_type *t = ref_in_type(c, i);
    const size_t size = ref_class_size(cls);
    void *whole;
    int64_t own[GRAPH_MAX_RANK], in_stride[GRAPH_MAX_RANK], out_stride[GRAPH_MAX_RANK],
        dims[GRAPH_MAX_RANK];
    VTRN_RETURN_IF_ERROR(ref_load_all(c, i, cls, &whole));
    bool is_ordered = true;
    for (int d = 0; d < t->rank; d++)
        is_ordered = is_ordered && order[d] == d;
    if (is_ordered) {
        *out = whole;
        return NULL;
    }
    VTRN_RETURN_IF_ERROR(ref_scratch(c, ref_count(t), size, out));
    ref_strides(t, own);
    int64_t n = (int64_t)size;
    for (int d = t->rank - 1; d >= 0; d--) {
        dims[d] = t->dims[order[d]];
        in_stride[d] = own[order[d]] * (int64_t)size;
        out_stride[d] = n;
        n *= dims[d];
    }
    ref_copy(*out, out_stride, whole, in_stride, (ref_box){dims, t->rank, size});
    return NULL;
}

/* order = batch, then free and contracting dimensions, contracting first or last. */
static void dim_order(const graph_type *t, graph_ints batch, graph_ints contract,
                      bool contract_last, int64_t *order, int64_t *out_free) {
    int n = 0;
    for (int64_t i = 0; i < batch.n; i++)
        order[n++] = batch.v[i];
    for (int64_t i = 0; !contract_last && i < contract.n; i++)
        order[n++] = contract.v[i];
    *out_free = 1;
    for (int d = 0; d < t->rank; d++)
        if (!listed(batch, d) && !listed(contract, d)) {
            order[n++] = d;
            *out_free *= t->dims[d];
        }
    for (int64_t i = 0; contract_last && i < contract.n; i++)
        order[n++] = contract.v[i];
}

/* out[m][n] += a[m][k] b[k][n], k in blocks so that b stays in the cache. */
#define PRODUCT(NAME, T)                                                                           \
    static void NAME(const T *a, const T *b, T *out, dot_sizes s) {                                \
        enum { KB = 64 };                                                                          \
        for (int64_t k0 = 0; k0 < s.k; k0 += KB) {                                                 \
            const int64_t k1 = k0 + KB < s.k ? k0 + KB : s.k;                                      \
            for (int64_t i = 0; i < s.m; i++) {                                                    \
                T *restrict row = out + i * s.n;                                                   \
                for (int64_t k = k0; k < k1; k++) {                                                \
                    const T v = a[i * s.k + k];                                                    \
                    const T *restrict w = b + k * s.n;                                             \
                    for (int64_t j = 0; j < s.n; j++)                                              \
                        row[j] += v * w[j];                                                        \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }
PRODUCT(product_f32, float)
PRODUCT(product_f64, double)
PRODUCT(product_u64, uint64_t)
PRODUCT(product_c128, double complex)

static void product(ref_class cls, const void *a, const void *b, void *out, dot_sizes s) {
    switch (cls) {
    case REF_F32:
        product_f32(a, b, out, s);
        break;
    case REF_F64:
        product_f64(a, b, out, s);
        break;
    case REF_C128:
        product_c128(a, b, out, s);
        break;
    default:
        product_u64(a, b, out, s);
    }
}

vtrn_status ref_dot_general(ref_call *c) {
    const graph_type *l = ref_in_type(c, 0), *r = ref_in_type(c, 1), *t = ref_out_type(c, 0);
    const graph_ints lb = c->op->attrs.dot.lhs_batch, lc = c->op->attrs.dot.lhs_contract;
    const ref_class cls = ref_class_of(t->dtype);
    const size_t size = ref_class_size(cls);
    int64_t l_order[GRAPH_MAX_RANK] = {0}, r_order[GRAPH_MAX_RANK] = {0};
    dot_sizes s = {.batch = 1, .k = 1};
    dim_order(l, lb, lc, true, l_order, &s.m);
    dim_order(r, c->op->attrs.dot.rhs_batch, c->op->attrs.dot.rhs_contract, false, r_order, &s.n);
    for (int64_t i = 0; i < lb.n; i++)
        s.batch *= l->dims[lb.v[i]];
    for (int64_t i = 0; i < lc.n; i++)
        s.k *= l->dims[lc.v[i]];
    void *a, *b, *o;
    VTRN_RETURN_IF_ERROR(pack(c, 0, cls, l_order, &a));
    VTRN_RETURN_IF_ERROR(pack(c, 1, cls, r_order, &b));
    VTRN_RETURN_IF_ERROR(ref_scratch(c, s.batch * s.m * s.n, size, &o));
    for (int64_t i = 0; i < s.batch; i++)
        product(cls, (char *)a + i * s.m * s.k * size, (char *)b + i * s.k * s.n * size,
                (char *)o + i * s.m * s.n * size, s);
    ref_store(t->dtype, o, c->out[0], s.batch * s.m * s.n);
    return NULL;
}
