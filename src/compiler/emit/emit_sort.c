/* The merging network of a sort. Keys are integers that sort as the values do, on GpSimd; equal
 * keys keep the order of their positions. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/emit_transfer.h"
#include "compiler/plan/fusion_nodes.h"
#include "compiler/plan/kernel.h"

typedef struct sorter {
    emitter *e;
    bool is_descending, is_total; /* kernel_sort */
    uint32_t n, cols, rows;       /* elements, the power of two above, rows at hand */
    int n_data;
    tile key, place, data[SORT_MAX_OPERANDS], swap, equal, spare;
} sorter;

static vtrn_status emit_move(emitter *e, const vtrn_ap *dst, const vtrn_ap *src,
                             const vtrn_ap *where) {
    vtrn_instr *instr =
        emit_append(e, where ? VTRN_OP_COPY_PREDICATED : VTRN_OP_TENSOR_COPY, VTRN_ENGINE_VECTOR);
    if (!instr)
        return VTRN_OUT_OF_MEMORY(sizeof *instr);
    instr->ap[0] = *dst;
    instr->ap[1] = *src;
    if (where)
        instr->ap[2] = *where;
    return NULL;
}

static vtrn_status emit_set(emitter *e, const vtrn_ap *dst, uint32_t bits) {
    EMIT(set, e, MEMSET, VECTOR);
    set->ap[0] = *dst;
    set->imm[0].bits = bits;
    return NULL;
}

/* Columns of a tile in blocks: `num` of them from `start` on in either direction. */
static vtrn_ap blocks(const sorter *s, const tile *t, uint32_t start, uint32_t block, int32_t step,
                      uint32_t num) {
    vtrn_ap ap = tile_ap_cols(t, s->rows, start, s->cols);
    ap.n_dims = 2;
    ap.dim[0] = (vtrn_dim){(int32_t)block, s->cols / block};
    ap.dim[1] = (vtrn_dim){step, num};
    return ap;
}

static vtrn_status exchange(sorter *s, const tile *t, uint32_t block, uint32_t b_start,
                            int32_t b_step) {
    uint32_t half = block / 2;
    vtrn_ap a = blocks(s, t, 0, block, 1, half), b = blocks(s, t, b_start, block, b_step, half);
    vtrn_ap spare = tile_ap(&s->spare, s->rows, s->cols / 2);
    vtrn_ap swap = tile_ap(&s->swap, s->rows, s->cols / 2);
    spare.dtype = t->dtype;
    VTRN_RETURN_IF_ERROR(emit_move(s->e, &spare, &a, NULL));
    VTRN_RETURN_IF_ERROR(emit_move(s->e, &a, &b, &swap));
    return emit_move(s->e, &b, &spare, &swap);
}

/* Puts each pair of a block's first and second half in order. */
static vtrn_status stage(sorter *s, uint32_t block, uint32_t b_start, int32_t b_step) {
    uint32_t half = block / 2;
    vtrn_ap swap = tile_ap(&s->swap, s->rows, s->cols / 2);
    vtrn_ap equal = tile_ap(&s->equal, s->rows, s->cols / 2);
    vtrn_ap later = tile_ap(&s->spare, s->rows, s->cols / 2);
    vtrn_ap a = blocks(s, &s->key, 0, block, 1, half);
    vtrn_ap b = blocks(s, &s->key, b_start, block, b_step, half);
    vtrn_ap place_a = blocks(s, &s->place, 0, block, 1, half);
    vtrn_ap place_b = blocks(s, &s->place, b_start, block, b_step, half);
    later.dtype = VTRN_DTYPE_INT32;
    VTRN_RETURN_IF_ERROR(
        emit_tensor_tensor(s->e, VTRN_ENGINE_GPSIMD, VTRN_ALU_IS_GT, &swap, &a, &b));
    VTRN_RETURN_IF_ERROR(
        emit_tensor_tensor(s->e, VTRN_ENGINE_GPSIMD, VTRN_ALU_IS_EQUAL, &equal, &a, &b));
    VTRN_RETURN_IF_ERROR(
        emit_tensor_tensor(s->e, VTRN_ENGINE_VECTOR, VTRN_ALU_IS_GT, &later, &place_a, &place_b));
    VTRN_RETURN_IF_ERROR(
        emit_tensor_tensor(s->e, VTRN_ENGINE_VECTOR, VTRN_ALU_BITWISE_AND, &equal, &equal, &later));
    VTRN_RETURN_IF_ERROR(
        emit_tensor_tensor(s->e, VTRN_ENGINE_VECTOR, VTRN_ALU_BITWISE_OR, &swap, &swap, &equal));
    VTRN_RETURN_IF_ERROR(exchange(s, &s->key, block, b_start, b_step));
    VTRN_RETURN_IF_ERROR(exchange(s, &s->place, block, b_start, b_step));
    for (int i = 0; i < s->n_data; i++)
        VTRN_RETURN_IF_ERROR(exchange(s, &s->data[i], block, b_start, b_step));
    return NULL;
}

/* Sorted halves become sorted blocks: the second half is met backwards first. */
static vtrn_status run_network(sorter *s) {
    for (uint32_t block = 2; block <= s->cols; block *= 2) {
        VTRN_RETURN_IF_ERROR(stage(s, block, block - 1, -1));
        for (uint32_t inner = block / 2; inner >= 2; inner /= 2)
            VTRN_RETURN_IF_ERROR(stage(s, inner, inner / 2, 1));
    }
    return NULL;
}

/* Integers in the order of the first operand's values; what fills up the row is last. */
static vtrn_status make_keys(sorter *s) {
    emitter *e = s->e;
    vtrn_ap all = tile_ap(&s->key, s->rows, s->cols), key = tile_ap(&s->key, s->rows, s->n);
    vtrn_ap from = tile_ap(&s->data[0], s->rows, s->n), value = key, t = key;
    uint8_t dtype = s->data[0].dtype;
    t.addr = s->place.addr; /* positions are behind them */
    VTRN_RETURN_IF_ERROR(emit_set(e, &all, INT32_MAX));
    if (dtype_is_float((vtrn_dtype)dtype)) {
        value.dtype = VTRN_DTYPE_FP32;
        VTRN_RETURN_IF_ERROR(emit_move(e, &value, &from, NULL));
        if (!s->is_total) { /* -0 + 0 is 0; all NaNs become one */
            vtrn_ap nan = t;
            VTRN_RETURN_IF_ERROR(
                emit_scalars(e, VTRN_ENGINE_VECTOR, &value, &value, STEP_BITS(ADD, 0), STEP_NONE));
            VTRN_RETURN_IF_ERROR(
                emit_tensor_tensor(e, VTRN_ENGINE_VECTOR, VTRN_ALU_NOT_EQUAL, &t, &value, &value));
            nan.addr = s->spare.addr;
            nan.dim[0] = (vtrn_dim){1, 1};
            VTRN_RETURN_IF_ERROR(emit_set(e, &nan, 0x7fc00000));
            nan.dim[0] = (vtrn_dim){0, s->n};
            VTRN_RETURN_IF_ERROR(emit_move(e, &key, &nan, &t));
        }
        VTRN_RETURN_IF_ERROR(emit_scalars(e, VTRN_ENGINE_VECTOR, &t, &key,
                                          STEP_BITS(SHIFT_RIGHT_ARITH, 31),
                                          STEP_BITS(BITWISE_AND, 0x7fffffffu)));
        VTRN_RETURN_IF_ERROR(
            emit_tensor_tensor(e, VTRN_ENGINE_VECTOR, VTRN_ALU_BITWISE_XOR, &key, &key, &t));
    } else if (dtype == VTRN_DTYPE_UINT32) {
        VTRN_RETURN_IF_ERROR(emit_scalars(e, VTRN_ENGINE_VECTOR, &key, &from,
                                          STEP_BITS(BITWISE_XOR, 0x80000000u), STEP_NONE));
    } else {
        VTRN_RETURN_IF_ERROR(emit_move(e, &key, &from, NULL));
    }
    if (s->is_descending)
        VTRN_RETURN_IF_ERROR(emit_scalars(e, VTRN_ENGINE_VECTOR, &key, &key,
                                          STEP_BITS(BITWISE_XOR, UINT32_MAX), STEP_NONE));
    EMIT(iota, e, IOTA, GPSIMD);
    iota->ap[0] = tile_ap(&s->place, s->rows, s->cols);
    iota->ap[3] = (vtrn_ap){.n_dims = 1, .dim = {{1, s->cols}}};
    return NULL;
}

static tile next_tile(emitter *e, vtrn_dtype dtype, uint64_t n_bytes) {
    vtrn_dtype held;
    fusion_tile_dtype(dtype, &held);
    return (tile){
        .space = VTRN_SPACE_SBUF, .dtype = (uint8_t)held, .addr = emit_sbuf_alloc(e, n_bytes)};
}

vtrn_status emit_sort_kernel(emitter *e, const kernel *k) {
    const kernel_sort *spec = k->spec;
    sorter s = {.e = e,
                .is_descending = spec->is_descending,
                .is_total = spec->is_total,
                .n = spec->n,
                .cols = spec->cols,
                .n_data = spec->n_operands};
    s.key = next_tile(e, VTRN_DTYPE_INT32, (uint64_t)s.cols * 4);
    s.place = next_tile(e, VTRN_DTYPE_INT32, (uint64_t)s.cols * 4);
    for (int i = 0; i < s.n_data; i++)
        s.data[i] = next_tile(e, (vtrn_dtype)spec->from[i].map.dtype, (uint64_t)s.cols * 4);
    s.swap = next_tile(e, VTRN_DTYPE_INT32, (uint64_t)s.cols * 2);
    s.equal = next_tile(e, VTRN_DTYPE_INT32, (uint64_t)s.cols * 2);
    s.spare = next_tile(e, VTRN_DTYPE_INT32, (uint64_t)s.cols * 2);
    for (int64_t r = 0; r < spec->n_rows; r += tile_max_rows(e->chip)) {
        s.rows = (uint32_t)(spec->n_rows - r < tile_max_rows(e->chip) ? spec->n_rows - r
                                                                      : tile_max_rows(e->chip));
        for (int i = 0; i < s.n_data; i++) {
            vtrn_ap all = tile_ap(&s.data[i], s.rows, s.cols);
            VTRN_RETURN_IF_ERROR(emit_set(e, &all, 0));
            VTRN_RETURN_IF_ERROR(emit_load(
                e, &(view_part){&spec->from[i].map, spec->from[i].n_outer, r, s.rows, 0, s.n},
                &s.data[i]));
        }
        VTRN_RETURN_IF_ERROR(make_keys(&s));
        VTRN_RETURN_IF_ERROR(run_network(&s));
        for (int i = 0; i < s.n_data; i++)
            VTRN_RETURN_IF_ERROR(emit_store(
                e, &(view_part){&spec->to[i].map, spec->to[i].n_outer, r, s.rows, 0, s.n},
                &s.data[i], false));
    }
    return NULL;
}
