/* Which instruction-set level the hand-tuned kernels run at, and how a kernel file is compiled once
 * a level.
 *
 * A kernel file is listed in `vtrn_level_sources` of its meson.build. It is compiled once for each
 * level with VTRN_LEVEL defined, names its exported table VTRN_AT_LEVEL(x), and the dispatching
 * file declares the tables with CPU_DECLARE_TABLES(type, x) and picks one with CPU_TABLE(x). Every
 * level gives the same bits: no fused multiply-add unless written, no width-dependent order of
 * sums. */
#ifndef VTRN_BASE_CPU_H
#define VTRN_BASE_CPU_H

#include "base/status.h"

typedef enum cpu_level {
    CPU_LEVEL_BASE, /* SSE2 on x86-64, NEON on aarch64; what the compiler assumes anyway */
    CPU_LEVEL_AVX2,
    CPU_LEVEL_AVX512, /* F, BW, DQ, VL */
    CPU_LEVEL_COUNT
} cpu_level;

/* The highest level that this host has and VTRN_ISA=sse2|avx2|avx512 allows. Decided once. */
cpu_level cpu_level_get(void);

/* BAD_ARGUMENT when VTRN_ISA names no level; cpu_level_get() would take the host's highest. */
vtrn_status cpu_level_check(void);

/* Tests only: runs the kernels at another level, at most the highest that the host has and VTRN_ISA
 * allows. Returns the level in force. */
cpu_level cpu_level_set(cpu_level level);

const char *cpu_level_name(cpu_level level); /* "sse2", "avx2", "avx512"; "neon" */

#define CPU_CONCAT2_(a, b)  a##_at_##b
#define CPU_CONCAT_(a, b)   CPU_CONCAT2_(a, b)
#define VTRN_AT_LEVEL(name) CPU_CONCAT_(name, VTRN_LEVEL)

#if defined(__x86_64__)
#define CPU_DECLARE_TABLES(type, name)                                                             \
    extern const type name##_at_base, name##_at_avx2, name##_at_avx512;                            \
    static const type *const name##_tables[] = {&name##_at_base, &name##_at_avx2,                  \
                                                &name##_at_avx512};
#else
#define CPU_DECLARE_TABLES(type, name)                                                             \
    extern const type name##_at_base;                                                              \
    static const type *const name##_tables[] = {&name##_at_base};
#endif
#define CPU_TABLE(name) (name##_tables[cpu_level_get()])

#endif
