/* Plans as text that a person can read and a test can compare. */
#ifndef VTRN_COMPILER_PLAN_PLAN_PRINT_H
#define VTRN_COMPILER_PLAN_PLAN_PRINT_H

#include "compiler/plan/kernel_list.h"

#include <stdio.h>

/* How far the plan has got: each stage shows what the one before it does, and more. */
typedef enum plan_stage {
    PLAN_FORMED, /* kernels: operations, operands, results */
    PLAN_TILED,  /* rows, columns, buffers; copies that change layouts */
    PLAN_PLACED, /* bytes of SBUF, and what is read from there or stays */
} plan_stage;

/* A line a kernel, then a line each for operands, operations and results. */
void plan_print(const plan *p, plan_stage stage, FILE *out);

#endif
