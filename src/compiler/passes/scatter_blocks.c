#include "compiler/passes/scatter_blocks.h"

#include "compiler/passes/make_op.h"

#include <math.h>
#include <string.h>

enum {
    BLOCK = 128,     /* updates: the partitions of SBUF */
    MAX_BLOCKS = 64, /* for a program's size */
};

typedef struct blocks {
    rewriter *r;
    const graph_op *op;
    graph_kind combine;
    double identity;
    graph_value indices; /* [n, n_components] */
    graph_value updates; /* [n, window...] */
    int64_t n, n_components, width;
} blocks;

static const graph_type *type_of(const blocks *s, graph_value v) {
    return &s->r->g->types[v];
}

/* Whether the type has the value: several narrow floats have no infinity, and make NaN of it. */
static bool has_value(vtrn_dtype t, double value) {
    float in = (float)value, out;
    uint32_t bits = 0;
    dtype_store_fp32(t, &in, &bits, 1);
    dtype_load_fp32(t, &bits, &out, 1);
    return out == in;
}

/* The operation of the scatter's region, and what it leaves as it is. */
static bool read_reducer(blocks *s, const graph_type *t) {
    bool is_float = dtype_is_float((vtrn_dtype)t->dtype);
    bool is_signed = t->dtype == VTRN_DTYPE_INT32;
    if (dtype_size((vtrn_dtype)t->dtype) > 4 ||
        !(is_float || is_signed || t->dtype == VTRN_DTYPE_UINT32))
        return false;
    switch (s->op->reducer) {
    case GRAPH_REDUCER_MAXIMUM:
        s->combine = GRAPH_MAXIMUM;
        s->identity = is_float ? -INFINITY : is_signed ? INT32_MIN : 0;
        return !is_float || has_value((vtrn_dtype)t->dtype, s->identity);
    case GRAPH_REDUCER_MINIMUM:
        s->combine = GRAPH_MINIMUM;
        s->identity = is_float ? INFINITY : is_signed ? INT32_MAX : UINT32_MAX;
        return !is_float || has_value((vtrn_dtype)t->dtype, s->identity);
    case GRAPH_REDUCER_MULTIPLY:
        s->combine = GRAPH_MULTIPLY;
        s->identity = 1;
        return is_float && has_value((vtrn_dtype)t->dtype, 1);
    default:
        return false;
    }
}

static bool contains(graph_ints list, int64_t x) {
    for (int64_t i = 0; i < list.n; i++)
        if (list.v[i] == x)
            return true;
    return false;
}

/* Whether any two windows are the same, or do not meet. */
static bool has_places(const blocks *s) {
    const graph_attrs *at = &s->op->attrs;
    const graph_type *indices = type_of(s, s->op->operands[1]);
    if (at->scatter.is_unique || at->scatter.input_batching.n ||
        at->scatter.index_vector_dim < indices->rank - 1)
        return false;
    for (int64_t i = 0; i < at->scatter.scatter_dims_to_operand.n; i++)
        if (!contains(at->scatter.inserted_window, at->scatter.scatter_dims_to_operand.v[i]))
            return false;
    return true;
}

static bool may_be_blocks(blocks *s) {
    const graph_op *op = s->op;
    if (op->kind != GRAPH_SCATTER || op->n_operands != 3 || op->n_results != 1 ||
        !read_reducer(s, type_of(s, op->operands[0])) || !has_places(s) ||
        graph_type_count(type_of(s, op->operands[0])) == 0)
        return false;
    const graph_type *updates = type_of(s, op->operands[2]);
    s->n_components = op->attrs.scatter.scatter_dims_to_operand.n;
    s->n = s->width = 1;
    for (int64_t d = 0; d < updates->rank; d++)
        *(contains(op->attrs.scatter.update_window, d) ? &s->width : &s->n) *= updates->dims[d];
    return s->n_components > 0 && s->n > 1 && s->width > 0 && s->n <= (int64_t)BLOCK * MAX_BLOCKS;
}

static vtrn_status list(const blocks *s, const int64_t *values, int64_t n, graph_ints *out) {
    int64_t *v = ARENA_NEW(&s->r->g->arena, int64_t, (size_t)n + 1);
    if (!v)
        return VTRN_OUT_OF_MEMORY(((size_t)n + 1) * sizeof *v);
    memcpy(v, values, (size_t)n * sizeof *v);
    *out = (graph_ints){.n = n, .v = v};
    return NULL;
}

/* The updates one after the other: [n, window...]. */
static vtrn_status line_up(blocks *s) {
    graph_value v = s->op->operands[2];
    const graph_type from = *type_of(s, v);
    graph_ints window = s->op->attrs.scatter.update_window;
    graph_type to = {.dtype = from.dtype, .rank = 1, .dims = {s->n}}, turned = from;
    int64_t order[GRAPH_MAX_RANK];
    int n_listed = 0;
    for (int d = 0; d < from.rank; d++)
        if (!contains(window, d))
            order[n_listed++] = d;
    bool is_turned = false;
    for (int64_t i = 0; i < window.n; i++) {
        order[n_listed + i] = window.v[i];
        to.dims[to.rank++] = from.dims[window.v[i]];
        is_turned = is_turned || window.v[i] != n_listed + i;
    }
    if (is_turned) {
        graph_op turn = {.kind = GRAPH_TRANSPOSE, .n_operands = 1, .operands = &v};
        for (int d = 0; d < from.rank; d++)
            turned.dims[d] = from.dims[order[d]];
        VTRN_RETURN_IF_ERROR(list(s, order, from.rank, &turn.attrs.dims.dims));
        VTRN_RETURN_IF_ERROR(make_op(s->r, s->op, &turn, &turned, &v));
    }
    return make_reshape(s->r, s->op, v, &to, &s->updates);
}

/* m rows of v from `first` on, of all columns or, if column >= 0, of that one */
static vtrn_status slice(const blocks *s, graph_value v, int64_t first, int64_t m, int64_t column,
                         graph_value *out) {
    graph_type t = *type_of(s, v);
    int64_t start[GRAPH_MAX_RANK] = {first}, limit[GRAPH_MAX_RANK], stride[GRAPH_MAX_RANK];
    graph_op op = {.kind = GRAPH_SLICE, .n_operands = 1, .operands = &v};
    t.dims[0] = m;
    if (column >= 0) {
        start[1] = column;
        t.dims[1] = 1;
    }
    for (int d = 0; d < t.rank; d++) {
        limit[d] = start[d] + t.dims[d];
        stride[d] = 1;
    }
    VTRN_RETURN_IF_ERROR(list(s, start, t.rank, &op.attrs.slice.start));
    VTRN_RETURN_IF_ERROR(list(s, limit, t.rank, &op.attrs.slice.limit));
    VTRN_RETURN_IF_ERROR(list(s, stride, t.rank, &op.attrs.slice.stride));
    return make_op(s->r, s->op, &op, &t, out);
}

/* v of dims [a] or [a, b] among those of `dims`: at dim 0 if it is_first, else at the last ones */
static vtrn_status spread(const blocks *s, graph_value v, bool is_first, const graph_type *dims,
                          graph_value *out) {
    graph_type type = *dims;
    int rank = type_of(s, v)->rank;
    int64_t at[2] = {is_first ? 0 : dims->rank - rank, dims->rank - 1};
    graph_op op = {.kind = GRAPH_BROADCAST_IN_DIM, .n_operands = 1, .operands = &v};
    type.dtype = type_of(s, v)->dtype;
    VTRN_RETURN_IF_ERROR(list(s, at, rank, &op.attrs.dims.dims));
    return make_op(s->r, s->op, &op, &type, out);
}

/* [m, m]: which updates of m have the same place */
static vtrn_status same_places(const blocks *s, graph_value indices, graph_value *out) {
    int64_t m = type_of(s, indices)->dims[0];
    graph_type pairs = {.dtype = VTRN_DTYPE_PRED, .rank = 2, .dims = {m, m}};
    graph_type one = {.dtype = type_of(s, indices)->dtype, .rank = 1, .dims = {m}};
    graph_value all = GRAPH_NO_VALUE;
    for (int64_t k = 0; k < s->n_components; k++) {
        graph_value column, side[2], both[2] = {all};
        graph_op equal = {.kind = GRAPH_COMPARE, .n_operands = 2, .operands = side};
        equal.attrs.compare.direction = GRAPH_EQ;
        equal.attrs.compare.type =
            dtype_is_signed_int((vtrn_dtype)one.dtype) ? GRAPH_CMP_SIGNED : GRAPH_CMP_UNSIGNED;
        VTRN_RETURN_IF_ERROR(slice(s, indices, 0, m, k, &column));
        VTRN_RETURN_IF_ERROR(make_reshape(s->r, s->op, column, &one, &column));
        VTRN_RETURN_IF_ERROR(spread(s, column, true, &pairs, &side[0]));
        VTRN_RETURN_IF_ERROR(spread(s, column, false, &pairs, &side[1]));
        VTRN_RETURN_IF_ERROR(make_op(s->r, s->op, &equal, &pairs, &both[1]));
        all = both[1];
        const graph_op and = make_plain(GRAPH_AND, both, 2);
        if (k > 0)
            VTRN_RETURN_IF_ERROR(make_op(s->r, s->op, &and, &pairs, &all));
    }
    *out = all;
    return NULL;
}

/* Of each update the maximum (...) of all that have its place; *updates is of m. */
static vtrn_status combine_within(const blocks *s, graph_value indices, graph_value *updates) {
    const graph_type dims = *type_of(s, *updates);
    int64_t m = dims.dims[0], turned[] = {1, 0}, last[] = {2};
    graph_type rows = {.dtype = dims.dtype, .rank = 2, .dims = {m, s->width}};
    graph_type columns = {.dtype = dims.dtype, .rank = 2, .dims = {s->width, m}};
    graph_type cube = {.dtype = dims.dtype, .rank = 3, .dims = {m, s->width, m}};
    graph_type bare = {.dtype = dims.dtype};
    graph_value is_same, in[3], from[2];
    VTRN_RETURN_IF_ERROR(same_places(s, indices, &is_same));
    graph_op among = {.kind = GRAPH_BROADCAST_IN_DIM, .n_operands = 1, .operands = &is_same};
    graph_type truths = cube;
    truths.dtype = VTRN_DTYPE_PRED;
    VTRN_RETURN_IF_ERROR(list(s, (int64_t[]){0, 2}, 2, &among.attrs.dims.dims));
    VTRN_RETURN_IF_ERROR(make_op(s->r, s->op, &among, &truths, &in[0]));
    VTRN_RETURN_IF_ERROR(make_reshape(s->r, s->op, *updates, &rows, updates));
    graph_op turn = {.kind = GRAPH_TRANSPOSE, .n_operands = 1, .operands = updates};
    VTRN_RETURN_IF_ERROR(list(s, turned, 2, &turn.attrs.dims.dims));
    VTRN_RETURN_IF_ERROR(make_op(s->r, s->op, &turn, &columns, &in[1]));
    VTRN_RETURN_IF_ERROR(spread(s, in[1], false, &cube, &in[1]));
    VTRN_RETURN_IF_ERROR(make_splat(s->r, s->op, s->identity, &cube, &in[2]));
    const graph_op select = make_plain(GRAPH_SELECT, in, 3);
    VTRN_RETURN_IF_ERROR(make_op(s->r, s->op, &select, &cube, &from[0]));
    VTRN_RETURN_IF_ERROR(make_splat(s->r, s->op, s->identity, &bare, &from[1]));
    graph_op reduce = {.kind = GRAPH_REDUCE,
                       .reducer = s->op->reducer,
                       .n_operands = 2,
                       .operands = from,
                       .n_regions = 1,
                       .regions = s->op->regions};
    VTRN_RETURN_IF_ERROR(list(s, last, 1, &reduce.attrs.dims.dims));
    VTRN_RETURN_IF_ERROR(make_op(s->r, s->op, &reduce, &rows, updates));
    return make_reshape(s->r, s->op, *updates, &dims, updates);
}

/* The rows of the table that the indices name. */
static vtrn_status gather(const blocks *s, graph_value table, graph_value indices,
                          const graph_type *type, graph_value *out) {
    const graph_attrs *at = &s->op->attrs;
    const graph_type *t = type_of(s, table);
    int64_t offset[GRAPH_MAX_RANK], sizes[GRAPH_MAX_RANK];
    graph_value in[] = {table, indices};
    graph_op op = {.kind = GRAPH_GATHER, .n_operands = 2, .operands = in};
    for (int i = 0; i + 1 < type->rank; i++)
        offset[i] = i + 1;
    for (int d = 0, k = 1; d < t->rank; d++)
        sizes[d] = contains(at->scatter.inserted_window, d) ? 1 : type->dims[k++];
    op.attrs.gather.collapsed = at->scatter.inserted_window;
    op.attrs.gather.start_index_map = at->scatter.scatter_dims_to_operand;
    op.attrs.gather.index_vector_dim = 1;
    VTRN_RETURN_IF_ERROR(list(s, offset, type->rank - 1, &op.attrs.gather.offset_dims));
    VTRN_RETURN_IF_ERROR(list(s, sizes, t->rank, &op.attrs.gather.slice_sizes));
    return make_op(s->r, s->op, &op, type, out);
}

static vtrn_status write_block(const blocks *s, int64_t first, int64_t m, graph_value *table) {
    graph_value indices, in[2], updates;
    VTRN_RETURN_IF_ERROR(slice(s, s->indices, first, m, -1, &indices));
    VTRN_RETURN_IF_ERROR(slice(s, s->updates, first, m, -1, &in[1]));
    const graph_type type = *type_of(s, in[1]);
    VTRN_RETURN_IF_ERROR(combine_within(s, indices, &in[1]));
    VTRN_RETURN_IF_ERROR(gather(s, *table, indices, &type, &in[0]));
    const graph_op combine = make_plain(s->combine, in, 2);
    VTRN_RETURN_IF_ERROR(make_op(s->r, s->op, &combine, &type, &updates));
    graph_value operands[] = {*table, indices, updates};
    graph_op scatter = {.kind = GRAPH_SCATTER, .n_operands = 3, .operands = operands};
    int64_t window[GRAPH_MAX_RANK];
    for (int i = 0; i + 1 < type.rank; i++)
        window[i] = i + 1;
    scatter.attrs = s->op->attrs;
    scatter.attrs.scatter.index_vector_dim = 1;
    VTRN_RETURN_IF_ERROR(list(s, window, type.rank - 1, &scatter.attrs.scatter.update_window));
    VTRN_RETURN_IF_ERROR(make_replacing(s->r, &type, &scatter));
    graph_type whole = *type_of(s, *table);
    return make_op(s->r, s->op, &scatter, &whole, table);
}

static vtrn_status by_blocks(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    (void)ctx;
    blocks s = {.r = r, .op = op};
    *is_dropped = false;
    if (!may_be_blocks(&s))
        return NULL;
    graph_type indices = {
        .dtype = type_of(&s, op->operands[1])->dtype, .rank = 2, .dims = {s.n, s.n_components}};
    graph_value table = op->operands[0];
    VTRN_RETURN_IF_ERROR(make_reshape(r, op, op->operands[1], &indices, &s.indices));
    VTRN_RETURN_IF_ERROR(line_up(&s));
    for (int64_t first = 0; first < s.n; first += BLOCK)
        VTRN_RETURN_IF_ERROR(
            write_block(&s, first, s.n - first < BLOCK ? s.n - first : BLOCK, &table));
    rewrite_replace(r, op->results[0], table);
    *is_dropped = true;
    return NULL;
}

vtrn_status scatter_by_blocks(graph *g) {
    return rewrite_graph(g, by_blocks, NULL);
}
