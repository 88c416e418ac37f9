/* From a view to the operand of an instruction: partitions, and at most four free dimensions. */
#include "nki/nki_session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void nki_view_print(const nki_view *view, char *text, size_t size) {
    static const char *const spaces[] = {"", "sbuf", "psum", "hbm"};
    size_t n = (size_t)snprintf(text, size, "%s[", spaces[view->storage->space]);
    for (int i = 0; i < view->n_dims && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, i ? ", %lld" : "%lld", (long long)view->shape[i]);
    if (n < size)
        snprintf(text + n, size - n, "] %s", dtype_name((vtrn_dtype)view->dtype));
}

/* A list of dimensions that grows at its inner end and merges where it can. */
typedef struct dims {
    int n, n_closed; /* the first n_closed do not merge with later ones */
    vtrn_dim dim[2 * NKI_MAX_DIMS];
} dims;

static vtrn_status add(dims *d, int64_t num, int64_t step) {
    if (num == 1)
        return NULL;
    if (step > INT32_MAX || step < INT32_MIN || num > UINT32_MAX)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "a dimension of %lld elements with step %lld: an operand's step has 32 "
                          "bits; split the tensor",
                          (long long)num, (long long)step);
    vtrn_dim *last = d->n > d->n_closed ? &d->dim[d->n - 1] : NULL;
    if (last && last->step == step * num && (uint64_t)last->num * (uint64_t)num <= UINT32_MAX) {
        last->num *= (uint32_t)num;
        last->step = (int32_t)step;
    } else {
        d->dim[d->n++] = (vtrn_dim){(int32_t)step, (uint32_t)num};
    }
    return NULL;
}

/* On chip a dimension that is longer than an instruction counts becomes two: numbers have 16 bits,
 * and steps 16 with a sign (isa/validate.c). */
static void divide_long(dims *d) {
    for (int i = 0; i < d->n && d->n < VTRN_MAX_FREE_DIMS; i++) {
        vtrn_dim whole = d->dim[i];
        if (whole.num <= UINT16_MAX || !whole.step)
            continue;
        uint32_t part = (uint32_t)(INT16_MAX / llabs((long long)whole.step));
        while (part > 1 && whole.num % part)
            part--;
        if (part < 2 || whole.num / part > UINT16_MAX)
            continue;
        int64_t step = (int64_t)whole.step * part;
        memmove(&d->dim[i + 1], &d->dim[i], (size_t)(d->n - i) * sizeof d->dim[0]);
        d->n++;
        d->dim[i] = (vtrn_dim){(int32_t)step, whole.num / part};
        d->dim[i + 1].num = part;
    }
}

static vtrn_status give(dims *d, const nki_view *view, vtrn_ap *out) {
    char text[200];
    if (!d->n_closed && view->storage->space != VTRN_SPACE_HBM)
        divide_long(d);
    if (d->n > VTRN_MAX_FREE_DIMS) {
        nki_view_print(view, text, sizeof text);
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "%s: a pattern of %d free dimensions that do not merge > %d; copy it to "
                          "a denser tile first, or use several instructions",
                          text, d->n, VTRN_MAX_FREE_DIMS);
    }
    out->n_dims = (uint8_t)d->n;
    for (int i = 0; i < d->n; i++)
        out->dim[i] = d->dim[i];
    if (!d->n) {
        out->n_dims = 1;
        out->dim[0] = (vtrn_dim){1, 1};
    }
    return NULL;
}

/* Elements of the view's dtype in a partition. */
static int64_t row_elements(const nki_view *view) {
    return (int64_t)(view->storage->row_bytes / (uint64_t)nki_element_bytes(view));
}

static void begin(const nki_view *view, vtrn_ap *out) {
    const nki_record *r = nki_record_of(view);
    *out = (vtrn_ap){.space = r->storage.space, .dtype = view->dtype, .partition_step = 1};
    int64_t size = nki_element_bytes(view);
    if (r->storage.space == VTRN_SPACE_HBM) {
        out->slot = r->slot;
        out->addr = view->offset * size;
        return;
    }
    out->partition = (uint16_t)(view->offset / row_elements(view));
    out->addr = view->offset % row_elements(view) * size;
}

/* Partitions of an operand on chip. */
static vtrn_status set_partitions(const nki_view *view, vtrn_ap *out) {
    char text[200];
    int64_t n = view->shape[0], row = row_elements(view);
    if (n < 1 || n > UINT16_MAX)
        return VTRN_ERROR(VTRN_UNDEFINED, "a view of %lld partitions; split it", (long long)n);
    out->n_partitions = (uint16_t)n;
    if (n > 1 && view->step[0] % row) {
        nki_view_print(view, text, sizeof text);
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "%s: the outermost step of %lld elements is no multiple of the %lld of a "
                          "partition; on chip the first dimension of a pattern counts partitions",
                          text, (long long)view->step[0], (long long)row);
    }
    out->partition_step = n > 1 ? view->step[0] / row : 1;
    return NULL;
}

static vtrn_status check_not_empty(const nki_view *view) {
    char text[200];
    if (nki_view_elements(view))
        return NULL;
    nki_view_print(view, text, sizeof text);
    return VTRN_ERROR(VTRN_UNDEFINED, "%s has no elements; leave the instruction out", text);
}

vtrn_status nki_operand(const nki_view *view, int n_inner, int *merged_inner, vtrn_ap *out) {
    VTRN_RETURN_IF_ERROR(check_not_empty(view));
    begin(view, out);
    dims d = {0};
    if (view->storage->space == VTRN_SPACE_HBM) {
        if (view->shape[0] > UINT16_MAX)
            return VTRN_ERROR(VTRN_UNDEFINED, "%lld rows > %d; split the transfer",
                              (long long)view->shape[0], UINT16_MAX);
        out->n_partitions = (uint16_t)view->shape[0];
        out->partition_step = view->step[0];
    } else {
        VTRN_RETURN_IF_ERROR(set_partitions(view, out));
    }
    int first_inner = view->n_dims - n_inner;
    for (int i = 1; i < view->n_dims; i++) {
        if (i == first_inner)
            d.n_closed = d.n;
        VTRN_RETURN_IF_ERROR(add(&d, view->shape[i], view->step[i]));
    }
    if (n_inner && d.n == d.n_closed) /* all inner ones have one element */
        d.dim[d.n++] = (vtrn_dim){1, 1};
    if (merged_inner)
        *merged_inner = d.n - d.n_closed;
    return give(&d, view, out);
}

/* Splits the view's elements into n_rows equal rows: d[0] counts the rows, d[1] the elements of
 * one. False: a dimension does not split there. */
static bool split_rows(const nki_view *view, int64_t n_rows, dims d[2]) {
    int64_t left = n_rows;
    d[0] = d[1] = (dims){0};
    for (int i = 0; i < view->n_dims; i++) {
        int64_t num = view->shape[i], step = view->step[i], outer = 1;
        if (left > 1) {
            outer = num <= left ? num : left;
            if (left % outer || num % outer)
                return false;
            left /= outer;
        }
        vtrn_status status = add(&d[0], outer, step * (num / outer));
        if (!status)
            status = add(&d[1], num / outer, step);
        if (status) {
            vtrn_status_free(status);
            return false;
        }
    }
    return left == 1;
}

/* The side in HBM, split as the partitions of the side on chip are. */
static vtrn_status hbm_rows(const nki_view *view, int64_t n_rows, vtrn_ap *out) {
    char text[200];
    dims d[2];
    begin(view, out);
    if (n_rows > UINT16_MAX || !split_rows(view, n_rows, d)) {
        nki_view_print(view, text, sizeof text);
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "%s does not split into %lld rows of equal shape; reshape it so that its "
                          "outer dimensions count the partitions",
                          text, (long long)n_rows);
    }
    dims free = {0};
    out->n_partitions = d[0].n ? (uint16_t)d[0].dim[0].num : 1;
    out->partition_step = d[0].n ? d[0].dim[0].step : 0;
    for (int i = 1; i < d[0].n; i++)
        free.dim[free.n++] = d[0].dim[i];
    for (int i = 0; i < d[1].n; i++)
        free.dim[free.n++] = d[1].dim[i];
    return give(&free, view, out);
}

vtrn_status nki_dma_operands(const nki_view *dst, const nki_view *src, vtrn_ap *to, vtrn_ap *from) {
    bool to_hbm = dst->storage->space == VTRN_SPACE_HBM;
    bool from_hbm = src->storage->space == VTRN_SPACE_HBM;
    VTRN_RETURN_IF_ERROR(check_not_empty(dst));
    VTRN_RETURN_IF_ERROR(check_not_empty(src));
    if (to_hbm && from_hbm) {
        int64_t n_rows = dst->shape[0];
        dims d[2];
        if (n_rows > UINT16_MAX || !split_rows(src, n_rows, d) || d[0].n > 1)
            n_rows = 1;
        VTRN_RETURN_IF_ERROR(hbm_rows(dst, n_rows, to));
        return hbm_rows(src, n_rows, from);
    }
    if (to_hbm) {
        VTRN_RETURN_IF_ERROR(nki_operand(src, 0, NULL, from));
        return hbm_rows(dst, src->shape[0], to);
    }
    VTRN_RETURN_IF_ERROR(nki_operand(dst, 0, NULL, to));
    return from_hbm ? hbm_rows(src, dst->shape[0], from) : nki_operand(src, 0, NULL, from);
}
