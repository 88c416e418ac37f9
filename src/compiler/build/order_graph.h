/* What an instruction of a block must follow, as a graph: through memory, through the state of its
 * engine, and because matmuls stay with the weights that they use. */
#ifndef VTRN_COMPILER_BUILD_ORDER_GRAPH_H
#define VTRN_COMPILER_BUILD_ORDER_GRAPH_H

#include "base/arena.h"
#include "compiler/build/granules.h"

enum { ORDER_NONE = UINT32_MAX };

typedef struct order_edge {
    uint32_t to, next; /* next edge of the same instruction, or ORDER_NONE */
    bool is_of_data;   /* `to` needs the result; else it may start once the first one has started */
} order_edge;

typedef struct order_node {
    uint32_t first_edge; /* to those that must follow it, or ORDER_NONE */
    uint32_t n_before;   /* edges that end here */
    uint32_t unit_next;  /* Tensor: the next instruction of its queue, or ORDER_NONE */
    bool is_unit_member; /* another one's unit_next */
} order_node;

typedef struct order_graph {
    const granules_input *in;
    order_node *nodes; /* by list index */
    order_edge *edges;
    uint32_t n_edges, cap_edges;
    arena tmp;
} order_graph;

/* Instructions are numbered as in in->list, which must live as long. Whatever order follows the
 * edges and takes each unit in one piece gives the same results, and never lacks an instruction
 * that it may take next. */
vtrn_status order_graph_make(const granules_input *in, order_graph *out);
void order_graph_free(order_graph *g); /* also of one that could not be made */

#endif
