/* Custom ops and collectives are an instruction each. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/plan/kernel.h"

vtrn_status emit_custom_kernel(emitter *e, const kernel *k) {
    const kernel_custom *spec = k->spec;
    const bool is_collective = e->build->customs[spec->custom_i].collective != NULL;
    vtrn_instr *instr = is_collective ? emit_append(e, VTRN_OP_COLLECTIVE, VTRN_ENGINE_CC)
                                      : emit_append(e, VTRN_OP_CUSTOM_OP, VTRN_ENGINE_GPSIMD);
    if (!instr)
        return VTRN_OUT_OF_MEMORY(sizeof *instr);
    instr->arg[0] = (int32_t)spec->custom_i;
    return NULL;
}
