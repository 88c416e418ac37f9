/* The rounding mode and the treatment of subnormal numbers of a thread. XLA flushes them on threads
 * from which it calls us; our values depend on neither. */
#ifndef VTRN_BASE_FLOAT_ENV_H
#define VTRN_BASE_FLOAT_ENV_H

#include <fenv.h>
#include <stdbool.h>

static inline void float_env_default(void) {
    fesetenv(FE_DFL_ENV);
}

/* From here to float_env_leave numbers are rounded to the nearest and subnormals stay. */
static inline void float_env_enter(fenv_t *out_saved) {
    fegetenv(out_saved);
    fesetenv(FE_DFL_ENV);
}

static inline void float_env_leave(const fenv_t *saved) {
    fesetenv(saved);
}

/* Whether it is so already, which is sooner found out than set; false where nothing tells. */
static inline bool float_env_is_default(void) {
#if defined(__x86_64__)
    const unsigned flags = 0x3f, as_started = 0x1f80; /* of MXCSR; flags say what happened */
    return (__builtin_ia32_stmxcsr() & ~flags) == as_started;
#else
    return false;
#endif
}

#endif
