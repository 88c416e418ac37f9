/* The links between chips and the way of a message over them. Private to this folder. */
#ifndef VTRN_COLLECTIVE_TOPOLOGY_H
#define VTRN_COLLECTIVE_TOPOLOGY_H

#include "collective/collective.h"

typedef enum topology_link_kind { TOPOLOGY_CHIP, TOPOLOGY_NETWORK } topology_link_kind;

enum { TOPOLOGY_N_DIRECTIONS = 6 }; /* +x -x +y -y +z -z */

struct collective_topology {
    vtrn_chip chip;
    vtrn_instance instance;
    int lnc, n_nodes;
    int per_chip;   /* devices */
    int n_chips;    /* of all nodes */
    int size[3];    /* chips of a node in x, y, z */
    bool wraps;     /* the last chip of a dimension is a neighbour of the first */
    bool is_switch; /* links are a chip's ports: up, then down */
    int n_links;
    collective_link *links;
    uint8_t *link_kinds;                     /* topology_link_kind */
    int (*out_links)[TOPOLOGY_N_DIRECTIONS]; /* [n_chips]: by direction, -1: none */
};

/* Chips that no network and no Z link separates: XY planes, counted through all nodes. */
int topology_plane_of(const collective_topology *t, int chip);
int topology_n_planes(const collective_topology *t);
int topology_node_of(const collective_topology *t, int chip);

/* Adds bytes to load[n_links] on the way from one chip to another. Dimensions follow in the order
 * x, y, z; half goes either way round where both are equally far. Between nodes the way is the
 * adapter of the source's chip and that of the target's. */
void topology_route(const collective_topology *t, int from, int to, double bytes, double *load);

/* Whether a link joins the two chips, so that topology_route takes this one alone. */
bool topology_is_neighbour(const collective_topology *t, int a, int b);

/* Cycles through all of chips[n] of one plane that share no link: up to max_cycles, each
 * an order of the indices 0..n-1 in cycles[i * n]. Where no cycle of neighbours is found, one in
 * the order given, whose edges are routed. Returns how many, at least 1. */
int topology_rings(const collective_topology *t, const int *chips, int n, int max_cycles,
                   int *cycles);

#endif
