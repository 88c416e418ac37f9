/* What the roles of isa.def do not say: kept results, crossing rows, state of the engines. */
#include "isa/access.h"

#include <string.h>

bool access_keeps(const vtrn_instr *instr) {
    enum { KEEP = 255 /* of a shuffle's mask */ };
    if (instr->opcode == VTRN_OP_STREAM_SHUFFLE)
        return memchr(instr->shuffle, KEEP, sizeof instr->shuffle) != NULL;
    if (instr->opcode == VTRN_OP_NONZERO_WITH_COUNT)
        return true; /* partitions that are not the first of 16 */
    return instr->opcode == VTRN_OP_DMA_GATHER && (instr->flags & VTRN_FLAG_OOB_SKIP);
}

static bool mixes_rows(vtrn_opcode opcode, int ap_i) {
    switch (opcode) {
    case VTRN_OP_LDWEIGHTS:
    case VTRN_OP_MATMUL:
    case VTRN_OP_PE_TRANSPOSE:
    case VTRN_OP_TRANSPOSE32:
    case VTRN_OP_STREAM_SHUFFLE:
    case VTRN_OP_PARTITION_REDUCE:
    case VTRN_OP_SET_RNG_SEED:
    case VTRN_OP_DMA_TRANSPOSE:
        return ap_i == 1;
    case VTRN_OP_LDWEIGHTS_MX:
    case VTRN_OP_MATMUL_MX:
        return ap_i >= 1;
    case VTRN_OP_QUANTIZE_MX:
        return ap_i == 1;
    case VTRN_OP_LOCAL_GATHER:
        return ap_i == 2;
    case VTRN_OP_DMA_SCATTER:
        return ap_i >= 1;
    default:
        return false;
    }
}

bool access_crosses(const vtrn_instr *instr, int ap_i) {
    const vtrn_ap *ap = &instr->ap[ap_i], *result = &instr->ap[0];
    if (mixes_rows((vtrn_opcode)instr->opcode, ap_i))
        return true;
    if (result->space != VTRN_SPACE_SBUF && result->space != VTRN_SPACE_PSUM)
        return false;
    return ap->space != VTRN_SPACE_HBM &&
           (ap->partition_step != 1 || ap->partition != result->partition);
}

access_states access_states_of(const vtrn_instr *instr) {
    access_states s = {0};
    if (instr->flags & VTRN_FLAG_STOCHASTIC)
        s.read = s.written = ACCESS_GENERATOR;
    if (access_writes_weights(instr))
        s.written |= ACCESS_PE_WEIGHTS;
    if (access_reads_weights(instr))
        s.read |= ACCESS_PE_WEIGHTS;
    if (access_reduces_to_vector_regs(instr) || instr->opcode == VTRN_OP_VECTOR_LOAD_ACCUMULATOR) {
        s.written |= ACCESS_VECTOR_REGS;
        s.read |= ACCESS_VECTOR_REGS; /* those of other partitions stay */
    }
    switch (instr->opcode) {
    case VTRN_OP_VECTOR_READ_ACCUMULATOR:
        s.read |= ACCESS_VECTOR_REGS;
        break;
    case VTRN_OP_ACTIVATE:
        if (isa_act_table_set((vtrn_act)instr->func) != 0) /* set 0 is always there */
            s.read |= ACCESS_ACT_TABLE;
        if (instr->flags & (VTRN_FLAG_ACCUMULATE | VTRN_FLAG_RESET)) {
            s.read |= ACCESS_REDUCE_REGS; /* those of other partitions stay */
            s.written |= ACCESS_REDUCE_REGS;
        }
        break;
    case VTRN_OP_ACT_READ_ACCUMULATOR:
        s.read |= ACCESS_REDUCE_REGS;
        break;
    case VTRN_OP_ACT_TABLE_LOAD:
        s.written |= ACCESS_ACT_TABLE;
        break;
    case VTRN_OP_SET_RNG_SEED:
        s.written |= ACCESS_GENERATOR;
        break;
    case VTRN_OP_RAND_GET_STATE:
        s.read |= ACCESS_GENERATOR;
        break;
    case VTRN_OP_RAND_SET_STATE: /* those of other partitions stay */
    case VTRN_OP_RNG:
    case VTRN_OP_DROPOUT:
        s.read |= ACCESS_GENERATOR;
        s.written |= ACCESS_GENERATOR;
        break;
    default:
        break;
    }
    return s;
}
