/* Sums of rows at places that may meet, by matmuls of one-hot tiles: lower/row_scatter.c says which
 * of the two ways to add to a table. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/emit_transfer.h"
#include "compiler/emit/int_bytes.h"
#include "compiler/emit/non_finite.h"
#include "compiler/emit/psum.h"
#include "compiler/plan/kernel.h"

typedef struct adder {
    emitter *e;
    const kernel_row_scatter *k;
    tile index[2], hot[2], update[2], result[2];
    tile part[2][MAX_SUM_PARTS]; /* of the updates, as matmuls take them */
    tile numbers;                /* of rows from first_number; short tables */
    tile others[2];              /* all indices on each partition; long tables */
    tile spare[2], zero;
    int64_t first_number;
    psum_banks banks;
    bool is_side_by_side; /* parts, and their sums in a bank, lie k->cols columns apart */
    int flip;
} adder;

static vtrn_status next_sums(adder *s, tile *psum) {
    VTRN_RETURN_IF_ERROR(psum_next(s->e, &s->banks, s->is_side_by_side ? 1 : s->k->n_parts, psum));
    for (int i = 1; i < s->k->n_parts && s->is_side_by_side; i++) {
        psum[i] = psum[0];
        psum[i].addr += i * s->k->cols * (int64_t)sizeof(float);
    }
    return NULL;
}

/* All parts, or all their sums, of which ap is the first. */
static vtrn_ap all_parts(const adder *s, vtrn_ap ap) {
    ap.n_dims = 2;
    ap.dim[1] = ap.dim[0];
    ap.dim[0] = (vtrn_dim){(int32_t)s->k->cols, (uint32_t)s->k->n_parts};
    return ap;
}

/* The parts of the updates in buffer b. */
static vtrn_status split(adder *s, int b, uint32_t rows, uint32_t n_cols, vtrn_ap *part) {
    emitter *e = s->e;
    for (int i = 0; i < s->k->n_parts; i++)
        part[i] = tile_ap(&s->part[b][i], rows, n_cols);
    if (s->k->is_int) {
        vtrn_ap update = tile_ap(&s->update[b], rows, n_cols);
        vtrn_ap byte = tile_ap(&s->spare[0], rows, n_cols);
        for (int i = 0; i < INT_BYTES; i++) {
            VTRN_RETURN_IF_ERROR(int_bytes_take(e, &byte, &update, i));
            VTRN_RETURN_IF_ERROR(emit_copy(e, &part[i], &byte));
        }
        return NULL;
    }
    vtrn_ap zero = tile_ap(&s->zero, rows, 1);
    return s->k->is_finite ? NULL : non_finite_split(e, &part[0], &part[1], &part[2], &zero);
}

/* One-hot tile and updates of buffer b: `rows` updates, for n_sums rows of n_cols columns. */
typedef struct update_block {
    int b;
    uint32_t rows, n_sums, n_cols;
} update_block;

/* psum[part][m, col] (+)= sum over k of hot[k, m] * update[k, col], by one matmul where parts lie
 * side by side; flags of the matmuls */
static vtrn_status sum_up(adder *s, const update_block *u, const tile *psum, uint8_t flags) {
    emitter *e = s->e;
    EMIT(weights, e, LDWEIGHTS, TENSOR);
    weights->ap[1] = tile_ap(&s->hot[u->b], u->rows, u->n_sums);
    vtrn_ap moving[MAX_SUM_PARTS];
    VTRN_RETURN_IF_ERROR(split(s, u->b, u->rows, u->n_cols, moving));
    for (int i = 0; i < (s->is_side_by_side ? 1 : s->k->n_parts); i++) {
        EMIT(sum, e, MATMUL, TENSOR);
        sum->ap[0] = tile_ap(&psum[i], u->n_sums, u->n_cols);
        sum->ap[1] = moving[i];
        sum->flags = flags;
        if (!s->is_side_by_side)
            continue;
        sum->ap[0] = all_parts(s, sum->ap[0]);
        sum->ap[1] = all_parts(s, sum->ap[1]);
    }
    return NULL;
}

/* to = the sums, and what `to` holds already when has_old. */
static vtrn_status join(adder *s, uint32_t n_sums, uint32_t n_cols, const tile *psum, bool has_old,
                        const tile *to_tile) {
    emitter *e = s->e;
    vtrn_ap to = tile_ap(to_tile, n_sums, n_cols), sum[MAX_SUM_PARTS], spare[2];
    for (int i = 0; i < s->k->n_parts; i++)
        sum[i] = tile_ap(&psum[i], n_sums, n_cols);
    for (int i = 0; i < 2; i++)
        spare[i] = tile_ap(&s->spare[i], n_sums, n_cols);
    if (s->k->is_int) {
        VTRN_RETURN_IF_ERROR(int_bytes_join(e, &spare[0], &spare[1], sum));
        return has_old
                   ? emit_tensor_tensor(e, VTRN_ENGINE_GPSIMD, VTRN_ALU_ADD, &to, &spare[0], &to)
                   : emit_copy(e, &to, &spare[0]);
    }
    if (!s->k->is_finite) {
        VTRN_RETURN_IF_ERROR(non_finite_join(e, &spare[0], &spare[1], &sum[1], &sum[2]));
        if (has_old)
            VTRN_RETURN_IF_ERROR(
                emit_tensor_tensor(e, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, &spare[0], &spare[0], &to));
        return emit_tensor_tensor(e, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, &to, &sum[0], &spare[0]);
    }
    return has_old ? emit_tensor_tensor(e, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, &to, &sum[0], &to)
                   : emit_copy(e, &to, &sum[0]);
}

/* Rows [v0, v0 + n_v) of the table from all updates, 128 at a time. */
static vtrn_status make_rows(adder *s, int64_t v0, uint32_t n_v, int64_t c, uint32_t n_cols) {
    emitter *e = s->e;
    tile psum[MAX_SUM_PARTS];
    VTRN_RETURN_IF_ERROR(next_sums(s, psum));
    for (int64_t i = 0; i < s->k->n; i += tile_max_rows(s->e->chip)) {
        int b = s->flip ^= 1;
        uint32_t rows =
            (uint32_t)(s->k->n - i < tile_max_rows(s->e->chip) ? s->k->n - i
                                                               : tile_max_rows(s->e->chip));
        VTRN_RETURN_IF_ERROR(
            emit_load(e, &(view_part){&s->k->indices, 1, i, rows, 0, 1}, &s->index[b]));
        VTRN_RETURN_IF_ERROR(
            emit_load(e, &(view_part){&s->k->updates, s->k->n_update_rows, i, rows, c, n_cols},
                      &s->update[b]));
        EMIT(hot, e, TENSOR_TENSOR, GPSIMD);
        hot->op0 = VTRN_ALU_IS_EQUAL;
        hot->ap[0] = tile_ap(&s->hot[b], rows, n_v);
        hot->ap[1] = tile_ap_cols(&s->numbers, rows, (uint32_t)(v0 - s->first_number), n_v);
        hot->ap[2] = tile_ap(&s->index[b], rows, n_v);
        hot->ap[2].dim[0].step = 0;
        update_block block = {b, rows, n_v, n_cols};
        VTRN_RETURN_IF_ERROR(
            sum_up(s, &block, psum,
                   (i ? VTRN_FLAG_ACCUMULATE : 0) |
                       (i + tile_max_rows(s->e->chip) >= s->k->n ? VTRN_FLAG_LAST : 0)));
    }
    const tile *result = &s->result[s->flip];
    if (s->k->has_old)
        VTRN_RETURN_IF_ERROR(emit_load(e, &(view_part){&s->k->old, 1, v0, n_v, c, n_cols}, result));
    VTRN_RETURN_IF_ERROR(join(s, n_v, n_cols, psum, s->k->has_old, result));
    return emit_store(e, &(view_part){&s->k->out, 1, v0, n_v, c, n_cols}, result, false);
}

static vtrn_status make_table(adder *s, int64_t cols, int64_t n_numbers) {
    emitter *e = s->e;
    view numbers = {
        .dtype = VTRN_DTYPE_INT32, .n = 2, .f = {{tile_max_rows(s->e->chip), 0}, {s->k->rows, 1}}};
    VTRN_RETURN_IF_ERROR(build_counting_add(e->build, s->k->rows, &numbers.slot));
    for (int64_t v = 0; v < s->k->rows; v += tile_max_rows(s->e->chip)) {
        if (v % n_numbers == 0) {
            s->first_number = v;
            VTRN_RETURN_IF_ERROR(
                emit_load(e,
                          &(view_part){&numbers, 1, 0, tile_max_rows(s->e->chip), v,
                                       s->k->rows - v < n_numbers ? s->k->rows - v : n_numbers},
                          &s->numbers));
        }
        for (int64_t c = 0; c < s->k->width; c += cols)
            VTRN_RETURN_IF_ERROR(make_rows(
                s, v,
                (uint32_t)(s->k->rows - v < tile_max_rows(s->e->chip) ? s->k->rows - v
                                                                      : tile_max_rows(s->e->chip)),
                c, (uint32_t)(s->k->width - c < cols ? s->k->width - c : cols)));
    }
    return NULL;
}

/* Rows of `out` named by 128 indices, or fewer, to or from a tile. */
static vtrn_status move_named(adder *s, bool is_scatter, int b, uint32_t rows, int64_t c,
                              uint32_t n_cols) {
    named_rows named = {&s->k->out, s->k->rows, s->k->width, c, rows, n_cols};
    return emit_named_rows(s->e, &named, &s->result[b], &s->index[b], is_scatter);
}

/* Updates [i, i + rows) into the rows that they name. */
static vtrn_status add_to_rows(adder *s, int64_t i, uint32_t rows, int64_t cols) {
    emitter *e = s->e;
    int b = s->flip ^= 1;
    view others = s->k->indices;
    others.n = 2;
    others.offset += i;
    others.f[0] = (view_factor){rows, 0};
    others.f[1] = (view_factor){rows, 1};
    VTRN_RETURN_IF_ERROR(
        emit_load(e, &(view_part){&s->k->indices, 1, i, rows, 0, 1}, &s->index[b]));
    VTRN_RETURN_IF_ERROR(emit_load(e, &(view_part){&others, 1, 0, rows, 0, rows}, &s->others[b]));
    EMIT(hot, e, TENSOR_SCALAR, VECTOR);
    hot->op0 = VTRN_ALU_IS_EQUAL;
    hot->ap[0] = tile_ap(&s->hot[b], rows, rows);
    hot->ap[1] = tile_ap(&s->others[b], rows, rows);
    hot->ap[2] = tile_ap(&s->index[b], rows, 1);
    for (int64_t c = 0; c < s->k->width; c += cols) {
        uint32_t n_cols = (uint32_t)(s->k->width - c < cols ? s->k->width - c : cols);
        tile psum[MAX_SUM_PARTS];
        VTRN_RETURN_IF_ERROR(next_sums(s, psum));
        VTRN_RETURN_IF_ERROR(
            emit_load(e, &(view_part){&s->k->updates, s->k->n_update_rows, i, rows, c, n_cols},
                      &s->update[b]));
        VTRN_RETURN_IF_ERROR(
            sum_up(s, &(update_block){b, rows, rows, n_cols}, psum, VTRN_FLAG_LAST));
        VTRN_RETURN_IF_ERROR(move_named(s, false, b, rows, c, n_cols));
        VTRN_RETURN_IF_ERROR(join(s, rows, n_cols, psum, true, &s->result[b]));
        VTRN_RETURN_IF_ERROR(move_named(s, true, b, rows, c, n_cols));
    }
    return NULL;
}

static vtrn_status add_to_table(adder *s, int64_t cols) {
    for (int64_t i = 0; i < s->k->n; i += tile_max_rows(s->e->chip))
        VTRN_RETURN_IF_ERROR(add_to_rows(s, i,
                                         (uint32_t)(s->k->n - i < tile_max_rows(s->e->chip)
                                                        ? s->k->n - i
                                                        : tile_max_rows(s->e->chip)),
                                         cols));
    return NULL;
}

static tile tile_of(adder *s, uint8_t dtype, int64_t n_elements) {
    uint64_t n_bytes = (uint64_t)n_elements * dtype_size((vtrn_dtype)dtype);
    return (tile){.space = VTRN_SPACE_SBUF, .dtype = dtype, .addr = emit_sbuf_alloc(s->e, n_bytes)};
}

/* The updates of buffer b, and their parts; part 0 of floats is the updates themselves. */
static void place_parts(adder *s, int b) {
    const uint8_t in = s->k->moving_dtype;
    tile all = {0};
    if (s->is_side_by_side)
        all = tile_of(s, in, s->k->n_parts * s->k->cols);
    for (int i = 0; i < s->k->n_parts; i++) {
        s->part[b][i] = s->is_side_by_side ? all : tile_of(s, in, s->k->cols);
        all.addr += s->k->cols * (int64_t)dtype_size((vtrn_dtype)in);
    }
    s->update[b] = s->k->is_int ? tile_of(s, s->k->updates.dtype, s->k->cols) : s->part[b][0];
}

static vtrn_status place_tiles(adder *s) {
    const kernel_row_scatter *spec = s->k;
    VTRN_RETURN_IF_ERROR(psum_take(s->e, s->e->chip->n_psum_banks, &s->banks));
    uint8_t in = spec->moving_dtype, out = s->k->out.dtype;
    int64_t cols = spec->cols;
    if (!spec->is_long)
        s->numbers = tile_of(s, VTRN_DTYPE_INT32, spec->n_numbers);
    s->is_side_by_side = spec->n_parts > 1 && spec->n_parts * cols <= psum_cols(s->e->chip);
    for (int b = 0; b < 2; b++) {
        if (spec->is_long)
            s->others[b] = tile_of(s, VTRN_DTYPE_INT32, tile_max_rows(s->e->chip));
        s->index[b] = tile_of(s, VTRN_DTYPE_INT32, 1);
        s->hot[b] = tile_of(s, in, tile_max_rows(s->e->chip));
        s->result[b] = tile_of(s, out, cols);
        place_parts(s, b);
    }
    if (s->k->n_parts == 1)
        return NULL;
    for (int i = 0; i < 2; i++)
        s->spare[i] = tile_of(s, s->k->is_int ? out : VTRN_DTYPE_FP32, cols);
    s->zero = tile_of(s, in, 1);
    EMIT(clear, s->e, MEMSET, VECTOR);
    clear->ap[0] = tile_ap(&s->zero, tile_max_rows(s->e->chip), 1);
    return NULL;
}

vtrn_status emit_row_scatter_kernel(emitter *e, const kernel *k) {
    const kernel_row_scatter *spec = k->spec;
    adder s = {.e = e, .k = spec};
    VTRN_RETURN_IF_ERROR(place_tiles(&s));
    return spec->is_long ? add_to_table(&s, spec->cols)
                         : make_table(&s, spec->cols, spec->n_numbers);
}
