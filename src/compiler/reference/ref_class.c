/* Compute classes: loading data types into host arithmetic types and storing them back. */
#include "compiler/reference/ref_internal.h"

int64_t ref_count(const graph_type *t) {
    if (t->is_token)
        return 0;
    int64_t n = 1;
    for (int d = 0; d < t->rank; d++)
        n *= t->dims[d];
    return n;
}

void ref_strides(const graph_type *t, int64_t strides[GRAPH_MAX_RANK]) {
    int64_t n = 1;
    for (int d = t->rank - 1; d >= 0; d--) {
        strides[d] = n;
        n *= t->dims[d];
    }
}

ref_class ref_class_of(vtrn_dtype t) {
    if (dtype_is_complex(t))
        return REF_C128;
    if (t == VTRN_DTYPE_FP64)
        return REF_F64;
    if (dtype_is_float(t))
        return REF_F32;
    return dtype_is_signed_int(t) ? REF_I64 : REF_U64;
}

size_t ref_class_size(ref_class c) {
    return c == REF_C128 ? 16 : c == REF_F32 ? 4 : 8;
}

int ref_width(vtrn_dtype t) {
    return t == VTRN_DTYPE_PRED ? 1 : dtype_bits(t);
}

#define LOAD(T, C)                                                                                 \
    for (int64_t i = 0; i < n; i++)                                                                \
        ((C *)dst)[i] = ((const T *)src)[i];                                                       \
    break

void ref_load(vtrn_dtype t, const void *src, void *dst, int64_t n) {
    switch (t) {
    case VTRN_DTYPE_INT8:
        LOAD(int8_t, int64_t);
    case VTRN_DTYPE_INT16:
        LOAD(int16_t, int64_t);
    case VTRN_DTYPE_INT32:
        LOAD(int32_t, int64_t);
    case VTRN_DTYPE_PRED:
    case VTRN_DTYPE_UINT8:
        LOAD(uint8_t, uint64_t);
    case VTRN_DTYPE_UINT16:
        LOAD(uint16_t, uint64_t);
    case VTRN_DTYPE_UINT32:
        LOAD(uint32_t, uint64_t);
    case VTRN_DTYPE_INT64:
    case VTRN_DTYPE_UINT64:
    case VTRN_DTYPE_FP64:
    case VTRN_DTYPE_C128:
    case VTRN_DTYPE_FP32:
        memcpy(dst, src, (size_t)n * dtype_size(t));
        break;
    case VTRN_DTYPE_C64:
        for (int64_t i = 0; i < 2 * n; i++)
            ((double *)dst)[i] = ((const float *)src)[i];
        break;
    case VTRN_DTYPE_INT2:
    case VTRN_DTYPE_INT4:
        dtype_convert(t, src, VTRN_DTYPE_INT64, dst, (size_t)n);
        break;
    case VTRN_DTYPE_UINT2:
    case VTRN_DTYPE_UINT4:
        dtype_convert(t, src, VTRN_DTYPE_UINT64, dst, (size_t)n);
        break;
    default:
        dtype_load_fp32(t, src, dst, (size_t)n);
    }
}

#define STORE(C, T)                                                                                \
    for (int64_t i = 0; i < n; i++)                                                                \
        ((T *)dst)[i] = (T)((const C *)src)[i];                                                    \
    break

void ref_store(vtrn_dtype t, const void *src, void *dst, int64_t n) {
    switch (t) {
    case VTRN_DTYPE_PRED:
        for (int64_t i = 0; i < n; i++)
            ((uint8_t *)dst)[i] = ((const uint64_t *)src)[i] != 0;
        break;
    case VTRN_DTYPE_INT8:
    case VTRN_DTYPE_UINT8:
        STORE(uint64_t, uint8_t);
    case VTRN_DTYPE_INT16:
    case VTRN_DTYPE_UINT16:
        STORE(uint64_t, uint16_t);
    case VTRN_DTYPE_INT32:
    case VTRN_DTYPE_UINT32:
        STORE(uint64_t, uint32_t);
    case VTRN_DTYPE_INT64:
    case VTRN_DTYPE_UINT64:
    case VTRN_DTYPE_FP64:
    case VTRN_DTYPE_C128:
    case VTRN_DTYPE_FP32:
        memcpy(dst, src, (size_t)n * dtype_size(t));
        break;
    case VTRN_DTYPE_C64:
        for (int64_t i = 0; i < 2 * n; i++)
            ((float *)dst)[i] = (float)((const double *)src)[i];
        break;
    case VTRN_DTYPE_INT2:
    case VTRN_DTYPE_INT4:
    case VTRN_DTYPE_UINT2:
    case VTRN_DTYPE_UINT4:
        dtype_convert(VTRN_DTYPE_UINT64, src, t, dst, (size_t)n);
        break;
    default:
        dtype_store_fp32(t, src, dst, (size_t)n);
    }
}

/* n values of one class to another that holds them. */
static void widen(ref_class from, const void *src, ref_class to, void *dst, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double v = 0;
        switch (from) {
        case REF_F32:
            v = ((const float *)src)[i];
            break;
        case REF_F64:
            v = ((const double *)src)[i];
            break;
        case REF_I64:
            v = (double)((const int64_t *)src)[i];
            break;
        case REF_U64:
            v = (double)((const uint64_t *)src)[i];
            break;
        case REF_C128:
            v = creal(((const double complex *)src)[i]);
            break;
        }
        if (to == REF_F32)
            ((float *)dst)[i] = (float)v;
        else if (to == REF_F64)
            ((double *)dst)[i] = v;
        else if (to == REF_C128)
            ((double complex *)dst)[i] = v;
        else
            ((int64_t *)dst)[i] = (int64_t)v;
    }
}

vtrn_status ref_load_all(ref_call *c, uint32_t operand_i, ref_class cls, void **out) {
    const graph_type *t = ref_in_type(c, operand_i);
    const int64_t n = ref_count(t);
    const ref_class own = ref_class_of(t->dtype);
    VTRN_RETURN_IF_ERROR(ref_scratch(c, n, ref_class_size(cls), out));
    const bool same_bits =
        own == cls || ((own == REF_I64 || own == REF_U64) && (cls == REF_I64 || cls == REF_U64));
    if (same_bits) {
        ref_load(t->dtype, c->in[operand_i], *out, n);
        return NULL;
    }
    uint64_t block[REF_BLOCK * 2];
    for (int64_t i = 0; i < n; i += REF_BLOCK) {
        const int64_t m = n - i < REF_BLOCK ? n - i : REF_BLOCK;
        ref_load(t->dtype, (const char *)c->in[operand_i] + i * dtype_size(t->dtype), block, m);
        widen(own, block, cls, (char *)*out + i * ref_class_size(cls), m);
    }
    return NULL;
}

int64_t ref_index_at(vtrn_dtype t, const void *src, int64_t i) {
    uint64_t v, wide[2] = {0}; /* a complex element would take both */
    ref_load(t, (const char *)src + i * dtype_size(t), wide, 1);
    v = wide[0];
    if (ref_class_of(t) == REF_U64 && v > INT64_MAX)
        return INT64_MAX;
    return (int64_t)v;
}

vtrn_status ref_scratch(ref_call *c, int64_t n, size_t size, void **out) {
    *out = arena_alloc(&c->scratch, (size_t)n, size);
    return *out ? NULL : VTRN_OUT_OF_MEMORY((size_t)n * size);
}

vtrn_status ref_unimplemented(const graph_op *op, const char *why) {
    vtrn_status s = VTRN_ERROR(VTRN_UNIMPLEMENTED, "%s: %s", op->name ? op->name : "op", why);
    return op->place && *op->place ? vtrn_status_annotate(s, "%s", op->place) : s;
}

vtrn_status ref_malformed(const graph_op *op, const char *rule) {
    vtrn_status s = VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: %s", op->name ? op->name : "op", rule);
    return op->place && *op->place ? vtrn_status_annotate(s, "%s", op->place) : s;
}

graph_kind ref_reducer_kind(graph_reducer r) {
    static const uint16_t kinds[] = {
        [GRAPH_REDUCER_GENERIC] = GRAPH_UNKNOWN,
        [GRAPH_REDUCER_ADD] = GRAPH_ADD,
        [GRAPH_REDUCER_MULTIPLY] = GRAPH_MULTIPLY,
        [GRAPH_REDUCER_MAXIMUM] = GRAPH_MAXIMUM,
        [GRAPH_REDUCER_MINIMUM] = GRAPH_MINIMUM,
        [GRAPH_REDUCER_AND] = GRAPH_AND,
        [GRAPH_REDUCER_OR] = GRAPH_OR,
        [GRAPH_REDUCER_XOR] = GRAPH_XOR,
        [GRAPH_REDUCER_REPLACE] = GRAPH_UNKNOWN,
    };
    return kinds[r];
}
