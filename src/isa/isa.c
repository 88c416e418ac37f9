/* The instruction table as data, and what follows from a row or an access pattern alone. */
#include "isa/isa.h"

#include "base/hash.h"
#include "isa/program.h"

#include <stdlib.h>
#include <string.h>

#define IS_DMA(cost)                                                                               \
    ((cost) == COST_DMA || (cost) == COST_DMA_TRANSPOSE || (cost) == COST_DMA_INDIRECT)

const vtrn_op_info isa_ops[VTRN_OP_COUNT] = {
#define OP(e, name, engines, roles, gen, cost, setup, doc)                                         \
    [VTRN_OP_##e] = {name, engines, roles, gen, cost, setup, IS_DMA(cost), doc},
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

static const char *const engine_names[] = {"Tensor", "Vector", "Scalar", "GpSimd", "Sync", "CC"};

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

const char *collective_kind_name(unsigned kind) {
    static const char *const NAMES[] = {
#define COLLECTIVE(e, name) name,
#include "isa/collective_kinds.def"
#undef COLLECTIVE
    };
    return kind < VTRN_COLLECTIVE_KINDS ? NAMES[kind] : "unknown";
}

const char *reducer_name(unsigned reducer) {
    static const char *const NAMES[] = {
#define REDUCER(e, name) name,
#include "isa/reducers.def"
#undef REDUCER
    };
    return reducer < VTRN_REDUCERS ? NAMES[reducer] : "unknown";
}

bool collective_reduces(vtrn_dtype t, unsigned reducer) {
    bool is_bitwise =
        reducer == VTRN_REDUCER_AND || reducer == VTRN_REDUCER_OR || reducer == VTRN_REDUCER_XOR;
    if (reducer == VTRN_REDUCER_NONE || reducer >= VTRN_REDUCER_CUSTOM || dtype_has_no_format(t))
        return false;
    if (dtype_is_complex(t))
        return reducer == VTRN_REDUCER_ADD || reducer == VTRN_REDUCER_MULTIPLY;
    return !(dtype_is_float(t) && is_bitwise);
}

bool program_has_collectives(const vtrn_program *program) {
    for (uint32_t i = 0; i < program->n_customs; i++)
        if (program->customs[i].collective)
            return true;
    return false;
}

bool program_is_callback(const vtrn_custom *custom) {
    return custom->name && !strcmp(custom->name, VTRN_CALLBACK_NAME);
}

bool program_is_reference_op(const vtrn_custom *custom) {
    return custom->n_outputs > 0 && !custom->collective && !program_is_callback(custom);
}

uint32_t program_n_reference_ops(const vtrn_program *program) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < program->n_customs; i++)
        n += program_is_reference_op(&program->customs[i]);
    return n;
}

uint64_t program_fingerprint(const vtrn_program *p) {
    uint64_t hash = HASH_START;
    hash = hash_bytes(hash, p->instrs, p->n_instrs * sizeof *p->instrs);
    hash = hash_bytes(hash, p->slots, p->n_slots * sizeof *p->slots);
    hash = hash_bytes(hash, p->data, p->data_size);
    for (uint32_t i = 0; i < p->n_customs; i++) {
        const vtrn_collective *c = p->customs[i].collective;
        if (!program_is_callback(&p->customs[i]))
            hash = hash_bytes(hash, p->customs[i].blob, p->customs[i].blob_size);
        if (!c)
            continue;
        hash = hash_bytes(hash, &c->kind, sizeof c->kind);
        hash = hash_bytes(hash, &c->reducer, sizeof c->reducer);
        hash = hash_bytes(hash, &c->n_groups, sizeof c->n_groups);
        hash = hash_bytes(hash, &c->group_size, sizeof c->group_size);
        hash = hash_bytes(hash, c->groups, (size_t)c->n_groups * c->group_size * sizeof *c->groups);
    }
    return hash;
}

void program_destroy(vtrn_program *program) {
    if (!program)
        return;
    arena a = program->arena; /* the program itself lives in it */
    arena_free(&a);
}
