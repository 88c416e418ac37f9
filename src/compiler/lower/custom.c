/* Ops without a lowering: reference operations on HBM tensors, run by the GpSimd engine. */
#include "compiler/custom/custom_codec.h"
#include "compiler/lower/lower.h"
#include "compiler/lower/whole.h"
#include "compiler/reference/reference.h"

#include <string.h>

vtrn_status lower_custom_append(lower *l, const vtrn_custom *custom) {
    kernel_custom spec;
    VTRN_RETURN_IF_ERROR(build_custom_add(l->build, custom, &spec.custom_i));
    VTRN_RETURN_IF_ERROR(
        plan_kernel(l->plan, KERNEL_CUSTOM, &spec, sizeof spec, (kernel_demand){0}));
    for (uint32_t i = 0; i < custom->n_inputs + custom->n_outputs; i++)
        VTRN_RETURN_IF_ERROR(i < custom->n_inputs ? plan_reads_whole(l->plan, custom->slots[i])
                                                  : plan_writes_whole(l->plan, custom->slots[i]));
    return NULL;
}

vtrn_status lower_whole_operand(lower *l, graph_value value, uint32_t *out_slot) {
    const graph_type *type = &l->g->types[value];
    view v;
    VTRN_RETURN_IF_ERROR(lower_dense(l, value, &v));
    if (v.offset || l->build->slots[v.slot].slot.size_bytes != graph_type_bytes(type)) {
        view part = view_dense(0, type);
        VTRN_RETURN_IF_ERROR(build_slot_add(l->build, VTRN_SLOT_SCRATCH, v.dtype,
                                            graph_type_bytes(type), 0, &part.slot));
        VTRN_RETURN_IF_ERROR(plan_copy(l->plan, &v, &part));
        v = part;
    }
    *out_slot = v.slot;
    return NULL;
}

static vtrn_status append_op(lower *l, const graph_op *op) {
    const graph *g = l->g;
    arena *a = &l->program->arena;
    uint32_t n = op->n_operands + op->n_results;
    uint32_t *slots = ARENA_NEW(a, uint32_t, n);
    if (!slots)
        return VTRN_OUT_OF_MEMORY(n * sizeof *slots);
    for (uint32_t i = 0; i < op->n_operands; i++)
        VTRN_RETURN_IF_ERROR(lower_whole_operand(l, op->operands[i], &slots[i]));
    for (uint32_t i = 0; i < op->n_results; i++) {
        view v;
        VTRN_RETURN_IF_ERROR(lower_result(l, op->results[i], &v));
        slots[op->n_operands + i] = v.slot;
    }
    const void *blob;
    size_t blob_size;
    VTRN_RETURN_IF_ERROR(custom_encode(g, op, a, &blob, &blob_size));
    return lower_custom_append(l,
                               &(vtrn_custom){.name = arena_strdup(a, op->name, strlen(op->name)),
                                              .n_inputs = op->n_operands,
                                              .n_outputs = op->n_results,
                                              .slots = slots,
                                              .blob_size = blob_size,
                                              .blob = blob,
                                              .flops = reference_flops(g, op)});
}

vtrn_status lower_custom(lower *l, const graph_op *op) {
    if (!reference_supports(l->g, op))
        return VTRN_ERROR(VTRN_UNIMPLEMENTED,
                          "%s: this operation has neither a lowering onto the engines nor a "
                          "reference; run this part on the CPU backend, or write it in operations "
                          "of StableHLO%s",
                          op->name,
                          strncmp(op->name, "lapack_", 7)
                              ? ""
                              : "; it was written for JAX's CPU backend: compile for platform "
                                "neuron, with the vtrn package installed or its python directory "
                                "on PYTHONPATH");
    if (l->options->is_strict)
        return VTRN_ERROR(
            VTRN_UNIMPLEMENTED,
            "%s: no lowering onto the engines, and reference custom ops are off; unset "
            "VTRN_STRICT to let it run as its reference",
            op->name);
    return append_op(l, op);
}

/* Ends a block at which all engines meet, and begins the next. */
static vtrn_status stop(lower *l) {
    VTRN_RETURN_IF_ERROR(lower_close_all(l));
    uint32_t before = l->build->n_blocks - 1, after;
    build_block_end(l->build, before, VTRN_END_JUMP, before + 1, 0, 0);
    return plan_block_begin(l->plan, &after);
}

/* The program stops for a callback: what precedes it has happened, what follows has not begun. */
vtrn_status lower_callback(lower *l, const graph_op *op, bool *is_done) {
    *is_done = reference_is_callback(op);
    if (!*is_done)
        return NULL;
    VTRN_RETURN_IF_ERROR(stop(l));
    VTRN_RETURN_IF_ERROR(append_op(l, op));
    return stop(l);
}
