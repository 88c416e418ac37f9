/* Chooses the instruction-set level of the kernels once. */
#include "base/cpu.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
static const char *const level_names[] = {"sse2", "avx2", "avx512"};
static const char level_choice[] = "sse2, avx2 or avx512";
#elif defined(__aarch64__)
static const char *const level_names[] = {"neon"};
static const char level_choice[] = "neon";
#else
static const char *const level_names[] = {"plain"};
static const char level_choice[] = "plain";
#endif
enum { N_LEVELS = sizeof level_names / sizeof *level_names };

/* 0: not decided yet; else level + 1. Racing threads decide the same. */
static _Atomic int chosen_plus_1;

static cpu_level host_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                   __builtin_cpu_supports("bmi2");
    int has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                     __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                     __builtin_cpu_supports("avx512vl");
    return has_avx512 ? CPU_LEVEL_AVX512 : has_avx2 ? CPU_LEVEL_AVX2 : CPU_LEVEL_BASE;
#else
    return CPU_LEVEL_BASE;
#endif
}

/* The level that VTRN_ISA names, CPU_LEVEL_COUNT when it is not set, -1 when it names none. */
static int wanted_level(const char **out_text) {
    const char *wanted = *out_text = getenv("VTRN_ISA");
    if (!wanted || !*wanted)
        return CPU_LEVEL_COUNT;
    for (int i = 0; i < N_LEVELS; i++)
        if (!strcmp(wanted, level_names[i]))
            return i;
    return -1;
}

static cpu_level decide(void) {
    const char *text;
    cpu_level highest = host_level();
    int wanted = wanted_level(&text);
    return wanted >= 0 && wanted < (int)highest ? (cpu_level)wanted : highest;
}

vtrn_status cpu_level_check(void) {
    const char *text;
    if (wanted_level(&text) >= 0)
        return NULL;
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "VTRN_ISA: there is no instruction set '%s'; take %s, or leave it out for "
                      "the host's best",
                      text, level_choice);
}

cpu_level cpu_level_get(void) {
    int chosen = atomic_load_explicit(&chosen_plus_1, memory_order_relaxed);
    if (__builtin_expect(!chosen, 0)) {
        chosen = (int)decide() + 1;
        atomic_store_explicit(&chosen_plus_1, chosen, memory_order_relaxed);
    }
    return (cpu_level)(chosen - 1);
}

cpu_level cpu_level_set(cpu_level level) {
    cpu_level highest = decide();
    atomic_store_explicit(&chosen_plus_1, (int)(level < highest ? level : highest) + 1,
                          memory_order_relaxed);
    return cpu_level_get();
}

const char *cpu_level_name(cpu_level level) {
    return (unsigned)level < N_LEVELS ? level_names[level] : "unknown";
}
