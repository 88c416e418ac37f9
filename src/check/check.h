/* Checks that the chip does not make: races between engines, and reads of what nothing wrote. */
#ifndef VTRN_CHECK_CHECK_H
#define VTRN_CHECK_CHECK_H

#include "chip/chip.h"
#include "engine/plan.h"
#include "isa/program.h"

/* HAZARD when two accesses to the same byte, one of them a write, are ordered by nothing: neither
 * by their engine's queue nor by semaphores. Blocks are checked one by one, as all engines meet
 * between them. What counts as order:
 *   - an engine completes its instructions one after another;
 *   - a DMA starts when its queue comes to it, whatever its engine still computes, and runs beside
 *     everything else; DMAs of one ring complete in order;
 *   - a wait for (semaphore, value) proves of each raiser as much as the others cannot have given.
 * An operand counts to the byte, an indexed one from its first row to its last. The plan says in
 * which order to look, nothing else. */
vtrn_status check_hazards(const vtrn_program *program, const engine_plan *plan);

/* UNINITIALISED when a block of the trace reads bytes of SBUF, PSUM, scratch or an output that
 * nothing has written since the program began. block_trace: the blocks that ran, in order. Rows
 * that an index may name count as written, and so do bytes that a mask leaves as they were. */
vtrn_status check_reads(const vtrn_program *program, const vtrn_chip *chip, const engine_plan *plan,
                        const uint32_t *block_trace, uint32_t n_block_trace);

#endif
