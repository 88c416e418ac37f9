/* Types and dense constants of a VHLO artifact as the graph holds them. */
#include "compiler/graph/graph_build.h"

#include <string.h>

enum { MAX_TENSOR_BYTES_LOG2 = 50 };

static vtrn_status refuse_type(graph_builder *b, uint32_t type, const char *why) {
    char text[160];
    vhlo_type_text(b->m, type, text, sizeof text);
    return VTRN_ERROR(VTRN_UNSUPPORTED, "type %s: %s", text, why);
}

/* Element types by VHLO code; -1 is one that the graph has no dtype for. */
static int vhlo_scalar(int code) {
    switch (code) {
    case 0:
        return VTRN_DTYPE_PRED;
    case 2:
        return VTRN_DTYPE_BF16;
    case 3:
        return VTRN_DTYPE_FP16;
    case 4:
        return VTRN_DTYPE_FP32;
    case 5:
        return VTRN_DTYPE_FP64;
    case 6:
        return VTRN_DTYPE_FP8E4M3FN;
    case 7:
        return VTRN_DTYPE_FP8E5M2;
    case 9: /* index */
    case 14:
        return VTRN_DTYPE_INT64;
    case 10:
        return VTRN_DTYPE_INT4;
    case 11:
        return VTRN_DTYPE_INT8;
    case 12:
        return VTRN_DTYPE_INT16;
    case 13:
        return VTRN_DTYPE_INT32;
    case 15:
        return VTRN_DTYPE_UINT4;
    case 16:
        return VTRN_DTYPE_UINT8;
    case 17:
        return VTRN_DTYPE_UINT16;
    case 18:
        return VTRN_DTYPE_UINT32;
    case 19:
        return VTRN_DTYPE_UINT64;
    case 27:
        return VTRN_DTYPE_FP8E4M3FNUZ;
    case 28:
        return VTRN_DTYPE_FP8E5M2FNUZ;
    case 29:
        return VTRN_DTYPE_FP8E4M3B11FNUZ;
    case 31:
        return VTRN_DTYPE_INT2;
    case 32:
        return VTRN_DTYPE_UINT2;
    case 34:
        return VTRN_DTYPE_TF32;
    case 35:
        return VTRN_DTYPE_FP8E4M3;
    case 36:
        return VTRN_DTYPE_FP8E3M4;
    case 37:
        return VTRN_DTYPE_FP4E2M1FN;
    case 38:
        return VTRN_DTYPE_FP6E2M3FN;
    case 39:
        return VTRN_DTYPE_FP6E3M2FN;
    case 40:
        return VTRN_DTYPE_FP8E8M0FNU;
    default:
        return -1;
    }
}

static int builtin_scalar(const vhlo_entry *e) {
    if (e->code == BUILTIN_TYPE_INTEGER) {
        bool is_unsigned = (e->ints[0] & 3) == 2;
        switch (e->ints[0] >> 2) {
        case 1:
            return VTRN_DTYPE_PRED;
        case 2:
            return is_unsigned ? VTRN_DTYPE_UINT2 : VTRN_DTYPE_INT2;
        case 4:
            return is_unsigned ? VTRN_DTYPE_UINT4 : VTRN_DTYPE_INT4;
        case 8:
            return is_unsigned ? VTRN_DTYPE_UINT8 : VTRN_DTYPE_INT8;
        case 16:
            return is_unsigned ? VTRN_DTYPE_UINT16 : VTRN_DTYPE_INT16;
        case 32:
            return is_unsigned ? VTRN_DTYPE_UINT32 : VTRN_DTYPE_INT32;
        case 64:
            return is_unsigned ? VTRN_DTYPE_UINT64 : VTRN_DTYPE_INT64;
        default:
            return -1;
        }
    }
    switch (e->code) {
    case BUILTIN_TYPE_INDEX:
        return VTRN_DTYPE_INT64;
    case BUILTIN_TYPE_BF16:
        return VTRN_DTYPE_BF16;
    case BUILTIN_TYPE_F16:
        return VTRN_DTYPE_FP16;
    case BUILTIN_TYPE_F32:
        return VTRN_DTYPE_FP32;
    case BUILTIN_TYPE_F64:
        return VTRN_DTYPE_FP64;
    case BUILTIN_TYPE_F8E5M2:
        return VTRN_DTYPE_FP8E5M2;
    case BUILTIN_TYPE_F8E4M3:
        return VTRN_DTYPE_FP8E4M3;
    case BUILTIN_TYPE_F8E4M3FN:
        return VTRN_DTYPE_FP8E4M3FN;
    case BUILTIN_TYPE_F8E5M2FNUZ:
        return VTRN_DTYPE_FP8E5M2FNUZ;
    case BUILTIN_TYPE_F8E4M3FNUZ:
        return VTRN_DTYPE_FP8E4M3FNUZ;
    case BUILTIN_TYPE_F8E4M3B11FNUZ:
        return VTRN_DTYPE_FP8E4M3B11FNUZ;
    case BUILTIN_TYPE_F8E3M4:
        return VTRN_DTYPE_FP8E3M4;
    case BUILTIN_TYPE_F4E2M1FN:
        return VTRN_DTYPE_FP4E2M1FN;
    case BUILTIN_TYPE_F8E8M0FNU:
        return VTRN_DTYPE_FP8E8M0FNU;
    default:
        return -1;
    }
}

static int scalar(const vhlo_entry *e) {
    if (e->is_text)
        return -1;
    return e->dialect == VHLO_DIALECT_VHLO      ? vhlo_scalar(e->code)
           : e->dialect == VHLO_DIALECT_BUILTIN ? builtin_scalar(e)
                                                : -1;
}

static vtrn_status element_dtype(graph_builder *b, uint32_t type, int *out) {
    const vhlo_entry *e, *part;
    VTRN_RETURN_IF_ERROR(vhlo_get_type(b->m, type, &e));
    *out = scalar(e);
    if (vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_TYPE_COMPLEX) ||
        vhlo_entry_is(e, VHLO_DIALECT_BUILTIN, BUILTIN_TYPE_COMPLEX)) {
        VTRN_RETURN_IF_ERROR(vhlo_get_type(b->m, e->type, &part));
        int dtype = scalar(part);
        *out = dtype == VTRN_DTYPE_FP32   ? VTRN_DTYPE_C64
               : dtype == VTRN_DTYPE_FP64 ? VTRN_DTYPE_C128
                                          : -1;
    }
    return *out < 0
               ? refuse_type(b, type,
                             "vtrn has no such element type; use int8, fp8, bf16 or a wider one")
               : NULL;
}

static vtrn_status convert_tensor(graph_builder *b, uint32_t type, const vhlo_entry *e,
                                  graph_type *out) {
    int dtype;
    VTRN_RETURN_IF_ERROR(element_dtype(b, e->type, &dtype));
    out->dtype = (uint8_t)dtype;
    int64_t rank = e->ints[0];
    if (rank > GRAPH_MAX_RANK)
        return refuse_type(b, type, "rank > 12; merge dimensions by a reshape");
    out->rank = (uint8_t)rank;
    uint64_t bytes = 16; /* at least any element */
    for (int i = 0; i < rank; i++) {
        out->dims[i] = e->ints[1 + i];
        if (out->dims[i] < 0)
            return refuse_type(b, type, "dynamic dimension; compile with concrete shapes");
        /* An empty tensor may not hide an overflow in its other dimensions. */
        uint64_t dim = out->dims[i] ? (uint64_t)out->dims[i] : 1;
        if (__builtin_mul_overflow(bytes, dim, &bytes) || bytes >> MAX_TENSOR_BYTES_LOG2)
            return refuse_type(b, type, "more than 2^46 elements; no chip has the HBM for it");
    }
    return NULL;
}

vtrn_status graph_convert_type(graph_builder *b, uint32_t type, const graph_type **out) {
    if (type < b->m->n_types && b->types[type]) {
        *out = b->types[type];
        return NULL;
    }
    const vhlo_entry *e;
    VTRN_RETURN_IF_ERROR(vhlo_get_type(b->m, type, &e));
    graph_type *t;
    GRAPH_NEW(b, t, 1);
    if (vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_TYPE_TENSOR) ||
        vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_TYPE_TENSOR_ENCODED) ||
        vhlo_entry_is(e, VHLO_DIALECT_BUILTIN, BUILTIN_TYPE_TENSOR) ||
        vhlo_entry_is(e, VHLO_DIALECT_BUILTIN, BUILTIN_TYPE_TENSOR_ENCODED))
        VTRN_RETURN_IF_ERROR(convert_tensor(b, type, e, t));
    else if (vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_TYPE_TOKEN) ||
             vhlo_entry_is(e, VHLO_DIALECT_STABLEHLO, STABLEHLO_TYPE_TOKEN))
        *t = GRAPH_TOKEN_TYPE;
    else
        return refuse_type(b, type, "neither a ranked tensor nor a token");
    *out = b->types[type] = t;
    return NULL;
}

/* Booleans come as one byte 0xff or 0 for all, as bits (lowest first), or as bytes. */
static vtrn_status decode_pred(graph_builder *b, const vhlo_entry *e, int64_t n,
                               graph_constant *out) {
    uint64_t n_packed = ((uint64_t)n + 7) / 8;
    bool is_packed = e->n_data == n_packed && n_packed != (uint64_t)n;
    bool is_splat = !is_packed && e->n_data == 1;
    if (e->n_data == 1 && (e->data[0] == 0xff || e->data[0] == 0))
        is_splat = true;
    if (!is_splat && !is_packed && e->n_data != (uint64_t)n)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "constant: %zu bytes for %lld booleans (1, %llu or %lld expected)",
                          e->n_data, (long long)n, (unsigned long long)n_packed, (long long)n);
    uint8_t *data;
    GRAPH_NEW(b, data, is_splat ? 1 : n);
    if (is_splat)
        data[0] = e->data[0] != 0;
    else if (is_packed)
        for (int64_t i = 0; i < n; i++)
            data[i] = e->data[i / 8] >> (i % 8) & 1;
    else
        for (int64_t i = 0; i < n; i++)
            data[i] = e->data[i] != 0;
    *out = (graph_constant){data, is_splat};
    return NULL;
}

vtrn_status graph_decode_constant(graph_builder *b, uint32_t attr, const graph_type *type,
                                  graph_constant *out) {
    const vhlo_entry *e;
    VTRN_RETURN_IF_ERROR(vhlo_get_attr(b->m, attr, &e));
    if (!vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_ATTR_TENSOR))
        return VTRN_ERROR(VTRN_UNSUPPORTED, "constant: its value is not a dense tensor");
    const graph_type *own;
    VTRN_RETURN_IF_ERROR(graph_convert_type(b, e->type, &own));
    if (!graph_type_equal(own, type) || own->is_token)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "constant: its value has another type than its result");
    if (b->constants[attr].data) {
        *out = b->constants[attr];
        return NULL;
    }
    int64_t n = graph_type_count(type);
    if (type->dtype == VTRN_DTYPE_PRED && n > 0) {
        VTRN_RETURN_IF_ERROR(decode_pred(b, e, n, out));
    } else {
        uint64_t n_bytes = graph_type_bytes(type), size = dtype_size((vtrn_dtype)type->dtype);
        bool is_splat = e->n_data == size; /* of no elements at all, too */
        if (!is_splat && e->n_data != n_bytes)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "constant: %zu bytes, its type has %llu",
                              e->n_data, (unsigned long long)n_bytes);
        uint8_t *data;
        GRAPH_NEW(b, data, e->n_data);
        if (e->n_data)
            memcpy(data, e->data, e->n_data);
        const int n_bits =
            dtype_bits((vtrn_dtype)type->dtype); /* what is above them says nothing */
        for (uint64_t i = 0; i < e->n_data && n_bits < 8; i++)
            data[i] &= (uint8_t)((1u << n_bits) - 1);
        *out = (graph_constant){data, is_splat};
    }
    b->constants[attr] = *out;
    return NULL;
}
