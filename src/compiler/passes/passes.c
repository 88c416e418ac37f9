#include "compiler/passes/passes.h"

#include "compiler/passes/alone.h"
#include "compiler/passes/auto_cast.h"
#include "compiler/passes/channels.h"
#include "compiler/passes/composites.h"
#include "compiler/passes/dead.h"
#include "compiler/passes/defer.h"
#include "compiler/passes/early.h"
#include "compiler/passes/early_exchanges.h"
#include "compiler/passes/features_outermost.h"
#include "compiler/passes/fold.h"
#include "compiler/passes/int_products.h"
#include "compiler/passes/moments.h"
#include "compiler/passes/narrow_products.h"
#include "compiler/passes/product_order.h"
#include "compiler/passes/row_elements.h"
#include "compiler/passes/scatter_blocks.h"
#include "compiler/passes/scatter_into.h"
#include "compiler/passes/small_floats.h"
#include "compiler/passes/small_types.h"
#include "compiler/passes/spread.h"
#include "compiler/passes/stacks.h"
#include "compiler/passes/subexpressions.h"
#include "compiler/passes/transposes.h"
#include "compiler/passes/widen_late.h"

#include <stdlib.h>
#include <string.h>

/* In this order: forms are recognised by values that are the same, make some that are, and leave
 * what is dead. */
static vtrn_status (*const PASSES[])(graph *g) = {
    small_floats_compute, fold_known,        narrow_products,      subexpressions_merge,
    composites_recognise, moments_normalise, subexpressions_merge, dead_remove,
    transposes_join,      products_order,    row_elements_move,    subexpressions_merge,
    dead_remove,          scatter_into_sum,  scatter_by_blocks,    stacks_recognise,
    spread_over_parts,    dead_remove,       features_outermost,   channels_outermost,
    defer_single_values,  early_updates,     widen_late,           early_exchanges,
};

/* What passes change is copied: the types, and by rewrite_graph() the regions. */
static vtrn_status copy_graph(const graph *g, graph **out) {
    graph *copy = malloc(sizeof *copy);
    if (!copy)
        return VTRN_OUT_OF_MEMORY(sizeof *copy);
    *copy = *g;
    copy->arena = ARENA_EMPTY;
    copy->max_values = 0;
    copy->is_body_shared = true;
    copy->spare_ops = NULL;
    *out = copy;
    return NULL;
}

vtrn_status passes_run(const graph *g, const compile_options *options, graph **out) {
    bool is_bare = options->has_no_passes || options->reference_only;
    graph *copy;
    *out = NULL;
    VTRN_RETURN_IF_ERROR(copy_graph(g, &copy));
    vtrn_status status = small_types_widen(copy);
    if (!status)
        status = auto_cast_apply(copy, options);
    if (!status && g->n_partitions * g->n_replicas <= 1)
        status = alone_simplify(copy);
    if (!status && !is_bare)
        status = int_products_widen(copy, options->takes_int8);
    for (size_t i = 0; !is_bare && i < sizeof PASSES / sizeof *PASSES && !status; i++)
        status = PASSES[i](copy);
    if (!status)
        status = small_types_expand(copy, is_bare);
    if (status)
        graph_destroy(copy);
    else
        *out = copy;
    return status;
}
