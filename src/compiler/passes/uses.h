/* The operations that read each value of a graph. */
#ifndef VTRN_COMPILER_PASSES_USES_H
#define VTRN_COMPILER_PASSES_USES_H

#include "compiler/graph/graph.h"

typedef struct value_use {
    uint32_t n;           /* operands and results of regions that name it */
    const graph_op *user; /* the operation that names it last; NULL: a region's result does */
} value_use;

/* By value, those that a pass makes later not included; the caller frees *out with free(). */
vtrn_status uses_count(const graph *g, value_use **out);

#endif
