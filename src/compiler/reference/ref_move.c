/* Ops that only move or make data: broadcast, transpose, slices, pad, concatenate, iota, constant.
 */
#include "compiler/reference/ref_internal.h"

#define COPY_ROW(T)                                                                                \
    for (int64_t i = 0; i < n; i++)                                                                \
        *(T *)(d + i * ds) = *(const T *)(s + i * ss);                                             \
    break

static void copy_row(char *d, int64_t ds, const char *s, int64_t ss, int64_t n, size_t size) {
    if (ds == (int64_t)size && ss == (int64_t)size) {
        memcpy(d, s, (size_t)n * size);
        return;
    }
    switch (size) {
    case 1:
        COPY_ROW(uint8_t);
    case 2:
        COPY_ROW(uint16_t);
    case 4:
        COPY_ROW(uint32_t);
    case 8:
        COPY_ROW(uint64_t);
    default:
        for (int64_t i = 0; i < n; i++)
            memcpy(d + i * ds, s + i * ss, size);
    }
}

void ref_copy(void *dst, const int64_t *dst_stride, const void *src, const int64_t *src_stride,
              ref_box box) {
    const int64_t *dims = box.dims;
    int64_t n[GRAPH_MAX_RANK * 2], ds[GRAPH_MAX_RANK * 2], ss[GRAPH_MAX_RANK * 2];
    int r = 0;
    for (int k = 0; k < box.rank; k++) {
        if (dims[k] == 0)
            return;
        if (dims[k] == 1)
            continue;
        /* Two dimensions that one step walks through are one. */
        if (r && ds[r - 1] == dims[k] * dst_stride[k] && ss[r - 1] == dims[k] * src_stride[k]) {
            n[r - 1] *= dims[k];
            ds[r - 1] = dst_stride[k];
            ss[r - 1] = src_stride[k];
            continue;
        }
        n[r] = dims[k];
        ds[r] = dst_stride[k];
        ss[r] = src_stride[k];
        r++;
    }
    if (r == 0) {
        memcpy(dst, src, box.size);
        return;
    }
    int64_t idx[GRAPH_MAX_RANK * 2] = {0};
    do {
        char *d = dst;
        const char *s = src;
        for (int k = 0; k < r - 1; k++) {
            d += idx[k] * ds[k];
            s += idx[k] * ss[k];
        }
        copy_row(d, ds[r - 1], s, ss[r - 1], n[r - 1], box.size);
    } while (ref_next(idx, n, r - 1));
}

void ref_fill(void *dst, const void *element, int64_t n, size_t size) {
    const int64_t ds = (int64_t)size, ss = 0;
    if (n > 0)
        ref_copy(dst, &ds, element, &ss, (ref_box){&n, 1, size});
}

/* Row-major strides in bytes. */
static void byte_strides(const graph_type *t, int64_t *strides) {
    ref_strides(t, strides);
    for (int d = 0; d < t->rank; d++)
        strides[d] *= (int64_t)dtype_size(t->dtype);
}

vtrn_status ref_identity(ref_call *c) {
    if (c->op->n_operands != c->op->n_results)
        return ref_malformed(c->op, "as many results as operands");
    for (uint32_t i = 0; i < c->op->n_results; i++) {
        const graph_type *t = ref_out_type(c, i);
        if (!t->is_token && ref_count(t) > 0)
            memcpy(c->out[i], c->in[i], (size_t)ref_count(t) * dtype_size(t->dtype));
    }
    return NULL;
}

/* Elements of less than a byte stand in a byte each; the first of a wider one is its lowest bits.
 */
static void repack(uint8_t *to, int to_bits, size_t n_to, const uint8_t *from, int from_bits) {
    const size_t to_size = (size_t)(to_bits + 7) / 8, from_size = (size_t)(from_bits + 7) / 8;
    memset(to, 0, n_to * to_size);
    for (size_t bit = 0; bit < n_to * (size_t)to_bits; bit++) {
        const size_t at = bit % (size_t)from_bits, into = bit % (size_t)to_bits;
        const uint8_t byte = from[bit / (size_t)from_bits * from_size + at / 8];
        to[bit / (size_t)to_bits * to_size + into / 8] |=
            (uint8_t)((byte >> at % 8 & 1) << into % 8);
    }
}

vtrn_status ref_bitcast_convert(ref_call *c) {
    const graph_type *t = ref_out_type(c, 0), *f = ref_in_type(c, 0);
    int to_bits = dtype_bits(t->dtype), from_bits = dtype_bits(f->dtype);
    const size_t n_to = (size_t)ref_count(t), n_from = (size_t)ref_count(f);
    if (n_to * (size_t)to_bits != n_from * (size_t)from_bits) { /* booleans are bits, then */
        to_bits = t->dtype == VTRN_DTYPE_PRED ? 1 : to_bits;
        from_bits = f->dtype == VTRN_DTYPE_PRED ? 1 : from_bits;
    }
    if (n_to * (size_t)to_bits != n_from * (size_t)from_bits)
        return ref_malformed(c->op, "operand and result have the same number of bits");
    if (n_to && to_bits % 8 == 0 && from_bits % 8 == 0)
        memcpy(c->out[0], c->in[0], n_to * dtype_size(t->dtype));
    else
        repack(c->out[0], to_bits, n_to, c->in[0], from_bits);
    return NULL;
}

/* Whether bytes and values are as many as belong together; the rest of the bytes is left out. */
static bool packs(const graph_op *op, const graph_type *bytes, const graph_type *values) {
    const int64_t bits = op->attrs.dims.dims.n == 1 ? op->attrs.dims.dims.v[0] : 0;
    return (bits == 2 || bits == 4 || bits == 8) && dtype_size(bytes->dtype) == 1 &&
           dtype_size(values->dtype) == 1 && ref_count(values) <= ref_count(bytes) * (8 / bits);
}

vtrn_status ref_unpack(ref_call *c) {
    const graph_type *t = ref_out_type(c, 0);
    if (!packs(c->op, ref_in_type(c, 0), t))
        return ref_malformed(c->op, "there are as many bytes as the result's values fill");
    const int bits = (int)c->op->attrs.dims.dims.v[0];
    const uint8_t *from = c->in[0];
    uint8_t *to = c->out[0];
    for (size_t i = 0; i < (size_t)ref_count(t); i++) {
        const uint32_t code =
            from[i * (size_t)bits / 8] >> (i * (size_t)bits % 8) & ((1u << bits) - 1);
        const uint32_t sign = dtype_is_signed_int(t->dtype) ? 1u << (bits - 1) : 0;
        to[i] = (uint8_t)((code ^ sign) - sign);
    }
    return NULL;
}

vtrn_status ref_pack(ref_call *c) {
    const graph_type *t = ref_out_type(c, 0), *f = ref_in_type(c, 0);
    if (!packs(c->op, t, f))
        return ref_malformed(c->op, "there are as many bytes as the operand's values fill");
    const int bits = (int)c->op->attrs.dims.dims.v[0];
    const uint8_t *from = c->in[0];
    uint8_t *to = c->out[0];
    memset(to, 0, (size_t)ref_count(t));
    for (size_t i = 0; i < (size_t)ref_count(f); i++)
        to[i * (size_t)bits / 8] |=
            (uint8_t)((from[i] & ((1u << bits) - 1)) << (i * (size_t)bits % 8));
    return NULL;
}

vtrn_status ref_constant(ref_call *c) {
    const graph_type *t = ref_out_type(c, 0);
    const size_t size = dtype_size(t->dtype);
    const int64_t n = ref_count(t);
    if (c->op->attrs.constant.is_splat)
        ref_fill(c->out[0], c->op->attrs.constant.data, n, size);
    else if (n)
        memcpy(c->out[0], c->op->attrs.constant.data, (size_t)n * size);
    return NULL;
}

vtrn_status ref_iota(ref_call *c) {
    const graph_type *t = ref_out_type(c, 0);
    const int64_t dim = c->op->attrs.dims.dims.v[0];
    if (ref_count(t) == 0)
        return NULL;
    const int64_t n = t->dims[dim];
    void *ints, *values;
    VTRN_RETURN_IF_ERROR(ref_scratch(c, n, 8, &ints));
    VTRN_RETURN_IF_ERROR(ref_scratch(c, n, dtype_size(t->dtype), &values));
    for (int64_t i = 0; i < n; i++)
        ((int64_t *)ints)[i] = i;
    dtype_convert(VTRN_DTYPE_INT64, ints, t->dtype, values, (size_t)n);
    int64_t out_stride[GRAPH_MAX_RANK], in_stride[GRAPH_MAX_RANK] = {0};
    byte_strides(t, out_stride);
    in_stride[dim] = (int64_t)dtype_size(t->dtype);
    ref_copy(c->out[0], out_stride, values, in_stride, ref_box_of(t));
    return NULL;
}

vtrn_status ref_broadcast_in_dim(ref_call *c) {
    const graph_type *t = ref_out_type(c, 0), *f = ref_in_type(c, 0);
    const graph_ints dims = c->op->attrs.dims.dims;
    int64_t own[GRAPH_MAX_RANK], in_stride[GRAPH_MAX_RANK] = {0}, out_stride[GRAPH_MAX_RANK];
    byte_strides(f, own);
    byte_strides(t, out_stride);
    for (int k = 0; k < f->rank; k++)
        if (f->dims[k] != 1)
            in_stride[dims.v[k]] = own[k];
    ref_copy(c->out[0], out_stride, c->in[0], in_stride, ref_box_of(t));
    return NULL;
}

vtrn_status ref_transpose(ref_call *c) {
    const graph_type *t = ref_out_type(c, 0), *f = ref_in_type(c, 0);
    int64_t own[GRAPH_MAX_RANK], in_stride[GRAPH_MAX_RANK], out_stride[GRAPH_MAX_RANK];
    byte_strides(f, own);
    byte_strides(t, out_stride);
    for (int k = 0; k < t->rank; k++)
        in_stride[k] = own[c->op->attrs.dims.dims.v[k]];
    ref_copy(c->out[0], out_stride, c->in[0], in_stride, ref_box_of(t));
    return NULL;
}

vtrn_status ref_reverse(ref_call *c) {
    const graph_type *t = ref_out_type(c, 0);
    const graph_ints dims = c->op->attrs.dims.dims;
    int64_t in_stride[GRAPH_MAX_RANK], out_stride[GRAPH_MAX_RANK];
    const char *src = c->in[0];
    if (ref_count(t) == 0)
        return NULL;
    byte_strides(t, in_stride);
    byte_strides(t, out_stride);
    for (int64_t k = 0; k < dims.n; k++) {
        src += (t->dims[dims.v[k]] - 1) * in_stride[dims.v[k]];
        in_stride[dims.v[k]] = -in_stride[dims.v[k]];
    }
    ref_copy(c->out[0], out_stride, src, in_stride, ref_box_of(t));
    return NULL;
}

vtrn_status ref_slice(ref_call *c) {
    const graph_type *t = ref_out_type(c, 0), *f = ref_in_type(c, 0);
    int64_t in_stride[GRAPH_MAX_RANK], out_stride[GRAPH_MAX_RANK];
    const char *src = c->in[0];
    byte_strides(f, in_stride);
    byte_strides(t, out_stride);
    for (int k = 0; k < t->rank; k++) {
        src += c->op->attrs.slice.start.v[k] * in_stride[k];
        in_stride[k] *= c->op->attrs.slice.stride.v[k];
    }
    ref_copy(c->out[0], out_stride, src, in_stride, ref_box_of(t));
    return NULL;
}

/* Byte offset of the clamped start of a window of size window->dims in a buffer of type t; the
 * start indices are operands first_index, first_index + 1, ... */
static int64_t clamped_offset(ref_call *c, uint32_t first_index, const graph_type *t,
                              const graph_type *window, const int64_t *strides) {
    int64_t offset = 0;
    for (int k = 0; k < t->rank; k++) {
        const graph_type *it = ref_in_type(c, first_index + (uint32_t)k);
        int64_t start = ref_index_at(it->dtype, c->in[first_index + k], 0);
        const int64_t last = t->dims[k] - window->dims[k];
        start = start > last ? last : start;
        offset += (start < 0 ? 0 : start) * strides[k];
    }
    return offset;
}

vtrn_status ref_dynamic_slice(ref_call *c) {
    const graph_type *t = ref_out_type(c, 0), *f = ref_in_type(c, 0);
    if (c->op->n_operands != 1u + f->rank)
        return ref_malformed(c->op, "one start index a dimension");
    int64_t in_stride[GRAPH_MAX_RANK], out_stride[GRAPH_MAX_RANK];
    byte_strides(f, in_stride);
    byte_strides(t, out_stride);
    const char *src = (const char *)c->in[0] + clamped_offset(c, 1, f, t, in_stride);
    ref_copy(c->out[0], out_stride, src, in_stride, ref_box_of(t));
    return NULL;
}

vtrn_status ref_update_in_place(ref_call *c) {
    const graph_type *t = ref_out_type(c, 0), *u = ref_in_type(c, 1);
    if (c->op->n_operands != 2u + t->rank)
        return ref_malformed(c->op, "one start index a dimension");
    int64_t in_stride[GRAPH_MAX_RANK], out_stride[GRAPH_MAX_RANK];
    byte_strides(u, in_stride);
    byte_strides(t, out_stride);
    char *dst = (char *)c->out[0] + clamped_offset(c, 2, t, u, out_stride);
    ref_copy(dst, out_stride, c->in[1], in_stride, ref_box_of(u));
    return NULL;
}

vtrn_status ref_dynamic_update_slice(ref_call *c) {
    const graph_type *t = ref_out_type(c, 0);
    if (ref_count(t))
        memcpy(c->out[0], c->in[0], (size_t)ref_count(t) * dtype_size(t->dtype));
    return ref_update_in_place(c);
}

static int64_t floor_divide(int64_t a, int64_t b) {
    return a >= 0 ? a / b : -((-a + b - 1) / b);
}

vtrn_status ref_pad(ref_call *c) {
    const graph_type *t = ref_out_type(c, 0), *f = ref_in_type(c, 0);
    const size_t size = dtype_size(t->dtype);
    int64_t in_stride[GRAPH_MAX_RANK], out_stride[GRAPH_MAX_RANK], dims[GRAPH_MAX_RANK];
    const char *src = c->in[0];
    char *dst = c->out[0];
    byte_strides(f, in_stride);
    byte_strides(t, out_stride);
    ref_fill(dst, c->in[1], ref_count(t), size);
    for (int k = 0; k < t->rank; k++) {
        /* Operand element i lands at low + i * step; a negative low or high cuts elements off. */
        const int64_t low = c->op->attrs.pad.low.v[k], step = c->op->attrs.pad.interior.v[k] + 1;
        const int64_t first = low < 0 ? (-low + step - 1) / step : 0;
        int64_t last = floor_divide(t->dims[k] - 1 - low, step);
        last = last < f->dims[k] - 1 ? last : f->dims[k] - 1;
        if (last < first)
            return NULL;
        dims[k] = last - first + 1;
        src += first * in_stride[k];
        dst += (low + first * step) * out_stride[k];
        out_stride[k] *= step;
    }
    ref_copy(dst, out_stride, src, in_stride, (ref_box){dims, t->rank, size});
    return NULL;
}

vtrn_status ref_concatenate(ref_call *c) {
    const graph_type *t = ref_out_type(c, 0);
    const int64_t dim = c->op->attrs.dims.dims.v[0];
    int64_t out_stride[GRAPH_MAX_RANK];
    char *dst = c->out[0];
    byte_strides(t, out_stride);
    for (uint32_t i = 0; i < c->op->n_operands; i++) {
        const graph_type *f = ref_in_type(c, i);
        int64_t in_stride[GRAPH_MAX_RANK];
        byte_strides(f, in_stride);
        ref_copy(dst, out_stride, c->in[i], in_stride, ref_box_of(f));
        dst += f->dims[dim] * out_stride[dim];
    }
    return NULL;
}
