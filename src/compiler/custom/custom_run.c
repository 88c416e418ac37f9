/* Running a custom op: its bytes become a graph of one op again, which the reference evaluates. */
#include "compiler/custom/custom_run.h"

#include "compiler/custom/custom_codec.h"
#include "compiler/custom/verify_blob.h"
#include "compiler/custom/verify_run.h"
#include "compiler/reference/host_callback.h"
#include "compiler/reference/reference.h"

vtrn_status custom_run(const vtrn_program *program, uint32_t custom_i, void *const *inputs,
                       void *const *outputs) {
    const vtrn_custom *custom = &program->customs[custom_i];
    graph *g;
    if (verify_is_blob(custom->blob, custom->blob_size))
        return verify_run(custom, inputs);
    VTRN_RETURN_IF_ERROR(custom_decode(custom->blob, custom->blob_size, &g));
    const graph_op *op = &g->body.ops[0];
    vtrn_status status;
    if (!custom->collective && /* whose reducer takes two */
        (op->n_operands != custom->n_inputs || op->n_results != custom->n_outputs))
        status = VTRN_ERROR(VTRN_BAD_ARGUMENT, "custom op %s: %u operands, %u slots", custom->name,
                            op->n_operands, custom->n_inputs);
    else
        status = reference_op(g, op, (const void *const *)inputs, outputs);
    graph_destroy(g);
    return status;
}

static vtrn_status hold(const vtrn_custom *custom, int change) {
    graph *g;
    VTRN_RETURN_IF_ERROR(custom_decode(custom->blob, custom->blob_size, &g));
    vtrn_status status =
        reference_is_callback(&g->body.ops[0])
            ? host_callback_hold(&g->body.ops[0], change)
            : VTRN_ERROR(VTRN_BAD_ARGUMENT, "custom op %s: it is another operation", custom->name);
    graph_destroy(g);
    return status;
}

vtrn_status custom_hold_callbacks(const vtrn_program *program, int change) {
    for (uint32_t i = 0; i < program->n_customs; i++) {
        vtrn_status status =
            program_is_callback(&program->customs[i]) ? hold(&program->customs[i], change) : NULL;
        if (!status)
            continue;
        while (i-- > 0)
            if (program_is_callback(&program->customs[i]))
                vtrn_status_free(hold(&program->customs[i], -change));
        return status;
    }
    return NULL;
}
