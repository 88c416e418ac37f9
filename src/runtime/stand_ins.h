/* Which ranks of a program are executed, and which of them stand for the others. Private to this
 * folder. */
#ifndef VTRN_RUNTIME_STAND_INS_H
#define VTRN_RUNTIME_STAND_INS_H

#include "runtime/execute.h"

/* At load, before the program's groups are counted: those whose values the device is to compute;
 * of a program that goes the same way on every rank and computes nothing, the first. */
vtrn_status stand_ins_choose(runtime_program *loaded);
/* When the groups are known: who gives what a rank that is not executed would. */
vtrn_status stand_ins_find_sources(runtime_program *loaded);

#endif
