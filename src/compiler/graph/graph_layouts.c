/* Memory layouts that @main asks for: inside the module every tensor is row-major, so parameters
 * and outputs in another order pass through a transpose. */
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

static vtrn_status new_value(graph_builder *b, const graph_type *type, graph_value *out) {
    VTRN_RETURN_IF_ERROR(graph_reserve_values(b->g, b->g->n_values + 1));
    *out = b->g->n_values++;
    b->g->types[*out] = *type;
    return NULL;
}

/* The type of a row-major tensor whose dims are those of `type` in the given order. */
static graph_type reordered(const graph_type *type, const uint8_t *order) {
    graph_type t = *type;
    for (int k = 0; k < type->rank; k++)
        t.dims[k] = type->dims[order[k]];
    return t;
}

static vtrn_status make_transpose(graph_builder *b, graph_value from, graph_value to,
                                  const uint8_t *order, bool is_inverse, graph_op *op) {
    int rank = b->g->types[from].rank;
    int64_t *dims;
    GRAPH_NEW(b, dims, (size_t)rank);
    GRAPH_NEW(b, op->operands, 1);
    GRAPH_NEW(b, op->results, 1);
    for (int k = 0; k < rank; k++)
        dims[is_inverse ? order[k] : k] = is_inverse ? k : order[k];
    op->kind = GRAPH_TRANSPOSE;
    op->name = "stablehlo.transpose";
    op->place = "";
    op->n_operands = op->n_results = 1;
    op->operands[0] = from;
    op->results[0] = to;
    op->attrs.dims.dims = (graph_ints){.n = rank, .v = dims};
    return NULL;
}

/* The parameters, or the outputs, of @main. */
typedef struct border {
    const char *attrs_name, *what;
    uint32_t n;
    const graph_value *values; /* [n] */
    const uint8_t **orders;    /* [n] out: NULL stays where they are row-major */
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
        uint8_t *order;
        GRAPH_NEW(b, order, GRAPH_MAX_RANK);
        vtrn_status status = read_layout(text, &b->g->types[side->values[i]], order, &is_plain);
        VTRN_RETURN_IF_ERROR(vtrn_status_annotate(status, "%s %u of @main", side->what, i));
        if (!is_plain)
            side->orders[i] = order;
    }
    return NULL;
}

/* Replaces *value, a parameter or a result of the body, by one in memory order; op turns one into
 * the other. */
static vtrn_status reorder(graph_builder *b, graph_value *value, const uint8_t *order,
                           bool is_parameter, graph_op *op) {
    graph_value inside = *value, outside;
    graph_type type = reordered(&b->g->types[inside], order);
    VTRN_RETURN_IF_ERROR(new_value(b, &type, &outside));
    *value = outside;
    graph_value from = is_parameter ? outside : inside, to = is_parameter ? inside : outside;
    return make_transpose(b, from, to, order, is_parameter, op);
}

/* A parameter whose memory differs in shape from its output's is given up all the same. */
static void drop_alias(graph *g, uint32_t i) {
    int32_t o = g->arg_alias_output[i];
    if (o < 0 || graph_type_equal(&g->types[g->body.args[i]], &g->types[g->body.results[o]]))
        return;
    g->arg_alias_output[i] = -1;
    g->arg_is_donated[i] = true;
}

vtrn_status graph_apply_layouts(graph_builder *b, const vhlo_op *main) {
    graph *g = b->g;
    graph_region *body = &g->body;
    GRAPH_NEW(b, g->arg_order, body->n_args);
    GRAPH_NEW(b, g->result_order, body->n_results);
    const border parameters = {"arg_attrs", "parameter", body->n_args, body->args, g->arg_order};
    const border outputs = {"res_attrs", "output", body->n_results, body->results, g->result_order};
    VTRN_RETURN_IF_ERROR(read_layouts(b, main, &parameters));
    VTRN_RETURN_IF_ERROR(read_layouts(b, main, &outputs));
    uint32_t n_more = 0;
    for (uint32_t i = 0; i < body->n_args; i++)
        n_more += g->arg_order[i] != NULL;
    for (uint32_t o = 0; o < body->n_results; o++)
        n_more += g->result_order[o] != NULL;
    if (n_more == 0)
        return NULL;
    graph_op *ops;
    uint32_t n = 0;
    GRAPH_NEW(b, ops, body->n_ops + n_more);
    for (uint32_t i = 0; i < body->n_args; i++)
        if (g->arg_order[i])
            VTRN_RETURN_IF_ERROR(reorder(b, &body->args[i], b->g->arg_order[i], true, &ops[n++]));
    if (body->n_ops)
        memcpy(ops + n, body->ops, body->n_ops * sizeof *ops);
    n += body->n_ops;
    for (uint32_t o = 0; o < body->n_results; o++)
        if (g->result_order[o])
            VTRN_RETURN_IF_ERROR(
                reorder(b, &body->results[o], b->g->result_order[o], false, &ops[n++]));
    body->ops = ops;
    body->n_ops = n;
    for (uint32_t i = 0; i < body->n_args; i++)
        drop_alias(g, i);
    return NULL;
}
