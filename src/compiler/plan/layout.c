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

static vtrn_status layout_contract(lower *l, kernel *k) {
    contraction *c = ARENA_NEW(&l->plan.home, contraction, 1);
    if (!c)
        return VTRN_OUT_OF_MEMORY(sizeof *c);
    contract_start(l, k->spec, c);
    contract_fit(c, l->sbuf_limit);
    k->spec = c;
    return NULL;
}

static vtrn_status layout_map(lower *l, kernel k, fusion *f);

/* Two kernels in place of one that does not fit, each of which may be cut again. */
static vtrn_status layout_parts(lower *l, const kernel *k, fusion *f) {
    fusion_parts parts;
    VTRN_RETURN_IF_ERROR(fusion_split(l, f, &parts));
    if (parts.has_contraction) {
        l->build.source = parts.source;
        VTRN_RETURN_IF_ERROR(contract_record(l, &parts.spec));
        VTRN_RETURN_IF_ERROR(layout_contract(l, &l->plan.kernels[l->plan.n_kernels - 1]));
    } else {
        VTRN_RETURN_IF_ERROR(layout_map(l, *k, parts.fusion[0]));
    }
    return layout_map(l, *k, parts.fusion[1]);
}

static bool has_results(const fusion *f) {
    for (int i = 0; i < f->n_nodes; i++)
        if (f->nodes[i].is_stored)
            return true;
    return false;
}

/* Appends the kernel, behind the copies that it needs. */
static vtrn_status layout_map(lower *l, kernel k, fusion *f) {
    if (!has_results(f)) /* a contraction was all it did */
        return NULL;
    emitter *e = ARENA_NEW(&l->plan.home, emitter, 1);
    if (!e)
        return VTRN_OUT_OF_MEMORY(sizeof *e);
    *e = (emitter){.l = l, .f = f, .env = {.l = l, .f = f}};
    k.spec = e;
    l->build.source = k.source;
    l->block_i = k.block_i;
    bool fits;
    VTRN_RETURN_IF_ERROR(map_layout(e, &fits));
    if (!fits)
        return layout_parts(l, &k, f);
    VTRN_RETURN_IF_ERROR(plan_append(&l->plan, &k));
    return map_accesses(l, f);
}

static vtrn_status layout_kernel(lower *l, const plan *formed, uint32_t i) {
    kernel k = formed->kernels[i];
    if (k.kind == KERNEL_MAP)
        return layout_map(l, k, k.spec);
    if (k.kind == KERNEL_CONTRACT)
        VTRN_RETURN_IF_ERROR(layout_contract(l, &k));
    const kernel_access *accesses = formed->accesses + k.access_i;
    uint32_t n = k.n_accesses;
    VTRN_RETURN_IF_ERROR(plan_append(&l->plan, &k));
    for (uint32_t a = 0; a < n; a++)
        VTRN_RETURN_IF_ERROR(plan_access(&l->plan, &accesses[a]));
    return NULL;
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
