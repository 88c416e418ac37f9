/* What a compilation is asked for: decisions that can be switched off, checks, and dumps. */
#ifndef VTRN_COMPILER_OPTIONS_H
#define VTRN_COMPILER_OPTIONS_H

#include "base/dtype.h"
#include "chip/chip.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Which fp32 operations are done in a narrower type. */
typedef enum auto_cast { AUTO_CAST_NONE, AUTO_CAST_MATMULT, AUTO_CAST_ALL } auto_cast;

typedef struct compile_options {
    bool reference_only; /* every op as a reference custom op: the oracle */
    bool is_strict;      /* UNIMPLEMENTED instead of a custom op */
    int64_t n_replicas;  /* that will run the program, each on a device; 0: as the module says */
    const vtrn_instance *instance; /* that runs it, for the times of collectives; NULL: not known */
    bool is_fresh;    /* the artifact was written by this process, not read from a file */
    bool is_verified; /* each kernel is followed by a check of its results (lower/verify.h) */
    auto_cast auto_cast;
    bool has_auto_cast;        /* it was asked for, and goes before the environment's */
    vtrn_dtype auto_cast_type; /* VTRN_DTYPE_PRED, 0: bf16 */
    const char *flags;         /* as NEURON_CC_FLAGS has them, behind those; NULL: none */
    uint32_t n_weights;        /* the first arguments: they may stay on the chip between calls */
    bool takes_int8;           /* the chip's array does: compile_graph() sets it */
    /* Decisions that can be switched off to find a wrong one: */
    bool has_no_passes;    /* operations as the artifact has them */
    bool has_no_fusion;    /* each operation is a kernel of its own */
    bool has_no_residents; /* every value passes through HBM */
    bool has_no_pipeline;  /* one tile at a time */
    bool has_no_schedule;  /* instructions stay in the order in which kernels emit them */
    FILE *dump;            /* where stages in dump_stages are printed; NULL: nowhere */
    uint32_t dump_stages;  /* bits 1 << compile_stage */
} compile_options;

typedef enum compile_stage {
    COMPILE_GRAPH, /* operations, after passes/ */
    COMPILE_FORM,  /* kernels */
    COMPILE_TILES, /* the same with rows, columns, buffers; copies that change layouts */
    COMPILE_PLACE, /* the same with addresses in SBUF */
    COMPILE_STAGE_COUNT
} compile_stage;

#endif
