/* Whole graphs: values in counted buffers, control flow, captures; a buffer goes after its last
 * use. */
#include "compiler/reference/ref_internal.h"
#include "compiler/reference/reference.h"

typedef struct buffer {
    uint32_t n_refs;
    bool is_borrowed; /* data is the caller's */
    void *data;
} buffer;

/* What is known of a region before it runs: which values die after which op. */
typedef struct region_plan {
    graph_value *dies;           /* by op: first value of a list that goes on in evaluation.next */
    struct region_plan **nested; /* by op: plans of its regions */
} region_plan;

typedef struct evaluation {
    const graph *g;
    buffer **value; /* by value */
    graph_value *next;
    uint32_t *depth, *last_use; /* by value: of the defining region, and op there */
    uint32_t *at_op;            /* by depth: the op being planned */
    arena plans;
} evaluation;

enum { MAX_DEPTH = 128 };

static void release(buffer *b) {
    if (!b || --b->n_refs)
        return;
    if (!b->is_borrowed)
        free(b->data);
    free(b);
}

static buffer *retain(buffer *b) {
    b->n_refs++;
    return b;
}

static vtrn_status new_buffer(size_t n_bytes, buffer **out) {
    buffer *b = malloc(sizeof(*b));
    if (!b)
        return VTRN_OUT_OF_MEMORY(sizeof(*b));
    *b = (buffer){1, false, malloc(n_bytes ? n_bytes : 1)};
    if (!b->data) {
        free(b);
        return VTRN_OUT_OF_MEMORY(n_bytes);
    }
    *out = b;
    return NULL;
}

static void assign(evaluation *e, graph_value v, buffer *b) {
    release(e->value[v]);
    e->value[v] = b;
}

static size_t value_bytes(const evaluation *e, graph_value v) {
    const graph_type *t = &e->g->types[v];
    return (size_t)ref_count(t) * dtype_size(t->dtype);
}

static vtrn_status plan_region(evaluation *e, const graph_region *r, uint32_t depth,
                               region_plan **out);

static void define(evaluation *e, graph_value v, uint32_t depth, uint32_t op_i) {
    e->depth[v] = depth;
    e->last_use[v] = op_i;
}

static vtrn_status use(evaluation *e, graph_value v, uint32_t depth, const graph_op *op) {
    if (v >= e->g->n_values || e->depth[v] == UINT32_MAX || e->depth[v] > depth)
        return op ? ref_malformed(op, "an operand is defined before its use")
                  : VTRN_ERROR(VTRN_BAD_ARGUMENT, "graph: a region returns an undefined value");
    e->last_use[v] = e->at_op[e->depth[v]];
    return NULL;
}

/* Values that scalar regions take from outside; their own have no depth. */
static void use_captures(evaluation *e, const graph_region *r) {
    for (uint32_t i = 0; i < r->n_ops; i++) {
        const graph_op *op = &r->ops[i];
        for (uint32_t k = 0; k < op->n_operands; k++)
            if (e->depth[op->operands[k]] != UINT32_MAX)
                e->last_use[op->operands[k]] = e->at_op[e->depth[op->operands[k]]];
        for (uint32_t k = 0; k < op->n_regions; k++)
            use_captures(e, op->regions[k]);
    }
    for (uint32_t i = 0; i < r->n_results; i++)
        if (e->depth[r->results[i]] != UINT32_MAX)
            e->last_use[r->results[i]] = e->at_op[e->depth[r->results[i]]];
}

static const void *captured_value(const void *env, graph_value v) {
    const evaluation *e = env;
    return v < e->g->n_values && e->value[v] ? e->value[v]->data : NULL;
}

static vtrn_status plan_op(evaluation *e, const graph_op *op, uint32_t depth,
                           region_plan **nested) {
    for (uint32_t k = 0; k < op->n_operands; k++)
        VTRN_RETURN_IF_ERROR(use(e, op->operands[k], depth, op));
    /* Scalar regions (reducers, comparators) are evaluated by their op. */
    const bool is_control =
        op->kind == GRAPH_WHILE || op->kind == GRAPH_IF || op->kind == GRAPH_CASE;
    for (uint32_t k = 0; is_control && k < op->n_regions; k++)
        VTRN_RETURN_IF_ERROR(plan_region(e, op->regions[k], depth + 1, &nested[k]));
    for (uint32_t k = 0; !is_control && k < op->n_regions; k++)
        use_captures(e, op->regions[k]);
    return NULL;
}

static vtrn_status plan_region(evaluation *e, const graph_region *r, uint32_t depth,
                               region_plan **out) {
    if (depth >= MAX_DEPTH)
        return VTRN_ERROR(VTRN_UNIMPLEMENTED, "graph: regions nest deeper than %d", MAX_DEPTH);
    region_plan *p = *out = ARENA_NEW(&e->plans, region_plan, 1);
    if (!p || !(p->dies = ARENA_NEW(&e->plans, graph_value, r->n_ops + 1)))
        return VTRN_OUT_OF_MEMORY(r->n_ops * sizeof(graph_value));
    uint32_t n_nested = 0;
    for (uint32_t i = 0; i < r->n_ops; i++)
        n_nested += r->ops[i].n_regions;
    p->nested = ARENA_NEW(&e->plans, region_plan *, n_nested);
    if (!p->nested)
        return VTRN_OUT_OF_MEMORY(n_nested * sizeof(region_plan *));
    for (uint32_t i = 0; i <= r->n_ops; i++)
        p->dies[i] = GRAPH_NO_VALUE;
    for (uint32_t i = 0; i < r->n_args; i++)
        define(e, r->args[i], depth, 0);
    n_nested = 0;
    for (uint32_t i = 0; i < r->n_ops; i++) {
        const graph_op *op = &r->ops[i];
        e->at_op[depth] = i;
        VTRN_RETURN_IF_ERROR(plan_op(e, op, depth, p->nested + n_nested));
        n_nested += op->n_regions;
        for (uint32_t k = 0; k < op->n_results; k++)
            define(e, op->results[k], depth, i);
    }
    e->at_op[depth] = r->n_ops;
    for (uint32_t i = 0; i < r->n_results; i++)
        VTRN_RETURN_IF_ERROR(use(e, r->results[i], depth, NULL));
    for (uint32_t i = 0; i < r->n_args + r->n_ops; i++) {
        const graph_op *op = i < r->n_args ? NULL : &r->ops[i - r->n_args];
        for (uint32_t k = 0; k < (op ? op->n_results : 1); k++) {
            const graph_value v = op ? op->results[k] : r->args[i];
            e->next[v] = p->dies[e->last_use[v]];
            p->dies[e->last_use[v]] = v;
        }
    }
    /* Values of a finished region are out of sight. */
    for (uint32_t i = 0; i < r->n_args; i++)
        e->depth[r->args[i]] = UINT32_MAX;
    for (uint32_t i = 0; i < r->n_ops; i++)
        for (uint32_t k = 0; k < r->ops[i].n_results; k++)
            e->depth[r->ops[i].results[k]] = UINT32_MAX;
    return NULL;
}

static bool dies_at(const evaluation *e, const region_plan *p, uint32_t op_i, graph_value v) {
    for (graph_value d = p->dies[op_i]; d != GRAPH_NO_VALUE; d = e->next[d])
        if (d == v)
            return true;
    return false;
}

static void drop_dead(evaluation *e, const region_plan *p, uint32_t op_i) {
    for (graph_value v = p->dies[op_i]; v != GRAPH_NO_VALUE; v = e->next[v])
        assign(e, v, NULL);
}

static vtrn_status run_region(evaluation *e, const graph_region *r, const region_plan *p,
                              buffer **results);

/* Ops whose result is the operand's buffer. */
static bool shares_buffer(uint16_t kind) {
    return kind == GRAPH_RESHAPE || kind == GRAPH_OPTIMIZATION_BARRIER;
}

static vtrn_status run_plain(evaluation *e, const graph_op *op, const region_plan *p,
                             uint32_t op_i) {
    if (shares_buffer(op->kind) && op->n_operands == op->n_results) {
        for (uint32_t k = 0; k < op->n_results; k++)
            assign(e, op->results[k], retain(e->value[op->operands[k]]));
        return NULL;
    }
    const void **in = malloc(sizeof(void *) * (op->n_operands + op->n_results + 1));
    if (!in)
        return VTRN_OUT_OF_MEMORY(sizeof(void *) * (op->n_operands + op->n_results));
    void **out = (void **)in + op->n_operands;
    vtrn_status status = NULL;
    for (uint32_t k = 0; k < op->n_operands; k++)
        in[k] = e->value[op->operands[k]]->data;
    buffer *whole = op->n_operands ? e->value[op->operands[0]] : NULL;
    if (op->kind == GRAPH_DYNAMIC_UPDATE_SLICE && whole && whole->n_refs == 1 &&
        !whole->is_borrowed && op->operands[0] != op->operands[1] &&
        dies_at(e, p, op_i, op->operands[0])) {
        /* A loop that fills an array step by step would copy it at every step. */
        assign(e, op->results[0], retain(whole));
        out[0] = whole->data;
        ref_call c = {.g = e->g, .op = op, .in = in, .out = out};
        status = ref_update_in_place(&c);
        arena_free(&c.scratch);
        free(in);
        return status;
    }
    for (uint32_t k = 0; k < op->n_results && !status; k++) {
        buffer *b = NULL;
        status = new_buffer(value_bytes(e, op->results[k]), &b);
        assign(e, op->results[k], b);
        out[k] = b ? b->data : NULL;
    }
    if (!status) {
        ref_call c = {.g = e->g,
                      .op = op,
                      .in = in,
                      .out = out,
                      .captured = captured_value,
                      .captured_env = e};
        status = ref_run(&c);
    }
    free(in);
    return status;
}

static vtrn_status run_while(evaluation *e, const graph_op *op, region_plan *const *nested) {
    const graph_region *cond = op->regions[0], *body = op->regions[1];
    const uint32_t n = op->n_operands;
    if (op->n_results != n || cond->n_args != n || body->n_args != n || body->n_results != n ||
        cond->n_results != 1)
        return ref_malformed(op, "condition and body take the carry, the body gives it");
    buffer **carry = malloc(sizeof(*carry) * (n + 1));
    if (!carry)
        return VTRN_OUT_OF_MEMORY(sizeof(*carry) * (n + 1));
    for (uint32_t i = 0; i < n; i++)
        carry[i] = retain(e->value[op->operands[i]]);
    vtrn_status status = NULL;
    for (;;) {
        buffer *go = NULL;
        for (uint32_t i = 0; i < n; i++)
            assign(e, cond->args[i], retain(carry[i]));
        status = run_region(e, cond, nested[0], &go);
        const bool goes_on = !status && *(const uint8_t *)go->data;
        release(go);
        if (!goes_on)
            break;
        /* The body owns the carry, so that it may update it in place. */
        for (uint32_t i = 0; i < n; i++) {
            assign(e, body->args[i], carry[i]);
            carry[i] = NULL;
        }
        status = run_region(e, body, nested[1], carry);
        if (status)
            break;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (status)
            release(carry[i]);
        else
            assign(e, op->results[i], carry[i]);
    }
    free(carry);
    return status;
}

/* if: region 0 when true; case: an index out of range takes the last region. */
static vtrn_status run_branch(evaluation *e, const graph_op *op, region_plan *const *nested) {
    const graph_value sel = op->operands[0];
    const vtrn_dtype t = e->g->types[sel].dtype;
    int64_t i = ref_index_at(t, e->value[sel]->data, 0);
    if (op->kind == GRAPH_IF)
        i = i ? 0 : 1;
    if (i < 0 || i >= op->n_regions)
        i = (int64_t)op->n_regions - 1;
    const graph_region *r = op->regions[i];
    if (r->n_args || r->n_results != op->n_results)
        return ref_malformed(op, "a branch takes nothing and gives the results");
    buffer **results = calloc(op->n_results + 1, sizeof(*results));
    if (!results)
        return VTRN_OUT_OF_MEMORY(sizeof(*results) * (op->n_results + 1));
    vtrn_status status = run_region(e, r, nested[i], results);
    for (uint32_t k = 0; k < op->n_results && !status; k++)
        assign(e, op->results[k], results[k]);
    free(results);
    return status;
}

static vtrn_status run_op(evaluation *e, const graph_op *op, const region_plan *p, uint32_t op_i,
                          region_plan *const *nested) {
    switch (op->kind) {
    case GRAPH_WHILE:
        if (op->n_regions != 2)
            return ref_malformed(op, "a condition and a body");
        return run_while(e, op, nested);
    case GRAPH_IF:
    case GRAPH_CASE:
        if (op->n_regions < 1 || op->n_operands != 1 ||
            (op->kind == GRAPH_IF && op->n_regions != 2))
            return ref_malformed(op, "one operand, and a region a branch");
        return run_branch(e, op, nested);
    default:
        return run_plain(e, op, p, op_i);
    }
}

/* The arguments are assigned already. results[n_results] get a reference each, or, on error, NULL.
 */
static vtrn_status run_region(evaluation *e, const graph_region *r, const region_plan *p,
                              buffer **results) {
    vtrn_status status = NULL;
    uint32_t n_nested = 0;
    for (uint32_t i = 0; i < r->n_ops && !status; i++) {
        status = run_op(e, &r->ops[i], p, i, p->nested + n_nested);
        n_nested += r->ops[i].n_regions;
        if (!status)
            drop_dead(e, p, i);
    }
    for (uint32_t i = 0; i < r->n_results; i++)
        results[i] = status ? NULL : retain(e->value[r->results[i]]);
    if (!status)
        drop_dead(e, p, r->n_ops);
    return status;
}

static vtrn_status open_evaluation(const graph *g, evaluation *e) {
    *e = (evaluation){.g = g, .plans = ARENA_EMPTY};
    const size_t n = (size_t)g->n_values + 1;
    e->value = ARENA_NEW(&e->plans, buffer *, n);
    e->next = ARENA_NEW(&e->plans, graph_value, n);
    e->depth = ARENA_NEW(&e->plans, uint32_t, n);
    e->last_use = ARENA_NEW(&e->plans, uint32_t, n);
    e->at_op = ARENA_NEW(&e->plans, uint32_t, MAX_DEPTH);
    if (!e->value || !e->next || !e->depth || !e->last_use || !e->at_op)
        return VTRN_OUT_OF_MEMORY(n * 24);
    for (size_t i = 0; i < n; i++)
        e->depth[i] = UINT32_MAX;
    return NULL;
}

static vtrn_status evaluate(evaluation *e, const void *const *args, void *const *results) {
    const graph_region *body = &e->g->body;
    region_plan *plan;
    VTRN_RETURN_IF_ERROR(plan_region(e, body, 0, &plan));
    for (uint32_t i = 0; i < body->n_args; i++) {
        buffer *b = malloc(sizeof(*b));
        if (!b)
            return VTRN_OUT_OF_MEMORY(sizeof(*b));
        *b = (buffer){1, true, (void *)args[i]};
        assign(e, body->args[i], b);
    }
    buffer **out = calloc(body->n_results + 1, sizeof(*out));
    if (!out)
        return VTRN_OUT_OF_MEMORY(sizeof(*out) * (body->n_results + 1));
    vtrn_status status = run_region(e, body, plan, out);
    for (uint32_t i = 0; i < body->n_results && !status; i++) {
        const size_t n_bytes = value_bytes(e, body->results[i]);
        if (n_bytes)
            memcpy(results[i], out[i]->data, n_bytes);
        release(out[i]);
    }
    free(out);
    return status;
}

vtrn_status reference_graph(const graph *g, const void *const *args, void *const *results) {
    evaluation e;
    vtrn_status status = open_evaluation(g, &e);
    if (!status) {
        status = evaluate(&e, args, results);
        for (uint32_t v = 0; v < g->n_values; v++)
            release(e.value[v]);
    }
    arena_free(&e.plans);
    return status;
}
