/* The instructions that no engine file executes yet. Each says so by name. */
#include "engine/engine.h"

#define UNIMPLEMENTED(e)                                                                           \
    vtrn_status engine_op_##e(engine_core *core, const vtrn_instr *instr,                          \
                              const uint64_t *slot_base, int thread_i) {                           \
        (void)core, (void)slot_base, (void)thread_i;                                               \
        return VTRN_ERROR(VTRN_UNIMPLEMENTED, "%s: this instruction is not executed yet",          \
                          isa_op_info(instr->opcode)->mnemonic);                                   \
    }

UNIMPLEMENTED(LDWEIGHTS)
UNIMPLEMENTED(MATMUL)
UNIMPLEMENTED(PE_TRANSPOSE)
