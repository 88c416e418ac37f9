/* The instruction table as data, and what follows from a row or an access pattern alone. */
#include "isa/isa.h"

#include "isa/program.h"

#include <stdlib.h>
#include <string.h>

static const vtrn_op_info ops[] = {
#define OP(e, name, engines, roles, gen, cost, setup, doc)                                         \
    [VTRN_OP_##e] = {name, engines, roles, gen, cost, setup, doc},
#include "isa/isa.def"
#undef OP
};

static const struct {
    const char *name;
    char class_letter;
} alus[] = {
#define ALU(e, name, class) [VTRN_ALU_##e] = {name, #class[0]},
#include "isa/alu.def"
#undef ALU
};

static const struct {
    const char *name;
    int table_set;
} acts[] = {
#define ACT(e, name, set, lo, hi) [VTRN_ACT_##e] = {name, set},
#include "isa/act.def"
#undef ACT
};

static const char *const engine_names[] = {"Tensor", "Vector", "Scalar", "GpSimd", "Sync"};

const vtrn_op_info *isa_op_info(vtrn_opcode opcode) {
    return (unsigned)opcode < VTRN_OP_COUNT ? &ops[opcode] : NULL;
}

const char *isa_engine_name(vtrn_engine engine) {
    return (unsigned)engine < VTRN_ENGINE_COUNT ? engine_names[engine] : "unknown";
}

const char *isa_alu_name(vtrn_alu op) {
    return (unsigned)op < VTRN_ALU_COUNT ? alus[op].name : "unknown";
}

char isa_alu_class(vtrn_alu op) {
    return (unsigned)op < VTRN_ALU_COUNT ? alus[op].class_letter : '?';
}

const char *isa_act_name(vtrn_act func) {
    return (unsigned)func < VTRN_ACT_COUNT ? acts[func].name : "unknown";
}

int isa_act_table_set(vtrn_act func) {
    return (unsigned)func < VTRN_ACT_COUNT ? acts[func].table_set : 0;
}

bool isa_is_dma(vtrn_opcode opcode) {
    const vtrn_op_info *info = isa_op_info(opcode);
    return info && (info->cost == COST_DMA || info->cost == COST_DMA_TRANSPOSE ||
                    info->cost == COST_DMA_INDIRECT);
}

static char role_of(const vtrn_instr *instr, int ap_i) {
    const vtrn_op_info *info = isa_op_info(instr->opcode);
    return info && instr->ap[ap_i].space != VTRN_SPACE_NONE ? info->roles[ap_i] : '-';
}

bool isa_ap_is_written(const vtrn_instr *instr, int ap_i) {
    char role = role_of(instr, ap_i);
    return role == 'W' || role == 'U';
}

bool isa_ap_is_read(const vtrn_instr *instr, int ap_i) {
    char role = role_of(instr, ap_i);
    if (role == 'R' || role == 'U' || role == 's')
        return true;
    return ap_i == 0 && role == 'W' && (instr->flags & VTRN_FLAG_ACCUMULATE) &&
           instr->opcode != VTRN_OP_ACTIVATE;
}

uint64_t isa_ap_free_size(const vtrn_ap *ap) {
    uint64_t n = 1;
    for (int i = 0; i < ap->n_dims; i++)
        n *= ap->dim[i].num;
    return n;
}

int isa_ap_row_dims(const vtrn_ap *hbm, uint32_t n_rows) {
    if (hbm->n_partitions == 0 || n_rows % hbm->n_partitions)
        return -1;
    uint32_t left = n_rows / hbm->n_partitions;
    int n = 0;
    for (; left > 1; n++) {
        if (n == hbm->n_dims || hbm->dim[n].num == 0 || left % hbm->dim[n].num)
            return -1;
        left /= hbm->dim[n].num;
    }
    return n;
}

void isa_ap_extent(const vtrn_ap *ap, int64_t *lo, int64_t *hi) {
    int64_t size = (int64_t)dtype_size(ap->dtype), low = 0, high = 0;
    for (int i = 0; i < ap->n_dims; i++) {
        int64_t reach = (int64_t)ap->dim[i].step * ((int64_t)ap->dim[i].num - 1);
        *(reach < 0 ? &low : &high) += reach;
    }
    if (ap->space == VTRN_SPACE_HBM) {
        int64_t reach = ap->partition_step * ((int64_t)ap->n_partitions - 1);
        *(reach < 0 ? &low : &high) += reach;
    }
    *lo = ap->addr + low * size;
    *hi = ap->addr + (high + 1) * size;
}

void program_destroy(vtrn_program *program) {
    if (!program)
        return;
    arena a = program->arena; /* the program itself lives in it */
    arena_free(&a);
}
