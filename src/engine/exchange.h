/* What cores give each other in a collective. */
#ifndef VTRN_ENGINE_EXCHANGE_H
#define VTRN_ENGINE_EXCHANGE_H

#include "engine/plan.h"

/* A rank's memory: its tensors as engine_run has them. */
typedef struct engine_member {
    uint8_t *hbm;
    const uint64_t *slot_base;
    bool is_remote; /* of another process, its operands are here as copies; or not executed: either
                       way its results are not written */
} engine_member;

/* One group of a collective of which every member has come. */
typedef struct engine_exchange {
    const vtrn_program *program;
    uint32_t custom_i;
    const engine_member *members; /* by rank */
    const int32_t *ranks;         /* of the group; a permute: of one pair, the source first */
    /* By place: the rank whose operand counts as that of `ranks`, and how many members it counts
     * for in a reduction, 0: none here. NULL: its own, for one. */
    const int32_t *sources;
    const uint32_t *times;
    uint32_t n;
    engine_custom_fn custom; /* runs reducers that are CUSTOM */
    void *custom_ctx;
} engine_exchange;

/* The first NaN among the operands, by member, operand and element: where it is. False: none of
 * them has one. Operands of members of other processes are not looked at. */
typedef struct engine_nan {
    int32_t rank;
    uint32_t operand_i;
    uint64_t element;
} engine_nan;
bool engine_exchange_find_nan(const engine_exchange *x, engine_nan *out);

/* Does share `part` of n_parts; shares may run at the same time. Reductions go from the first
 * member to the last, floats of 4 bytes and less in fp32 with one rounding at the end, so that the
 * bits depend neither on the shares nor on other exchanges. An operand that counts for several in
 * fp32 sums is multiplied by their number. Ranks -1 and r: no rank sends to r,
 * whose result becomes zeros. Nothing is written for members of other processes. */
vtrn_status engine_exchange_run(const engine_exchange *x, uint32_t part, uint32_t n_parts);

#endif
