/* Donation: which outputs of a program may lie in the memory of the argument given up for them. */
#ifndef VTRN_COMPILER_BUILD_DONATE_H
#define VTRN_COMPILER_BUILD_DONATE_H

#include "compiler/build/builder.h"

/* output_alias[o]: the argument that output o was offered, or -1. Takes back (sets to -1) each
 * offer where, in program order, something would be read from the argument after the output has
 * overwritten it. What is left needs nothing but the waits of the scheduler, which sees the two as
 * one. */
vtrn_status donate_settle(const builder *b, int32_t *output_alias);

#endif
