/* What a group's collective sends over the links, phase by phase. Private to this folder. */
#ifndef VTRN_COLLECTIVE_TRAFFIC_H
#define VTRN_COLLECTIVE_TRAFFIC_H

#include "collective/topology.h"

/* A group by its chips. The arrays belong to the caller. */
typedef struct traffic_group {
    int n;                /* members */
    int n_chips;          /* with members, ascending in chips[] */
    int *chips, *weights; /* chip, and its members */
    int n_planes, n_nodes;
    bool spans_dies; /* some chip has members on two dies */
    int from, to;    /* permute: devices */
} traffic_group;

/* How one algorithm does one operation. inner: of a hierarchical one, inside a plane. */
typedef struct traffic_plan {
    collective_op op;
    collective_algorithm algorithm, inner;
    double bytes;
} traffic_plan;

/* One phase of a group's collective beside its load on the links. */
typedef struct traffic_phase {
    double latency_ns; /* all its steps, without bytes */
    double local_ns;   /* least time of the cores' own transfers */
    int n_steps;
    double efficiency; /* of the links between chips */
} traffic_phase;

/* Phases that the group goes through, one after the other. */
int traffic_n_phases(const traffic_plan *plan, const traffic_group *group);

/* Adds the load of one phase to load[n_links]. */
traffic_phase traffic_add(const collective_topology *t, const traffic_plan *plan,
                          const traffic_group *group, int phase, double *load);

/* Trigger and handshake, before the first phase. */
double traffic_start_ns(const collective_topology *t, const traffic_plan *plan,
                        const traffic_group *group);

/* Whether the group can run so: rings, RDH and meshes need one plane, RDH a power of two of equally
 * filled chips. A group of one chip can run as anything and always runs as a mesh. */
bool traffic_can_run(const traffic_plan *plan, const traffic_group *group);

#endif
