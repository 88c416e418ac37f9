/* Checks of kernels, as they run. */
#ifndef VTRN_COMPILER_CUSTOM_VERIFY_RUN_H
#define VTRN_COMPILER_CUSTOM_VERIFY_RUN_H

#include "compiler/custom/verify_blob.h"
#include "isa/program.h"

/* The body of a check, as custom_run(). VTRN_INTERNAL names the first difference. */
vtrn_status verify_run(const vtrn_custom *custom, void *const *tensors);
/* A check that was read from a file is well formed but for its ops, which the caller looks at. */
vtrn_status verify_check_places(const vtrn_program *p, const vtrn_custom *custom,
                                const verify_check *check);

#endif
