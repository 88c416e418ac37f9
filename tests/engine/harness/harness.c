/* The engine test library: conversion and single instructions, callable from Python by ctypes. */
#include "harness.h"

#include "base/cpu.h"
#include "base/dtype.h"
#include "engine/engine.h"
#include "engine/tensor_kernels.h"
#include "isa/validate_rules.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int harness_set_level(int level) {
    return (int)cpu_level_set((cpu_level)level);
}

const char *harness_level_name(int level) {
    return cpu_level_name((cpu_level)level);
}

int harness_dtype(const char *name) {
    vtrn_dtype t;
    return dtype_from_name(name, &t) ? (int)t : -1;
}

void harness_load(int t, const void *src, float *dst, size_t n) {
    dtype_load_fp32((vtrn_dtype)t, src, dst, n);
}

void harness_store(int t, const float *src, void *dst, size_t n) {
    dtype_store_fp32((vtrn_dtype)t, src, dst, n);
}

void harness_store_stochastic(int t, const float *src, void *dst, size_t n, uint64_t *state) {
    dtype_store_fp32_stochastic((vtrn_dtype)t, src, dst, n, state);
}

void harness_convert(int from, const void *src, int to, void *dst, size_t n) {
    dtype_convert((vtrn_dtype)from, src, (vtrn_dtype)to, dst, n);
}

engine_core *harness_core(uint8_t *sbuf, size_t sbuf_stride, uint8_t *psum, size_t psum_stride) {
    engine_core *core = calloc(1, sizeof *core);
    core->sbuf = (engine_memory){sbuf, sbuf_stride, sbuf_stride, ENGINE_MAX_PARTITIONS, NULL, 0};
    core->psum = (engine_memory){psum, psum_stride, psum_stride, ENGINE_MAX_PARTITIONS, NULL, 0};
    core->regs = calloc(1, sizeof *core->regs);
    core->regs->scratch = aligned_alloc(64, (size_t)ENGINE_MAX_THREADS * ENGINE_SCRATCH_BYTES);
    size_t weights = ENGINE_PE_ROWS / TENSOR_BLOCK_ROWS * TENSOR_PANEL_STRIDE * sizeof(float);
    core->regs->pe_weights = aligned_alloc(64, (weights + 63) / 64 * 64);
    core->regs->pe_ones = calloc(ENGINE_PE_ROWS / TENSOR_BLOCK_ROWS, sizeof *core->regs->pe_ones);
    size_t mx_weights = sizeof(float) * ENGINE_PE_ROWS / TENSOR_BLOCK_ROWS * TENSOR_MX_PANEL_STRIDE;
    core->regs->pe_mx_weights = aligned_alloc(64, (mx_weights + 63) / 64 * 64);
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        for (int p = 0; p < ENGINE_MAX_PARTITIONS; p++) {
            engine_generator *g = &core->regs->kept.generator[e][p];
            g->state = (uint64_t)(e * 1000 + p + 1) * 0x9e3779b97f4a7c15u;
            engine_seed_xorwow(g, e, p, 0);
        }
    core->n_threads = 1;
    core->owner_shift = ENGINE_OWNER_SHIFT;
    return core;
}

void harness_set_hbm(engine_core *core, uint8_t *hbm) {
    core->hbm = hbm;
}

void harness_core_destroy(engine_core *core) {
    free(core->regs->scratch);
    free(core->regs->pe_weights);
    free(core->regs->pe_ones);
    free(core->regs->pe_mx_weights);
    free(core->regs);
    free(core);
}

int harness_run(engine_core *core, const vtrn_instr *instr, int n_threads, int n_times,
                char *message, size_t message_bytes) {
    static const uint64_t slot_base[1] = {0};
    core->n_threads = n_threads;
    for (int time = 0; time < n_times; time++)
        for (int t = 0; t < n_threads; t++) {
            vtrn_status status = engine_table[instr->opcode](core, instr, slot_base, t);
            if (!status)
                continue;
            int category = (int)vtrn_status_category(status);
            snprintf(message, message_bytes, "%s", vtrn_status_message(status));
            vtrn_status_free(status);
            return category;
        }
    return 0;
}

static int find(const char *name, const char *(*name_of)(int), int n) {
    for (int i = 0; i < n; i++)
        if (!strcmp(name, name_of(i)))
            return i;
    return -1;
}

static const char *op_name(int i) {
    return isa_op_info((vtrn_opcode)i)->mnemonic;
}

static const char *alu_name(int i) {
    return isa_alu_name((vtrn_alu)i);
}

static const char *act_name(int i) {
    return isa_act_name((vtrn_act)i);
}

int harness_opcode(const char *name) {
    return find(name, op_name, VTRN_OP_COUNT);
}

int harness_alu(const char *name) {
    return find(name, alu_name, VTRN_ALU_COUNT);
}

int harness_act(const char *name) {
    return find(name, act_name, VTRN_ACT_COUNT);
}

const char *harness_name(int table, int i) {
    if (i < 0 || i >= (table ? (int)VTRN_ACT_COUNT : (int)VTRN_ALU_COUNT))
        return NULL;
    return table ? act_name(i) : alu_name(i);
}

unsigned harness_legal_flags(int opcode) {
    return validate_legal_flags((vtrn_opcode)opcode);
}

size_t harness_instr_bytes(void) {
    return sizeof(vtrn_instr);
}
