/* What the files that make a graph out of a VHLO module share. Private to this folder. */
#ifndef VTRN_COMPILER_GRAPH_GRAPH_BUILD_H
#define VTRN_COMPILER_GRAPH_GRAPH_BUILD_H

#include "compiler/graph/graph.h"
#include "compiler/vhlo/vhlo.h"

typedef struct graph_func {
    vhlo_string name;
    const vhlo_op *op;
    bool is_public, is_open; /* open: being inlined right now */
} graph_func;

typedef struct graph_constant {
    const void *data;
    bool is_splat;
} graph_constant;

/* A tuple is no value of the graph, but what is in it is. The builder's map numbers tuples from
 * GRAPH_FIRST_TUPLE, above all values. */
enum { GRAPH_FIRST_TUPLE = 0x80000000u };
typedef struct graph_tuple {
    uint32_t n;
    const graph_value *items;
} graph_tuple;

typedef struct graph_place {
    const char *file;  /* "train.py:42" or "" */
    const char *scope; /* "decoder/mlp", the user's names, or "" */
} graph_place;

typedef struct graph_builder {
    vhlo_module *m;
    graph *g;
    graph_func *funcs; /* sorted by name */
    uint32_t n_funcs;
    graph_type **types;        /* by VHLO type; NULL until converted */
    graph_place *places;       /* by VHLO attribute; of NULL until asked for */
    const char *last_place;    /* text */
    graph_constant *constants; /* by VHLO attribute; data NULL until decoded */
    int16_t *kinds;            /* by operation name; -1 until looked up */
    graph_op *ops;             /* stack: the operations of the open regions */
    size_t n_ops, max_ops;
    graph_value *map; /* stack of scopes: value of the artifact -> value of the graph */
    size_t n_map, max_map;
    graph_tuple *tuples;
    uint32_t n_tuples, max_tuples;
    graph_place call_place; /* of the call being inlined; of NULL: none */
    bool is_random;         /* within a function of jax.random */
    uint64_t n_visited;     /* work done, against the limit on inlining */
    int depth;
    bool is_annotated; /* the error in flight already names its operation */
} graph_builder;

#define GRAPH_NEW(b, out, count)                                                                   \
    do {                                                                                           \
        (out) = arena_alloc(&(b)->g->arena, (count), sizeof *(out));                               \
        if (!(out))                                                                                \
            return VTRN_OUT_OF_MEMORY((size_t)(count) * sizeof *(out));                            \
    } while (0)

/* VHLO or builtin type -> graph type. UNSUPPORTED names a type that the graph cannot hold. */
vtrn_status graph_convert_type(graph_builder *b, uint32_t type, const graph_type **out);
/* The elements of a dense tensor attribute; decoded once however often it is used. */
vtrn_status graph_decode_constant(graph_builder *b, uint32_t attr, const graph_type *type,
                                  graph_constant *out);
/* The kind as which the graph has an operation with a shape as operand; GRAPH_UNKNOWN: it is none.
 */
int graph_dynamic_kind(const char *name);
/* Leaves op the operands that its kind has. */
void graph_drop_shape_operands(const vhlo_op *v, graph_op *op);
/* Whether an operand of v takes the place of the attribute, and which. */
bool graph_find_shape_operand(const vhlo_op *v, const char *attr, uint32_t *out);
bool graph_knows_shape_operand(const graph_builder *b, graph_value value);
/* The integers of such an operand and its dims[2]; UNSUPPORTED where they are not constant. */
vtrn_status graph_shape_operand(graph_builder *b, graph_value value, int64_t *out_shape,
                                graph_ints *out);
/* The value of get_dimension_size. */
vtrn_status graph_dimension_size(graph_builder *b, const graph_op *op, int64_t dim,
                                 const void **out);

/* graph_sdy.c, for programs of several partitions. A sharding attribute. */
vtrn_status graph_sdy_sharding(graph_builder *b, const vhlo_entry *e, const graph_sharding **out);
/* Attributes of a manual computation, of a sharding constraint, and of @main. */
vtrn_status graph_sdy_manual(graph_builder *b, const vhlo_op *v, graph_op *op);
vtrn_status graph_sdy_constraint(graph_builder *b, const vhlo_op *v, graph_op *op);
vtrn_status graph_sdy_main(graph_builder *b, const vhlo_op *main);

/* graph_tuples.c. A tuple of values that exist. */
vtrn_status graph_tuple_add(graph_builder *b, uint32_t n, const graph_value *items,
                            graph_value *out);
static inline bool graph_is_tuple(graph_value v) {
    return v >= GRAPH_FIRST_TUPLE && v != GRAPH_NO_VALUE;
}
/* Whether a type of the artifact is that of a value or, when it is a tuple's, of each in it. */
vtrn_status graph_has_type(graph_builder *b, uint32_t type, graph_value value, bool *out);
/* The types of a custom call's results in the graph: where it gives one tuple, of what is in it. */
vtrn_status graph_call_result_types(graph_builder *b, const vhlo_op *v, uint32_t *out_n,
                                    const uint32_t **out_types);
/* The item that a get_tuple_element takes of a tuple. */
vtrn_status graph_tuple_item(graph_builder *b, const vhlo_op *v, graph_value tuple,
                             graph_value *out);

/* Fills op->attrs for op->kind. */
vtrn_status graph_decode_attrs(graph_builder *b, const vhlo_op *v, graph_op *op);
/* Attributes of the module and of @main's parameters. */
vtrn_status graph_decode_module_attrs(graph_builder *b, const vhlo_op *main);
/* graph_places.c: where the operation at the location is, within the call that is being inlined. */
vtrn_status graph_get_place(graph_builder *b, uint32_t location, graph_place *out);
/* "train.py:42 in decoder/mlp"; "train.py:42 in decoder/rng" for what jax.random writes. */
vtrn_status graph_place_text(graph_builder *b, uint32_t location, const char **out);
bool graph_is_random(vhlo_string function);
/* graph_layouts.c: what memory layouts @main asks for, for graph_apply_layouts(). UNSUPPORTED
 * for tiles. */
vtrn_status graph_read_layouts(graph_builder *b, const vhlo_op *main);

#endif
