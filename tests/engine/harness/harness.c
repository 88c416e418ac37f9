/* The engine test library: conversion and single instructions, callable from Python by ctypes. */
#include "base/cpu.h"
#include "base/dtype.h"

#define HARNESS __attribute__((visibility("default")))

HARNESS int harness_set_level(int level) {
    return (int)cpu_level_set((cpu_level)level);
}

HARNESS int harness_dtype(const char *name) {
    vtrn_dtype t;
    return dtype_from_name(name, &t) ? (int)t : -1;
}

HARNESS void harness_load(int t, const void *src, float *dst, size_t n) {
    dtype_load_fp32((vtrn_dtype)t, src, dst, n);
}

HARNESS void harness_store(int t, const float *src, void *dst, size_t n) {
    dtype_store_fp32((vtrn_dtype)t, src, dst, n);
}

HARNESS void harness_store_stochastic(int t, const float *src, void *dst, size_t n,
                                      uint64_t *state) {
    dtype_store_fp32_stochastic((vtrn_dtype)t, src, dst, n, state);
}

HARNESS void harness_convert(int from, const void *src, int to, void *dst, size_t n) {
    dtype_convert((vtrn_dtype)from, src, (vtrn_dtype)to, dst, n);
}
