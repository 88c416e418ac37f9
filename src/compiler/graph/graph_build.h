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

typedef struct graph_builder {
    vhlo_module *m;
    graph *g;
    graph_func *funcs; /* sorted by name */
    uint32_t n_funcs;
    graph_type **types;        /* by VHLO type; NULL until converted */
    const char **places;       /* by VHLO attribute; NULL until asked for */
    graph_constant *constants; /* by VHLO attribute; data NULL until decoded */
    int16_t *kinds;            /* by operation name; -1 until looked up */
    graph_op *ops;             /* stack: the operations of the open regions */
    size_t n_ops, max_ops;
    graph_value *map; /* stack of scopes: value of the artifact -> value of the graph */
    size_t n_map, max_map;
    const char *call_place; /* of the call being inlined; NULL: none */
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
/* The integers of such an operand and its dims[2]; UNSUPPORTED where they are not constant. */
vtrn_status graph_shape_operand(graph_builder *b, graph_value value, int64_t *out_shape,
                                graph_ints *out);
/* The value of get_dimension_size. */
vtrn_status graph_dimension_size(graph_builder *b, const graph_op *op, int64_t dim,
                                 const void **out);
/* Fills op->attrs for op->kind. */
vtrn_status graph_decode_attrs(graph_builder *b, const vhlo_op *v, graph_op *op);
/* Attributes of the module and of @main's parameters. */
vtrn_status graph_decode_module_attrs(graph_builder *b, const vhlo_op *main);

#endif
