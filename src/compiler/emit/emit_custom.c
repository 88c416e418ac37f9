/* Custom ops are an instruction each. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/plan/kernel.h"

vtrn_status emit_custom_kernel(emitter *e, const kernel *k) {
    const kernel_custom *spec = k->spec;
    EMIT(instr, e, CUSTOM_OP, GPSIMD);
    instr->arg[0] = (int32_t)spec->custom_i;
    return NULL;
}
