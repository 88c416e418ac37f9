/* Memory layouts that @main asks for: inside the module every tensor is row-major, so parameters
 * and outputs in another order pass through a transpose. An output that may have any order gets the
 * one that its last transposes need not be carried out for. */
#include "compiler/graph/graph_build.h"

#include <string.h>

/* "{0,1}" names the dimensions from the fastest to the slowest; "default" and "auto" ask for
 * row-major. *is_plain: row-major it is. */
static vtrn_status read_layout(vhlo_string text, const graph_type *type, uint8_t *order,
                               bool *is_plain) {
    *is_plain = true;
    if (vhlo_string_equal(text, "default") || vhlo_string_equal(text, "auto"))
        return NULL;
    const char *at = text.text, *end = text.text + text.len;
    uint32_t seen = 0;
    int n = 0;
    bool is_good = at < end && *at++ == '{';
    while (is_good && n < type->rank) {
        int d = 0, n_digits = 0;
        for (; at < end && *at >= '0' && *at <= '9' && n_digits < 3; at++, n_digits++)
            d = 10 * d + (*at - '0');
        is_good = n_digits > 0 && d < type->rank && !(seen >> d & 1) && at < end &&
                  *at == (n + 1 < type->rank ? ',' : '}');
        if (!is_good)
            break;
        seen |= 1u << d;
        order[type->rank - 1 - n++] = (uint8_t)d;
        at++;
    }
    if (is_good && type->rank == 0)
        is_good = at < end && *at++ == '}';
    if (!is_good || at != end)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "layout %.*s of a tensor of rank %d; there are orders of all dimensions, "
                          "without tiles: take a Layout without tiling",
                          (int)text.len, text.text, type->rank);
    for (int k = 0; k < type->rank; k++)
        *is_plain &= order[k] == k;
    return NULL;
}

/* The parameters, or the outputs, of @main. */
typedef struct border {
    const char *attrs_name, *what;
    uint32_t n;
    const graph_value *values; /* [n] */
    const uint8_t **orders;    /* [n] out: NULL stays where they are row-major */
    uint8_t *is_free;          /* [n] out, or NULL: the program takes any order */
} border;

static vtrn_status read_layouts(graph_builder *b, const vhlo_op *main, const border *side) {
    const vhlo_entry *attrs, *dictionary, *mode;
    VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, main, side->attrs_name, &attrs));
    if (!vhlo_entry_is(attrs, VHLO_DIALECT_VHLO, VHLO_ATTR_ARRAY))
        return NULL;
    for (uint32_t i = 0; i < attrs->n_refs && i < side->n; i++) {
        vhlo_string text;
        bool is_plain;
        VTRN_RETURN_IF_ERROR(vhlo_get_attr(b->m, attrs->refs[i], &dictionary));
        VTRN_RETURN_IF_ERROR(vhlo_dictionary_get(b->m, dictionary, "mhlo.layout_mode", &mode));
        if (!mode || !vhlo_entry_string(mode, &text))
            continue;
        if (side->is_free)
            side->is_free[i] = vhlo_string_equal(text, "auto");
        uint8_t *order;
        GRAPH_NEW(b, order, GRAPH_MAX_RANK);
        vtrn_status status = read_layout(text, &b->g->types[side->values[i]], order, &is_plain);
        VTRN_RETURN_IF_ERROR(vtrn_status_annotate(status, "%s %u of @main", side->what, i));
        if (!is_plain)
            side->orders[i] = order;
    }
    return NULL;
}

vtrn_status graph_read_layouts(graph_builder *b, const vhlo_op *main) {
    graph *g = b->g;
    graph_region *body = &g->body;
    GRAPH_NEW(b, g->arg_order, body->n_args);
    GRAPH_NEW(b, g->result_order, body->n_results);
    GRAPH_NEW(b, g->is_result_order_free, body->n_results);
    const border parameters = {"arg_attrs", "parameter",  body->n_args,
                               body->args,  g->arg_order, NULL};
    const border outputs = {"res_attrs",   "output",        body->n_results,
                            body->results, g->result_order, g->is_result_order_free};
    VTRN_RETURN_IF_ERROR(read_layouts(b, main, &parameters));
    return read_layouts(b, main, &outputs);
}

/* --- applied -----------------------------------------------------------------------------------
 */

static vtrn_status new_value(graph *g, const graph_type *type, graph_value *out) {
    VTRN_RETURN_IF_ERROR(graph_reserve_values(g, g->n_values + 1));
    *out = g->n_values++;
    g->types[*out] = *type;
    return NULL;
}

/* The type of a row-major tensor whose dims are those of `type` in the given order. */
static graph_type reordered(const graph_type *type, const uint8_t *order) {
    graph_type t = *type;
    for (int k = 0; k < type->rank; k++)
        t.dims[k] = type->dims[order[k]];
    return t;
}

static vtrn_status make_transpose(graph *g, graph_value from, graph_value to, const int64_t *dims,
                                  graph_op *op) {
    op->operands = arena_alloc(&g->arena, 1, sizeof *op->operands);
    op->results = arena_alloc(&g->arena, 1, sizeof *op->results);
    if (!op->operands || !op->results)
        return VTRN_OUT_OF_MEMORY(2 * sizeof *op->operands);
    op->kind = GRAPH_TRANSPOSE;
    op->name = "stablehlo.transpose";
    op->place = "";
    op->n_operands = op->n_results = 1;
    op->operands[0] = from;
    op->results[0] = to;
    op->attrs.dims.dims = (graph_ints){.n = g->types[from].rank, .v = dims};
    return NULL;
}

/* Replaces *value, a parameter or a result of the body, by one in memory order; op turns one into
 * the other. */
static vtrn_status reorder(graph *g, graph_value *value, const uint8_t *order, bool is_parameter,
                           graph_op *op) {
    graph_value inside = *value, outside;
    graph_type type = reordered(&g->types[inside], order);
    int64_t *dims = arena_alloc(&g->arena, (size_t)type.rank, sizeof *dims);
    if (!dims)
        return VTRN_OUT_OF_MEMORY((size_t)type.rank * sizeof *dims);
    for (int k = 0; k < type.rank; k++)
        dims[is_parameter ? order[k] : k] = is_parameter ? k : order[k];
    VTRN_RETURN_IF_ERROR(new_value(g, &type, &outside));
    *value = outside;
    return make_transpose(g, is_parameter ? outside : inside, is_parameter ? inside : outside, dims,
                          op);
}

/* The operation of the body that makes the value, if it is a transpose. */
static const graph_op *transpose_of(const graph *g, graph_value value) {
    for (uint32_t i = g->body.n_ops; i-- > 0;) {
        const graph_op *op = &g->body.ops[i];
        for (uint32_t k = 0; k < op->n_results; k++)
            if (op->results[k] == value)
                return op->kind == GRAPH_TRANSPOSE ? op : NULL;
    }
    return NULL;
}

/* The order in which output o has the memory of what its last transposes start from. */
static vtrn_status choose_order(graph *g, uint32_t o) {
    graph_value value = g->body.results[o];
    const int rank = g->types[value].rank;
    uint8_t *order = arena_alloc(&g->arena, GRAPH_MAX_RANK, sizeof *order);
    const graph_op *op;
    bool is_plain = true;
    if (!order)
        return VTRN_OUT_OF_MEMORY(GRAPH_MAX_RANK);
    int at[GRAPH_MAX_RANK]; /* dimension of `value` that the output's is */
    for (int k = 0; k < rank; k++)
        at[k] = k;
    for (; (op = transpose_of(g, value)); value = op->operands[0])
        for (int k = 0; k < rank; k++)
            at[k] = (int)op->attrs.dims.dims.v[at[k]];
    for (int k = 0; k < rank; k++) {
        order[at[k]] = (uint8_t)k;
        is_plain &= at[k] == k;
    }
    if (!is_plain)
        g->result_order[o] = order;
    return NULL;
}

/* A parameter whose memory differs in shape from its output's is given up all the same. */
static void drop_alias(graph *g, uint32_t i) {
    int32_t o = g->arg_alias_output[i];
    if (o < 0 || graph_type_equal(&g->types[g->body.args[i]], &g->types[g->body.results[o]]))
        return;
    g->arg_alias_output[i] = -1;
    g->arg_is_donated[i] = true;
}

vtrn_status graph_apply_layouts(graph *g) {
    graph_region *body = &g->body;
    uint32_t n_more = 0, n = 0;
    for (uint32_t o = 0; o < body->n_results; o++)
        if (g->is_result_order_free[o])
            VTRN_RETURN_IF_ERROR(choose_order(g, o));
    for (uint32_t i = 0; i < body->n_args; i++)
        n_more += g->arg_order[i] != NULL;
    for (uint32_t o = 0; o < body->n_results; o++)
        n_more += g->result_order[o] != NULL;
    if (n_more == 0)
        return NULL;
    graph_op *ops = arena_alloc(&g->arena, body->n_ops + n_more, sizeof *ops);
    if (!ops)
        return VTRN_OUT_OF_MEMORY((body->n_ops + n_more) * sizeof *ops);
    for (uint32_t i = 0; i < body->n_args; i++)
        if (g->arg_order[i])
            VTRN_RETURN_IF_ERROR(reorder(g, &body->args[i], g->arg_order[i], true, &ops[n++]));
    if (body->n_ops)
        memcpy(ops + n, body->ops, body->n_ops * sizeof *ops);
    n += body->n_ops;
    for (uint32_t o = 0; o < body->n_results; o++)
        if (g->result_order[o])
            VTRN_RETURN_IF_ERROR(
                reorder(g, &body->results[o], g->result_order[o], false, &ops[n++]));
    body->ops = ops;
    body->n_ops = n;
    for (uint32_t i = 0; i < body->n_args; i++)
        drop_alias(g, i);
    return NULL;
}
