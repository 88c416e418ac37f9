/* The algorithms: steps, and bytes on links. n members on m chips with a buffer of S bytes each.
 *
 * passes  1 for all_gather, reduce_scatter and all_to_all; 2 for all_reduce, which is a
 *         reduce_scatter and an all_gather, and for broadcast, which scatters and gathers
 * (published broadcasts take what an all_reduce takes) mesh    a step a pass; a member sends S / n
 * to every other ring    n - 1 hops a pass, each edge carries (n - 1) / n S a pass, dealt over both
 * directions of the cycles that share no link kanga   the same with chips in place of members: m -
 * 1 hops, (m - 1) / m S RDH     log2 m steps a pass, S / 2, S / 4, ... exchanged with chips whose
 * index differs in a bit levels  (hierarchical) inside each plane on S, then between planes of a
 * node on a chip's share of S, then between nodes on a chip's share of what its node has. Nothing
 * overlaps. */
#include "collective/traffic.h"

enum { MAX_CYCLES = 2, MAX_RING = 64 };

static double passes_of(collective_op op) {
    return op == COLLECTIVE_ALL_REDUCE || op == COLLECTIVE_BROADCAST ? 2 : 1;
}

static int log2_of(int n) {
    int bits = 0;
    while (n >>= 1)
        bits++;
    return bits;
}

static bool is_power_of_two(int n) {
    return (n & (n - 1)) == 0;
}

/* The part of a group's chips that is in one plane. */
typedef struct part {
    const int *chips, *weights;
    int n_chips, n;
} part;

static part next_part(const collective_topology *t, const traffic_group *g, int first) {
    part p = {.chips = g->chips + first, .weights = g->weights + first};
    int plane = topology_plane_of(t, g->chips[first]);
    for (int i = first; i < g->n_chips && topology_plane_of(t, g->chips[i]) == plane; i++) {
        p.n_chips++;
        p.n += g->weights[i];
    }
    return p;
}

/* Members of one chip: each writes to every other, until its own engines are at their limit. */
static traffic_phase add_local(const collective_topology *t, const traffic_plan *plan, int n) {
    double passes = passes_of(plan->op);
    double rate = (n - 1) * t->chip.collective.pair_bytes_per_s;
    double limit = t->lnc * t->chip.collective.core_bytes_per_s;
    if (rate > limit)
        rate = limit;
    return (traffic_phase){.latency_ns = passes * t->chip.collective.local_step_ns,
                           .local_ns = 1e9 * passes * (n - 1) / n * plan->bytes / rate,
                           .n_steps = (int)passes,
                           .efficiency = 1};
}

static traffic_phase add_mesh(const collective_topology *t, const traffic_plan *plan, part p,
                              bool spans_nodes, double *load) {
    double passes = passes_of(plan->op), piece = passes * plan->bytes / p.n;
    for (int a = 0; a < p.n_chips; a++)
        for (int b = 0; b < p.n_chips; b++)
            topology_route(t, p.chips[a], p.chips[b], p.weights[a] * p.weights[b] * piece, load);
    double step = spans_nodes ? t->chip.collective.network_step_ns : t->chip.collective.step_ns;
    return (traffic_phase){.latency_ns = passes * step,
                           .n_steps = (int)passes,
                           .efficiency = t->chip.collective.mesh_efficiency};
}

static traffic_phase add_ring(const collective_topology *t, const traffic_plan *plan, part p,
                              bool is_kanga, double *load) {
    int cycles[(MAX_CYCLES + 1) * MAX_RING], n_cycles = 1;
    if (p.n_chips <= MAX_RING)
        n_cycles = topology_rings(t, p.chips, p.n_chips, MAX_CYCLES, cycles);
    int n = is_kanga ? p.n_chips : p.n, m = p.n_chips;
    double passes = passes_of(plan->op);
    double bytes = passes * (n - 1) / n * plan->bytes / (2 * n_cycles);
    for (int c = 0; c < n_cycles; c++)
        for (int i = 0; i < m; i++) {
            int j = (i + 1) % m;
            int a = m <= MAX_RING ? cycles[c * m + i] : i,
                b = m <= MAX_RING ? cycles[c * m + j] : j;
            topology_route(t, p.chips[a], p.chips[b], bytes, load);
            topology_route(t, p.chips[b], p.chips[a], bytes, load);
        }
    int hops = (int)passes * (n - 1);
    return (traffic_phase){.latency_ns = hops * t->chip.collective.ring_hop_ns,
                           .n_steps = hops,
                           .efficiency = t->chip.collective.ring_efficiency};
}

/* The largest exchange is with the nearest chip. */
static traffic_phase add_rdh_step(const collective_topology *t, const traffic_plan *plan, part p,
                                  int step, double *load) {
    double passes = passes_of(plan->op), bytes = passes * plan->bytes / (2 << step);
    for (int a = 0; a < p.n_chips; a++)
        topology_route(t, p.chips[a], p.chips[a ^ 1 << step], bytes, load);
    return (traffic_phase){.latency_ns = passes * t->chip.collective.step_ns,
                           .n_steps = (int)passes,
                           .efficiency = t->chip.collective.ring_efficiency};
}

static void keep_longer(traffic_phase *longest, traffic_phase phase) {
    if (phase.latency_ns > longest->latency_ns) {
        longest->latency_ns = phase.latency_ns;
        longest->n_steps = phase.n_steps;
    }
    if (phase.local_ns > longest->local_ns)
        longest->local_ns = phase.local_ns;
    longest->efficiency = phase.efficiency < longest->efficiency || longest->efficiency == 0
                              ? phase.efficiency
                              : longest->efficiency;
}

static traffic_phase add_planes(const collective_topology *t, const traffic_plan *plan,
                                const traffic_group *g, double *load) {
    traffic_phase longest = {0};
    for (int first = 0; first < g->n_chips;) {
        part p = next_part(t, g, first);
        first += p.n_chips;
        if (p.n == 1)
            continue;
        if (p.n_chips == 1)
            keep_longer(&longest, add_local(t, plan, p.n));
        else if (plan->inner == COLLECTIVE_MESH)
            keep_longer(&longest, add_mesh(t, plan, p, false, load));
        else
            keep_longer(&longest, add_ring(t, plan, p, plan->inner == COLLECTIVE_KANGARING, load));
    }
    if (longest.efficiency == 0)
        longest.efficiency = 1;
    return longest;
}

/* Domains of an upper level, planes of a node or nodes, among the group's chips [first, last). */
typedef struct level {
    int first, last;
    bool is_node;
} level;

/* Chips from `first` on that are in one domain. */
typedef struct domain {
    int first, n_chips, n; /* n: members */
} domain;

static domain next_domain(const collective_topology *t, const traffic_group *g, level l) {
    domain d = {.first = l.first};
    int (*domain_of)(const collective_topology *, int) =
        l.is_node ? topology_node_of : topology_plane_of;
    int of = domain_of(t, g->chips[l.first]);
    for (int i = l.first; i < l.last && domain_of(t, g->chips[i]) == of; i++) {
        d.n_chips++;
        d.n += g->weights[i];
    }
    return d;
}

static int count_domains(const collective_topology *t, const traffic_group *g, level l) {
    int n = 0;
    for (; l.first < l.last; n++)
        l.first += next_domain(t, g, l).n_chips;
    return n;
}

/* Each chip's share of the buffer goes once round the domains: to the chip at the same place in the
 * next one. Returns how many domains there are. */
static int add_round(const collective_topology *t, const traffic_plan *plan, const traffic_group *g,
                     level l, double *load) {
    int n_domains = count_domains(t, g, l);
    double part_sent = passes_of(plan->op) * (n_domains - 1) / n_domains * plan->bytes;
    level rest = l;
    for (int i = 0; i < n_domains && n_domains > 1; i++) {
        domain here = next_domain(t, g, rest);
        rest.first += here.n_chips;
        domain next = next_domain(t, g, rest.first < rest.last ? rest : l);
        for (int c = 0; c < here.n_chips; c++) {
            int from = g->chips[here.first + c], to = g->chips[next.first + c % next.n_chips];
            double bytes = part_sent * g->weights[here.first + c] / here.n;
            topology_route(t, from, to, bytes / 2, load);
            topology_route(t, to, from, bytes / 2, load);
        }
    }
    return n_domains;
}

static traffic_phase add_upper_level(const collective_topology *t, const traffic_plan *plan,
                                     const traffic_group *g, bool is_node, double *load) {
    int most = 0;
    level nodes = {0, g->n_chips, true};
    if (is_node)
        most = add_round(t, plan, g, nodes, load);
    for (; !is_node && nodes.first < nodes.last;) {
        domain node = next_domain(t, g, nodes);
        int n = add_round(t, plan, g, (level){node.first, node.first + node.n_chips, false}, load);
        most = n > most ? n : most;
        nodes.first += node.n_chips;
    }
    int hops = most > 1 ? (int)passes_of(plan->op) * (most - 1) : 0;
    double hop = is_node ? t->chip.collective.network_step_ns : t->chip.collective.ring_hop_ns;
    return (traffic_phase){.latency_ns = hops * hop,
                           .n_steps = hops,
                           .efficiency = t->chip.collective.ring_efficiency};
}

static traffic_phase add_permute(const collective_topology *t, const traffic_plan *plan,
                                 const traffic_group *g, double *load) {
    int from = g->from / t->per_chip, to = g->to / t->per_chip;
    traffic_phase phase = {.latency_ns = t->chip.collective.local_step_ns,
                           .n_steps = 1,
                           .efficiency = t->chip.collective.mesh_efficiency};
    /* What leaves the chip goes through the core's own engines too. */
    phase.local_ns = 1e9 * plan->bytes / (t->lnc * t->chip.collective.write_bytes_per_s);
    if (from == to)
        return phase;
    phase.latency_ns = topology_node_of(t, from) == topology_node_of(t, to)
                           ? t->chip.collective.step_ns
                           : t->chip.collective.network_step_ns;
    topology_route(t, from, to, plan->bytes, load);
    return phase;
}

int traffic_n_phases(const traffic_plan *plan, const traffic_group *g) {
    if (plan->algorithm == COLLECTIVE_HIERARCHICAL && g->n_planes > 1)
        return 3;
    return plan->algorithm == COLLECTIVE_RDH && g->n_chips > 1 ? log2_of(g->n_chips) : 1;
}

traffic_phase traffic_add(const collective_topology *t, const traffic_plan *plan,
                          const traffic_group *g, int phase, double *load) {
    if (plan->op == COLLECTIVE_PERMUTE)
        return add_permute(t, plan, g, load);
    if (g->n == 1)
        return (traffic_phase){.latency_ns = t->chip.collective.local_step_ns,
                               .local_ns = 1e9 * plan->bytes /
                                           (t->lnc * t->chip.collective.write_bytes_per_s),
                               .n_steps = 1,
                               .efficiency = 1};
    if (g->n_chips == 1)
        return add_local(t, plan, g->n);
    part all = {g->chips, g->weights, g->n_chips, g->n};
    switch (plan->algorithm) {
    case COLLECTIVE_RDH:
        return add_rdh_step(t, plan, all, phase, load);
    case COLLECTIVE_RING:
    case COLLECTIVE_KANGARING:
        return add_ring(t, plan, all, plan->algorithm == COLLECTIVE_KANGARING, load);
    case COLLECTIVE_HIERARCHICAL:
        if (g->n_planes == 1 || phase == 0)
            return add_planes(t, plan, g, load);
        return add_upper_level(t, plan, g, phase == 2, load);
    default:
        return add_mesh(t, plan, all, g->n_nodes > 1, load);
    }
}

double traffic_start_ns(const collective_topology *t, const traffic_plan *plan,
                        const traffic_group *g) {
    if (g->n == 1)
        return 0;
    int peers = g->n;
    if (plan->op == COLLECTIVE_PERMUTE)
        peers = 1;
    else if (g->n_chips > 1 &&
             (plan->algorithm == COLLECTIVE_RING || plan->algorithm == COLLECTIVE_KANGARING))
        peers = 2;
    else if (g->n_chips > 1 && plan->algorithm == COLLECTIVE_RDH)
        peers = log2_of(g->n_chips);
    return t->chip.collective.start_ns + peers * t->chip.collective.peer_ns +
           (g->spans_dies ? t->chip.collective.die_crossing_ns : 0);
}

bool traffic_can_run(const traffic_plan *plan, const traffic_group *g) {
    if (plan->op == COLLECTIVE_PERMUTE)
        return plan->algorithm == COLLECTIVE_ROUTED;
    if (plan->algorithm == COLLECTIVE_ROUTED || plan->algorithm == COLLECTIVE_LOCAL)
        return false;
    if (g->n_chips == 1 || plan->algorithm == COLLECTIVE_MESH)
        return true;
    if (plan->op == COLLECTIVE_ALL_TO_ALL)
        return false;
    if (plan->algorithm == COLLECTIVE_HIERARCHICAL)
        return true;
    if (g->n_planes > 1)
        return false;
    if (plan->algorithm != COLLECTIVE_RDH)
        return true;
    for (int i = 0; i < g->n_chips; i++)
        if (g->weights[i] != g->weights[0])
            return false;
    return is_power_of_two(g->n_chips);
}
