/* How the plan verifier refuses a plan. */
#ifndef VTRN_COMPILER_PLAN_VERIFY_FAILED_H
#define VTRN_COMPILER_PLAN_VERIFY_FAILED_H

#include "compiler/plan/kernel_list.h"

/* An internal error about kernel k. */
vtrn_status verify_failed(const plan *p, const kernel *k, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
