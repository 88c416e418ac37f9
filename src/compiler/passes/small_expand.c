/* GRAPH_UNPACK and GRAPH_PACK as operations that engines have: shifts and masks of 32-bit integers,
 * whose bytes are the values. */
#include "compiler/passes/small_types.h"

#include "compiler/passes/make_op.h"

typedef struct expansion {
    rewriter *r;
    const graph_op *op; /* that is written anew */
    int bits, per;      /* of a value; values in a byte */
    int64_t n_bytes;    /* packed */
} expansion;

static graph_type vector_of(vtrn_dtype t, int64_t n) {
    return (graph_type){.dtype = (uint8_t)t, .rank = 1, .dims = {n}};
}

/* *v = *v op number, in the type of *v. */
static vtrn_status with(expansion *x, graph_kind kind, graph_value *v, uint32_t number) {
    const graph_type type = x->r->g->types[*v];
    graph_value operands[2] = {*v};
    VTRN_RETURN_IF_ERROR(make_splat(x->r, x->op, number, &type, &operands[1]));
    const graph_op op = make_plain(kind, operands, 2);
    return make_op(x->r, x->op, &op, &type, v);
}

static vtrn_status joined(expansion *x, graph_kind kind, graph_value *v, graph_value other) {
    const graph_type type = x->r->g->types[*v];
    graph_value operands[2] = {*v, other};
    const graph_op op = make_plain(kind, operands, 2);
    return make_op(x->r, x->op, &op, &type, v);
}

static vtrn_status changed(expansion *x, graph_kind kind, graph_value *v, graph_type type) {
    if (graph_type_equal(&x->r->g->types[*v], &type))
        return NULL;
    const graph_op op = make_plain(kind, v, 1);
    return make_op(x->r, x->op, &op, &type, v);
}

/* Of the type whose elements have the bytes of all values of a packed byte. */
static vtrn_dtype group_type(const expansion *x) {
    return x->per == 2 ? VTRN_DTYPE_UINT16 : VTRN_DTYPE_UINT32;
}

/* `bits` in each byte of a group. */
static uint32_t in_bytes(const expansion *x, uint32_t bits) {
    return bits * (x->per == 2 ? 0x0101u : 0x01010101u);
}

/* The result, from a vector of values of one byte, of which those beyond it are left out. */
static vtrn_status finish(expansion *x, graph_value v) {
    rewriter *r = x->r;
    const graph_type result = r->g->types[x->op->results[0]];
    const int64_t n = graph_type_count(&result);
    if (r->g->types[v].dims[0] != n) {
        int64_t *ints = ARENA_NEW(&r->g->arena, int64_t, 3);
        if (!ints)
            return VTRN_OUT_OF_MEMORY(3 * sizeof *ints);
        ints[0] = 0;
        ints[1] = n;
        ints[2] = 1;
        graph_op slice = make_plain(GRAPH_SLICE, &v, 1);
        slice.attrs.slice.start = (graph_ints){.n = 1, .v = ints};
        slice.attrs.slice.limit = (graph_ints){.n = 1, .v = ints + 1};
        slice.attrs.slice.stride = (graph_ints){.n = 1, .v = ints + 2};
        const graph_type type = vector_of((vtrn_dtype)r->g->types[v].dtype, n);
        VTRN_RETURN_IF_ERROR(make_op(r, x->op, &slice, &type, &v));
    }
    VTRN_RETURN_IF_ERROR(make_reshape(r, x->op, v, &result, &v));
    if (r->g->types[v].dtype != result.dtype) { /* a float's code */
        graph_op rename = make_plain(GRAPH_UNPACK, &v, 1);
        rename.attrs.dims.dims = x->op->attrs.dims.dims;
        int64_t *eight = ARENA_NEW(&r->g->arena, int64_t, 1);
        if (!eight)
            return VTRN_OUT_OF_MEMORY(sizeof *eight);
        *eight = 8;
        rename.attrs.dims.dims = (graph_ints){.n = 1, .v = eight};
        return make_op_as(r, x->op, &rename, x->op->results[0]);
    }
    rewrite_replace(r, x->op->results[0], v);
    return NULL;
}

/* A byte's values become the lowest bits of the bytes of a group: shifted copies, of which each
 * byte keeps its own; then the bits above the value have its sign. */
static vtrn_status unpack(expansion *x) {
    rewriter *r = x->r;
    const vtrn_dtype to = (vtrn_dtype)r->g->types[x->op->results[0]].dtype;
    graph_value v = x->op->operands[0], copy;
    VTRN_RETURN_IF_ERROR(changed(x, GRAPH_RESHAPE, &v, vector_of(VTRN_DTYPE_UINT8, x->n_bytes)));
    VTRN_RETURN_IF_ERROR(changed(x, GRAPH_CONVERT, &v, vector_of(VTRN_DTYPE_UINT32, x->n_bytes)));
    /* of 2 bits: first the upper two values to the third byte, then of each pair the upper one */
    for (int values = x->per; values > 1; values /= 2) {
        const int shift = values / 2 * (8 - x->bits);
        copy = v;
        VTRN_RETURN_IF_ERROR(with(x, GRAPH_SHIFT_LEFT, &copy, (uint32_t)shift));
        VTRN_RETURN_IF_ERROR(joined(x, GRAPH_OR, &v, copy));
        const uint32_t mask =
            x->per == 4 && values == 4 ? 0x000f000fu : in_bytes(x, (1u << x->bits) - 1);
        VTRN_RETURN_IF_ERROR(with(x, GRAPH_AND, &v, mask));
    }
    if (dtype_is_signed_int(to)) {
        const uint32_t sign = 1u << (x->bits - 1);
        copy = v;
        VTRN_RETURN_IF_ERROR(with(x, GRAPH_AND, &copy, in_bytes(x, sign)));
        VTRN_RETURN_IF_ERROR(with(x, GRAPH_MULTIPLY, &copy, (0x100u - 2 * sign) / sign));
        VTRN_RETURN_IF_ERROR(joined(x, GRAPH_OR, &v, copy));
    }
    VTRN_RETURN_IF_ERROR(changed(x, GRAPH_CONVERT, &v, vector_of(group_type(x), x->n_bytes)));
    graph_type bytes = {.dtype = (uint8_t)(dtype_is_signed_int(to) ? to : VTRN_DTYPE_UINT8),
                        .rank = 2,
                        .dims = {x->n_bytes, x->per}};
    VTRN_RETURN_IF_ERROR(changed(x, GRAPH_BITCAST_CONVERT, &v, bytes));
    VTRN_RETURN_IF_ERROR(
        changed(x, GRAPH_RESHAPE, &v, vector_of((vtrn_dtype)bytes.dtype, x->n_bytes * x->per)));
    return finish(x, v);
}

static vtrn_status pad_to(expansion *x, graph_value *v, int64_t n) {
    rewriter *r = x->r;
    const graph_type from = r->g->types[*v], scalar = {.dtype = from.dtype};
    if (from.dims[0] == n)
        return NULL;
    int64_t *ints = ARENA_NEW(&r->g->arena, int64_t, 3);
    if (!ints)
        return VTRN_OUT_OF_MEMORY(3 * sizeof *ints);
    ints[0] = ints[2] = 0;
    ints[1] = n - from.dims[0];
    graph_value operands[2] = {*v};
    VTRN_RETURN_IF_ERROR(make_splat(r, x->op, 0, &scalar, &operands[1]));
    graph_op pad = make_plain(GRAPH_PAD, operands, 2);
    pad.attrs.pad.low = (graph_ints){.n = 1, .v = ints};
    pad.attrs.pad.high = (graph_ints){.n = 1, .v = ints + 1};
    pad.attrs.pad.interior = (graph_ints){.n = 1, .v = ints + 2};
    const graph_type type = vector_of((vtrn_dtype)from.dtype, n);
    return make_op(r, x->op, &pad, &type, v);
}

/* The bytes of a group are shifted together: unpack() backwards. */
static vtrn_status pack(expansion *x) {
    rewriter *r = x->r;
    const graph_type from = r->g->types[x->op->operands[0]];
    graph_value v = x->op->operands[0], copy;
    VTRN_RETURN_IF_ERROR(
        changed(x, GRAPH_RESHAPE, &v, vector_of((vtrn_dtype)from.dtype, graph_type_count(&from))));
    if (!dtype_is_int((vtrn_dtype)from.dtype)) { /* a float's code */
        const graph_type type = vector_of(VTRN_DTYPE_UINT8, graph_type_count(&from));
        graph_op rename = make_plain(GRAPH_PACK, &v, 1);
        int64_t *eight = ARENA_NEW(&r->g->arena, int64_t, 1);
        if (!eight)
            return VTRN_OUT_OF_MEMORY(sizeof *eight);
        *eight = 8;
        rename.attrs.dims.dims = (graph_ints){.n = 1, .v = eight};
        VTRN_RETURN_IF_ERROR(make_op(r, x->op, &rename, &type, &v));
    }
    VTRN_RETURN_IF_ERROR(pad_to(x, &v, x->n_bytes * x->per));
    graph_type bytes = {.dtype = r->g->types[v].dtype, .rank = 2, .dims = {x->n_bytes, x->per}};
    VTRN_RETURN_IF_ERROR(changed(x, GRAPH_RESHAPE, &v, bytes));
    VTRN_RETURN_IF_ERROR(
        changed(x, GRAPH_BITCAST_CONVERT, &v, vector_of(group_type(x), x->n_bytes)));
    VTRN_RETURN_IF_ERROR(changed(x, GRAPH_CONVERT, &v, vector_of(VTRN_DTYPE_UINT32, x->n_bytes)));
    VTRN_RETURN_IF_ERROR(with(x, GRAPH_AND, &v, in_bytes(x, (1u << x->bits) - 1)));
    for (int values = 2; values <= x->per; values *= 2) {
        const int shift = values / 2 * (8 - x->bits);
        copy = v;
        VTRN_RETURN_IF_ERROR(with(x, GRAPH_SHIFT_RIGHT_LOGICAL, &copy, (uint32_t)shift));
        VTRN_RETURN_IF_ERROR(joined(x, GRAPH_OR, &v, copy));
        const uint32_t mask = values < x->per ? 0x000f000fu : 0xffu;
        VTRN_RETURN_IF_ERROR(with(x, GRAPH_AND, &v, mask));
    }
    VTRN_RETURN_IF_ERROR(changed(x, GRAPH_CONVERT, &v, vector_of(VTRN_DTYPE_UINT8, x->n_bytes)));
    VTRN_RETURN_IF_ERROR(make_reshape(r, x->op, v, &r->g->types[x->op->results[0]], &v));
    rewrite_replace(r, x->op->results[0], v);
    return NULL;
}

/* --- what stays packed ---------------------------------------------------------------------------
 */

/* The operations that read each value: readers[first[v]] up to readers[first[v + 1]]; NULL: it is a
 * region's result. */
typedef struct reader_lists {
    uint32_t *first;
    const graph_op **readers;
} reader_lists;

/* Counts the readers of v in first[v + 1], or writes them down from first[v] on, which moves. */
static void list_readers(const graph_region *region, reader_lists *lists, bool is_counting) {
    for (uint32_t i = 0; i < region->n_ops; i++) {
        const graph_op *op = &region->ops[i];
        for (uint32_t k = 0; k < op->n_operands; k++) {
            if (is_counting)
                lists->first[op->operands[k] + 1]++;
            else
                lists->readers[lists->first[op->operands[k]]++] = op;
        }
        for (uint32_t k = 0; k < op->n_regions; k++)
            list_readers(op->regions[k], lists, is_counting);
    }
    for (uint32_t i = 0; i < region->n_results; i++) {
        if (is_counting)
            lists->first[region->results[i] + 1]++;
        else
            lists->readers[lists->first[region->results[i]]++] = NULL;
    }
}

static vtrn_status find_readers(graph *g, reader_lists *lists) {
    lists->first = ARENA_NEW(&g->arena, uint32_t, (size_t)g->n_values + 1);
    if (!lists->first)
        return VTRN_OUT_OF_MEMORY(((size_t)g->n_values + 1) * sizeof *lists->first);
    list_readers(&g->body, lists, true);
    for (uint32_t v = 0; v < g->n_values; v++)
        lists->first[v + 1] += lists->first[v];
    lists->readers = ARENA_NEW(&g->arena, const graph_op *, (size_t)lists->first[g->n_values] + 1);
    if (!lists->readers)
        return VTRN_OUT_OF_MEMORY(lists->first[g->n_values] * sizeof *lists->readers);
    list_readers(&g->body, lists, false);
    for (uint32_t v = g->n_values; v-- > 0;) /* they moved to where the next one began */
        lists->first[v + 1] = lists->first[v];
    lists->first[0] = 0;
    return NULL;
}

typedef struct keeping {
    const graph *g;
    reader_lists lists;
} keeping;

static bool contains(graph_ints list, int64_t v) {
    for (int64_t i = 0; i < list.n; i++)
        if (list.v[i] == v)
            return true;
    return false;
}

static bool is_engine_float(vtrn_dtype t) {
    return dtype_is_float(t) && dtype_is_on_engines(t);
}

/* Whether the values along dim of operand k, which are side by side, are the fastest of those that
 * a product sums over, or of those that it keeps. */
static bool is_innermost(const keeping *s, const graph_op *dot, uint32_t k, int64_t dim) {
    const graph_type *t = &s->g->types[dot->operands[k]];
    const graph_ints batch = k ? dot->attrs.dot.rhs_batch : dot->attrs.dot.lhs_batch;
    const graph_ints summed = k ? dot->attrs.dot.rhs_contract : dot->attrs.dot.lhs_contract;
    bool is_found = false;
    if (contains(batch, dim))
        return false;
    if (contains(summed, dim)) {
        for (int64_t i = 0; i < summed.n; i++) {
            if (is_found && t->dims[summed.v[i]] > 1)
                return false;
            is_found |= summed.v[i] == dim;
        }
        return true;
    }
    for (int64_t d = dim + 1; d < t->rank; d++)
        if (t->dims[d] > 1 && !contains(batch, d) && !contains(summed, d))
            return false;
    return true;
}

/* Whether nothing but products on the engines reads v, by way of conversions to floats and other
 * orders of its dims. */
static bool is_multiplied_only(const keeping *s, graph_value v, int64_t dim) {
    const graph_type *types = s->g->types, *t = &types[v];
    for (uint32_t i = s->lists.first[v]; i < s->lists.first[v + 1]; i++) {
        const graph_op *op = s->lists.readers[i];
        if (!op || op->n_results != 1)
            return false;
        const graph_type *result = &types[op->results[0]];
        int64_t to = dim;
        switch ((graph_kind)op->kind) {
        case GRAPH_CONVERT:
            if (!is_engine_float((vtrn_dtype)result->dtype) ||
                dtype_size((vtrn_dtype)result->dtype) < 2 || dtype_is_float((vtrn_dtype)t->dtype))
                return false;
            break;
        case GRAPH_RESHAPE: /* of the dims in front */
            if (dim != t->rank - 1 || result->rank == 0 ||
                result->dims[result->rank - 1] != t->dims[dim])
                return false;
            to = result->rank - 1;
            break;
        case GRAPH_TRANSPOSE:
            for (to = 0; op->attrs.dims.dims.v[to] != dim;)
                to++;
            break;
        case GRAPH_DOT_GENERAL:
            for (uint32_t k = 0; k < 2; k++) {
                const vtrn_dtype operand = (vtrn_dtype)types[op->operands[k]].dtype;
                if (!is_engine_float(operand) ||
                    (op->operands[k] == v && !is_innermost(s, op, k, dim)))
                    return false;
            }
            if (!is_engine_float((vtrn_dtype)result->dtype))
                return false;
            continue;
        default:
            return false;
        }
        if (!is_multiplied_only(s, op->results[0], to))
            return false;
    }
    return s->lists.first[v] < s->lists.first[v + 1];
}

static bool stays_packed(const keeping *s, const graph_op *op, int per) {
    const graph_value v = op->results[0];
    const graph_type *t = &s->g->types[v];
    int64_t dim = t->rank - 1;
    while (dim > 0 && t->dims[dim] == 1)
        dim--;
    return op->kind == GRAPH_UNPACK && dtype_is_int((vtrn_dtype)t->dtype) && dim >= 0 &&
           t->dims[dim] % per == 0 && is_multiplied_only(s, v, dim);
}

static vtrn_status expand(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    const keeping *kept = ctx;
    *is_dropped = false;
    if (op->kind != GRAPH_UNPACK && op->kind != GRAPH_PACK)
        return NULL;
    const graph_value packed = op->kind == GRAPH_UNPACK ? op->operands[0] : op->results[0];
    const int bits = (int)op->attrs.dims.dims.v[0];
    expansion x = {.r = r,
                   .op = op,
                   .bits = bits,
                   .per = 8 / bits,
                   .n_bytes = graph_type_count(&r->g->types[packed])};
    if (x.per == 1 || x.n_bytes == 0 || (kept && stays_packed(kept, op, x.per)))
        return NULL;
    *is_dropped = true;
    return op->kind == GRAPH_UNPACK ? unpack(&x) : pack(&x);
}

static bool is_packing(const graph_region *region) {
    for (uint32_t i = 0; i < region->n_ops; i++) {
        const graph_op *op = &region->ops[i];
        if (op->kind == GRAPH_UNPACK || op->kind == GRAPH_PACK)
            return true;
        for (uint32_t k = 0; k < op->n_regions; k++)
            if (is_packing(op->regions[k]))
                return true;
    }
    return false;
}

vtrn_status small_types_expand(graph *g, bool is_bare) {
    keeping kept = {.g = g};
    if (!is_packing(&g->body))
        return NULL;
    if (!is_bare)
        VTRN_RETURN_IF_ERROR(find_readers(g, &kept.lists));
    return rewrite_graph(g, expand, is_bare ? NULL : &kept);
}
