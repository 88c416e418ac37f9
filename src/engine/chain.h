/* Elementwise instructions over the same rows, a few rows at a time.
 *
 * An instruction at a time reads its tiles from the second-level cache or further, and writes its
 * result there; of rows of a few elements, each instruction gathers its operands and scatters its
 * result. A chain is a list of instructions that follow each other and work on rows of one shape.
 * It takes some rows through all of them, then the next rows: tiles stay in the first-level cache
 * meanwhile, in registers of the chain where rows are short, in their own place where they are
 * long.
 *
 * That is the same as one after the other, because two operands of a chain are the same bytes in
 * the same order, or have none in common that the chain writes. Every element is computed by the
 * kernels that would compute it otherwise, from the same numbers. */
#ifndef VTRN_ENGINE_CHAIN_H
#define VTRN_ENGINE_CHAIN_H

#include "engine/live.h"
#include "engine/plan.h"

/* What is the same for all blocks of a program. */
typedef struct chain_context {
    const vtrn_program *program;
    const vtrn_chip *chip;
    live *live;                /* NULL: chains write all their results to SBUF */
    const uint16_t *kept_rows; /* see engine/cells.h */
} chain_context;

/* Finds the chains of a block whose steps are complete, in memory of `kept`. Steps of a chain come
 * to lie side by side; none crosses another on whose bytes it depends, or a barrier. A chain leaves
 * a result out of SBUF where no instruction behind the chain reads it before another overwrites it.
 * is_last: the program ends with the block. */
vtrn_status chain_find(const chain_context *context, engine_block_plan *block, bool is_last,
                       arena *kept);

/* A thread's share of the chain. */
void chain_run(const chain *c, const engine_core *core, int thread_i);

#endif
