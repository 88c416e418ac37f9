/* Checks in the program: each kernel's results are compared with the reference routines as soon as
 * they are in memory.
 *
 * A check is a custom op that reads and writes nothing. It carries the graph ops between the values
 * that a kernel wrote and the nearest values that were in memory before, which were checked when
 * they were written. So a difference belongs to the kernel, whatever its operands are worth.
 *
 * All functions do nothing where the options do not ask for checks. */
#ifndef VTRN_COMPILER_LOWER_VERIFY_H
#define VTRN_COMPILER_LOWER_VERIFY_H

#include "compiler/lower/lower.h"

/* In the first block, before the first op; the arguments have their views. */
vtrn_status verify_begin(lower *l);
/* op is lowered, by the engines or as a reference op. Its results are checked once they are in
 * memory, and so is all that lowering it wrote. */
vtrn_status verify_lowered(lower *l, const graph_op *op, bool is_reference);
/* Checks what is in memory but for the results of the op that is being lowered: before something of
 * it is overwritten, and where a block ends. */
vtrn_status verify_flush(lower *l);
/* v was copied: `to` must hold the elements of `from`, perhaps in another type. */
vtrn_status verify_copied(lower *l, graph_value v, const view *from, const view *to);
/* An op is about to overwrite a tensor that holds values: later checks read a copy. */
vtrn_status verify_keep(lower *l, uint32_t slot);

#endif
