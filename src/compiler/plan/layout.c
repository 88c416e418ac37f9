/* Walks the kernels once and puts copies between them. */
#include "compiler/plan/layout.h"

#include "compiler/plan/map_plan.h"

static vtrn_status map_accesses(plan *p, const fusion *f) {
    for (int i = 0; i < f->n_nodes; i++) {
        const fusion_node *node = &f->nodes[i];
        if (!node->is_live)
            continue;
        if (node->op == FUSION_LOAD)
            VTRN_RETURN_IF_ERROR(plan_reads(p, &node->source_view));
        if (node->op == FUSION_CONTRACT)
            VTRN_RETURN_IF_ERROR(contract_accesses(p, node->spec));
        if (node->op == FUSION_CONV)
            VTRN_RETURN_IF_ERROR(conv_accesses(p, f->conv));
        kernel_access store = {
            .map = node->store_view, .is_written = true, .is_accumulated = node->is_accumulated};
        if (node->is_stored && node->is_accumulated)
            VTRN_RETURN_IF_ERROR(plan_reads(p, &node->store_view));
        if (node->is_stored)
            VTRN_RETURN_IF_ERROR(plan_access(p, &store));
    }
    return NULL;
}

static vtrn_status layout_contract(plan *p, kernel *k) {
    contraction *c = ARENA_NEW(&p->home, contraction, 1);
    if (!c)
        return VTRN_OUT_OF_MEMORY(sizeof *c);
    contract_start(p, k->spec, c);
    contract_cut_kernel(c, p->sbuf_limit);
    k->spec = c;
    k->demand = contract_kernel_demand(c);
    return NULL;
}

static vtrn_status layout_map(plan *p, kernel k, fusion *f);

/* Two kernels in place of one that does not fit, each of which may be cut again. */
static vtrn_status layout_parts(plan *p, const kernel *k, fusion *f) {
    fusion_parts parts;
    VTRN_RETURN_IF_ERROR(fusion_split(p, f, &parts));
    if (parts.has_contraction) {
        p->build->source = parts.source;
        VTRN_RETURN_IF_ERROR(contract_record(p, &parts.spec));
        VTRN_RETURN_IF_ERROR(layout_contract(p, &p->list.kernels[p->list.n_kernels - 1]));
    } else {
        VTRN_RETURN_IF_ERROR(layout_map(p, *k, parts.fusion[0]));
    }
    return layout_map(p, *k, parts.fusion[1]);
}

static bool has_results(const fusion *f) {
    for (int i = 0; i < f->n_nodes; i++)
        if (f->nodes[i].is_stored)
            return true;
    return false;
}

/* Appends the kernel, behind the copies that it needs. */
static vtrn_status layout_map(plan *p, kernel k, fusion *f) {
    if (!has_results(f)) /* a contraction was all it did */
        return NULL;
    map_plan *m = ARENA_NEW(&p->home, map_plan, 1);
    if (!m)
        return VTRN_OUT_OF_MEMORY(sizeof *m);
    *m = (map_plan){.p = p, .f = f};
    k.spec = m;
    p->build->source = k.source;
    p->block_i = k.block_i;
    bool fits;
    VTRN_RETURN_IF_ERROR(map_layout(m, &fits));
    if (!fits)
        return layout_parts(p, &k, f);
    k.demand.psum_banks = map_least_banks(m);
    VTRN_RETURN_IF_ERROR(plan_append(p, &k));
    return map_accesses(p, f);
}

static vtrn_status layout_kernel(plan *p, const kernel_list *formed, uint32_t i) {
    kernel k = formed->kernels[i];
    if (k.kind == KERNEL_MAP)
        return layout_map(p, k, k.spec);
    if (k.kind == KERNEL_CONTRACT)
        VTRN_RETURN_IF_ERROR(layout_contract(p, &k));
    const kernel_access *accesses = formed->accesses + k.access_i;
    uint32_t n = k.n_accesses;
    VTRN_RETURN_IF_ERROR(plan_append(p, &k));
    for (uint32_t a = 0; a < n; a++)
        VTRN_RETURN_IF_ERROR(plan_access(p, &accesses[a]));
    return NULL;
}

vtrn_status plan_layout(plan *p) {
    kernel_list formed = p->list;
    p->list = (kernel_list){0};
    vtrn_status status = NULL;
    for (uint32_t i = 0; i < formed.n_kernels && !status; i++)
        status = layout_kernel(p, &formed, i);
    kernel_list_free(&formed);
    return status;
}
