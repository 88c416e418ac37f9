/* 64-bit counters: JAX numbers the elements of a tensor of random bits with iotas of 64 bits, only
 * to take their low and high words. As affine functions of the index they need no 64-bit
 * arithmetic: the words are what GpSimd's iota writes. */
#include "compiler/lower/lower.h"

#include <string.h>

/* offset + sum of step[d] * index[d]; never outside int64. */
struct affine {
    int64_t offset, step[GRAPH_MAX_RANK];
};

static bool is_wide_int(const graph_type *t) {
    return t->dtype == VTRN_DTYPE_INT64 || t->dtype == VTRN_DTYPE_UINT64;
}

/* Smallest and largest value; false when they leave 63 bits. */
static bool range_of(const struct affine *a, const graph_type *t, int64_t *low, int64_t *high) {
    *low = *high = a->offset;
    for (int d = 0; d < t->rank; d++) {
        int64_t reach;
        if (__builtin_mul_overflow(a->step[d], t->dims[d] - 1, &reach) ||
            __builtin_add_overflow(reach < 0 ? *low : *high, reach, reach < 0 ? low : high))
            return false;
    }
    return true;
}

static bool read_operand(const lower *l, graph_value v, struct affine *out) {
    const lower_value *value = &l->values[v];
    memset(out, 0, sizeof *out);
    if (value->state == VALUE_AFFINE)
        *out = *value->affine;
    else if (value->state == VALUE_SPLAT)
        memcpy(&out->offset, &value->splat_bits, sizeof out->offset);
    else
        return false;
    return true;
}

static bool is_constant(const struct affine *a, const graph_type *t) {
    for (int d = 0; d < t->rank; d++)
        if (a->step[d] && t->dims[d] > 1)
            return false;
    return true;
}

static bool combine(graph_kind kind, const struct affine *a, const struct affine *b,
                    const graph_type *t, struct affine *out) {
    bool is_bad = false;
    if (kind == GRAPH_MULTIPLY) {
        if (!is_constant(b, t)) {
            const struct affine *other = a;
            a = b;
            b = other;
        }
        if (!is_constant(b, t))
            return false;
        is_bad |= __builtin_mul_overflow(a->offset, b->offset, &out->offset);
        for (int d = 0; d < t->rank; d++)
            is_bad |= __builtin_mul_overflow(a->step[d], b->offset, &out->step[d]);
        return !is_bad;
    }
    bool is_add = kind == GRAPH_ADD;
    is_bad |= is_add ? __builtin_add_overflow(a->offset, b->offset, &out->offset)
                     : __builtin_sub_overflow(a->offset, b->offset, &out->offset);
    for (int d = 0; d < t->rank; d++)
        is_bad |= is_add ? __builtin_add_overflow(a->step[d], b->step[d], &out->step[d])
                         : __builtin_sub_overflow(a->step[d], b->step[d], &out->step[d]);
    return !is_bad;
}

static vtrn_status name_affine(lower *l, graph_value v, const struct affine *a) {
    const graph_type *t = &l->g->types[v];
    lower_value *value = &l->values[v];
    if (is_constant(a, t)) {
        value->state = VALUE_SPLAT;
        memcpy(&value->splat_bits, &a->offset, sizeof a->offset);
        return NULL;
    }
    struct affine *copy = ARENA_NEW(&l->tmp, struct affine, 1);
    if (!copy)
        return VTRN_OUT_OF_MEMORY(sizeof *copy);
    *copy = *a;
    value->affine = copy;
    value->state = VALUE_AFFINE;
    return NULL;
}

/* --- words in memory ----------------------------------------------------------------------------
 */
enum { MAX_COLS = 1024 };

/* Columns of a tile of n words, of which two fit SBUF. */
static int64_t tile_cols(const lower *l, int64_t n) {
    int64_t cols = n / tile_max_rows(l->chip) < 1 ? n : n / tile_max_rows(l->chip);
    int64_t most = (int64_t)(l->plan->sbuf_limit / 2 / SBUF_ALIGN * SBUF_ALIGN / 4);
    most = most < MAX_COLS ? most : MAX_COLS;
    return cols < most ? cols : most;
}

static vtrn_status write_run(lower *l, const kernel_count *s) {
    view run = {.slot = s->out.slot,
                .dtype = VTRN_DTYPE_INT32,
                .offset = s->out.offset + s->at,
                .n = 1,
                .f = {{s->n, 1}}};
    VTRN_RETURN_IF_ERROR(
        plan_kernel(l->plan, KERNEL_COUNT, s, sizeof *s,
                    (kernel_demand){.sbuf_bytes = 2ull * sbuf_round((uint64_t)s->cols * 4)}));
    return plan_writes(l->plan, &run);
}

/* First of the innermost dims that make one run, row-major: n elements, a step apart. */
static int inner_run(const struct affine *a, const graph_type *t, int64_t *n, int64_t *step) {
    int inner = t->rank;
    *n = 1;
    *step = 0;
    for (; inner > 0; inner--) {
        int64_t size = t->dims[inner - 1];
        if (size > 1 && *n > 1 && a->step[inner - 1] != *step * *n)
            break;
        if (size > 1 && *n == 1)
            *step = a->step[inner - 1];
        *n *= size;
    }
    return inner;
}

/* The low words of an affine value in fresh memory. */
static vtrn_status write_words(lower *l, const struct affine *a, const graph_type *t,
                               graph_value result) {
    view out;
    VTRN_RETURN_IF_ERROR(lower_result(l, result, &out));
    int64_t n, step;
    int inner = inner_run(a, t, &n, &step);
    int64_t n_outer = graph_type_count(t) / n;
    for (int64_t o = 0; o < n_outer; o++) {
        int64_t left = o, first = a->offset;
        for (int d = inner - 1; d >= 0; d--) {
            first += left % t->dims[d] * a->step[d];
            left /= t->dims[d];
        }
        kernel_count run = {
            .out = out, .at = o * n, .first = first, .step = step, .n = n, .cols = tile_cols(l, n)};
        VTRN_RETURN_IF_ERROR(write_run(l, &run));
    }
    return NULL;
}

vtrn_status lower_affine_constant(lower *l, graph_value v, view *out) {
    const graph_type *t = &l->g->types[v];
    const struct affine *a = l->values[v].affine;
    int64_t n = graph_type_count(t);
    int64_t *data = ARENA_NEW(&l->tmp, int64_t, (size_t)n);
    if (!data)
        return VTRN_OUT_OF_MEMORY((size_t)n * 8);
    for (int64_t i = 0; i < n; i++) {
        int64_t left = i;
        data[i] = a->offset;
        for (int d = t->rank - 1; d >= 0; d--) {
            data[i] += left % t->dims[d] * a->step[d];
            left /= t->dims[d];
        }
    }
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(build_constant_add(l->build, t->dtype, data, (uint64_t)n * 8, &slot));
    *out = view_dense(slot, t);
    lower_set_view(l, v, out);
    return NULL;
}

vtrn_status lower_affine(lower *l, const graph_op *op, bool *is_done) {
    enum { MAX_RUNS = 256 };
    if (op->n_results != 1)
        return NULL;
    graph_value result = op->results[0];
    const graph_type *t = &l->g->types[result];
    struct affine a, b, out = {0};
    int64_t low, high;
    if (op->kind == GRAPH_IOTA && is_wide_int(t)) {
        out.step[op->attrs.dims.dims.v[0]] = 1;
        *is_done = true;
        return name_affine(l, result, &out);
    }
    if (op->n_operands == 0 || !is_wide_int(&l->g->types[op->operands[0]]) ||
        !read_operand(l, op->operands[0], &a))
        return NULL;
    const graph_type *from = &l->g->types[op->operands[0]];
    switch ((graph_kind)op->kind) {
    case GRAPH_ADD:
    case GRAPH_SUBTRACT:
    case GRAPH_MULTIPLY:
        if (!read_operand(l, op->operands[1], &b) ||
            !combine((graph_kind)op->kind, &a, &b, t, &out) || !range_of(&out, t, &low, &high) ||
            (t->dtype == VTRN_DTYPE_UINT64 && low < 0))
            return NULL;
        *is_done = true;
        return name_affine(l, result, &out);
    case GRAPH_SHIFT_RIGHT_LOGICAL: /* nothing is left */
        if (!read_operand(l, op->operands[1], &b) || !is_constant(&b, t) ||
            !range_of(&a, from, &low, &high) || low < 0 || b.offset < 0 || b.offset > 62 ||
            high >> b.offset)
            return NULL;
        *is_done = true;
        return name_affine(l, result, &out);
    case GRAPH_CONVERT: {
        bool is_word = t->dtype == VTRN_DTYPE_UINT32 || t->dtype == VTRN_DTYPE_INT32;
        int64_t n, step;
        inner_run(&a, from, &n, &step);
        if (!is_word || l->values[op->operands[0]].state != VALUE_AFFINE ||
            graph_type_count(t) / n > MAX_RUNS || step > INT16_MAX || step < INT16_MIN)
            return NULL;
        *is_done = true;
        return write_words(l, &a, t, result);
    }
    default:
        return NULL;
    }
}
