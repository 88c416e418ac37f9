/* The address of a window is a sum of clamped indices times strides, exact in GpSimd's 32-bit
 * integers; an indirect DMA takes it from there. Source: docs/hardware.md, "GpSimd". */
#include "compiler/emit/emit_address.h"

#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/emit_transfer.h"

void address_tiles_alloc(emitter *e, int64_t cols, address_tiles *out) {
    tile t = {.space = VTRN_SPACE_SBUF, .dtype = VTRN_DTYPE_INT32};
    out->sum = out->index = out->valid = out->mark = t;
    out->sum.addr = emit_sbuf_alloc(e, (uint64_t)cols * 4);
    out->index.addr = emit_sbuf_alloc(e, (uint64_t)cols * 4);
    out->valid.addr = emit_sbuf_alloc(e, (uint64_t)cols * 4);
    out->mark.addr = emit_sbuf_alloc(e, (uint64_t)cols * 4);
}

/* dst = (a first) second in 32-bit integers */
static vtrn_status int_scalars(emitter *e, const vtrn_ap *dst, const vtrn_ap *a, step_op first,
                               step_op second) {
    return emit_scalars(e, VTRN_ENGINE_GPSIMD, dst, a, first, second);
}

static vtrn_status int_tensor(emitter *e, const vtrn_ap *dst, const vtrn_ap *a, vtrn_alu op,
                              const vtrn_ap *b) {
    return emit_tensor_tensor(e, VTRN_ENGINE_GPSIMD, op, dst, a, b);
}

/* [rows, cols) of the address tile from column col: windows from the first on. */
typedef struct address_part {
    int64_t first;
    uint32_t rows, col, cols;
} address_part;

/* Elements first + r + 128 c of a list at [r, c]. */
static vtrn_status load_list(emitter *e, const view *list, const address_part *p, const tile *dst) {
    int64_t stride = list->f[0].stride;
    view v = {.slot = list->slot,
              .dtype = list->dtype,
              .offset = list->offset + p->first * stride,
              .n = 2,
              .f = {{p->rows, stride}, {p->cols, tile_max_rows(e->chip) * stride}}};
    tile at = *dst;
    at.addr += p->col * 4;
    return emit_load(e, &(view_part){&v, 1, 0, p->rows, 0, p->cols}, &at);
}

static vtrn_status compute_part(emitter *e, const address_spec *s, const address_tiles *t,
                                const address_part *p) {
    uint32_t rows = p->rows, col = p->col, cols = p->cols;
    vtrn_ap sum = tile_ap_cols(&t->sum, rows, col, cols);
    vtrn_ap valid = tile_ap_cols(&t->valid, rows, col, cols);
    vtrn_ap mark = tile_ap_cols(&t->mark, rows, col, cols);
    bool has_sum = s->has_base;
    if (s->has_base)
        VTRN_RETURN_IF_ERROR(load_list(e, &s->base, p, &t->sum));
    for (int i = 0; i < s->n_terms; i++) {
        const address_term *term = &s->term[i];
        tile to = t->index; /* a narrow integer is cast by the DMA; uint32 keeps its comparisons */
        to.dtype = term->index.dtype == VTRN_DTYPE_UINT32 ? VTRN_DTYPE_UINT32 : VTRN_DTYPE_INT32;
        VTRN_RETURN_IF_ERROR(load_list(e, &term->index, p, &to));
        vtrn_ap index = tile_ap_cols(&to, rows, col, cols);
        if (s->is_skipped) { /* as unsigned, a negative start is beyond the limit too */
            vtrn_ap bits = index, *result = i ? &mark : &valid;
            bits.dtype = VTRN_DTYPE_UINT32;
            VTRN_RETURN_IF_ERROR(
                int_scalars(e, result, &bits, STEP_BITS(IS_LE, (uint32_t)term->limit), STEP_NONE));
            if (i)
                VTRN_RETURN_IF_ERROR(int_tensor(e, &valid, &valid, VTRN_ALU_MULTIPLY, &mark));
        } else {
            VTRN_RETURN_IF_ERROR(int_scalars(e, &index, &index, STEP_BITS(MAX, 0),
                                             STEP_BITS(MIN, (uint32_t)term->limit)));
        }
        vtrn_ap *to_sum = has_sum ? &index : &sum;
        VTRN_RETURN_IF_ERROR(
            int_scalars(e, to_sum, &index, STEP_BITS(MULTIPLY, (uint32_t)term->stride), STEP_NONE));
        if (has_sum)
            VTRN_RETURN_IF_ERROR(int_tensor(e, &sum, &sum, VTRN_ALU_ADD, &index));
        has_sum = true;
    }
    if (!has_sum) {
        EMIT(zero, e, MEMSET, VECTOR);
        zero->ap[0] = sum;
    }
    if (!s->is_skipped || s->n_terms == 0)
        return NULL;
    /* sum * valid + (valid - 1): -1 where it is left out */
    VTRN_RETURN_IF_ERROR(int_tensor(e, &sum, &sum, VTRN_ALU_MULTIPLY, &valid));
    VTRN_RETURN_IF_ERROR(int_scalars(e, &valid, &valid, STEP_BITS(SUBTRACT, 1), STEP_NONE));
    return int_tensor(e, &sum, &sum, VTRN_ALU_ADD, &valid);
}

vtrn_status address_compute(emitter *e, const address_spec *s, const address_tiles *t,
                            int64_t first, int64_t n) {
    uint32_t n_max = (uint32_t)tile_max_rows(e->chip);
    uint32_t full = (uint32_t)(n / n_max), rest = (uint32_t)(n % n_max);
    address_part whole = {first, n_max, 0, full};
    address_part last = {first + (int64_t)full * n_max, rest, full, 1};
    if (full)
        VTRN_RETURN_IF_ERROR(compute_part(e, s, t, &whole));
    return rest ? compute_part(e, s, t, &last) : NULL;
}

vtrn_status emit_addresses_kernel(emitter *e, const kernel *k) {
    const kernel_addresses *spec = k->spec;
    int64_t n_all = spec->at.n, cols = spec->cols;
    address_tiles at;
    address_tiles_alloc(e, cols, &at);
    for (int64_t first = 0; first < n_all; first += tile_max_rows(e->chip) * cols) {
        int64_t n = n_all - first < tile_max_rows(e->chip) * cols ? n_all - first
                                                                  : tile_max_rows(e->chip) * cols;
        int64_t full = n / tile_max_rows(e->chip), rest = n % tile_max_rows(e->chip);
        VTRN_RETURN_IF_ERROR(address_compute(e, &spec->at, &at, first, n));
        for (int part = 0; part < 2; part++) {
            int64_t rows = part ? rest : tile_max_rows(e->chip), n_cols = part ? 1 : full;
            if (rows == 0 || n_cols == 0)
                continue;
            view v = spec->list;
            v.offset += first + (part ? full * tile_max_rows(e->chip) : 0);
            v.n = 2;
            v.f[0] = (view_factor){rows, 1};
            v.f[1] = (view_factor){n_cols, tile_max_rows(e->chip)};
            tile from = at.sum;
            from.addr += part ? (uint32_t)full * 4 : 0;
            VTRN_RETURN_IF_ERROR(
                emit_store(e, &(view_part){&v, 1, 0, rows, 0, n_cols}, &from, false));
        }
    }
    return NULL;
}
