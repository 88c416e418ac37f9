/* Sums of 32-bit integers by matmuls, which add in fp32: each byte by itself adds up exactly, and
 * the sums are put together again. */
#ifndef VTRN_COMPILER_EMIT_INT_BYTES_H
#define VTRN_COMPILER_EMIT_INT_BYTES_H

#include "compiler/emit/emitter.h"
#include "compiler/plan/sum_parts.h"

/* dst = byte i of x, 0 the lowest; both are 32-bit integers in SBUF. */
vtrn_status int_bytes_take(emitter *e, const vtrn_ap *dst, const vtrn_ap *x, int i);

/* dst = the integers, modulo 2^32, whose bytes add up to sum[0..INT_BYTES), fp32 in PSUM. dst and
 * spare are 32-bit integers in SBUF. */
vtrn_status int_bytes_join(emitter *e, const vtrn_ap *dst, const vtrn_ap *spare,
                           const vtrn_ap *sum);

#endif
