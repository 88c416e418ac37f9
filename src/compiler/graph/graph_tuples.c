/* Tuples and futures of an artifact: bundles of values that the builder takes apart. */
#include "compiler/graph/graph_build.h"

#include "base/array.h"

vtrn_status graph_tuple_add(graph_builder *b, uint32_t n, const graph_value *items,
                            graph_value *out) {
    if (!array_grow((void **)&b->tuples, b->n_tuples, &b->max_tuples, sizeof *b->tuples))
        return VTRN_OUT_OF_MEMORY(b->n_tuples * sizeof *b->tuples);
    b->tuples[b->n_tuples] = (graph_tuple){n, items};
    *out = GRAPH_FIRST_TUPLE + b->n_tuples++;
    return NULL;
}

enum {
    MAX_ITEMS = 8192
}; /* that a tuple has with those in it: few tuples of tuples name very many */

static vtrn_status has_type(graph_builder *b, uint32_t type, graph_value value, uint32_t *n_items,
                            bool *out) {
    const vhlo_entry *e;
    const graph_type *plain;
    VTRN_RETURN_IF_ERROR(vhlo_get_type(b->m, type, &e));
    bool is_tuple = vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_TYPE_TUPLE) ||
                    vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_TYPE_FUTURE);
    if (is_tuple != graph_is_tuple(value)) {
        *out = false;
        return NULL;
    }
    if (!is_tuple) {
        VTRN_RETURN_IF_ERROR(graph_convert_type(b, type, &plain));
        *out = graph_type_equal(plain, &b->g->types[value]);
        return NULL;
    }
    const graph_tuple *t = &b->tuples[value - GRAPH_FIRST_TUPLE];
    *n_items += t->n;
    if (*n_items > MAX_ITEMS)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "a tuple of more than %d items, with those of tuples in it", MAX_ITEMS);
    *out = e->n_refs == t->n;
    for (uint32_t i = 0; *out && i < t->n; i++)
        VTRN_RETURN_IF_ERROR(has_type(b, e->refs[i], t->items[i], n_items, out));
    return NULL;
}

vtrn_status graph_has_type(graph_builder *b, uint32_t type, graph_value value, bool *out) {
    uint32_t n_items = 0;
    return has_type(b, type, value, &n_items, out);
}

vtrn_status graph_call_result_types(graph_builder *b, const vhlo_op *v, uint32_t *out_n,
                                    const uint32_t **out_types) {
    const vhlo_entry *e;
    if (v->n_results != 1)
        return NULL;
    VTRN_RETURN_IF_ERROR(vhlo_get_type(b->m, v->result_types[0], &e));
    if (vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_TYPE_TUPLE)) {
        *out_n = e->n_refs;
        *out_types = e->refs;
    }
    return NULL;
}

vtrn_status graph_tuple_item(graph_builder *b, const vhlo_op *v, graph_value tuple,
                             graph_value *out) {
    const vhlo_entry *e;
    VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, v, "index", &e));
    if (!graph_is_tuple(tuple))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "the operand is no tuple");
    if (!vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_ATTR_INTEGER) || e->n_ints != 1)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "attribute index is not an integer");
    const graph_tuple *t = &b->tuples[tuple - GRAPH_FIRST_TUPLE];
    if (e->ints[0] < 0 || e->ints[0] >= t->n)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "index %lld of a tuple of %u", (long long)e->ints[0],
                          t->n);
    *out = t->items[e->ints[0]];
    return NULL;
}
