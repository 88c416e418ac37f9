/* What the engine test library exports: conversion and single instructions, for Python by ctypes.
 */
#ifndef VTRN_TESTS_ENGINE_HARNESS_H
#define VTRN_TESTS_ENGINE_HARNESS_H

#include "engine/engine.h"

#define HARNESS __attribute__((visibility("default")))

/* Returns the level in force: see cpu_level_set. */
HARNESS int harness_set_level(int level);
HARNESS const char *harness_level_name(int level);

/* Numbers of types, instructions, operations and functions; -1 for a name that is none. */
HARNESS int harness_dtype(const char *name);
HARNESS int harness_opcode(const char *name);
HARNESS int harness_alu(const char *name);
HARNESS int harness_act(const char *name);

HARNESS void harness_load(int t, const void *src, float *dst, size_t n);
HARNESS void harness_store(int t, const float *src, void *dst, size_t n);
HARNESS void harness_store_stochastic(int t, const float *src, void *dst, size_t n,
                                      uint64_t *state);
HARNESS void harness_convert(int from, const void *src, int to, void *dst, size_t n);

/* A core of two bare memories and registers, as large as the caller's arrays. */
HARNESS engine_core *harness_core(uint8_t *sbuf, size_t sbuf_stride, uint8_t *psum,
                                  size_t psum_stride);

/* HBM for operands of slot 0. */
HARNESS void harness_set_hbm(engine_core *core, uint8_t *hbm);
HARNESS void harness_core_destroy(engine_core *core);

/* The shares of all threads, one after another, n_times over. Returns the category and the message
 * of the first error. */
HARNESS int harness_run(engine_core *core, const vtrn_instr *instr, int n_threads, int n_times,
                        char *message, size_t message_bytes);

/* The i-th name of a table: 0 ALU operations, 1 activation functions; NULL behind the last. */
HARNESS const char *harness_name(int table, int i);
HARNESS unsigned harness_legal_flags(int opcode);
HARNESS size_t harness_instr_bytes(void);

#endif
