/* Walks the kernels once and puts copies between them. */
#include "compiler/plan/layout.h"

#include "compiler/lower/fusion_emit.h"

static vtrn_status map_accesses(lower *l, const fusion *f) {
    for (int i = 0; i < f->n_nodes; i++) {
        const fusion_node *node = &f->nodes[i];
        if (!node->is_live)
            continue;
        if (node->op == FUSION_LOAD)
            VTRN_RETURN_IF_ERROR(plan_reads(&l->plan, &node->source_view));
        if (node->op == FUSION_CONTRACT)
            VTRN_RETURN_IF_ERROR(contract_accesses(l, node->spec));
        kernel_access store = {
            .map = node->store_view, .is_written = true, .is_accumulated = node->is_accumulated};
        if (node->is_stored && node->is_accumulated)
            VTRN_RETURN_IF_ERROR(plan_reads(&l->plan, &node->store_view));
        if (node->is_stored)
            VTRN_RETURN_IF_ERROR(plan_access(&l->plan, &store));
    }
    return NULL;
}

static vtrn_status layout_map(lower *l, kernel *k) {
    emitter *e = ARENA_NEW(&l->plan.home, emitter, 1);
    if (!e)
        return VTRN_OUT_OF_MEMORY(sizeof *e);
    fusion *f = k->spec;
    *e = (emitter){.l = l, .f = f, .env = {.l = l, .f = f}};
    k->spec = e;
    l->source = k->source;
    l->block_i = k->block_i;
    return map_layout(e);
}

static vtrn_status layout_contract(lower *l, kernel *k) {
    contraction *c = ARENA_NEW(&l->plan.home, contraction, 1);
    if (!c)
        return VTRN_OUT_OF_MEMORY(sizeof *c);
    contract_start(l, k->spec, c);
    k->spec = c;
    return NULL;
}

/* The kernel behind those that were recorded for it, with its accesses. */
static vtrn_status append(lower *l, kernel k, const kernel_access *accesses) {
    uint32_t n = k.n_accesses;
    VTRN_RETURN_IF_ERROR(plan_append(&l->plan, &k));
    if (k.kind == KERNEL_MAP)
        return map_accesses(l, ((emitter *)k.spec)->f);
    for (uint32_t i = 0; i < n; i++)
        VTRN_RETURN_IF_ERROR(plan_access(&l->plan, &accesses[i]));
    return NULL;
}

static vtrn_status layout_kernel(lower *l, const plan *formed, uint32_t i) {
    kernel k = formed->kernels[i];
    if (k.kind == KERNEL_MAP)
        VTRN_RETURN_IF_ERROR(layout_map(l, &k));
    else if (k.kind == KERNEL_CONTRACT)
        VTRN_RETURN_IF_ERROR(layout_contract(l, &k));
    return append(l, k, formed->accesses + formed->kernels[i].access_i);
}

vtrn_status plan_layout(lower *l) {
    plan formed = l->plan;
    l->plan = (plan){.home = formed.home};
    formed.home = ARENA_EMPTY;
    vtrn_status status = NULL;
    for (uint32_t i = 0; i < formed.n_kernels && !status; i++)
        status = layout_kernel(l, &formed, i);
    plan_free(&formed);
    return status;
}
