/* Tables of the activation functions, one a level (base/cpu.h): dst = func(x * scale + bias). */
#ifndef VTRN_ENGINE_ACT_KERNELS_H
#define VTRN_ENGINE_ACT_KERNELS_H

#include "base/cpu.h"
#include "isa/isa.h"

typedef struct act_kernels {
    /* slope is PRELU's; dst may be x */
    void (*act[VTRN_ACT_COUNT])(const float *x, float scale, float bias, float slope, float *dst,
                                size_t n);
    void (*copy_bf16)(const uint16_t *x, uint16_t *dst, size_t n); /* scale 1, bias -0 */
} act_kernels;

CPU_DECLARE_TABLES(act_kernels, act_kernel_table)

#endif
