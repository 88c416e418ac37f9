/* New operations for passes. */
#ifndef VTRN_COMPILER_PASSES_MAKE_OP_H
#define VTRN_COMPILER_PASSES_MAKE_OP_H

#include "compiler/passes/rewrite.h"

/* Appends an operation of one result, which *out becomes, be it among op->operands. Its place is
 * that of `like`. */
vtrn_status make_op(rewriter *r, const graph_op *like, const graph_op *op, const graph_type *type,
                    graph_value *out);
/* The same with a result that exists. */
vtrn_status make_op_as(rewriter *r, const graph_op *like, const graph_op *op, graph_value result);
/* What make_op takes for a kind without attributes. */
static inline graph_op make_plain(graph_kind kind, graph_value *operands, uint32_t n) {
    return (graph_op){.kind = (uint16_t)kind, .n_operands = n, .operands = operands};
}
/* A constant, the same in every element. */
vtrn_status make_splat(rewriter *r, const graph_op *like, double value, const graph_type *type,
                       graph_value *out);
/* v with other dims of as many elements: v itself where the dims are the same. */
vtrn_status make_reshape(rewriter *r, const graph_op *like, graph_value v, const graph_type *dims,
                         graph_value *out);
/* Has a scatter of that type write its updates, with a region that returns them. */
vtrn_status make_replacing(rewriter *r, const graph_type *type, graph_op *scatter);
/* The name of a kind, as an operation has it. NULL: out of memory. */
const char *make_name(rewriter *r, graph_kind kind);

#endif
