/* Inside the planner: operand checks, barrier placement, and the place of an instruction in words.
 */
#ifndef VTRN_ENGINE_PLAN_PARTS_H
#define VTRN_ENGINE_PLAN_PARTS_H

#include "engine/engine.h"
#include "engine/plan.h"

/* plan.c */

/* What a plan may do for speed. */
enum {
    PLAN_MAY_BE_SOLO = 1 << 0,   /* not wake the team where there is little to do */
    PLAN_MAY_SKIP_SBUF = 1 << 1, /* leave out copies: SBUF is not looked at afterwards */
    PLAN_MAY_CHAIN = 1 << 2,     /* take rows through several instructions, in another order */
};

/* engine_plan_create; freedom: PLAN_MAY_ bits, all of which engine_plan_create gives. */
vtrn_status plan_create(const vtrn_program *program, const vtrn_chip *chip, int n_threads,
                        unsigned freedom, engine_plan *out);

/* operands.c */

/* UNDEFINED (or UNSUPPORTED, PSUM by DMA) unless every operand lies inside its memory, is in a
 * space that the op reaches, and the op's own limits on rows hold. */
vtrn_status operands_check(const vtrn_program *program, const vtrn_chip *chip,
                           const vtrn_instr *instr);

/* Adds instruction number, mnemonic, operation and place of the user's source. */
vtrn_status instr_annotate(vtrn_status status, const vtrn_program *program, uint32_t instr_i);

/* barriers.c */

typedef struct barriers barriers;

/* NULL when host memory is short. All memory comes from the arena. */
barriers *barriers_create(arena *a, const vtrn_program *program, const vtrn_chip *chip);

/* Every thread has met every other: a barrier, or the start of a block. */
void barriers_meet(barriers *b);

/* Whether the instruction may run before the threads meet again; notes what it does if so. The
 * first one after they met always may. *is_alone: one thread must do it, because it reads across
 * what it writes itself, or is a custom op; then nothing else is admitted beside it. */
bool barriers_admit(barriers *b, const vtrn_instr *instr, bool *is_alone);

/* dma.c: which thread carries out row r of a DMA.  */
typedef enum dma_split {
    DMA_SPLIT_DST, /* the owner of the dst partition */
    DMA_SPLIT_SRC, /* the owner of the src partition */
    DMA_SPLIT_ROWS /* HBM on both sides: equal shares by row number */
} dma_split;

static inline dma_split dma_split_of(const vtrn_instr *instr) {
    if (instr->ap[0].space == VTRN_SPACE_SBUF)
        return DMA_SPLIT_DST;
    return instr->ap[1].space == VTRN_SPACE_SBUF ? DMA_SPLIT_SRC : DMA_SPLIT_ROWS;
}

#endif
