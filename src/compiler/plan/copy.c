/* A copy is a kernel of DMAs, or one that transposes on the PE array. */
#include "compiler/plan/copy.h"

#include "compiler/plan/kernel.h"
#include "compiler/plan/turn.h"

/* Two copies by way of a dense one: a single factor has a common refinement with any list. */
static vtrn_status copy_twice(plan *p, const view *src, const view *dst) {
    graph_type flat = {.dtype = src->dtype, .rank = 1, .dims = {view_count(src)}};
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(
        build_slot_add(p->build, VTRN_SLOT_SCRATCH, flat.dtype, graph_type_bytes(&flat), 0, &slot));
    view dense = view_dense(slot, &flat);
    VTRN_RETURN_IF_ERROR(plan_copy(p, src, &dense));
    return plan_copy(p, &dense, dst);
}

vtrn_status plan_copy(plan *p, const view *src, const view *dst) {
    VTRN_CHECK(view_count(src) == view_count(dst), "both sides of a copy have as many elements");
    if (view_count(src) == 0)
        return NULL;
    joint_factor f[2 * VIEW_MAX_FACTORS];
    int n = view_refine(src, dst, f);
    if (n < 0) /* as of 6 x 10 and 15 x 4, each with gaps between its rows */
        return copy_twice(p, src, dst);
    bool is_turned;
    VTRN_RETURN_IF_ERROR(turn_copy(p, src, dst, f, n, &is_turned));
    if (is_turned)
        return NULL;
    kernel_copy spec = {*src, *dst};
    VTRN_RETURN_IF_ERROR(plan_kernel(p, KERNEL_COPY, &spec, sizeof spec, (kernel_demand){0}));
    VTRN_RETURN_IF_ERROR(plan_reads(p, src));
    return plan_writes(p, dst);
}

vtrn_status plan_densify(plan *p, view *v) {
    graph_type t = {.dtype = v->dtype, .rank = 1, .dims = {view_count(v)}};
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(
        build_slot_add(p->build, VTRN_SLOT_SCRATCH, v->dtype, graph_type_bytes(&t), 0, &slot));
    view dense = view_dense(slot, &t);
    VTRN_RETURN_IF_ERROR(plan_copy(p, v, &dense));
    *v = dense;
    return NULL;
}
