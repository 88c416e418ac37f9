/* List scheduling: the instructions of a block in an order that leaves engines idle for less time.
 *
 * Each engine works through its queue in order, so an instruction that waits holds up all behind
 * it, though a later kernel's could run. Here the block runs on a simple model of the core, on
 * which an engine takes, of the instructions whose operands are there, the one on which most work
 * depends. The list gets that order if the model says that it is faster. Results are the same to
 * the bit: what depends on what keeps its order. */
#ifndef VTRN_COMPILER_BUILD_REORDER_H
#define VTRN_COMPILER_BUILD_REORDER_H

#include "compiler/build/granules.h"

struct collective_topology;

/* in->list is `list`, which is permuted in place. Scratch slots may be without addresses. Sums of
 * several cores whose operands are all there when their queue is free stand one behind the other,
 * marked in joins[n], which is false before: they are to become one, of bucket_bytes at most, so
 * that they wait once for all members and not each. topology as in exchange_ns(). */
vtrn_status reorder_block(const granules_input *in, const struct collective_topology *topology,
                          vtrn_instr *list, bool *joins);

#endif
