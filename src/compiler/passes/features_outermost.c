#include "compiler/passes/features_outermost.h"

#include "compiler/passes/make_op.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_CHAIN = 16, /* elementwise operations behind a product */
    MAX_DEPTH = 8,  /* changes of view on the way to a reader */
    MAX_FACTORS = 2 * GRAPH_MAX_RANK,
    /* Of x: fewer take less time on the PE array than w to load, which as weights comes in shorter
     * rows. Of w: fewer leave rows of the array empty. Assumed. */
    LEAST_COLUMNS = 256,
    LEAST_FEATURES = 128,
    /* Of x in a batch of the product that reads the result: fewer are short transfers, which the
     * rows of several batches are not, unless SBUF has no room for the result: a transfer of it
     * is as long as the run. Assumed. */
    LEAST_RUN = 128,
    LEAST_LONG_RUN = 512,
    MOST_KEPT = 4 << 20, /* elements */
    NONE = -1,
};

/* --- who reads a value --------------------------------------------------------------------------
 */

typedef struct use {
    const graph_op *op; /* NULL: a region's result, or within a region of the body */
    uint32_t operand;
    int64_t next; /* of the same value, or NONE */
} use;

typedef struct finder {
    const graph *g;
    const graph_op **maker; /* by value: in the body */
    int64_t *first;         /* by value: its uses, or NONE */
    use *uses;
    int64_t n_uses;
    uint8_t *n_left; /* by value: dims of x in a product that is turned, and behind it; 0: none */
    uint32_t n_values;
} finder;

static void add_use(finder *f, graph_value v, const graph_op *op, uint32_t operand) {
    f->uses[f->n_uses] = (use){op, operand, f->first[v]};
    f->first[v] = f->n_uses++;
}

static size_t count_names(const graph_region *region) {
    size_t n = region->n_results;
    for (uint32_t i = 0; i < region->n_ops; i++) {
        n += region->ops[i].n_operands;
        for (uint32_t k = 0; k < region->ops[i].n_regions; k++)
            n += count_names(region->ops[i].regions[k]);
    }
    return n;
}

static void find_uses(finder *f, const graph_region *region, bool is_body) {
    for (uint32_t i = 0; i < region->n_ops; i++) {
        const graph_op *op = &region->ops[i];
        for (uint32_t k = 0; k < op->n_operands; k++)
            add_use(f, op->operands[k], is_body ? op : NULL, k);
        for (uint32_t k = 0; is_body && k < op->n_results; k++)
            f->maker[op->results[k]] = op;
        for (uint32_t k = 0; k < op->n_regions; k++)
            find_uses(f, op->regions[k], false);
    }
    for (uint32_t i = 0; i < region->n_results; i++)
        add_use(f, region->results[i], NULL, 0);
}

/* --- what readers sum over ----------------------------------------------------------------------
 */

/* A dim of a changed view is one or more of these, outermost first. */
typedef struct factor {
    int64_t size;
    bool is_feature, is_inner; /* of w's dims; with the innermost elements of w's, or of x's */
} factor;

typedef struct factors {
    int n, first[GRAPH_MAX_RANK + 1]; /* of each dim */
    factor f[MAX_FACTORS];
} factors;

static factors product_factors(const graph_type *t, int n_left) {
    factors v = {.n = t->rank};
    for (int d = 0; d <= t->rank; d++)
        v.first[d] = d;
    for (int d = 0; d < t->rank; d++)
        v.f[d] = (factor){t->dims[d], d >= n_left, d == n_left - 1 || d == t->rank - 1};
    return v;
}

/* The same elements in other dims; false: a dim begins or ends within a factor. */
static bool reshape_factors(const factors *from, const graph_type *to, factors *out) {
    int at = 0;
    *out = (factors){0};
    factor rest = {.size = 1};
    for (int d = 0; d < to->rank; d++) {
        out->first[d] = out->n;
        for (int64_t left = to->dims[d]; left > 1;) {
            while (rest.size == 1 && at < from->n)
                rest = from->f[at++];
            int64_t size = rest.size < left ? rest.size : left;
            if (size <= 1 || left % size || rest.size % size || out->n == MAX_FACTORS)
                return false;
            factor outer = {size, rest.is_feature, rest.is_inner && rest.size == size};
            out->f[out->n++] = outer;
            left /= size;
            rest.size /= size;
        }
    }
    out->first[to->rank] = out->n;
    return true;
}

static bool permute_factors(const factors *from, graph_ints dims, factors *out) {
    *out = (factors){0};
    for (int64_t d = 0; d < dims.n; d++) {
        out->first[d] = out->n;
        for (int i = from->first[dims.v[d]]; i < from->first[dims.v[d] + 1]; i++)
            out->f[out->n++] = from->f[i];
    }
    out->first[dims.n] = out->n;
    return true;
}

typedef struct votes {
    int with, against; /* readers that sum over features, and others */
} votes;

/* Whether a product's operand is summed over the innermost elements of w's dims, or of x's. */
static void ask_product(const use *u, const factors *v, votes *out) {
    const graph_attrs *at = &u->op->attrs;
    graph_ints summed = u->operand == 0 ? at->dot.lhs_contract : at->dot.rhs_contract;
    bool sums[2] = {false, false}; /* x's, w's */
    bool has_run = at->dot.lhs_batch.n == 0;
    int64_t n = 1;
    for (int i = 0; i < v->n; i++)
        n *= v->f[i].size;
    int64_t least_run = n > MOST_KEPT ? LEAST_LONG_RUN : LEAST_RUN;
    for (int64_t k = 0; k < summed.n; k++)
        for (int i = v->first[summed.v[k]]; i < v->first[summed.v[k] + 1]; i++)
            sums[v->f[i].is_feature] |= v->f[i].is_inner;
    for (int i = 0; i < v->n; i++)
        has_run |= !v->f[i].is_feature && v->f[i].is_inner && v->f[i].size >= least_run;
    out->with += sums[1] && !sums[0] && has_run;
    out->against += !sums[1] || sums[0] || !has_run;
}

/* The factors of what op makes of its operand, if that is the operand's elements in other dims. */
static bool follow(const finder *f, const graph_op *op, const factors *at, factors *next) {
    *next = *at;
    if (op->kind == GRAPH_RESHAPE)
        return reshape_factors(at, &f->g->types[op->results[0]], next);
    if (op->kind == GRAPH_TRANSPOSE)
        return permute_factors(at, op->attrs.dims.dims, next);
    return op->kind == GRAPH_CONVERT;
}

static void ask_readers(const finder *f, graph_value v, const factors *at, int depth, votes *out) {
    for (int64_t i = f->first[v]; i != NONE; i = f->uses[i].next) {
        const use *u = &f->uses[i];
        factors next;
        if (u->op && u->op->kind == GRAPH_DOT_GENERAL)
            ask_product(u, at, out);
        else if (u->op && depth > 0 && follow(f, u->op, at, &next))
            ask_readers(f, u->op->results[0], &next, depth - 1, out);
        else
            out->against++;
    }
}

/* --- which products are turned ------------------------------------------------------------------
 */

/* The dims of x in the product's result; 0: it has batch dims, or few elements on a side. */
static int left_dims(const finder *f, const graph_op *op) {
    const graph_type *x = &f->g->types[op->operands[0]], *made = &f->g->types[op->results[0]];
    if (op->attrs.dot.lhs_batch.n)
        return 0;
    int n_left = x->rank - (int)op->attrs.dot.lhs_contract.n;
    int64_t n_x = 1, n_w = 1;
    for (int d = 0; d < made->rank; d++)
        *(d < n_left ? &n_x : &n_w) *= made->dims[d];
    return n_x >= LEAST_COLUMNS && n_w >= LEAST_FEATURES ? n_left : 0;
}

static bool is_elementwise(const graph_op *op) {
    bool is_function = op->kind == GRAPH_GELU || op->kind == GRAPH_GELU_TANH ||
                       op->kind == GRAPH_SILU || op->kind == GRAPH_SOFTPLUS;
    return (op->kind <= GRAPH_CONVERT || is_function) && op->n_results == 1 && op->n_operands <= 3;
}

static bool is_spread(const graph_op *maker) {
    return maker && (maker->kind == GRAPH_BROADCAST_IN_DIM ||
                     (maker->kind == GRAPH_CONSTANT && maker->attrs.constant.is_splat));
}

/* The elementwise operation that alone reads v, beside broadcasts. */
static const graph_op *only_step(const finder *f, graph_value v) {
    int64_t i = f->first[v];
    const graph_op *op = i == NONE || f->uses[i].next != NONE ? NULL : f->uses[i].op;
    if (!op || !is_elementwise(op))
        return NULL;
    for (uint32_t k = 0; k < op->n_operands; k++)
        if (op->operands[k] != v && !is_spread(f->maker[op->operands[k]]))
            return NULL;
    return op;
}

/* Marks the product and the elementwise operations behind it where its readers gain. */
static void choose(finder *f, const graph_op *product) {
    int n_left = left_dims(f, product), n = 0;
    graph_value chain[MAX_CHAIN];
    votes v = {0};
    if (n_left == 0)
        return;
    bool has_work = false; /* the Vector or Scalar engine does something on the way */
    chain[n++] = product->results[0];
    for (const graph_op *op; n < MAX_CHAIN && (op = only_step(f, chain[n - 1]));) {
        has_work |= op->kind != GRAPH_CONVERT;
        chain[n++] = op->results[0];
    }
    factors at = product_factors(&f->g->types[chain[n - 1]], n_left);
    ask_readers(f, chain[n - 1], &at, MAX_DEPTH, &v);
    for (int i = 0; has_work && v.with > v.against && i < n; i++)
        f->n_left[chain[i]] = (uint8_t)n_left;
}

/* --- turning them -------------------------------------------------------------------------------
 */

/* Where a dim of the product is when it is turned. */
static int turned_dim(int d, int rank, int n_left) {
    return d < n_left ? rank - n_left + d : d - n_left;
}

static graph_type turned_type(const graph_type *t, int n_left) {
    graph_type turned = *t;
    for (int d = 0; d < t->rank; d++)
        turned.dims[turned_dim(d, t->rank, n_left)] = t->dims[d];
    return turned;
}

/* op becomes the transpose of `from` that its readers expect. */
static vtrn_status turn_back(rewriter *r, graph_op *op, graph_value from, int n_left) {
    int rank = r->g->types[from].rank;
    int64_t *dims = ARENA_NEW(&r->g->arena, int64_t, (size_t)rank);
    graph_op back = {.kind = GRAPH_TRANSPOSE, .n_operands = 1, .n_results = 1};
    back.operands = ARENA_NEW(&r->g->arena, graph_value, 1);
    back.results = op->results;
    back.place = op->place;
    back.name = make_name(r, GRAPH_TRANSPOSE);
    if (!dims || !back.operands || !back.name)
        return VTRN_OUT_OF_MEMORY((size_t)rank * sizeof *dims);
    for (int d = 0; d < rank; d++)
        dims[d] = turned_dim(d, rank, n_left);
    back.operands[0] = from;
    back.attrs.dims.dims = (graph_ints){.n = rank, .v = dims};
    *op = back;
    return NULL;
}

static vtrn_status turn_product(rewriter *r, graph_op *op, int n_left) {
    graph_op swapped = *op;
    graph_value in[2] = {op->operands[1], op->operands[0]}, made;
    graph_type type = turned_type(&r->g->types[op->results[0]], n_left);
    swapped.operands = in;
    swapped.attrs.dot.lhs_contract = op->attrs.dot.rhs_contract;
    swapped.attrs.dot.rhs_contract = op->attrs.dot.lhs_contract;
    VTRN_RETURN_IF_ERROR(make_op(r, op, &swapped, &type, &made));
    return turn_back(r, op, made, n_left);
}

/* A broadcast or a constant as the turned operation reads it. */
static vtrn_status turn_operand(rewriter *r, const graph_op *like, graph_value v, int n_left,
                                graph_value *out) {
    graph_op maker = *r->maker[v];
    graph_type type = turned_type(&r->g->types[v], n_left);
    graph_ints from = maker.attrs.dims.dims;
    if (maker.kind == GRAPH_BROADCAST_IN_DIM && from.n) {
        int64_t *dims = ARENA_NEW(&r->g->arena, int64_t, (size_t)from.n);
        if (!dims)
            return VTRN_OUT_OF_MEMORY((size_t)from.n * sizeof *dims);
        for (int64_t i = 0; i < from.n; i++)
            dims[i] = turned_dim((int)from.v[i], type.rank, n_left);
        maker.attrs.dims.dims = (graph_ints){.n = from.n, .v = dims};
    }
    return make_op(r, like, &maker, &type, out);
}

static vtrn_status turn_step(rewriter *r, const finder *f, graph_op *op, int n_left) {
    graph_op step = *op;
    graph_value in[3], made;
    for (uint32_t k = 0; k < op->n_operands; k++) {
        graph_value v = op->operands[k];
        if (v < f->n_values && f->n_left[v])
            in[k] = r->maker[v]->operands[0];
        else
            VTRN_RETURN_IF_ERROR(turn_operand(r, op, v, n_left, &in[k]));
    }
    graph_type type = turned_type(&r->g->types[op->results[0]], n_left);
    step.operands = in;
    VTRN_RETURN_IF_ERROR(make_op(r, op, &step, &type, &made));
    return turn_back(r, op, made, n_left);
}

static vtrn_status turn(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    const finder *f = ctx;
    *is_dropped = false;
    int n_left = op->n_results == 1 && op->results[0] < f->n_values ? f->n_left[op->results[0]] : 0;
    if (n_left == 0)
        return NULL;
    return op->kind == GRAPH_DOT_GENERAL ? turn_product(r, op, n_left)
                                         : turn_step(r, f, op, n_left);
}

static vtrn_status choose_and_turn(graph *g, finder *f, arena *tmp) {
    size_t n_names = count_names(&g->body);
    f->first = ARENA_NEW(tmp, int64_t, g->n_values);
    f->maker = ARENA_NEW(tmp, const graph_op *, g->n_values);
    f->n_left = ARENA_NEW(tmp, uint8_t, g->n_values);
    f->uses = ARENA_NEW(tmp, use, n_names + 1);
    if (!f->first || !f->maker || !f->n_left || !f->uses)
        return VTRN_OUT_OF_MEMORY((g->n_values + n_names) * sizeof *f->uses);
    for (uint32_t i = 0; i < g->n_values; i++)
        f->first[i] = NONE;
    find_uses(f, &g->body, true);
    bool has_turned = false;
    for (uint32_t i = 0; i < g->body.n_ops; i++) {
        const graph_op *op = &g->body.ops[i];
        if (op->kind != GRAPH_DOT_GENERAL)
            continue;
        choose(f, op);
        has_turned |= f->n_left[op->results[0]] > 0;
    }
    return has_turned ? rewrite_graph(g, turn, f) : NULL;
}

vtrn_status features_outermost(graph *g) {
    arena tmp = ARENA_EMPTY;
    finder f = {.g = g, .n_values = g->n_values};
    vtrn_status status = choose_and_turn(g, &f, &tmp);
    arena_free(&tmp);
    return status;
}
