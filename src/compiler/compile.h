/* Graph -> program. */
#ifndef VTRN_COMPILER_COMPILE_H
#define VTRN_COMPILER_COMPILE_H

#include "chip/chip.h"
#include "compiler/graph/graph.h"
#include "engine/plan.h"
#include "isa/program.h"

#include <stdio.h>

typedef struct compile_options {
    bool reference_only; /* every op as a reference custom op: the oracle */
    bool is_strict;      /* UNIMPLEMENTED instead of a custom op */
    bool is_verified;    /* each kernel is followed by a check of its results (lower/verify.h) */
    /* Decisions of the planner that can be switched off to find a wrong one: */
    bool has_no_fusion;    /* each operation is a kernel of its own */
    bool has_no_residents; /* every value passes through HBM */
    bool has_no_pipeline;  /* one tile at a time */
    FILE *dump;            /* where stages in dump_stages are printed; NULL: nowhere */
    uint32_t dump_stages;  /* bits 1 << compile_stage */
} compile_options;

typedef enum compile_stage {
    COMPILE_GRAPH, /* operations, as read from the artifact */
    COMPILE_FORM,  /* kernels */
    COMPILE_TILES, /* the same with rows, columns, buffers; copies that change layouts */
    COMPILE_PLACE, /* the same with addresses in SBUF */
    COMPILE_STAGE_COUNT
} compile_stage;

/* The graph may be destroyed afterwards. */
vtrn_status compile_graph(const graph *g, const vtrn_chip *chip, const compile_options *options,
                          vtrn_program **out);

/* Runs custom op custom_i of a program made by compile_graph (an engine_custom_fn; ctx is unused).
 */
vtrn_status compile_run_custom(void *ctx, const vtrn_program *program, uint32_t custom_i,
                               void *const *inputs, void *const *outputs);

/* For programs that came from a file: every custom op is one that a reference routine evaluates,
 * well formed, with slots as large as its tensors. compile_run_custom() relies on it. The structure
 * of the program is known to be valid. */
vtrn_status compile_check_customs(const vtrn_program *program);

#endif
