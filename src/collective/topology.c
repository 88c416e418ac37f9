/* Topologies from their name in chips/instances.toml, and routes over their links. */
#include "collective/topology.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int chips_of_node(const collective_topology *t) {
    return t->size[0] * t->size[1] * t->size[2];
}

static void coordinates(const collective_topology *t, int chip, int xyz[3]) {
    int i = chip % chips_of_node(t);
    xyz[0] = i % t->size[0];
    xyz[1] = i / t->size[0] % t->size[1];
    xyz[2] = i / (t->size[0] * t->size[1]);
}

int topology_node_of(const collective_topology *t, int chip) {
    return chip / chips_of_node(t);
}

int topology_plane_of(const collective_topology *t, int chip) {
    return chip / (t->size[0] * t->size[1]);
}

int topology_n_planes(const collective_topology *t) {
    return t->n_nodes * t->size[2];
}

/* "torus-4x4": its kind, and the sizes in t. */
static vtrn_status parse_name(collective_topology *t) {
    static const struct {
        const char *format;
        int n_dims;
        bool wraps, is_switch;
    } forms[] = {{"torus-%dx%dx%d%c", 3, true, false},
                 {"torus-%dx%d%c", 2, true, false},
                 {"ring-%d%c", 1, true, false},
                 {"chain-%d%c", 1, false, false},
                 {"switch-%d%c", 1, false, true}};
    const char *name = t->instance.topology;
    if (strcmp(name, "single") == 0) {
        t->size[0] = t->size[1] = t->size[2] = 1;
    } else {
        size_t i = 0;
        for (; i < sizeof forms / sizeof *forms; i++) {
            int size[3] = {1, 1, 1};
            char rest;
            void *out[4] = {&size[0], &size[1], &size[2], &rest};
            out[forms[i].n_dims] = &rest;
            if (sscanf(name, forms[i].format, out[0], out[1], out[2], out[3]) != forms[i].n_dims)
                continue;
            memcpy(t->size, size, sizeof size);
            t->wraps = forms[i].wraps;
            t->is_switch = forms[i].is_switch;
            break;
        }
        if (i == sizeof forms / sizeof *forms)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "%s: topology \"%s\" is not known; single, chain-N, ring-N, "
                              "torus-AxB, torus-AxBxC and switch-N are",
                              t->instance.name, name);
    }
    int64_t n = 1;
    for (int d = 0; d < 3; d++)
        n = t->size[d] > 0 && n <= 4096 ? n * t->size[d] : 0;
    if (n != t->instance.n_chips)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: topology \"%s\" has %lld chips, chips = %d",
                          t->instance.name, name, (long long)n, t->instance.n_chips);
    return NULL;
}

static int add_link(collective_topology *t, int from, int to, double rate,
                    topology_link_kind kind) {
    t->links[t->n_links] = (collective_link){from, to, rate};
    t->link_kinds[t->n_links] = (uint8_t)kind;
    return t->n_links++;
}

/* The chip one step away, -1: none. Steps of a dimension of two both lead to the other chip, over
 * one link. */
static int neighbour(const collective_topology *t, int chip, int dim, int step) {
    int xyz[3];
    coordinates(t, chip, xyz);
    int size = t->size[dim], at = xyz[dim] + step;
    if (size < 2 || (size == 2 && at != 1 - xyz[dim]))
        return -1;
    if ((at < 0 || at == size) && !t->wraps)
        return -1;
    int stride = dim == 0 ? 1 : dim == 1 ? t->size[0] : t->size[0] * t->size[1];
    return chip + ((at + size) % size - xyz[dim]) * stride;
}

static void add_chip_links(collective_topology *t, int chip) {
    for (int i = 0; i < TOPOLOGY_N_DIRECTIONS; i++)
        t->out_links[chip][i] = -1;
    if (t->is_switch) {
        t->out_links[chip][0] = add_link(t, chip, -1, t->instance.link_bytes_per_s, TOPOLOGY_CHIP);
        t->out_links[chip][1] = add_link(t, -1, chip, t->instance.link_bytes_per_s, TOPOLOGY_CHIP);
        return;
    }
    for (int dim = 0; dim < 3; dim++)
        for (int back = 0; back < 2; back++) {
            int to = neighbour(t, chip, dim, back ? -1 : 1);
            double rate = dim == 2 ? t->instance.z_link_bytes_per_s : t->instance.link_bytes_per_s;
            if (to >= 0)
                t->out_links[chip][2 * dim + back] = add_link(t, chip, to, rate, TOPOLOGY_CHIP);
        }
}

static vtrn_status check(const vtrn_instance *instance, const vtrn_chip *chip, int lnc,
                         int n_nodes) {
    if (strcmp(instance->chip, chip->name) != 0)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s has chips of kind %s, not %s", instance->name,
                          instance->chip, chip->name);
    if (lnc < 1 || chip->n_cores % lnc)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "LNC %d does not divide the %d cores of %s", lnc,
                          chip->n_cores, chip->name);
    if (!chip->collective.pair_bytes_per_s || !chip->collective.core_bytes_per_s ||
        !chip->collective.write_bytes_per_s || !chip->collective.mesh_efficiency ||
        !chip->collective.ring_efficiency)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "nothing is known of collectives on %s: chips/%s.toml has no complete "
                          "table [collective]",
                          chip->name, chip->name);
    if (instance->n_chips > 1 && !instance->link_bytes_per_s)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s has several chips and no link_bytes_per_s in instances.toml",
                          instance->name);
    if (n_nodes < 1 || n_nodes > 1024)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%d nodes; 1 to 1024 can be", n_nodes);
    if (n_nodes > 1 &&
        (!instance->n_nics || !instance->nic_bytes_per_s || !chip->collective.network_efficiency))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s cannot be joined to others: it has no network adapters (nics in "
                          "instances.toml); take trn1.32xlarge, trn2.48xlarge or a larger one",
                          instance->name);
    return NULL;
}

static vtrn_status build(collective_topology *t) {
    VTRN_RETURN_IF_ERROR(parse_name(t));
    if (t->size[2] > 1 && !t->instance.z_link_bytes_per_s)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: topology \"%s\" needs z_link_bytes_per_s",
                          t->instance.name, t->instance.topology);
    t->n_chips = t->n_nodes * t->instance.n_chips;
    size_t n_chips = (size_t)t->n_chips;
    size_t capacity = n_chips * TOPOLOGY_N_DIRECTIONS + 1;
    if (t->n_nodes > 1)
        capacity += 2 * (size_t)t->n_nodes * (size_t)t->instance.n_nics;
    t->links = calloc(capacity, sizeof *t->links);
    t->link_kinds = calloc(capacity, sizeof *t->link_kinds);
    t->out_links = calloc(n_chips + 1, sizeof *t->out_links);
    if (!t->links || !t->link_kinds || !t->out_links)
        return VTRN_OUT_OF_MEMORY(capacity * sizeof *t->links);
    for (int c = 0; c < t->n_chips; c++)
        add_chip_links(t, c);
    /* Behind the chips' links: of each node the adapters, out and in. */
    if (t->n_nodes > 1)
        for (int i = 0; i < t->n_nodes * t->instance.n_nics; i++) {
            int chip = (int)((int64_t)i * t->instance.n_chips / t->instance.n_nics);
            add_link(t, chip, -1, t->instance.nic_bytes_per_s, TOPOLOGY_NETWORK);
            add_link(t, -1, chip, t->instance.nic_bytes_per_s, TOPOLOGY_NETWORK);
        }
    return NULL;
}

vtrn_status collective_topology_create(const vtrn_instance *instance, const vtrn_chip *chip,
                                       int lnc, int n_nodes, collective_topology **out) {
    *out = NULL;
    VTRN_RETURN_IF_ERROR(check(instance, chip, lnc, n_nodes));
    collective_topology *t = calloc(1, sizeof *t);
    if (!t)
        return VTRN_OUT_OF_MEMORY(sizeof *t);
    t->chip = *chip;
    t->instance = *instance;
    t->lnc = lnc;
    t->n_nodes = n_nodes;
    t->per_chip = chip->n_cores / lnc;
    vtrn_status status = build(t);
    if (status)
        collective_topology_destroy(t);
    else
        *out = t;
    return status;
}

void collective_topology_destroy(collective_topology *topology) {
    if (!topology)
        return;
    free(topology->links);
    free(topology->link_kinds);
    free(topology->out_links);
    free(topology);
}

int collective_n_devices(const collective_topology *t) {
    return t->n_chips * t->per_chip;
}

collective_place collective_place_of(const collective_topology *t, int device) {
    int chip = device / t->per_chip;
    collective_place place = {.node = topology_node_of(t, chip),
                              .chip = chip % t->instance.n_chips,
                              .core = device % t->per_chip};
    coordinates(t, chip, place.xyz);
    place.xyz[2] += place.node * t->size[2];
    return place;
}

int collective_n_links(const collective_topology *t) {
    return t->n_links;
}

collective_link collective_link_at(const collective_topology *t, int link) {
    return t->links[link];
}

/* The adapter that a chip uses: they are shared out evenly. */
static int adapter_of(const collective_topology *t, int chip) {
    int in_node = chip % t->instance.n_chips;
    int nic = (int)((int64_t)in_node * t->instance.n_nics / t->instance.n_chips);
    int n_network = 2 * t->n_nodes * t->instance.n_nics;
    return t->n_links - n_network + 2 * (topology_node_of(t, chip) * t->instance.n_nics + nic);
}

static int walk(const collective_topology *t, int chip, int direction, int n, double bytes,
                double *load) {
    for (int i = 0; i < n; i++) {
        int link = t->out_links[chip][direction];
        load[link] += bytes;
        chip = t->links[link].to;
    }
    return chip;
}

void topology_route(const collective_topology *t, int from, int to, double bytes, double *load) {
    if (from == to)
        return;
    if (topology_node_of(t, from) != topology_node_of(t, to)) {
        load[adapter_of(t, from)] += bytes;
        load[adapter_of(t, to) + 1] += bytes;
        return;
    }
    if (t->is_switch) {
        load[t->out_links[from][0]] += bytes;
        load[t->out_links[to][1]] += bytes;
        return;
    }
    int a[3], b[3];
    coordinates(t, from, a);
    coordinates(t, to, b);
    int at = from;
    for (int d = 0; d < 3; d++) {
        int size = t->size[d], ahead = (b[d] - a[d] + size) % size;
        if (!ahead)
            continue;
        bool has_both = t->wraps && size > 2;
        if (!has_both)
            at = walk(t, at, 2 * d + (b[d] < a[d]), abs(b[d] - a[d]), bytes, load);
        else if (2 * ahead == size) {
            walk(t, at, 2 * d + 1, ahead, bytes / 2, load);
            at = walk(t, at, 2 * d, ahead, bytes / 2, load);
        } else if (2 * ahead < size)
            at = walk(t, at, 2 * d, ahead, bytes, load);
        else
            at = walk(t, at, 2 * d + 1, size - ahead, bytes, load);
    }
}

bool topology_is_neighbour(const collective_topology *t, int a, int b) {
    if (t->is_switch)
        return topology_node_of(t, a) == topology_node_of(t, b) && a != b;
    for (int i = 0; i < TOPOLOGY_N_DIRECTIONS; i++)
        if (t->out_links[a][i] >= 0 && t->links[t->out_links[a][i]].to == b)
            return true;
    return false;
}
