/* Adding updates at places that may meet: indirect DMA must not see an address twice, but a matmul
 * sums. The address of an element is (high, low); 128 updates at a time make a one-hot tile of
 * their high parts, stationary, and one of their low parts times their values, moving:
 *
 *     sum[high, low] += hot_high[update, high]^T @ (hot_low * value)[update, low]
 *
 * Integers go in four bytes, whose sums fp32 holds exactly; floats that may not be finite in three
 * parts (see non_finite.h). */
#include "compiler/lower/scatter_add.h"

#include "compiler/emit/emit_kernels.h"
#include "compiler/lower/int_bytes.h"
#include "compiler/lower/movement.h"
#include "compiler/lower/non_finite.h"
#include "compiler/lower/psum.h"

#include <string.h>

enum {
    MAX_ELEMENTS = 1 << 22, /* of the table */
    MAX_STEPS = 1 << 16,    /* tiles of updates: a program's size */
    MAX_FOLDED = 1 << 20,   /* elements whose places are listed one by one */
    FAR_AWAY = -(1 << 30),  /* an address that no window reaches */
    CHUNK_COLS = 64,        /* blocks of 128 updates whose addresses are held at a time */
    LEAST_CHUNK_COLS = LOWER_SBUF_ALIGN / 4,
    N_FLOAT_PARTS = 3, /* finite, above, below */
    MAX_PARTS = INT_BYTES,
};

typedef struct adder {
    lower *l;
    const address_spec *s;
    bool is_int, has_old, is_finite;
    bool is_folded;             /* each element of a window is to be a window of its own */
    int64_t n_elements, n_high; /* of the table; rows of low_size */
    int shift;
    int64_t low_size, n_window;
    view updates; /* one factor */
    int n_parts;  /* bytes of an integer, parts of a float */
    address_tiles at;
    int64_t chunk_cols;
    bool is_tight; /* numbers of high parts are made for each 128 of them, in row_numbers */
    tile numbers, row_numbers, high, low, placed, raw, value[MAX_PARTS], zero;
    tile hot[2], moving[2], old, sum, part, infinity, spare, psum[MAX_PARTS];
    psum_banks banks;
    int flip;
} adder;

static tile tile_of(lower *l, uint8_t dtype, int64_t cols) {
    return (tile){
        .space = VTRN_SPACE_SBUF, .dtype = dtype, .addr = lower_sbuf_alloc(l, (uint64_t)cols * 4)};
}

/* Numbers that are held all the time. */
static int64_t n_numbers(const adder *x) {
    return x->n_high > x->low_size && !x->is_tight ? x->n_high : x->low_size;
}

/* What place_tiles takes of a partition. */
static uint64_t sbuf_bytes(const adder *x) {
    uint64_t column = lower_sbuf_round((uint64_t)x->chunk_cols * 4);
    uint64_t row = lower_sbuf_round((uint64_t)x->low_size * 4), one = lower_sbuf_round(4);
    uint64_t hot = lower_sbuf_round(lower_partitions(x->l) * 4),
             n_values = MAX_PARTS - (x->is_int ? 0 : 1);
    return lower_sbuf_round((uint64_t)n_numbers(x) * 4) + (x->is_tight ? hot : 0) +
           address_tiles_bytes(x->chunk_cols) + (4 + n_values) * column + one + 2 * hot + 7 * row;
}

/* 0, 1, ... from `first` on, along the columns. */
static vtrn_status emit_numbers(lower *l, const tile *t, int64_t first, int64_t n) {
    LOWER_EMIT(iota, l, IOTA, GPSIMD);
    iota->ap[0] = tile_ap(t, lower_partitions(l), (uint32_t)n);
    iota->arg[0] = (int32_t)first;
    iota->ap[3] = (vtrn_ap){.n_dims = 1, .dim = {{1, (uint32_t)n}}};
    return NULL;
}

static vtrn_status place_tiles(adder *x) {
    lower *l = x->l;
    x->numbers = tile_of(l, VTRN_DTYPE_INT32, n_numbers(x));
    if (x->is_tight)
        x->row_numbers = tile_of(l, VTRN_DTYPE_INT32, lower_partitions(x->l));
    address_tiles_alloc(l, x->chunk_cols, &x->at);
    x->high = tile_of(l, VTRN_DTYPE_INT32, x->chunk_cols);
    x->low = tile_of(l, VTRN_DTYPE_INT32, x->chunk_cols);
    x->placed = tile_of(l, VTRN_DTYPE_INT32, x->chunk_cols);
    uint8_t type = x->is_int ? VTRN_DTYPE_INT32 : VTRN_DTYPE_FP32;
    x->raw = tile_of(l, x->is_int ? x->updates.dtype : type, x->chunk_cols);
    for (int i = 0; i < MAX_PARTS; i++)
        x->value[i] = x->is_int || i ? tile_of(l, type, x->chunk_cols) : x->raw;
    x->zero = tile_of(l, VTRN_DTYPE_FP32, 1);
    x->infinity = tile_of(l, VTRN_DTYPE_FP32, x->low_size);
    x->spare = tile_of(l, VTRN_DTYPE_FP32, x->low_size);
    for (int i = 0; i < 2; i++) {
        x->hot[i] = tile_of(l, VTRN_DTYPE_FP32, lower_partitions(x->l));
        x->moving[i] = tile_of(l, VTRN_DTYPE_FP32, x->low_size);
    }
    x->old = tile_of(l, x->s->table.dtype, x->low_size);
    x->sum = tile_of(l, x->s->table.dtype, x->low_size);
    x->part = tile_of(l, x->s->table.dtype, x->low_size);
    if (x->n_parts == N_FLOAT_PARTS) {
        LOWER_EMIT(clear, l, MEMSET, VECTOR);
        clear->ap[0] = tile_ap(&x->zero, lower_partitions(x->l), 1);
    }
    return emit_numbers(l, &x->numbers, 0, n_numbers(x));
}

/* Values of window element w of updates [first, first + n) and where they belong. */
static vtrn_status prepare(adder *x, int64_t first, uint32_t rows, uint32_t col, uint32_t cols,
                           int64_t w) {
    lower *l = x->l;
    int64_t stride = x->updates.f[0].stride, left = w, table = 0, array = 0;
    for (int i = x->s->n_window - 1; i >= 0; i--) {
        const address_factor *f = &x->s->window[i];
        table += left % f->size * f->table;
        array += left % f->size * f->array;
        left /= f->size;
    }
    view v = {.slot = x->updates.slot,
              .dtype = x->updates.dtype,
              .offset = x->updates.offset + array +
                        (first + (int64_t)col * lower_partitions(x->l)) * stride,
              .n = 2,
              .f = {{rows, stride}, {cols, lower_partitions(x->l) * stride}}};
    tile to = x->raw;
    to.addr += col * 4;
    VTRN_RETURN_IF_ERROR(lower_load(l, &v, 1, 0, rows, 0, cols, &to));
    vtrn_ap sum = tile_ap_cols(&x->at.sum, rows, col, cols);
    vtrn_ap placed = tile_ap_cols(&x->placed, rows, col, cols);
    vtrn_ap high = tile_ap_cols(&x->high, rows, col, cols);
    vtrn_ap low = tile_ap_cols(&x->low, rows, col, cols);
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(l, VTRN_ENGINE_GPSIMD, &placed, &sum, VTRN_ALU_ADD,
                                                table, VTRN_ALU_NONE, 0));
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(l, VTRN_ENGINE_VECTOR, &high, &placed,
                                                VTRN_ALU_SHIFT_RIGHT_ARITH, x->shift, VTRN_ALU_NONE,
                                                0));
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(l, VTRN_ENGINE_VECTOR, &low, &placed,
                                                VTRN_ALU_BITWISE_AND, x->low_size - 1,
                                                VTRN_ALU_NONE, 0));
    for (int i = 0; x->is_int && i < INT_BYTES; i++) {
        vtrn_ap byte = tile_ap_cols(&x->value[i], rows, col, cols);
        vtrn_ap raw = tile_ap_cols(&x->raw, rows, col, cols);
        VTRN_RETURN_IF_ERROR(int_bytes_take(l, &byte, &raw, i));
    }
    if (x->n_parts != N_FLOAT_PARTS)
        return NULL;
    vtrn_ap part[N_FLOAT_PARTS], zero = tile_ap(&x->zero, rows, 1);
    for (int i = 0; i < N_FLOAT_PARTS; i++)
        part[i] = tile_ap_cols(&x->value[i], rows, col, cols);
    return non_finite_split(l, &part[0], &part[1], &part[2], &zero);
}

/* What would be skipped goes where adding a window's own offset leaves it outside. */
static vtrn_status banish_skipped(adder *x, uint32_t rows, uint32_t col, uint32_t cols) {
    vtrn_ap sum = tile_ap_cols(&x->at.sum, rows, col, cols);
    vtrn_ap mark = tile_ap_cols(&x->at.mark, rows, col, cols);
    VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(x->l, VTRN_ENGINE_GPSIMD, &mark, &sum,
                                                VTRN_ALU_IS_LT, 0, VTRN_ALU_MULTIPLY, FAR_AWAY));
    LOWER_EMIT(add, x->l, TENSOR_TENSOR, GPSIMD);
    add->op0 = VTRN_ALU_ADD;
    add->ap[0] = sum;
    add->ap[1] = sum;
    add->ap[2] = mark;
    return NULL;
}

/* 128 updates in column col of the chunk, into table rows [h0, h0 + n_h). */
static vtrn_status add_block(adder *x, uint32_t rows, uint32_t col, int64_t h0, uint32_t n_h,
                             bool is_first, bool is_last) {
    lower *l = x->l;
    int b = x->flip;
    LOWER_EMIT(hot, l, TENSOR_SCALAR, VECTOR);
    hot->op0 = VTRN_ALU_IS_EQUAL;
    hot->ap[0] = tile_ap(&x->hot[b], rows, n_h);
    hot->ap[1] = x->is_tight ? tile_ap(&x->row_numbers, rows, n_h)
                             : tile_ap_cols(&x->numbers, rows, (uint32_t)h0, n_h);
    hot->ap[2] = tile_ap_cols(&x->high, rows, col, 1);
    LOWER_EMIT(weights, l, LDWEIGHTS, TENSOR);
    weights->ap[1] = tile_ap(&x->hot[b], rows, n_h);
    for (int i = 0; i < x->n_parts; i++) {
        int side = x->flip ^= 1;
        LOWER_EMIT(moving, l, TENSOR_SCALAR, VECTOR);
        moving->op0 = VTRN_ALU_IS_EQUAL;
        moving->op1 = VTRN_ALU_MULTIPLY;
        moving->ap[0] = tile_ap(&x->moving[side], rows, (uint32_t)x->low_size);
        moving->ap[1] = tile_ap(&x->numbers, rows, (uint32_t)x->low_size);
        moving->ap[2] = tile_ap_cols(&x->low, rows, col, 1);
        moving->ap[3] = tile_ap_cols(&x->value[i], rows, col, 1);
        LOWER_EMIT(sum, l, MATMUL, TENSOR);
        sum->ap[0] = tile_ap(&x->psum[i], n_h, (uint32_t)x->low_size);
        sum->ap[1] = tile_ap(&x->moving[side], rows, (uint32_t)x->low_size);
        sum->flags = (is_first ? 0 : VTRN_FLAG_ACCUMULATE) | (is_last ? VTRN_FLAG_LAST : 0);
    }
    return NULL;
}

/* All updates into table rows [h0, h0 + n_h). */
static vtrn_status add_all(adder *x, int64_t h0, uint32_t n_h) {
    int64_t most = lower_partitions(x->l) * x->chunk_cols;
    for (int64_t first = 0; first < x->s->n; first += most) {
        int64_t n = x->s->n - first < most ? x->s->n - first : most;
        uint32_t full = (uint32_t)(n / lower_partitions(x->l)),
                 rest = (uint32_t)(n % lower_partitions(x->l));
        VTRN_RETURN_IF_ERROR(address_compute(x->l, x->s, &x->at, first, n));
        if (full)
            VTRN_RETURN_IF_ERROR(banish_skipped(x, lower_partitions(x->l), 0, full));
        if (rest)
            VTRN_RETURN_IF_ERROR(banish_skipped(x, rest, full, 1));
        for (int64_t w = 0; w < x->n_window; w++) {
            if (full)
                VTRN_RETURN_IF_ERROR(prepare(x, first, lower_partitions(x->l), 0, full, w));
            if (rest)
                VTRN_RETURN_IF_ERROR(prepare(x, first, rest, full, 1, w));
            for (uint32_t c = 0; c < full + (rest > 0); c++) {
                bool is_first = first == 0 && w == 0 && c == 0;
                bool is_last =
                    first + n == x->s->n && w + 1 == x->n_window && c + 1 == full + (rest > 0);
                VTRN_RETURN_IF_ERROR(add_block(x, c < full ? lower_partitions(x->l) : rest, c, h0,
                                               n_h, is_first, is_last));
            }
        }
    }
    return NULL;
}

/* Between the table and a tile: whole rows, and the last one as far as it goes. */
static vtrn_status move_rows(adder *x, const tile *t, int64_t h0, uint32_t n_h, bool is_store) {
    lower *l = x->l;
    const view *table = &x->s->table;
    int64_t begin = h0 * x->low_size, n = x->n_elements - begin;
    int64_t rows = n / x->low_size < n_h ? n / x->low_size : n_h;
    int64_t rest = rows < n_h ? n - rows * x->low_size : 0;
    for (int part = 0; part < 2; part++) {
        int64_t n_rows = part ? 1 : rows, n_cols = part ? rest : x->low_size;
        if (n_rows == 0 || n_cols == 0)
            continue;
        view v = {.slot = table->slot,
                  .dtype = table->dtype,
                  .offset = table->offset + begin + (part ? rows * x->low_size : 0),
                  .n = 2,
                  .f = {{n_rows, x->low_size}, {n_cols, 1}}};
        tile at = *t;
        at.partition = (uint16_t)(part ? rows : 0);
        VTRN_RETURN_IF_ERROR(is_store ? lower_store(l, &v, 1, 0, n_rows, 0, n_cols, &at, false)
                                      : lower_load(l, &v, 1, 0, n_rows, 0, n_cols, &at));
    }
    return NULL;
}

/* Where the sum of the parts of floats lies. */
static vtrn_status join_parts(adder *x, uint32_t n_h, vtrn_ap *out) {
    lower *l = x->l;
    uint32_t cols = (uint32_t)x->low_size;
    *out = tile_ap(&x->psum[0], n_h, cols);
    if (x->n_parts != N_FLOAT_PARTS)
        return NULL;
    vtrn_ap infinity = tile_ap(&x->infinity, n_h, cols), spare = tile_ap(&x->spare, n_h, cols);
    vtrn_ap above = tile_ap(&x->psum[1], n_h, cols), below = tile_ap(&x->psum[2], n_h, cols);
    VTRN_RETURN_IF_ERROR(non_finite_join(l, &infinity, &spare, &above, &below));
    VTRN_RETURN_IF_ERROR(
        lower_emit_tensor_tensor(l, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, &infinity, out, &infinity));
    *out = infinity;
    return NULL;
}

static vtrn_status finish_rows(adder *x, int64_t h0, uint32_t n_h) {
    lower *l = x->l;
    vtrn_ap sum = tile_ap(&x->sum, n_h, (uint32_t)x->low_size), old = sum, from = sum;
    old.addr = x->old.addr;
    vtrn_ap part = sum, bytes[INT_BYTES];
    part.addr = x->part.addr;
    for (int i = 0; x->is_int && i < INT_BYTES; i++)
        bytes[i] = tile_ap(&x->psum[i], n_h, (uint32_t)x->low_size);
    if (x->is_int)
        VTRN_RETURN_IF_ERROR(int_bytes_join(l, &sum, &part, bytes));
    else
        VTRN_RETURN_IF_ERROR(join_parts(x, n_h, &from));
    if (x->has_old) {
        /* the last row ends early: what is added behind it must be a number all the same */
        LOWER_EMIT(clear, l, MEMSET, VECTOR);
        clear->ap[0] = old;
        VTRN_RETURN_IF_ERROR(move_rows(x, &x->old, h0, n_h, false));
        vtrn_instr *add = lower_append(l, VTRN_OP_TENSOR_TENSOR,
                                       x->is_int ? VTRN_ENGINE_GPSIMD : VTRN_ENGINE_VECTOR);
        if (!add)
            return VTRN_OUT_OF_MEMORY(sizeof *add);
        add->op0 = VTRN_ALU_ADD;
        add->ap[0] = sum;
        add->ap[1] = from;
        add->ap[2] = old;
    } else if (!x->is_int) {
        LOWER_EMIT(copy, l, TENSOR_COPY, VECTOR);
        copy->ap[0] = sum;
        copy->ap[1] = from;
    }
    return move_rows(x, &x->sum, h0, n_h, true);
}

static int64_t n_blocks_of(const lower *l, int64_t n) {
    return (n + lower_partitions(l) - 1) / lower_partitions(l);
}

/* Sizes it; the number of steps, or -1. */
static int64_t plan_sums(const lower *l, const address_spec *s, int64_t n_elements, adder *x) {
    vtrn_dtype t = (vtrn_dtype)s->table.dtype;
    int64_t bank_cols = psum_cols(l->chip), n = s->n;
    x->is_int = t == VTRN_DTYPE_INT32 || t == VTRN_DTYPE_UINT32;
    if (!x->is_int && t != VTRN_DTYPE_FP32 && t != VTRN_DTYPE_BF16 && t != VTRN_DTYPE_FP16)
        return -1;
    x->n_parts = x->is_int ? INT_BYTES : x->is_finite ? 1 : N_FLOAT_PARTS;
    x->n_elements = n_elements;
    x->n_window = 1;
    for (int i = 0; i < s->n_window; i++)
        x->n_window *= s->window[i].size;
    for (x->low_size = 1; x->low_size * x->low_size < n_elements && 2 * x->low_size <= bank_cols;
         x->shift++)
        x->low_size *= 2;
    x->n_high = (n_elements + x->low_size - 1) / x->low_size;
    x->chunk_cols = CHUNK_COLS;
    if (sbuf_bytes(x) > l->sbuf_limit) {
        x->is_tight = true;
        x->chunk_cols = LEAST_CHUNK_COLS;
    }
    for (; sbuf_bytes(x) > l->sbuf_limit && x->low_size > 1; x->shift--) {
        x->low_size /= 2;
        x->n_high = (n_elements + x->low_size - 1) / x->low_size;
    }
    x->updates = s->array;
    x->updates.n = 1;
    x->updates.f[0] = s->n_batch ? s->batch[0] : (view_factor){1, 0};
    /* few windows would leave partitions without an update */
    x->is_folded = n * x->n_window <= MAX_FOLDED &&
                   2 * n_blocks_of(l, n * x->n_window) <= n_blocks_of(l, n) * x->n_window;
    if (x->is_folded) {
        n *= x->n_window;
        x->n_window = 1;
    }
    int64_t n_steps = n_blocks_of(l, n) * x->n_window * n_blocks_of(l, x->n_high);
    bool is_supported = x->n_parts <= l->chip->n_psum_banks && n_elements <= MAX_ELEMENTS &&
                        x->n_window < MAX_STEPS && n_blocks_of(l, n) < MAX_STEPS &&
                        n_steps * (x->is_int ? INT_BYTES : 1) < MAX_STEPS &&
                        (!x->is_int || n * x->n_window <= INT_BYTES_MAX_SUMMANDS);
    return is_supported ? n_steps : -1;
}

int64_t scatter_add_steps(const lower *l, const address_spec *s, int64_t n_elements) {
    adder x = {.l = (lower *)(uintptr_t)l, .s = s};
    return plan_sums(l, s, n_elements, &x);
}

/* Gives the updates one stride, by a copy where they have more. */
static vtrn_status line_up(lower *l, address_spec *s) {
    view all = s->array, list;
    int64_t n_window = 1;
    all.n = s->n_batch;
    memcpy(all.f, s->batch, (size_t)s->n_batch * sizeof *s->batch);
    list = all;
    view_coalesce(&list);
    if (list.n > 1) {
        for (int i = 0; i < s->n_window; i++) {
            all.f[all.n++] = (view_factor){s->window[i].size, s->window[i].array};
            n_window *= s->window[i].size;
        }
        graph_type flat = {.dtype = all.dtype, .rank = 1, .dims = {s->n * n_window}};
        VTRN_RETURN_IF_ERROR(movement_densify(l, &all, &flat));
        s->array = all;
        list.f[0] = (view_factor){s->n, n_window};
        for (int64_t i = s->n_window - 1, step = 1; i >= 0; step *= s->window[i--].size)
            s->window[i].array = step;
    }
    s->n_batch = list.n ? 1 : 0;
    s->batch[0] = list.f[0];
    return NULL;
}

vtrn_status scatter_add(lower *l, address_spec *s, int64_t n_elements, bool is_zero,
                        bool is_finite) {
    adder x = {.l = l, .s = s, .is_finite = is_finite};
    VTRN_CHECK(plan_sums(l, s, n_elements, &x) >= 0, "the caller asked scatter_add_steps()");
    if (x.is_folded)
        VTRN_RETURN_IF_ERROR(address_fold(l, s, s->n_window, 1));
    VTRN_RETURN_IF_ERROR(line_up(l, s));
    kernel_scatter_add spec = {
        .at = *s, .n_elements = n_elements, .has_old = !is_zero, .is_finite = is_finite};
    VTRN_RETURN_IF_ERROR(lower_kernel(l, KERNEL_SCATTER_ADD, &spec, sizeof spec, sbuf_bytes(&x)));
    VTRN_RETURN_IF_ERROR(address_accesses(l, s));
    VTRN_RETURN_IF_ERROR(plan_reads_whole(&l->plan, s->array.slot));
    if (!is_zero)
        VTRN_RETURN_IF_ERROR(plan_reads_whole(&l->plan, s->table.slot));
    return plan_writes_whole(&l->plan, s->table.slot);
}

vtrn_status emit_scatter_add_kernel(lower *l, const kernel *k) {
    const kernel_scatter_add *spec = k->spec;
    adder x = {.l = l, .s = &spec->at, .has_old = spec->has_old, .is_finite = spec->is_finite};
    VTRN_CHECK(plan_sums(l, &spec->at, spec->n_elements, &x) >= 0 && !x.is_folded,
               "scatter_add() folded the windows");
    VTRN_RETURN_IF_ERROR(place_tiles(&x));
    VTRN_RETURN_IF_ERROR(psum_take(l, l->chip->n_psum_banks, &x.banks));
    for (int64_t h = 0; h < x.n_high; h += lower_partitions(l)) {
        uint32_t n_h =
            (uint32_t)(x.n_high - h < lower_partitions(l) ? x.n_high - h : lower_partitions(l));
        VTRN_RETURN_IF_ERROR(psum_next(l, &x.banks, x.n_parts, x.psum));
        if (x.is_tight)
            VTRN_RETURN_IF_ERROR(emit_numbers(l, &x.row_numbers, h, n_h));
        VTRN_RETURN_IF_ERROR(add_all(&x, h, n_h));
        VTRN_RETURN_IF_ERROR(finish_rows(&x, h, n_h));
    }
    return NULL;
}
