/* Memory safety of a program, checked once when its plan is made: no operand leaves its memory. */
#include "engine/plan_parts.h"
#include "isa/access.h"

#include <string.h>

enum { REACH_BITS = 48 }; /* more than any memory has; keeps sums of offsets inside 64 bits */

static const char *space_name(int space) {
    static const char *const names[] = {"nothing", "SBUF", "PSUM", "HBM"};
    return space >= 0 && space <= VTRN_SPACE_HBM ? names[space] : "an unknown space";
}

/* Adds step * (num - 1) to the reach below or above. False: absurdly far. */
static bool add_reach(int64_t step, int64_t num, int64_t *low, int64_t *high) {
    int64_t reach;
    if (__builtin_mul_overflow(step, num - 1, &reach))
        return false;
    if (reach > (INT64_C(1) << REACH_BITS) || reach < -(INT64_C(1) << REACH_BITS))
        return false;
    *(reach < 0 ? low : high) += reach;
    return true;
}

/* must_differ: no two elements are one. */
static vtrn_status check_dims(const char *name, int ap_i, const vtrn_ap *ap, bool must_differ) {
    if (ap->n_dims > VTRN_MAX_FREE_DIMS)
        return VTRN_ERROR(VTRN_UNDEFINED, "%s: operand %d has %d free dimensions; at most %d", name,
                          ap_i, ap->n_dims, VTRN_MAX_FREE_DIMS);
    uint64_t n = 1;
    for (int i = 0; i < ap->n_dims; i++) {
        if (ap->dim[i].num == 0)
            return VTRN_ERROR(VTRN_UNDEFINED, "%s: operand %d: free dimension %d has no elements",
                              name, ap_i, i);
        if (must_differ && ap->dim[i].step == 0 && ap->dim[i].num > 1)
            return VTRN_ERROR(VTRN_UNDEFINED,
                              "%s: operand %d writes %u elements to one address (step 0 in free "
                              "dimension %d); broadcast is for sources",
                              name, ap_i, ap->dim[i].num, i);
        if (__builtin_mul_overflow(n, (uint64_t)ap->dim[i].num, &n) || n > (UINT64_C(1) << 40))
            return VTRN_ERROR(VTRN_UNDEFINED, "%s: operand %d has more than 2^40 elements a row",
                              name, ap_i);
    }
    return NULL;
}

static vtrn_status check_reach(const vtrn_program *program, const vtrn_chip *chip,
                               const vtrn_instr *instr, int ap_i) {
    const vtrn_ap *ap = &instr->ap[ap_i];
    const char *name = isa_op_info(instr->opcode)->mnemonic;
    bool is_hbm = ap->space == VTRN_SPACE_HBM;
    int64_t low = 0, high = 0;
    bool is_near = ap->addr < (INT64_C(1) << REACH_BITS) && ap->addr > -(INT64_C(1) << REACH_BITS);
    for (int i = 0; is_near && i < ap->n_dims; i++)
        is_near = add_reach(ap->dim[i].step, ap->dim[i].num, &low, &high);
    if (is_near && is_hbm)
        is_near = add_reach(ap->partition_step, access_rows(instr, ap_i), &low, &high);
    if (!is_near)
        return VTRN_ERROR(VTRN_UNDEFINED, "%s: operand %d: address and steps leave every memory",
                          name, ap_i);
    int64_t size = (int64_t)dtype_size(ap->dtype);
    low = ap->addr + low * size;
    high = ap->addr + (high + 1) * size;
    int64_t limit = is_hbm                         ? (int64_t)program->slots[ap->slot].size_bytes
                    : ap->space == VTRN_SPACE_PSUM ? (int64_t)chip->psum_partition_bytes
                                                   : (int64_t)chip->sbuf_partition_bytes;
    if (low >= 0 && high <= limit)
        return NULL;
    if (is_hbm)
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "%s: operand %d touches bytes %lld to %lld of HBM tensor %u, which has "
                          "%lld bytes",
                          name, ap_i, (long long)low, (long long)high, ap->slot, (long long)limit);
    return VTRN_ERROR(VTRN_UNDEFINED,
                      "%s: operand %d touches bytes %lld to %lld of a partition of %s, which has "
                      "%lld bytes",
                      name, ap_i, (long long)low, (long long)high, space_name(ap->space),
                      (long long)limit);
}

static vtrn_status check_partitions(const vtrn_chip *chip, const vtrn_instr *instr, int ap_i) {
    const vtrn_ap *ap = &instr->ap[ap_i];
    const char *name = isa_op_info(instr->opcode)->mnemonic;
    bool is_broadcast = isa_is_dma(instr->opcode) && ap_i == 1 && ap->partition_step == 0;
    if (ap->partition_step != 1 && !is_broadcast)
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "%s: operand %d: partition step %lld in %s; it is 1 (or 0 to broadcast "
                          "the source of a DMA)",
                          name, ap_i, (long long)ap->partition_step, space_name(ap->space));
    int last = ap->partition + (is_broadcast ? 1 : ap->n_partitions);
    if (last > chip->n_partitions)
        return VTRN_ERROR(VTRN_UNDEFINED, "%s: operand %d: partitions %d to %d; %s has %d", name,
                          ap_i, ap->partition, last - 1, space_name(ap->space), chip->n_partitions);
    return NULL;
}

/* Which spaces an operand may name. Source: docs/hardware.md, "Operands" (TensorE reads SBUF and
 * writes PSUM; DMA does not reach PSUM; only DMA reaches HBM). */
static vtrn_status check_space(const vtrn_instr *instr, int ap_i) {
    enum { SBUF = 1 << VTRN_SPACE_SBUF, PSUM = 1 << VTRN_SPACE_PSUM, HBM = 1 << VTRN_SPACE_HBM };
    int allowed = SBUF | PSUM;
    switch (instr->opcode) {
    case VTRN_OP_LDWEIGHTS:
    case VTRN_OP_LDWEIGHTS_MX:
    case VTRN_OP_MATMUL_MX:
    case VTRN_OP_MATMUL:
    case VTRN_OP_PE_TRANSPOSE:
        allowed = ap_i == 0 ? PSUM : SBUF;
        break;
    case VTRN_OP_DMA_COPY:
    case VTRN_OP_DMA_TRANSPOSE:
        allowed = SBUF | HBM;
        break;
    case VTRN_OP_DMA_GATHER:
    case VTRN_OP_DMA_SCATTER:
        allowed = access_is_table(instr, ap_i) ? HBM : SBUF | HBM;
        break;
    default:
        break;
    }
    int space = instr->ap[ap_i].space;
    if (space <= VTRN_SPACE_HBM && (allowed & 1 << space))
        return NULL;
    return VTRN_ERROR(VTRN_UNDEFINED,
                      "%s: operand %d is in %s, which this instruction cannot reach%s",
                      isa_op_info(instr->opcode)->mnemonic, ap_i, space_name(space),
                      isa_is_dma(instr->opcode) && space == VTRN_SPACE_PSUM
                          ? "; copy it to SBUF with an engine first"
                          : "");
}

static vtrn_status check_operand(const vtrn_program *program, const vtrn_chip *chip,
                                 const vtrn_instr *instr, int ap_i) {
    const vtrn_ap *ap = &instr->ap[ap_i];
    const vtrn_op_info *info = isa_op_info(instr->opcode);
    char role = info->roles[ap_i];
    if (role == 'p')
        return check_dims(info->mnemonic, ap_i, ap, false);
    if (ap->space == VTRN_SPACE_NONE) {
        if (role == 's')
            return NULL;
        return VTRN_ERROR(VTRN_UNDEFINED, "%s: operand %d is missing", info->mnemonic, ap_i);
    }
    if (ap->dtype >= VTRN_DTYPE_COUNT)
        return VTRN_ERROR(VTRN_UNDEFINED, "%s: operand %d has unknown data type %d", info->mnemonic,
                          ap_i, ap->dtype);
    VTRN_RETURN_IF_ERROR(check_space(instr, ap_i));
    bool must_differ = access_is_written(instr, ap_i) && !access_may_repeat(instr);
    VTRN_RETURN_IF_ERROR(check_dims(info->mnemonic, ap_i, ap, must_differ));
    if (access_rows(instr, ap_i) < 1)
        return VTRN_ERROR(VTRN_UNDEFINED, "%s: operand %d has no rows", info->mnemonic, ap_i);
    if (ap->space != VTRN_SPACE_HBM)
        VTRN_RETURN_IF_ERROR(check_partitions(chip, instr, ap_i));
    else if (ap->slot >= program->n_slots)
        return VTRN_ERROR(VTRN_UNDEFINED, "%s: operand %d names HBM tensor %u of %u",
                          info->mnemonic, ap_i, ap->slot, program->n_slots);
    return check_reach(program, chip, instr, ap_i);
}

vtrn_status operands_check(const vtrn_program *program, const vtrn_chip *chip,
                           const vtrn_instr *instr) {
    const vtrn_op_info *info = isa_op_info(instr->opcode);
    if (!info)
        return VTRN_ERROR(VTRN_UNDEFINED, "unknown opcode %d", instr->opcode);
    if (instr->op0 >= VTRN_ALU_COUNT || instr->op1 >= VTRN_ALU_COUNT ||
        instr->func >= VTRN_ACT_COUNT)
        return VTRN_ERROR(VTRN_UNDEFINED, "%s: unknown operation (op0 %d, op1 %d, func %d)",
                          info->mnemonic, instr->op0, instr->op1, instr->func);
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (info->roles[i] != '-')
            VTRN_RETURN_IF_ERROR(check_operand(program, chip, instr, i));
    bool is_collective = instr->opcode == VTRN_OP_COLLECTIVE;
    if ((instr->opcode == VTRN_OP_CUSTOM_OP || is_collective) &&
        (instr->arg[0] < 0 || (uint32_t)instr->arg[0] >= program->n_customs ||
         (program->customs[instr->arg[0]].collective != NULL) != is_collective))
        return VTRN_ERROR(VTRN_UNDEFINED, "%s: %s operation %d of %u", info->mnemonic,
                          is_collective ? "collective" : "reference", instr->arg[0],
                          program->n_customs);
    return NULL;
}

vtrn_status instr_annotate(vtrn_status status, const vtrn_program *program, uint32_t instr_i) {
    if (!status)
        return NULL;
    const vtrn_instr *instr = &program->instrs[instr_i];
    const vtrn_op_info *info = isa_op_info(instr->opcode);
    const char *mnemonic = info ? info->mnemonic : "unknown";
    if (instr->source >= program->n_sources)
        return vtrn_status_annotate(status, "instruction %u (%s)", instr_i, mnemonic);
    const vtrn_source *source = &program->sources[instr->source];
    bool has_place = source->place && *source->place;
    return vtrn_status_annotate(status, "instruction %u (%s) of %s%s%s", instr_i, mnemonic,
                                source->op ? source->op : "?", has_place ? " at " : "",
                                has_place ? source->place : "");
}
