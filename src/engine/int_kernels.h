/* Tables of the 32-bit integer loops of the Vector and GpSimd engines, one a level (base/cpu.h).
 * dst may be exactly an operand. */
#ifndef VTRN_ENGINE_INT_KERNELS_H
#define VTRN_ENGINE_INT_KERNELS_H

#include "base/cpu.h"
#include "isa/isa.h"

/* Class A and C on int32 [0] and uint32 [1], wrapping; class B in both on raw 32 bits.
 * ts: x op s, st: s op x. */
typedef struct int_kernels {
    void (*tt[2][VTRN_ALU_COUNT])(const uint32_t *x, const uint32_t *y, uint32_t *dst, size_t n);
    void (*ts[2][VTRN_ALU_COUNT])(const uint32_t *x, uint32_t s, uint32_t *dst, size_t n);
    void (*st[2][VTRN_ALU_COUNT])(const uint32_t *x, uint32_t s, uint32_t *dst, size_t n);
} int_kernels;

CPU_DECLARE_TABLES(int_kernels, int_kernel_table)

#endif
