/* Sums of updates, 128 at a time, by a matmul of two one-hot tiles: lower/scatter_add.c says how.
 */
#include "compiler/emit/emit_address.h"
#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/emit_transfer.h"
#include "compiler/emit/int_bytes.h"
#include "compiler/emit/non_finite.h"
#include "compiler/emit/psum.h"
#include "compiler/plan/scatter_sums.h"

enum { FAR_AWAY = -(1 << 30) /* an address that no window reaches */ };

typedef struct adder {
    emitter *e;
    const kernel_scatter_add *k;
    const address_spec *s; /* of the kernel */
    address_tiles at;
    tile numbers, row_numbers, high, low, placed, raw, value[MAX_SUM_PARTS], zero;
    tile hot[2], moving[2], old, sum, part, infinity, spare, psum[MAX_SUM_PARTS];
    psum_banks banks;
    int flip;
} adder;

static tile tile_of(emitter *e, uint8_t dtype, int64_t cols) {
    return (tile){
        .space = VTRN_SPACE_SBUF, .dtype = dtype, .addr = emit_sbuf_alloc(e, (uint64_t)cols * 4)};
}

/* 0, 1, ... from `first` on, along the columns. */
static vtrn_status emit_numbers(emitter *e, const tile *t, int64_t first, int64_t n) {
    EMIT(iota, e, IOTA, GPSIMD);
    iota->ap[0] = tile_ap(t, tile_max_rows(e->chip), (uint32_t)n);
    iota->arg[0] = (int32_t)first;
    iota->ap[3] = (vtrn_ap){.n_dims = 1, .dim = {{1, (uint32_t)n}}};
    return NULL;
}

static vtrn_status place_tiles(adder *x) {
    emitter *e = x->e;
    x->numbers = tile_of(e, VTRN_DTYPE_INT32, x->k->n_numbers);
    if (x->k->is_tight)
        x->row_numbers = tile_of(e, VTRN_DTYPE_INT32, tile_max_rows(x->e->chip));
    address_tiles_alloc(e, x->k->chunk_cols, &x->at);
    x->high = tile_of(e, VTRN_DTYPE_INT32, x->k->chunk_cols);
    x->low = tile_of(e, VTRN_DTYPE_INT32, x->k->chunk_cols);
    x->placed = tile_of(e, VTRN_DTYPE_INT32, x->k->chunk_cols);
    uint8_t type = x->k->is_int ? VTRN_DTYPE_INT32 : VTRN_DTYPE_FP32;
    x->raw = tile_of(e, x->k->is_int ? x->k->updates.dtype : type, x->k->chunk_cols);
    for (int i = 0; i < MAX_SUM_PARTS; i++)
        x->value[i] = x->k->is_int || i ? tile_of(e, type, x->k->chunk_cols) : x->raw;
    x->zero = tile_of(e, VTRN_DTYPE_FP32, 1);
    x->infinity = tile_of(e, VTRN_DTYPE_FP32, x->k->low_size);
    x->spare = tile_of(e, VTRN_DTYPE_FP32, x->k->low_size);
    for (int i = 0; i < 2; i++) {
        x->hot[i] = tile_of(e, VTRN_DTYPE_FP32, tile_max_rows(x->e->chip));
        x->moving[i] = tile_of(e, VTRN_DTYPE_FP32, x->k->low_size);
    }
    x->old = tile_of(e, x->s->table.dtype, x->k->low_size);
    x->sum = tile_of(e, x->s->table.dtype, x->k->low_size);
    x->part = tile_of(e, x->s->table.dtype, x->k->low_size);
    if (x->k->n_parts == FLOAT_PARTS) {
        EMIT(clear, e, MEMSET, VECTOR);
        clear->ap[0] = tile_ap(&x->zero, tile_max_rows(x->e->chip), 1);
    }
    return emit_numbers(e, &x->numbers, 0, x->k->n_numbers);
}

/* Values of window element w of updates [first, first + n) and where they belong. */
static vtrn_status prepare(adder *x, int64_t first, uint32_t rows, uint32_t col, uint32_t cols,
                           int64_t w) {
    emitter *e = x->e;
    int64_t stride = x->k->updates.f[0].stride, left = w, table = 0, array = 0;
    for (int i = x->s->n_window - 1; i >= 0; i--) {
        const address_factor *f = &x->s->window[i];
        table += left % f->size * f->table;
        array += left % f->size * f->array;
        left /= f->size;
    }
    view v = {.slot = x->k->updates.slot,
              .dtype = x->k->updates.dtype,
              .offset = x->k->updates.offset + array +
                        (first + (int64_t)col * tile_max_rows(x->e->chip)) * stride,
              .n = 2,
              .f = {{rows, stride}, {cols, tile_max_rows(x->e->chip) * stride}}};
    tile to = x->raw;
    to.addr += col * 4;
    VTRN_RETURN_IF_ERROR(emit_load(e, &(view_part){&v, 1, 0, rows, 0, cols}, &to));
    vtrn_ap sum = tile_ap_cols(&x->at.sum, rows, col, cols);
    vtrn_ap placed = tile_ap_cols(&x->placed, rows, col, cols);
    vtrn_ap high = tile_ap_cols(&x->high, rows, col, cols);
    vtrn_ap low = tile_ap_cols(&x->low, rows, col, cols);
    VTRN_RETURN_IF_ERROR(
        emit_scalars(e, VTRN_ENGINE_GPSIMD, &placed, &sum, STEP_BITS(ADD, table), STEP_NONE));
    VTRN_RETURN_IF_ERROR(emit_scalars(e, VTRN_ENGINE_VECTOR, &high, &placed,
                                      STEP_BITS(SHIFT_RIGHT_ARITH, x->k->shift), STEP_NONE));
    VTRN_RETURN_IF_ERROR(emit_scalars(e, VTRN_ENGINE_VECTOR, &low, &placed,
                                      STEP_BITS(BITWISE_AND, x->k->low_size - 1), STEP_NONE));
    for (int i = 0; x->k->is_int && i < INT_BYTES; i++) {
        vtrn_ap byte = tile_ap_cols(&x->value[i], rows, col, cols);
        vtrn_ap raw = tile_ap_cols(&x->raw, rows, col, cols);
        VTRN_RETURN_IF_ERROR(int_bytes_take(e, &byte, &raw, i));
    }
    if (x->k->n_parts != FLOAT_PARTS)
        return NULL;
    vtrn_ap part[FLOAT_PARTS], zero = tile_ap(&x->zero, rows, 1);
    for (int i = 0; i < FLOAT_PARTS; i++)
        part[i] = tile_ap_cols(&x->value[i], rows, col, cols);
    return non_finite_split(e, &part[0], &part[1], &part[2], &zero);
}

/* What would be skipped gets a place where adding a window's own offset leaves it outside. */
static vtrn_status banish_skipped(adder *x, uint32_t rows, uint32_t col, uint32_t cols) {
    vtrn_ap sum = tile_ap_cols(&x->at.sum, rows, col, cols);
    vtrn_ap mark = tile_ap_cols(&x->at.mark, rows, col, cols);
    VTRN_RETURN_IF_ERROR(emit_scalars(x->e, VTRN_ENGINE_GPSIMD, &mark, &sum, STEP_BITS(IS_LT, 0),
                                      STEP_BITS(MULTIPLY, FAR_AWAY)));
    EMIT(add, x->e, TENSOR_TENSOR, GPSIMD);
    add->op0 = VTRN_ALU_ADD;
    add->ap[0] = sum;
    add->ap[1] = sum;
    add->ap[2] = mark;
    return NULL;
}

/* 128 updates in column col of the chunk, into table rows [h0, h0 + n_h); flags of the matmuls. */
static vtrn_status add_block(adder *x, uint32_t rows, uint32_t col, int64_t h0, uint32_t n_h,
                             uint8_t flags) {
    emitter *e = x->e;
    int b = x->flip;
    EMIT(hot, e, TENSOR_SCALAR, VECTOR);
    hot->op0 = VTRN_ALU_IS_EQUAL;
    hot->ap[0] = tile_ap(&x->hot[b], rows, n_h);
    hot->ap[1] = x->k->is_tight ? tile_ap(&x->row_numbers, rows, n_h)
                                : tile_ap_cols(&x->numbers, rows, (uint32_t)h0, n_h);
    hot->ap[2] = tile_ap_cols(&x->high, rows, col, 1);
    EMIT(weights, e, LDWEIGHTS, TENSOR);
    weights->ap[1] = tile_ap(&x->hot[b], rows, n_h);
    for (int i = 0; i < x->k->n_parts; i++) {
        int side = x->flip ^= 1;
        EMIT(moving, e, TENSOR_SCALAR, VECTOR);
        moving->op0 = VTRN_ALU_IS_EQUAL;
        moving->op1 = VTRN_ALU_MULTIPLY;
        moving->ap[0] = tile_ap(&x->moving[side], rows, (uint32_t)x->k->low_size);
        moving->ap[1] = tile_ap(&x->numbers, rows, (uint32_t)x->k->low_size);
        moving->ap[2] = tile_ap_cols(&x->low, rows, col, 1);
        moving->ap[3] = tile_ap_cols(&x->value[i], rows, col, 1);
        EMIT(sum, e, MATMUL, TENSOR);
        sum->ap[0] = tile_ap(&x->psum[i], n_h, (uint32_t)x->k->low_size);
        sum->ap[1] = tile_ap(&x->moving[side], rows, (uint32_t)x->k->low_size);
        sum->flags = flags;
    }
    return NULL;
}

/* All updates into table rows [h0, h0 + n_h). */
static vtrn_status add_all(adder *x, int64_t h0, uint32_t n_h) {
    int64_t most = tile_max_rows(x->e->chip) * x->k->chunk_cols;
    for (int64_t first = 0; first < x->s->n; first += most) {
        int64_t n = x->s->n - first < most ? x->s->n - first : most;
        uint32_t full = (uint32_t)(n / tile_max_rows(x->e->chip)),
                 rest = (uint32_t)(n % tile_max_rows(x->e->chip));
        VTRN_RETURN_IF_ERROR(address_compute(x->e, x->s, &x->at, first, n));
        if (full)
            VTRN_RETURN_IF_ERROR(banish_skipped(x, tile_max_rows(x->e->chip), 0, full));
        if (rest)
            VTRN_RETURN_IF_ERROR(banish_skipped(x, rest, full, 1));
        for (int64_t w = 0; w < x->k->n_window; w++) {
            if (full)
                VTRN_RETURN_IF_ERROR(prepare(x, first, tile_max_rows(x->e->chip), 0, full, w));
            if (rest)
                VTRN_RETURN_IF_ERROR(prepare(x, first, rest, full, 1, w));
            for (uint32_t c = 0; c < full + (rest > 0); c++) {
                bool is_first = first == 0 && w == 0 && c == 0;
                bool is_last =
                    first + n == x->s->n && w + 1 == x->k->n_window && c + 1 == full + (rest > 0);
                uint8_t flags =
                    (is_first ? 0 : VTRN_FLAG_ACCUMULATE) | (is_last ? VTRN_FLAG_LAST : 0);
                VTRN_RETURN_IF_ERROR(
                    add_block(x, c < full ? tile_max_rows(x->e->chip) : rest, c, h0, n_h, flags));
            }
        }
    }
    return NULL;
}

/* Between the table and a tile: whole rows, and the last one up to its end. */
static vtrn_status move_rows(adder *x, const tile *t, int64_t h0, uint32_t n_h, bool is_store) {
    emitter *e = x->e;
    const view *table = &x->s->table;
    int64_t begin = h0 * x->k->low_size, n = x->k->n_elements - begin;
    int64_t rows = n / x->k->low_size < n_h ? n / x->k->low_size : n_h;
    int64_t rest = rows < n_h ? n - rows * x->k->low_size : 0;
    for (int part = 0; part < 2; part++) {
        int64_t n_rows = part ? 1 : rows, n_cols = part ? rest : x->k->low_size;
        if (n_rows == 0 || n_cols == 0)
            continue;
        view v = {.slot = table->slot,
                  .dtype = table->dtype,
                  .offset = table->offset + begin + (part ? rows * x->k->low_size : 0),
                  .n = 2,
                  .f = {{n_rows, x->k->low_size}, {n_cols, 1}}};
        tile at = *t;
        at.partition = (uint16_t)(part ? rows : 0);
        VTRN_RETURN_IF_ERROR(
            is_store ? emit_store(e, &(view_part){&v, 1, 0, n_rows, 0, n_cols}, &at, false)
                     : emit_load(e, &(view_part){&v, 1, 0, n_rows, 0, n_cols}, &at));
    }
    return NULL;
}

/* The tile that holds the sum of the parts of floats. */
static vtrn_status join_parts(adder *x, uint32_t n_h, vtrn_ap *out) {
    emitter *e = x->e;
    uint32_t cols = (uint32_t)x->k->low_size;
    *out = tile_ap(&x->psum[0], n_h, cols);
    if (x->k->n_parts != FLOAT_PARTS)
        return NULL;
    vtrn_ap infinity = tile_ap(&x->infinity, n_h, cols), spare = tile_ap(&x->spare, n_h, cols);
    vtrn_ap above = tile_ap(&x->psum[1], n_h, cols), below = tile_ap(&x->psum[2], n_h, cols);
    VTRN_RETURN_IF_ERROR(non_finite_join(e, &infinity, &spare, &above, &below));
    VTRN_RETURN_IF_ERROR(
        emit_tensor_tensor(e, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, &infinity, out, &infinity));
    *out = infinity;
    return NULL;
}

static vtrn_status finish_rows(adder *x, int64_t h0, uint32_t n_h) {
    emitter *e = x->e;
    vtrn_ap sum = tile_ap(&x->sum, n_h, (uint32_t)x->k->low_size), old = sum, from = sum;
    old.addr = x->old.addr;
    vtrn_ap part = sum, bytes[INT_BYTES];
    part.addr = x->part.addr;
    for (int i = 0; x->k->is_int && i < INT_BYTES; i++)
        bytes[i] = tile_ap(&x->psum[i], n_h, (uint32_t)x->k->low_size);
    if (x->k->is_int)
        VTRN_RETURN_IF_ERROR(int_bytes_join(e, &sum, &part, bytes));
    else
        VTRN_RETURN_IF_ERROR(join_parts(x, n_h, &from));
    if (x->k->has_old) {
        /* the last row ends early: what is added behind it must be a number all the same */
        EMIT(clear, e, MEMSET, VECTOR);
        clear->ap[0] = old;
        VTRN_RETURN_IF_ERROR(move_rows(x, &x->old, h0, n_h, false));
        vtrn_instr *add = emit_append(e, VTRN_OP_TENSOR_TENSOR,
                                      x->k->is_int ? VTRN_ENGINE_GPSIMD : VTRN_ENGINE_VECTOR);
        if (!add)
            return VTRN_OUT_OF_MEMORY(sizeof *add);
        add->op0 = VTRN_ALU_ADD;
        add->ap[0] = sum;
        add->ap[1] = from;
        add->ap[2] = old;
    } else if (!x->k->is_int) {
        EMIT(copy, e, TENSOR_COPY, VECTOR);
        copy->ap[0] = sum;
        copy->ap[1] = from;
    }
    return move_rows(x, &x->sum, h0, n_h, true);
}

vtrn_status emit_scatter_add_kernel(emitter *e, const kernel *k) {
    const kernel_scatter_add *spec = k->spec;
    int64_t n_max = tile_max_rows(e->chip);
    adder x = {.e = e, .k = spec, .s = &spec->at};
    VTRN_RETURN_IF_ERROR(place_tiles(&x));
    VTRN_RETURN_IF_ERROR(psum_take(e, e->chip->n_psum_banks, &x.banks));
    for (int64_t h = 0; h < spec->n_high; h += n_max) {
        uint32_t n_h = (uint32_t)(spec->n_high - h < n_max ? spec->n_high - h : n_max);
        VTRN_RETURN_IF_ERROR(psum_next(e, &x.banks, spec->n_parts, x.psum));
        if (spec->is_tight)
            VTRN_RETURN_IF_ERROR(emit_numbers(e, &x.row_numbers, h, n_h));
        VTRN_RETURN_IF_ERROR(add_all(&x, h, n_h));
        VTRN_RETURN_IF_ERROR(finish_rows(&x, h, n_h));
    }
    return NULL;
}
