#include "compiler/passes/row_elements.h"

#include "compiler/passes/dead.h"
#include "compiler/passes/make_op.h"
#include "compiler/passes/uses.h"

#include <stdlib.h>

enum {
    MIN_COLS =
        1024,     /* of a row; where fewer, a map kernel compares columns with the index: assumed */
    MAX_OPS = 32, /* elementwise operations that are done for single elements instead */
    MAX_LEAVES = 4, /* whole tensors that these read */
};

static const graph_type *type_of(const rewriter *r, graph_value v) {
    return &r->g->types[v];
}

/* --- the form -----------------------------------------------------------------------------------
 */

/* The attributes of a gather that reads what the scatter writes. */
static graph_attrs gather_attrs(const graph_op *op, const graph_ints *slice_sizes) {
    graph_attrs at = op->attrs;
    if (op->kind == GRAPH_GATHER)
        return at;
    at.gather.offset_dims = op->attrs.scatter.update_window;
    at.gather.collapsed = op->attrs.scatter.inserted_window;
    at.gather.operand_batching = op->attrs.scatter.input_batching;
    at.gather.indices_batching = op->attrs.scatter.indices_batching;
    at.gather.start_index_map = op->attrs.scatter.scatter_dims_to_operand;
    at.gather.slice_sizes = *slice_sizes;
    at.gather.index_vector_dim = op->attrs.scatter.index_vector_dim;
    at.gather.is_sorted = op->attrs.scatter.is_sorted;
    return at;
}

static bool ascends(graph_ints list) {
    for (int64_t i = 1; i < list.n; i++)
        if (list.v[i] <= list.v[i - 1])
            return false;
    return true;
}

static bool contains(graph_ints list, int64_t x) {
    for (int64_t i = 0; i < list.n; i++)
        if (list.v[i] == x)
            return true;
    return false;
}

bool row_elements_of(const graph *g, const graph_op *op, int64_t *n_cols) {
    bool is_gather = op->kind == GRAPH_GATHER;
    if (op->n_results != 1 || (!is_gather && (op->kind != GRAPH_SCATTER || op->n_operands != 3)))
        return false;
    const graph_type *table = &g->types[op->operands[0]], *indices = &g->types[op->operands[1]];
    const graph_type *array = &g->types[is_gather ? op->results[0] : op->operands[2]];
    const graph_attrs at = gather_attrs(op, &(graph_ints){0});
    if (at.gather.start_index_map.n != 1 || at.gather.collapsed.n != 1 ||
        at.gather.collapsed.v[0] != at.gather.start_index_map.v[0])
        return false;
    int64_t indexed = at.gather.collapsed.v[0], cols = table->dims[indexed];
    for (int d = 0; d < table->rank; d++) {
        bool is_row = d < indexed && table->dims[d] > 1;
        if (d > indexed && table->dims[d] > 1)
            return false;
        if (is_row && !contains(at.gather.operand_batching, d))
            return false;
    }
    int64_t n = graph_type_count(table);
    if (n == 0 || graph_type_count(array) != n / cols || graph_type_count(indices) != n / cols ||
        !ascends(at.gather.operand_batching) || !ascends(at.gather.indices_batching))
        return false;
    if (n_cols)
        *n_cols = cols;
    return true;
}

static bool is_long_row(const graph *g, const graph_op *op) {
    int64_t n_cols;
    return row_elements_of(g, op, &n_cols) && n_cols >= MIN_COLS;
}

/* --- elementwise operations on single elements ---------------------------------------------------
 */

typedef struct sinker {
    rewriter *r;
    const graph_op *like; /* gather or scatter */
    graph_attrs at;
    graph_type array; /* of single elements, in any dtype */
    int n_ops, n_leaves;
    graph_value leaf[MAX_LEAVES], picked[MAX_LEAVES];
} sinker;

static graph_type with_dtype(const graph_type *dims, uint8_t dtype) {
    graph_type t = *dims;
    t.dtype = dtype;
    return t;
}

static bool is_elementwise(const graph_op *op) {
    return op->kind <= GRAPH_CONVERT && op->n_results == 1;
}

/* The dim of the operand along which a row runs. */
static int64_t row_dim(const sinker *s) {
    return s->at.gather.collapsed.v[0];
}

/* One value a row, or one for all: nothing has to be gathered. */
static bool is_of_rows(const sinker *s, const graph_op *op) {
    if (op->kind == GRAPH_CONSTANT)
        return op->attrs.constant.is_splat;
    if (op->kind != GRAPH_BROADCAST_IN_DIM)
        return false;
    const graph_type *from = type_of(s->r, op->operands[0]);
    for (int64_t i = 0; i < op->attrs.dims.dims.n; i++)
        if (op->attrs.dims.dims.v[i] == row_dim(s) && from->dims[i] > 1)
            return false;
    return true;
}

/* Whether few operations on single elements make the elements of v that are picked. */
static bool can_sink(sinker *s, graph_value v) {
    const graph_op *op = s->r->maker[v];
    if (op && is_of_rows(s, op))
        return true;
    if (!op || !is_elementwise(op)) {
        for (int i = 0; i < s->n_leaves; i++)
            if (s->leaf[i] == v)
                return true;
        if (s->n_leaves == MAX_LEAVES)
            return false;
        s->picked[s->n_leaves] = GRAPH_NO_VALUE;
        s->leaf[s->n_leaves++] = v;
        return true;
    }
    if (++s->n_ops > MAX_OPS)
        return false;
    for (uint32_t i = 0; i < op->n_operands; i++) {
        bool is_scalar = graph_type_count(type_of(s->r, op->operands[i])) == 1;
        if (!is_scalar && !can_sink(s, op->operands[i]))
            return false;
    }
    return true;
}

static vtrn_status pick(sinker *s, graph_value v, graph_value *out) {
    int i = 0;
    while (i < s->n_leaves && s->leaf[i] != v)
        i++;
    VTRN_CHECK(i < s->n_leaves, "can_sink has found the tensors to gather from");
    *out = s->picked[i];
    if (*out != GRAPH_NO_VALUE)
        return NULL;
    graph_type type = with_dtype(&s->array, type_of(s->r, v)->dtype);
    graph_value in[] = {v, s->like->operands[1]};
    graph_op gather = {.kind = GRAPH_GATHER, .n_operands = 2, .operands = in, .attrs = s->at};
    VTRN_RETURN_IF_ERROR(make_op(s->r, s->like, &gather, &type, out));
    s->picked[i] = *out;
    return NULL;
}

static vtrn_status pick_of_rows(sinker *s, graph_value v, const graph_op *op, graph_value *out) {
    graph_type type = with_dtype(&s->array, type_of(s->r, v)->dtype), rows = *type_of(s->r, v);
    graph_op one = *op;
    if (op->kind == GRAPH_CONSTANT)
        return make_op(s->r, s->like, &one, &type, out);
    if (graph_type_count(type_of(s->r, op->operands[0])) == 1 && op->attrs.dims.dims.n == 0)
        return make_op(s->r, s->like, &one, &type, out);
    rows.dims[row_dim(s)] = 1;
    VTRN_RETURN_IF_ERROR(make_op(s->r, s->like, &one, &rows, out));
    return make_reshape(s->r, s->like, *out, &s->array, out);
}

/* The elements of v that are picked. */
static vtrn_status sink(sinker *s, graph_value v, graph_value *out) {
    const graph_op *op = s->r->maker[v];
    if (op && is_of_rows(s, op))
        return pick_of_rows(s, v, op, out);
    if (!op || !is_elementwise(op))
        return pick(s, v, out);
    graph_value in[3];
    VTRN_CHECK(op->n_operands <= 3, "elementwise operations have up to three operands");
    for (uint32_t i = 0; i < op->n_operands; i++) {
        in[i] = op->operands[i];
        if (graph_type_count(type_of(s->r, in[i])) > 1)
            VTRN_RETURN_IF_ERROR(sink(s, in[i], &in[i]));
    }
    graph_type type = with_dtype(&s->array, type_of(s->r, v)->dtype);
    graph_op single = *op;
    single.operands = in;
    return make_op(s->r, s->like, &single, &type, out);
}

static sinker sinker_of(rewriter *r, const graph_op *like, const graph_ints *slice_sizes) {
    graph_value array = like->kind == GRAPH_GATHER ? like->results[0] : like->operands[2];
    return (sinker){
        .r = r, .like = like, .at = gather_attrs(like, slice_sizes), .array = *type_of(r, array)};
}

/* gather(f(x, y)) -> f(gather(x), gather(y)) */
static vtrn_status sink_gather(rewriter *r, graph_op *op, bool *is_dropped) {
    sinker s = sinker_of(r, op, NULL);
    const graph_op *maker = r->maker[op->operands[0]];
    if (!is_long_row(r->g, op) || !maker || !(is_elementwise(maker) || is_of_rows(&s, maker)) ||
        !can_sink(&s, op->operands[0]))
        return NULL;
    graph_value made;
    VTRN_RETURN_IF_ERROR(sink(&s, op->operands[0], &made));
    rewrite_replace(r, op->results[0], made);
    *is_dropped = true;
    return NULL;
}

/* --- sums over rows that have one element --------------------------------------------------------
 */

/* The scatter of one element a row into zeros that v is, but for operations which leave 0 as it is:
 * these, innermost last, in *chain. */
static const graph_op *scatter_behind(const rewriter *r, graph_value v, const graph_op **chain,
                                      int *n_chain) {
    enum { MAX_CHAIN = 4 };
    double base;
    for (*n_chain = 0;; v = chain[(*n_chain)++]->operands[0]) {
        const graph_op *op = r->maker[v];
        if (!op || op->n_results != 1)
            return NULL;
        if (op->kind == GRAPH_SCATTER)
            return op->n_operands == 3 && op->reducer == GRAPH_REDUCER_ADD &&
                           is_long_row(r->g, op) && rewrite_splat(r, op->operands[0], &base) &&
                           base == 0
                       ? op
                       : NULL;
        bool is_linear = op->kind == GRAPH_NEGATE ||
                         (op->kind == GRAPH_CONVERT &&
                          dtype_is_float((vtrn_dtype)type_of(r, op->operands[0])->dtype) &&
                          dtype_is_float((vtrn_dtype)type_of(r, v)->dtype));
        if (!is_linear || *n_chain == MAX_CHAIN)
            return NULL;
        chain[*n_chain] = op;
    }
}

/* Whether the reduction adds up whole rows of the scatter's result and nothing else. */
static bool sums_rows(const rewriter *r, const graph_op *reduce, const graph_op *scatter) {
    const graph_type *t = type_of(r, scatter->results[0]);
    int64_t cols = scatter->attrs.scatter.inserted_window.v[0];
    double init;
    if (reduce->n_operands != 2 || reduce->reducer != GRAPH_REDUCER_ADD ||
        !rewrite_splat(r, reduce->operands[1], &init) || init != 0 ||
        !contains(reduce->attrs.dims.dims, cols))
        return false;
    for (int64_t i = 0; i < reduce->attrs.dims.dims.n; i++) {
        int64_t d = reduce->attrs.dims.dims.v[i];
        if (d != cols && t->dims[d] > 1)
            return false;
    }
    return true;
}

/* Truth values of the updates' dims: the index is inside the row. */
static vtrn_status make_is_inside(rewriter *r, const graph_op *scatter, graph_value *out) {
    const graph_type *updates = type_of(r, scatter->operands[2]);
    const graph_type *table = type_of(r, scatter->operands[0]);
    int64_t cols = table->dims[scatter->attrs.scatter.inserted_window.v[0]];
    graph_value index, bound, side[2];
    VTRN_RETURN_IF_ERROR(make_reshape(r, scatter, scatter->operands[1], updates, &index));
    graph_type type = *type_of(r, index), truth = with_dtype(updates, VTRN_DTYPE_PRED);
    for (int k = 0; k < 2; k++) {
        VTRN_RETURN_IF_ERROR(make_splat(r, scatter, k ? (double)(cols - 1) : 0, &type, &bound));
        graph_op compare = {
            .kind = GRAPH_COMPARE,
            .n_operands = 2,
            .operands = (graph_value[]){index, bound},
            .attrs = {.compare = {.direction = k ? GRAPH_LE : GRAPH_GE,
                                  .type = dtype_is_signed_int((vtrn_dtype)type.dtype)
                                              ? GRAPH_CMP_SIGNED
                                              : GRAPH_CMP_UNSIGNED}}};
        VTRN_RETURN_IF_ERROR(make_op(r, scatter, &compare, &truth, &side[k]));
    }
    graph_op both = make_plain(GRAPH_AND, side, 2);
    return make_op(r, scatter, &both, &truth, out);
}

/* reduce(-scatter(0, i, u)) -> select(i is inside, -u, 0) */
static vtrn_status take_sum(rewriter *r, graph_op *op, bool *is_dropped) {
    const graph_op *chain[5];
    int n_chain;
    const graph_op *scatter = scatter_behind(r, op->operands[0], chain, &n_chain);
    if (!scatter || !sums_rows(r, op, scatter))
        return NULL;
    graph_value in[3] = {GRAPH_NO_VALUE, scatter->operands[2], GRAPH_NO_VALUE}, sum;
    const graph_type *updates = type_of(r, scatter->operands[2]);
    graph_type type = *updates, dims = *updates, result = *type_of(r, op->results[0]);
    while (n_chain-- > 0) {
        type = with_dtype(&dims, type_of(r, chain[n_chain]->results[0])->dtype);
        graph_op step = make_plain((graph_kind)chain[n_chain]->kind, &in[1], 1);
        VTRN_RETURN_IF_ERROR(make_op(r, op, &step, &type, &in[1]));
    }
    VTRN_RETURN_IF_ERROR(make_is_inside(r, scatter, &in[0]));
    VTRN_RETURN_IF_ERROR(make_splat(r, op, 0, &type, &in[2]));
    graph_op select = make_plain(GRAPH_SELECT, in, 3);
    VTRN_RETURN_IF_ERROR(make_op(r, op, &select, &type, &sum));
    VTRN_RETURN_IF_ERROR(make_reshape(r, op, sum, &result, &sum));
    rewrite_replace(r, op->results[0], sum);
    *is_dropped = true;
    return NULL;
}

static vtrn_status pick_elements(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    (void)ctx;
    if (op->kind == GRAPH_GATHER)
        return sink_gather(r, op, is_dropped);
    return op->kind == GRAPH_REDUCE ? take_sum(r, op, is_dropped) : NULL;
}

/* --- sums with what is scattered -----------------------------------------------------------------
 */

typedef struct sums {
    value_use *uses;
    uint32_t n_uses;
} sums;

static bool is_read_once(const sums *s, graph_value v) {
    return v < s->n_uses && s->uses[v].n == 1;
}

static bool narrows(const graph *g, const graph_op *op) {
    return op && op->kind == GRAPH_CONVERT &&
           dtype_is_float((vtrn_dtype)g->types[op->operands[0]].dtype) &&
           dtype_is_float((vtrn_dtype)g->types[op->results[0]].dtype);
}

static vtrn_status ones(rewriter *r, int rank, graph_ints *out) {
    int64_t *v = ARENA_NEW(&r->g->arena, int64_t, (size_t)rank);
    if (!v)
        return VTRN_OUT_OF_MEMORY((size_t)rank * sizeof *v);
    for (int i = 0; i < rank; i++)
        v[i] = 1;
    *out = (graph_ints){.n = rank, .v = v};
    return NULL;
}

/* op becomes the scatter of to(u + gather(y, i)) into to(y), where to() is op's type. */
static vtrn_status replace_elements(rewriter *r, graph_op *op, const graph_op *scatter,
                                    graph_value y) {
    graph_type table = *type_of(r, op->results[0]);
    graph_value in[3] = {y, scatter->operands[1], GRAPH_NO_VALUE};
    graph_ints slice_sizes;
    VTRN_RETURN_IF_ERROR(ones(r, table.rank, &slice_sizes));
    sinker s = sinker_of(r, scatter, &slice_sizes);
    if (!can_sink(&s, y))
        return NULL;
    graph_value terms[] = {scatter->operands[2], GRAPH_NO_VALUE};
    graph_type sum = *type_of(r, terms[0]), narrow = with_dtype(&sum, table.dtype);
    VTRN_RETURN_IF_ERROR(sink(&s, y, &terms[1]));
    graph_op add = make_plain(GRAPH_ADD, terms, 2);
    VTRN_RETURN_IF_ERROR(make_op(r, op, &add, &sum, &in[2]));
    if (op->kind == GRAPH_CONVERT) {
        graph_op old = make_plain(GRAPH_CONVERT, &y, 1),
                 added = make_plain(GRAPH_CONVERT, &in[2], 1);
        VTRN_RETURN_IF_ERROR(make_op(r, op, &old, &table, &in[0]));
        VTRN_RETURN_IF_ERROR(make_op(r, op, &added, &narrow, &in[2]));
    }
    graph_value *operands = ARENA_NEW(&r->g->arena, graph_value, 3);
    if (!operands)
        return VTRN_OUT_OF_MEMORY(3 * sizeof *operands);
    for (int i = 0; i < 3; i++)
        operands[i] = in[i];
    graph_op made = *scatter;
    made.operands = operands;
    made.results = op->results;
    VTRN_RETURN_IF_ERROR(make_replacing(r, &table, &made));
    *op = made;
    return NULL;
}

/* y + scatter(0, i, u), perhaps converted: a sum that is only converted waits for that. */
static vtrn_status join_sum(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    const sums *s = ctx;
    *is_dropped = false;
    const graph_op *sum = op;
    if (narrows(r->g, op)) {
        sum = r->maker[op->operands[0]];
        if (!sum || sum->kind != GRAPH_ADD || !is_read_once(s, sum->results[0]))
            return NULL;
    } else if (op->kind != GRAPH_ADD ||
               (is_read_once(s, op->results[0]) && narrows(r->g, s->uses[op->results[0]].user))) {
        return NULL;
    }
    for (int k = 0; k < 2; k++) {
        const graph_op *chain[5];
        int n_chain;
        const graph_op *scatter = scatter_behind(r, sum->operands[k], chain, &n_chain);
        if (scatter && n_chain == 0 && is_read_once(s, sum->operands[k]) &&
            scatter->results[0] == sum->operands[k])
            return replace_elements(r, op, scatter, sum->operands[1 - k]);
    }
    return NULL;
}

vtrn_status row_elements_move(graph *g) {
    VTRN_RETURN_IF_ERROR(rewrite_graph(g, pick_elements, NULL));
    VTRN_RETURN_IF_ERROR(dead_remove(g)); /* a sum that was the other one to read a scatter */
    sums s = {.n_uses = g->n_values};
    VTRN_RETURN_IF_ERROR(uses_count(g, &s.uses));
    vtrn_status status = rewrite_graph(g, join_sum, &s);
    free(s.uses);
    return status;
}
