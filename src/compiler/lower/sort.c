/* sort: a merging network along each row. Keys are integers that sort as the values do, on GpSimd;
 * equal keys keep the order of their positions. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/lower/fusion.h"
#include "compiler/lower/scalar_region.h"

#include <math.h>
#include <string.h>

enum { MAX_COLS = 4096, MAX_INSTRUCTIONS = 1 << 17 };

/* How the comparator orders the first operand; it looks at no other. */
typedef struct order {
    bool is_descending;
    bool is_total; /* -0 before 0, NaNs outside; else zeros are equal, and NaNs, behind all */
} order;

static double rank_of(double x, bool is_total) {
    double rank = isnan(x) ? 4 : isinf(x) ? 3 : fabs(x) > 0 ? 2 : is_total ? 1 : 0;
    return signbit(x) && (is_total || !isnan(x)) ? -rank : rank;
}

static bool comes_before(double a, double b, const order *o) {
    double x = rank_of(a, o->is_total), y = rank_of(b, o->is_total);
    if (x == y && !isnan(a)) {
        x = a;
        y = b;
    }
    return o->is_descending ? x > y : x < y;
}

static bool is_order(const lower *l, const graph_op *op, vtrn_dtype t, const order *o) {
    static const double values[] = {0, 1, 3, -1, -2.5, -INFINITY, INFINITY, -0.0, NAN, -NAN};
    int n = t == VTRN_DTYPE_PRED ? 2 : dtype_is_float(t) ? 10 : dtype_is_signed_int(t) ? 4 : 3;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            for (int k = 0; k < 2; k++) {
                double args[2 * SORT_MAX_OPERANDS] = {values[i], values[j]}, got;
                for (uint32_t a = 2; a < 2 * op->n_operands; a++)
                    args[a] = (a + (uint32_t)k) % 2;
                if (!scalar_region_eval(l, op->regions[0], args, &got) ||
                    (got != 0) != comes_before(values[i], values[j], o))
                    return false;
            }
    return true;
}

static bool find_order(const lower *l, const graph_op *op, vtrn_dtype t, order *out) {
    for (int k = 0; k < 4; k++) {
        *out = (order){.is_descending = k & 1, .is_total = k & 2};
        if (is_order(l, op, t, out))
            return true;
    }
    return false;
}

/* --- the network --------------------------------------------------------------------------------
 */

typedef struct sorter {
    lower *l;
    order o;
    uint32_t n, cols, rows; /* elements, the power of two above, rows at hand */
    int n_data;
    tile key, place, data[SORT_MAX_OPERANDS], swap, equal, spare;
} sorter;

static vtrn_status emit_move(lower *l, const vtrn_ap *dst, const vtrn_ap *src,
                             const vtrn_ap *where) {
    vtrn_instr *instr =
        lower_append(l, where ? VTRN_OP_COPY_PREDICATED : VTRN_OP_TENSOR_COPY, VTRN_ENGINE_VECTOR);
    if (!instr)
        return VTRN_OUT_OF_MEMORY(sizeof *instr);
    instr->ap[0] = *dst;
    instr->ap[1] = *src;
    if (where)
        instr->ap[2] = *where;
    return NULL;
}

static vtrn_status emit_set(lower *l, const vtrn_ap *dst, uint32_t bits) {
    LOWER_EMIT(set, l, MEMSET, VECTOR);
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
    VTRN_RETURN_IF_ERROR(emit_move(s->l, &spare, &a, NULL));
    VTRN_RETURN_IF_ERROR(emit_move(s->l, &a, &b, &swap));
    return emit_move(s->l, &b, &spare, &swap);
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
        lower_emit_tensor_tensor(s->l, VTRN_ENGINE_GPSIMD, VTRN_ALU_IS_GT, &swap, &a, &b));
    VTRN_RETURN_IF_ERROR(
        lower_emit_tensor_tensor(s->l, VTRN_ENGINE_GPSIMD, VTRN_ALU_IS_EQUAL, &equal, &a, &b));
    VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(s->l, VTRN_ENGINE_VECTOR, VTRN_ALU_IS_GT, &later,
                                                  &place_a, &place_b));
    VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(s->l, VTRN_ENGINE_VECTOR, VTRN_ALU_BITWISE_AND,
                                                  &equal, &equal, &later));
    VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(s->l, VTRN_ENGINE_VECTOR, VTRN_ALU_BITWISE_OR,
                                                  &swap, &swap, &equal));
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

/* Integers in the order of the first operand's values; what fills up the row comes last. */
static vtrn_status make_keys(sorter *s) {
    lower *l = s->l;
    vtrn_ap all = tile_ap(&s->key, s->rows, s->cols), key = tile_ap(&s->key, s->rows, s->n);
    vtrn_ap from = tile_ap(&s->data[0], s->rows, s->n), value = key, t = key;
    uint8_t dtype = s->data[0].dtype;
    t.addr = s->place.addr; /* positions come afterwards */
    VTRN_RETURN_IF_ERROR(emit_set(l, &all, INT32_MAX));
    if (dtype_is_float((vtrn_dtype)dtype)) {
        value.dtype = VTRN_DTYPE_FP32;
        VTRN_RETURN_IF_ERROR(emit_move(l, &value, &from, NULL));
        if (!s->o.is_total) { /* -0 + 0 is 0; all NaNs become one */
            vtrn_ap nan = t;
            VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(l, VTRN_ENGINE_VECTOR, &value, &value,
                                                        VTRN_ALU_ADD, 0, VTRN_ALU_NONE, 0));
            VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(l, VTRN_ENGINE_VECTOR, VTRN_ALU_NOT_EQUAL,
                                                          &t, &value, &value));
            nan.addr = s->spare.addr;
            nan.dim[0] = (vtrn_dim){1, 1};
            VTRN_RETURN_IF_ERROR(emit_set(l, &nan, 0x7fc00000));
            nan.dim[0] = (vtrn_dim){0, s->n};
            VTRN_RETURN_IF_ERROR(emit_move(l, &key, &nan, &t));
        }
        VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(l, VTRN_ENGINE_VECTOR, &t, &key,
                                                    VTRN_ALU_SHIFT_RIGHT_ARITH, 31,
                                                    VTRN_ALU_BITWISE_AND, 0x7fffffffu));
        VTRN_RETURN_IF_ERROR(
            lower_emit_tensor_tensor(l, VTRN_ENGINE_VECTOR, VTRN_ALU_BITWISE_XOR, &key, &key, &t));
    } else if (dtype == VTRN_DTYPE_UINT32) {
        VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(l, VTRN_ENGINE_VECTOR, &key, &from,
                                                    VTRN_ALU_BITWISE_XOR, 0x80000000u,
                                                    VTRN_ALU_NONE, 0));
    } else {
        VTRN_RETURN_IF_ERROR(emit_move(l, &key, &from, NULL));
    }
    if (s->o.is_descending)
        VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(
            l, VTRN_ENGINE_VECTOR, &key, &key, VTRN_ALU_BITWISE_XOR, UINT32_MAX, VTRN_ALU_NONE, 0));
    LOWER_EMIT(iota, l, IOTA, GPSIMD);
    iota->ap[0] = tile_ap(&s->place, s->rows, s->cols);
    iota->ap[3] = (vtrn_ap){.n_dims = 1, .dim = {{1, s->cols}}};
    return NULL;
}

static tile next_tile(lower *l, vtrn_dtype dtype, uint64_t n_bytes) {
    vtrn_dtype held;
    fusion_tile_dtype(dtype, &held);
    return (tile){
        .space = VTRN_SPACE_SBUF, .dtype = (uint8_t)held, .addr = lower_sbuf_alloc(l, n_bytes)};
}

static uint64_t sbuf_bytes(const kernel_sort *s) {
    return (uint64_t)(2 + s->n_operands) * lower_sbuf_round((uint64_t)s->cols * 4) +
           3 * lower_sbuf_round((uint64_t)s->cols * 2);
}

vtrn_status emit_sort_kernel(lower *l, const kernel *k) {
    const kernel_sort *spec = k->spec;
    sorter s = {.l = l,
                .o = {spec->is_descending, spec->is_total},
                .n = spec->n,
                .cols = spec->cols,
                .n_data = spec->n_operands};
    s.key = next_tile(l, VTRN_DTYPE_INT32, (uint64_t)s.cols * 4);
    s.place = next_tile(l, VTRN_DTYPE_INT32, (uint64_t)s.cols * 4);
    for (int i = 0; i < s.n_data; i++)
        s.data[i] = next_tile(l, (vtrn_dtype)spec->from[i].map.dtype, (uint64_t)s.cols * 4);
    s.swap = next_tile(l, VTRN_DTYPE_INT32, (uint64_t)s.cols * 2);
    s.equal = next_tile(l, VTRN_DTYPE_INT32, (uint64_t)s.cols * 2);
    s.spare = next_tile(l, VTRN_DTYPE_INT32, (uint64_t)s.cols * 2);
    for (int64_t r = 0; r < spec->n_rows; r += lower_partitions(l)) {
        s.rows = (uint32_t)(spec->n_rows - r < lower_partitions(l) ? spec->n_rows - r
                                                                   : lower_partitions(l));
        for (int i = 0; i < s.n_data; i++) {
            vtrn_ap all = tile_ap(&s.data[i], s.rows, s.cols);
            VTRN_RETURN_IF_ERROR(emit_set(l, &all, 0));
            VTRN_RETURN_IF_ERROR(lower_load(l, &spec->from[i].map, spec->from[i].n_outer, r, s.rows,
                                            0, s.n, &s.data[i]));
        }
        VTRN_RETURN_IF_ERROR(make_keys(&s));
        VTRN_RETURN_IF_ERROR(run_network(&s));
        for (int i = 0; i < s.n_data; i++)
            VTRN_RETURN_IF_ERROR(lower_store(l, &spec->to[i].map, spec->to[i].n_outer, r, s.rows, 0,
                                             s.n, &s.data[i], false));
    }
    return NULL;
}

static bool size_network(const lower *l, const graph_op *op, kernel_sort *s) {
    const graph_type *t = &l->g->types[op->operands[0]];
    int64_t n = t->dims[op->attrs.sort.dimension], n_rows = graph_type_count(t) / (n ? n : 1);
    vtrn_dtype unused;
    if (n > MAX_COLS || n_rows == 0 || op->n_operands > SORT_MAX_OPERANDS)
        return false;
    for (uint32_t i = 0; i < op->n_operands; i++)
        if (!fusion_tile_dtype((vtrn_dtype)l->g->types[op->operands[i]].dtype, &unused))
            return false;
    s->n = (uint32_t)n;
    s->n_rows = n_rows;
    s->n_operands = (int)op->n_operands;
    int log2 = 1;
    for (s->cols = 2; s->cols < s->n; log2++)
        s->cols *= 2;
    int64_t n_stages = log2 * (log2 + 1) / 2;
    return sbuf_bytes(s) <= l->sbuf_limit &&
           n_stages * (5 + 3 * (2 + s->n_operands)) *
                   ((n_rows + lower_partitions(l) - 1) / lower_partitions(l)) <=
               MAX_INSTRUCTIONS;
}

vtrn_status lower_sort(lower *l, const graph_op *op, bool *is_done) {
    kernel_sort s = {0};
    order o;
    if (op->n_results != op->n_operands || !size_network(l, op, &s) ||
        !find_order(l, op, (vtrn_dtype)l->g->types[op->operands[0]].dtype, &o))
        return NULL;
    *is_done = true;
    s.is_descending = o.is_descending;
    s.is_total = o.is_total;
    int dim = (int)op->attrs.sort.dimension;
    for (int i = 0; i < s.n_operands; i++)
        VTRN_RETURN_IF_ERROR(lower_dim_last(l, op->operands[i], dim, false, &s.from[i].map));
    for (int i = 0; i < s.n_operands; i++) {
        view unused;
        VTRN_RETURN_IF_ERROR(lower_result(l, op->results[i], &unused));
        VTRN_RETURN_IF_ERROR(lower_dim_last(l, op->results[i], dim, false, &s.to[i].map));
        VTRN_CHECK(view_split_at(&s.from[i].map, s.n, &s.from[i].n_outer) &&
                       view_split_at(&s.to[i].map, s.n, &s.to[i].n_outer),
                   "the sorted dim is a boundary");
    }
    VTRN_RETURN_IF_ERROR(lower_kernel(l, KERNEL_SORT, &s, sizeof s, sbuf_bytes(&s)));
    for (int i = 0; i < s.n_operands; i++) {
        VTRN_RETURN_IF_ERROR(plan_reads(&l->plan, &s.from[i].map));
        VTRN_RETURN_IF_ERROR(plan_writes(&l->plan, &s.to[i].map));
    }
    return NULL;
}
