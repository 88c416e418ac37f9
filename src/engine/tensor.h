/* Products divided by columns: what one of several threads does of them. */
#ifndef VTRN_ENGINE_TENSOR_H
#define VTRN_ENGINE_TENSOR_H

#include "engine/core.h"

/* Part part_i of n_parts; all 0 but these three when it begins. */
typedef struct tensor_part {
    int thread_i; /* whose scratch is used; thread 0 leaves the stationary tile in the PE array */
    int part_i, n_parts;
    int n_k; /* rows of the stationary tile */
} tensor_part;

/* Whether each part may load the stationary tile for itself. */
bool tensor_is_divisible_load(const vtrn_instr *instr);

/* Whether the product's columns may be divided behind the load: it is a matmul whose operands fit
 * the stationary tile and have the form in which the inner loops read and write them. */
bool tensor_is_divisible(const vtrn_instr *load, const vtrn_instr *instr);

/* Does the part of one such instruction. The core is that of one thread who does everything. */
void tensor_do_part(engine_core *core, const vtrn_instr *instr, const uint64_t *slot_base,
                    tensor_part *part);

#endif
