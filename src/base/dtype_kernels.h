/* Tables of conversion loops, one a level (base/cpu.h); dtype.c dispatches to them. */
#ifndef VTRN_BASE_DTYPE_KERNELS_H
#define VTRN_BASE_DTYPE_KERNELS_H

#include "base/cpu.h"
#include "base/dtype.h"

typedef struct dtype_kernels {
    void (*load[VTRN_DTYPE_COUNT])(const void *src, float *dst, size_t n);
    void (*store[VTRN_DTYPE_COUNT])(const float *src, void *dst, size_t n);
} dtype_kernels;

CPU_DECLARE_TABLES(dtype_kernels, dtype_kernel_table)

#endif
