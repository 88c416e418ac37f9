/* The vendor's compiler flags as text, as NEURON_CC_FLAGS has them. */
#ifndef VTRN_COMPILER_CC_FLAGS_H
#define VTRN_COMPILER_CC_FLAGS_H

#include "base/status.h"
#include "compiler/options.h"

/* Takes --auto-cast none|matmult|all and --auto-cast-type bf16|fp16|tf32|fp8_e4m3, with a space or
 * "=", and --weights-stay N, which is vtrn's own; other flags say how a compiler for the hardware
 * works, and change nothing. NULL text: none. BAD_ARGUMENT: another value of these. */
vtrn_status cc_flags_parse(const char *text, compile_options *out);
/* One of them by its name without dashes; value: its text of n bytes. */
vtrn_status cc_flags_set(const char *name, const char *value, size_t n, compile_options *out);

#endif
