/* What kernel files share: the pragma that lets loops run in place and still vectorise. */
#ifndef VTRN_ENGINE_KERNEL_LOOP_H
#define VTRN_ENGINE_KERNEL_LOOP_H

/* Iterations are independent even when dst is exactly a source: no overlap checks, please. */
#if defined(__clang__)
#define INDEPENDENT_LOOP _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT_LOOP _Pragma("GCC ivdep")
#endif

#endif
