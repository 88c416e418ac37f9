/* Tiny programs made by hand, for the timing tests and the accuracy bench. */
#ifndef VTRN_TESTS_TIMING_TINY_H
#define VTRN_TESTS_TIMING_TINY_H

#include "timing/timing.h"

#include <string.h>

enum { TINY_MAX = 4096 };

/* One block. tiny_add() takes instructions in any order of engines; tiny_finish() sorts them into
 * streams. */
typedef struct tiny {
    vtrn_program program;
    vtrn_block block;
    vtrn_slot slots[2];
    vtrn_custom customs[1];
    uint32_t custom_slots[2];
    uint32_t n_added;
    vtrn_instr added[TINY_MAX], instrs[TINY_MAX];
} tiny;

static inline vtrn_ap tiny_ap(vtrn_space space, vtrn_dtype dtype, int partitions, uint32_t n,
                              int64_t addr) {
    vtrn_ap ap = {.space = (uint8_t)space,
                  .dtype = (uint8_t)dtype,
                  .n_dims = 1,
                  .n_partitions = (uint16_t)partitions,
                  .addr = addr,
                  .partition_step = space == VTRN_SPACE_HBM ? n : 1};
    ap.dim[0] = (vtrn_dim){1, n};
    return ap;
}

static inline vtrn_ap tiny_sbuf(vtrn_dtype dtype, int partitions, uint32_t n, int64_t addr) {
    return tiny_ap(VTRN_SPACE_SBUF, dtype, partitions, n, addr);
}

static inline vtrn_ap tiny_psum(vtrn_dtype dtype, int partitions, uint32_t n, int64_t addr) {
    return tiny_ap(VTRN_SPACE_PSUM, dtype, partitions, n, addr);
}

static inline vtrn_ap tiny_hbm(vtrn_dtype dtype, int partitions, uint32_t n) {
    return tiny_ap(VTRN_SPACE_HBM, dtype, partitions, n, 0);
}

static inline void tiny_init(tiny *t) {
    memset(t, 0, sizeof *t);
}

/* The result stays valid until tiny_finish(). */
static inline vtrn_instr *tiny_add(tiny *t, vtrn_opcode opcode, vtrn_engine engine) {
    vtrn_instr *instr = &t->added[t->n_added++];
    instr->opcode = (uint16_t)opcode;
    instr->engine = (uint8_t)engine;
    instr->update_semaphore = VTRN_NO_SEMAPHORE;
    return instr;
}

static inline vtrn_instr *tiny_add2(tiny *t, vtrn_opcode opcode, vtrn_engine engine, vtrn_ap out,
                                    vtrn_ap in) {
    vtrn_instr *instr = tiny_add(t, opcode, engine);
    instr->ap[0] = out;
    instr->ap[1] = in;
    return instr;
}

static inline void tiny_wait(vtrn_instr *instr, int semaphore, uint32_t value) {
    instr->wait[instr->n_waits++] = (vtrn_wait){(uint16_t)semaphore, 0, value};
}

static inline void tiny_signal(vtrn_instr *instr, int semaphore, int value) {
    instr->update_semaphore = (uint16_t)semaphore;
    instr->update_value = (uint16_t)value;
}

static inline const vtrn_program *tiny_finish(tiny *t) {
    uint32_t n = 0;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        t->block.first[e] = n;
        for (uint32_t i = 0; i < t->n_added; i++)
            if (t->added[i].engine == e)
                t->instrs[n++] = t->added[i];
        t->block.count[e] = n - t->block.first[e];
    }
    t->program.n_instrs = n;
    t->program.instrs = t->instrs;
    t->program.n_blocks = 1;
    t->program.blocks = &t->block;
    t->program.n_slots = 2;
    t->program.slots = t->slots;
    t->program.customs = t->customs;
    return &t->program;
}

#endif
