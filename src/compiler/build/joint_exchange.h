/* Collectives of a list: how long they take, as far as is known when a program is compiled, and
 * those that become one. */
#ifndef VTRN_COMPILER_BUILD_JOINT_EXCHANGE_H
#define VTRN_COMPILER_BUILD_JOINT_EXCHANGE_H

#include "compiler/build/builder.h"

/* What a collective exchanges, as collective_request counts it. */
uint64_t exchange_bytes(const vtrn_custom *custom, const vtrn_slot *slots);
/* A collective like this one of so many bytes, from its last member's arrival on, where rank r is
 * on core r of the topology; NULL: of a machine with a chip for each rank, and no wires between. */
double exchange_ns(const struct collective_topology *topology, const vtrn_chip *chip,
                   const vtrn_custom *custom, uint64_t bytes);
/* Whether the two can be one collective of all their operands: each element is reduced as before.
 */
bool exchange_can_join(const vtrn_custom *a, const vtrn_custom *b);

/* joins[n_list]: the collective becomes one with that before it in the list. */
vtrn_status exchange_join(builder *b, const bool *joins);

#endif
