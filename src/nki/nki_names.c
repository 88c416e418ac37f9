/* What NKI's functions call the operands of an instruction. */
#include "nki/nki_session.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* Sources: the signatures of nki.isa. */
static const char *const names[VTRN_OP_COUNT][VTRN_MAX_AP] = {
    [VTRN_OP_LDWEIGHTS] = {NULL, "stationary"},
    [VTRN_OP_MATMUL] = {"dst", "moving"},
    [VTRN_OP_PE_TRANSPOSE] = {"dst", "data"},
    [VTRN_OP_TENSOR_TENSOR] = {"dst", "data1", "data2"},
    [VTRN_OP_TENSOR_SCALAR] = {"dst", "data", "operand0", "operand1"},
    [VTRN_OP_SCALAR_TENSOR_TENSOR] = {"dst", "data", "operand0", "operand1"},
    [VTRN_OP_TENSOR_REDUCE] = {"dst", "data"},
    [VTRN_OP_TENSOR_COPY] = {"dst", "src"},
    [VTRN_OP_COPY_PREDICATED] = {"dst", "src", "predicate"},
    [VTRN_OP_MEMSET] = {"dst"},
    [VTRN_OP_RECIPROCAL] = {"dst", "data"},
    [VTRN_OP_TENSOR_TENSOR_SCAN] = {"dst", "data0", "data1", "initial"},
    [VTRN_OP_TRANSPOSE32] = {"dst", "data"},
    [VTRN_OP_STREAM_SHUFFLE] = {"dst", "src"},
    [VTRN_OP_BN_STATS] = {"dst", "data"},
    [VTRN_OP_BN_AGGR] = {"dst", "data"},
    [VTRN_OP_MAX8] = {"dst", "src"},
    [VTRN_OP_FIND_INDEX8] = {"dst", "data", "vals"},
    [VTRN_OP_MATCH_REPLACE8] = {"dst", "data", "vals"},
    [VTRN_OP_SET_RNG_SEED] = {NULL, "src_seeds"},
    [VTRN_OP_RNG] = {"dst"},
    [VTRN_OP_RAND_SET_STATE] = {NULL, "src_seeds"},
    [VTRN_OP_RAND_GET_STATE] = {"dst"},
    [VTRN_OP_DROPOUT] = {"dst", "data", "prob"},
    [VTRN_OP_TENSOR_SCALAR_REDUCE] = {"dst", "data", "operand0"},
    [VTRN_OP_TENSOR_SCALAR_CUMULATIVE] = {"dst", "src", "imm0"},
    [VTRN_OP_RANGE_SELECT] = {"dst", "on_true_tile", "bound0", "bound1"},
    [VTRN_OP_SELECT_REDUCE] = {"dst", "on_true", "predicate", "on_false"},
    [VTRN_OP_EXPONENTIAL] = {"dst", "src", "max_value"},
    [VTRN_OP_VECTOR_READ_ACCUMULATOR] = {"reduce_res"},
    [VTRN_OP_VECTOR_LOAD_ACCUMULATOR] = {NULL, "reduce_init"},
    [VTRN_OP_ACTIVATE] = {"dst", "data", "scale", "bias"},
    [VTRN_OP_ACT_READ_ACCUMULATOR] = {"reduce_res"},
    [VTRN_OP_IOTA] = {"dst", NULL, NULL, "pattern"},
    [VTRN_OP_AFFINE_SELECT] = {"dst", "on_true_tile", NULL, "pattern"},
    [VTRN_OP_PARTITION_REDUCE] = {"dst", "data"},
    [VTRN_OP_N_GATHER] = {"dst", "data", "indices"},
    [VTRN_OP_LOCAL_GATHER] = {"dst", "src_buffer", "index"},
    [VTRN_OP_NONZERO_WITH_COUNT] = {"dst", "src"},
    [VTRN_OP_DMA_COPY] = {"dst", "src"},
    [VTRN_OP_DMA_TRANSPOSE] = {"dst", "src"},
    [VTRN_OP_DMA_GATHER] = {"dst", "src", "vector_offset"},
    [VTRN_OP_DMA_SCATTER] = {"dst", "src", "vector_offset"},
    [VTRN_OP_LDWEIGHTS_MX] = {NULL, "stationary", "stationary_scale"},
    [VTRN_OP_MATMUL_MX] = {"dst", "moving", "moving_scale"},
    [VTRN_OP_QUANTIZE_MX] = {"dst", "src", "dst_scale"},
};

const char *nki_operand_name(const vtrn_instr *instr, int i) {
    const char *name = names[instr->opcode][i];
    return name ? name : i == 0 ? "dst" : i == 1 ? "src" : "operand";
}

const char *vtrn_nki_operand_name(int opcode, int i) {
    const vtrn_instr instr = {.opcode = (uint16_t)opcode};
    return nki_operand_name(&instr, i);
}

/* Number of the operand that the text names here as "ap<number>"; -1: it names none. */
static int operand_at(const char *text, const char *at) {
    bool begins = at == text || !(isalnum((unsigned char)at[-1]) || at[-1] == '_');
    if (!begins || at[0] != 'a' || at[1] != 'p' || at[2] < '0' || at[2] >= '0' + VTRN_MAX_AP ||
        isalnum((unsigned char)at[3]))
        return -1;
    return at[2] - '0';
}

vtrn_status nki_name_operands(const vtrn_instr *instr, vtrn_status status) {
    char said[2000];
    size_t n = 0;
    if (!status)
        return NULL;
    const char *text = vtrn_status_message(status);
    for (const char *at = text; *at && n < sizeof said - 1;) {
        int i = operand_at(text, at);
        if (i < 0) {
            said[n++] = *at++;
            continue;
        }
        int wrote = snprintf(said + n, sizeof said - n, "%s", nki_operand_name(instr, i));
        n = n + (size_t)wrote < sizeof said ? n + (size_t)wrote : sizeof said - 1;
        at += 3;
    }
    said[n] = 0;
    vtrn_status named = VTRN_ERROR(vtrn_status_category(status), "%s", said);
    vtrn_status_free(status);
    return named;
}
