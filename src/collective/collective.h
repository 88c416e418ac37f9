/* What a collective takes: its duration from the operation, the bytes, the members and the
 * instance's links. No values, no program, no state beyond a topology that never changes.
 *
 * A device is one logical NeuronCore. Devices are numbered densely: chip c of node m has the
 * devices (m * chips + c) * per_chip + 0 .. per_chip - 1, where per_chip is the chip's cores over
 * LNC. All times are ns, all sizes bytes. Rates and latencies are those of chips/instances.toml and
 * stand there with their sources. */
#ifndef VTRN_COLLECTIVE_COLLECTIVE_H
#define VTRN_COLLECTIVE_COLLECTIVE_H

#include "chip/chip.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum collective_op {
    COLLECTIVE_ALL_REDUCE,
    COLLECTIVE_ALL_GATHER,
    COLLECTIVE_REDUCE_SCATTER,
    COLLECTIVE_ALL_TO_ALL,
    COLLECTIVE_PERMUTE,
    COLLECTIVE_BROADCAST,
    COLLECTIVE_N_OPS,
} collective_op;

typedef enum collective_algorithm {
    COLLECTIVE_LOCAL, /* groups of one member, or nothing to move: a copy inside the device */
    COLLECTIVE_MESH,  /* every member writes to every other */
    COLLECTIVE_RDH,   /* recursive doubling and halving */
    COLLECTIVE_RING,
    COLLECTIVE_KANGARING,    /* a ring over chips whose hops serve two members each */
    COLLECTIVE_HIERARCHICAL, /* inside the nodes, then between them, then inside again */
    COLLECTIVE_ROUTED,       /* each message by itself: permute */
    COLLECTIVE_N_ALGORITHMS,
} collective_algorithm;

/* An instance, or several equal ones joined by their network. */
typedef struct collective_topology collective_topology;

/* n_nodes instances of the kind, each with its chips; lnc is the physical cores of a device, 1
 * or 2. Keeps neither argument. BAD_ARGUMENT for a topology that nothing is known of, for an lnc
 * that does not divide the chip's cores, for several nodes of an instance without a network. */
vtrn_status collective_topology_create(const vtrn_instance *instance, const vtrn_chip *chip,
                                       int lnc, int n_nodes, collective_topology **out);
void collective_topology_destroy(collective_topology *topology); /* NULL is fine */

int collective_n_devices(const collective_topology *topology);
/* Place of a device, 0 <= device < collective_n_devices. */
typedef struct collective_place {
    int node, chip; /* chip inside the node */
    int core;       /* logical core inside the chip */
    int xyz[3];     /* of the chip: column, row, and layer (Z ring or node) */
} collective_place;
collective_place collective_place_of(const collective_topology *topology, int device);

/* A directed link between two chips, or of a chip or node to a switch or network. */
typedef struct collective_link {
    int from, to; /* chips, counted through all nodes; -1: the switch or the network */
    double bytes_per_s;
} collective_link;
int collective_n_links(const collective_topology *topology);
collective_link collective_link_at(const collective_topology *topology, int link);

typedef struct collective_request {
    collective_op op;
    /* A member's operand; for all_gather a member's result. So the larger of the two, always. */
    uint64_t bytes;
    /* devices[n_groups][group_size]: the groups that run at the same time; -1 fills up short ones.
     * For permute each group is a pair, source and target. For broadcast the first member is the
     * root. A device is in one group at most (in one pair as source and in one as target). */
    const int *devices;
    int n_groups, group_size;
    bool is_in_sbuf;                /* operand and result are in SBUF, else in HBM */
    collective_algorithm algorithm; /* COLLECTIVE_LOCAL: let the instance's table choose */
} collective_request;

typedef struct collective_time {
    double duration_ns;             /* of the slowest group, from the last member's arrival */
    double latency_ns;              /* of it: what a message of no bytes takes */
    collective_algorithm algorithm; /* of the slowest group */
    int n_steps;                    /* one after the other */
    double busiest_link_bytes;      /* moved over the busiest link, all groups and steps */
    int busiest_link;               /* its index, or -1: no link is used */
} collective_time;

/* BAD_ARGUMENT for a group that names a device twice or one that does not exist, an empty group, an
 * algorithm that the operation or the group cannot have. Deterministic. Safe from several threads.
 */
vtrn_status collective_estimate(const collective_topology *topology,
                                const collective_request *request, collective_time *out);

/* link_bytes[collective_n_links]: adds what the request moves over each link; for maps and matrices
 * of communication. */
vtrn_status collective_link_bytes(const collective_topology *topology,
                                  const collective_request *request, double *link_bytes);

/* The rule by which the vendor's runtime refuses groups of this size and placement, as a static
 * sentence; NULL: no such rule is published. The simulator runs the groups in either case. */
const char *collective_restriction(const collective_topology *topology,
                                   const collective_request *request);

const char *collective_op_name(collective_op op);                      /* "all_reduce" */
const char *collective_algorithm_name(collective_algorithm algorithm); /* "kangaring" */

#endif
