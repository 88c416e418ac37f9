/* The time of a request: which algorithm, what its phases load the links with, the slowest group.
 *
 * All groups of a request go through the same phases at the same time, so a link carries the sum of
 * what they send over it in a phase. A phase takes a group its steps' latency and the longer of its
 * cores' transfers and the fullest of the links that it uses. */
#include "collective/traffic.h"

#include <stdlib.h>
#include <string.h>

static const char *const op_names[] = {"all_reduce", "all_gather", "reduce_scatter",
                                       "all_to_all", "permute",    "broadcast"};
static const char *const algorithm_names[] = {"local",     "mesh",         "rdh",   "ring",
                                              "kangaring", "hierarchical", "routed"};

const char *collective_op_name(collective_op op) {
    return op_names[op];
}

const char *collective_algorithm_name(collective_algorithm algorithm) {
    return algorithm_names[algorithm];
}

/* One allocation's worth of arrays. */
typedef struct workspace {
    double *total, *own, *moved;   /* [n_links]: of a phase, of a group in it, of all phases */
    double *group_ns, *latency_ns; /* [n_groups] */
    int *n_steps;                  /* [n_groups] */
    int *chips, *weights;          /* of the group at hand, [n_chips] */
    int *seen;                     /* [n_devices] */
    void *memory;
} workspace;

static vtrn_status allocate(const collective_topology *t, const collective_request *r,
                            workspace *w) {
    size_t n_links = (size_t)t->n_links, n_groups = (size_t)r->n_groups;
    size_t n_doubles = 3 * n_links + 2 * n_groups;
    size_t n_ints = n_groups + 2 * (size_t)t->n_chips + (size_t)collective_n_devices(t);
    size_t size = n_doubles * sizeof(double) + n_ints * sizeof(int);
    double *at = w->memory = calloc(1, size);
    if (!at)
        return VTRN_OUT_OF_MEMORY(size);
    w->total = at;
    w->own = w->total + n_links;
    w->moved = w->own + n_links;
    w->group_ns = w->moved + n_links;
    w->latency_ns = w->group_ns + n_groups;
    w->n_steps = (int *)(void *)(w->latency_ns + n_groups);
    w->chips = w->n_steps + n_groups;
    w->weights = w->chips + t->n_chips;
    w->seen = w->weights + t->n_chips;
    return NULL;
}

static const int *members_of(const collective_request *r, int group) {
    return r->devices + (size_t)group * (size_t)r->group_size;
}

static int compare_ints(const void *a, const void *b) {
    return *(const int *)a - *(const int *)b;
}

static void describe(const collective_topology *t, const collective_request *r, int group,
                     workspace *w, traffic_group *g) {
    const int *members = members_of(r, group);
    *g = (traffic_group){.chips = w->chips, .weights = w->weights};
    for (int i = 0; i < r->group_size; i++) {
        if (members[i] < 0)
            continue;
        int chip = members[i] / t->per_chip, at = 0;
        while (at < g->n_chips && g->chips[at] != chip)
            at++;
        if (at == g->n_chips)
            g->chips[g->n_chips++] = chip;
        g->n++;
    }
    qsort(g->chips, (size_t)g->n_chips, sizeof *g->chips, compare_ints);
    memset(g->weights, 0, (size_t)g->n_chips * sizeof *g->weights);
    int cores_per_die = t->chip.collective.cores_per_die;
    for (int at = 0; at < g->n_chips; at++) {
        unsigned dies = 0;
        for (int i = 0; i < r->group_size; i++)
            if (members[i] >= 0 && members[i] / t->per_chip == g->chips[at]) {
                g->weights[at]++;
                if (cores_per_die)
                    dies |= 1u << (members[i] % t->per_chip * t->lnc / cores_per_die) % 32;
            }
        g->spans_dies |= (dies & (dies - 1)) != 0;
        bool is_new_node =
            !at || topology_node_of(t, g->chips[at]) != topology_node_of(t, g->chips[at - 1]);
        bool is_new_plane =
            !at || topology_plane_of(t, g->chips[at]) != topology_plane_of(t, g->chips[at - 1]);
        g->n_nodes += is_new_node;
        g->n_planes += is_new_plane;
    }
    if (r->op == COLLECTIVE_PERMUTE) {
        g->from = members[0];
        g->to = members[1];
        g->n = g->from == g->to ? 1 : 2;
    }
}

/* Checks. */

static vtrn_status check_member(const collective_topology *t, const collective_request *r,
                                int group, int i, int *seen) {
    int device = members_of(r, group)[i];
    bool is_permute = r->op == COLLECTIVE_PERMUTE;
    if (device == -1 && !is_permute)
        return NULL;
    if (device < 0 || device >= collective_n_devices(t))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: group %d names device %d; there are 0 to %d",
                          op_names[r->op], group, device, collective_n_devices(t) - 1);
    int bit = is_permute ? 1 << i : 1;
    if (seen[device] & bit)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: device %d is named a second time%s, in group %d",
                          op_names[r->op], device,
                          !is_permute ? ""
                          : i         ? " as a target"
                                      : " as a source",
                          group);
    seen[device] |= bit;
    return NULL;
}

static vtrn_status check(const collective_topology *t, const collective_request *r, int *seen) {
    for (int group = 0; group < r->n_groups; group++) {
        int n = 0;
        for (int i = 0; i < r->group_size; i++) {
            VTRN_RETURN_IF_ERROR(check_member(t, r, group, i, seen));
            n += members_of(r, group)[i] >= 0;
        }
        if (!n)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: group %d has no member", op_names[r->op],
                              group);
    }
    return NULL;
}

static vtrn_status check_shape(const collective_request *r) {
    if ((unsigned)r->op >= COLLECTIVE_N_OPS || (unsigned)r->algorithm >= COLLECTIVE_N_ALGORITHMS)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "no collective has operation %d and algorithm %d",
                          (int)r->op, (int)r->algorithm);
    if (r->n_groups < 1 || r->group_size < 1)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: %d groups of %d members; both must be 1 or more",
                          op_names[r->op], r->n_groups, r->group_size);
    if (r->op == COLLECTIVE_PERMUTE && r->group_size != 2)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "permute: groups of %d devices; they are pairs, source and target",
                          r->group_size);
    return NULL;
}

/* Time. */

static double link_ns(const collective_topology *t, int link, double bytes, double efficiency) {
    if (t->link_kinds[link] == TOPOLOGY_NETWORK)
        efficiency = t->chip.collective.network_efficiency;
    return 1e9 * bytes / (t->links[link].bytes_per_s * efficiency);
}

/* All groups through one phase; false when none has it. */
static bool add_phase(const collective_topology *t, const collective_request *r,
                      const traffic_plan *plan, int phase, workspace *w) {
    size_t n_bytes = (size_t)t->n_links * sizeof(double);
    bool is_any = false;
    memset(w->total, 0, n_bytes);
    traffic_group g;
    for (int i = 0; i < r->n_groups; i++) {
        describe(t, r, i, w, &g);
        if (phase < traffic_n_phases(plan, &g)) {
            traffic_add(t, plan, &g, phase, w->total);
            is_any = true;
        }
    }
    for (int l = 0; l < t->n_links; l++)
        w->moved[l] += w->total[l];
    for (int i = 0; i < r->n_groups && is_any; i++) {
        describe(t, r, i, w, &g);
        if (phase >= traffic_n_phases(plan, &g))
            continue;
        memset(w->own, 0, n_bytes);
        traffic_phase p = traffic_add(t, plan, &g, phase, w->own);
        double longest = p.local_ns;
        for (int l = 0; l < t->n_links; l++) {
            double ns = w->own[l] > 0 ? link_ns(t, l, w->total[l], p.efficiency) : 0;
            longest = ns > longest ? ns : longest;
        }
        w->group_ns[i] += p.latency_ns + longest;
        w->latency_ns[i] += p.latency_ns;
        w->n_steps[i] += p.n_steps;
    }
    return is_any;
}

static collective_algorithm name_of(const traffic_plan *plan, const traffic_group *g) {
    if (g->n == 1)
        return COLLECTIVE_LOCAL;
    return g->n_chips == 1 && plan->op != COLLECTIVE_PERMUTE ? COLLECTIVE_MESH : plan->algorithm;
}

static void run_plan(const collective_topology *t, const collective_request *r,
                     const traffic_plan *plan, workspace *w, collective_time *out) {
    traffic_group g;
    memset(w->moved, 0, (size_t)t->n_links * sizeof(double));
    for (int i = 0; i < r->n_groups; i++) {
        describe(t, r, i, w, &g);
        w->group_ns[i] = w->latency_ns[i] = traffic_start_ns(t, plan, &g);
        w->n_steps[i] = 0;
    }
    for (int phase = 0; add_phase(t, r, plan, phase, w);)
        phase++;
    int slowest = 0;
    for (int i = 1; i < r->n_groups; i++)
        if (w->group_ns[i] > w->group_ns[slowest])
            slowest = i;
    describe(t, r, slowest, w, &g);
    *out = (collective_time){.duration_ns = w->group_ns[slowest],
                             .latency_ns = w->latency_ns[slowest],
                             .algorithm = name_of(plan, &g),
                             .n_steps = w->n_steps[slowest],
                             .busiest_link = -1};
    double longest = 0;
    for (int l = 0; l < t->n_links; l++) {
        double ns = link_ns(t, l, w->moved[l], 1);
        if (ns > longest) {
            longest = ns;
            out->busiest_link = l;
            out->busiest_link_bytes = w->moved[l];
        }
    }
}

/* Choice. */

static const char *allowed_algorithms(const collective_topology *t, const collective_request *r) {
    if (r->is_in_sbuf)
        return t->chip.collective.sbuf;
    switch (r->op) {
    case COLLECTIVE_ALL_REDUCE:
        return t->chip.collective.all_reduce;
    case COLLECTIVE_ALL_GATHER:
        return t->chip.collective.all_gather;
    case COLLECTIVE_REDUCE_SCATTER:
        return t->chip.collective.reduce_scatter;
    case COLLECTIVE_BROADCAST:
        return t->chip.collective.broadcast;
    case COLLECTIVE_PERMUTE:
        return "routed";
    default:
        return "mesh";
    }
}

static bool has_word(const char *list, const char *word) {
    size_t len = strlen(word);
    for (const char *at = list; *at; at += strcspn(at, ","), at += strspn(at, ","))
        if (strncmp(at, word, len) == 0 && (at[len] == ',' || !at[len]))
            return true;
    return false;
}

typedef struct candidates {
    traffic_plan plans[2 * COLLECTIVE_N_ALGORITHMS];
    int n;
} candidates;

static bool can_all_run(const collective_topology *t, const collective_request *r,
                        const traffic_plan *plan, workspace *w) {
    traffic_group g;
    for (int i = 0; i < r->n_groups; i++) {
        describe(t, r, i, w, &g);
        if (!traffic_can_run(plan, &g))
            return false;
    }
    return true;
}

static bool spans_planes(const collective_topology *t, const collective_request *r, workspace *w) {
    traffic_group g;
    for (int i = 0; i < r->n_groups; i++) {
        describe(t, r, i, w, &g);
        if (g.n_planes > 1)
            return true;
    }
    return false;
}

/* The algorithms of the chip's table that the groups can run; over several planes each of them
 * also as the inner one of a hierarchical plan. */
static vtrn_status list_candidates(const collective_topology *t, const collective_request *r,
                                   workspace *w, candidates *out) {
    const char *allowed = allowed_algorithms(t, r);
    bool is_hierarchical = spans_planes(t, r, w);
    out->n = 0;
    for (int a = COLLECTIVE_MESH; a < COLLECTIVE_N_ALGORITHMS; a++) {
        if (!has_word(allowed, algorithm_names[a]))
            continue;
        traffic_plan plan = {r->op, (collective_algorithm)a, COLLECTIVE_MESH, (double)r->bytes};
        if ((!r->algorithm || r->algorithm == plan.algorithm) && can_all_run(t, r, &plan, w))
            out->plans[out->n++] = plan;
        bool is_inner = a == COLLECTIVE_MESH || a == COLLECTIVE_RING || a == COLLECTIVE_KANGARING;
        plan.algorithm = COLLECTIVE_HIERARCHICAL;
        plan.inner = (collective_algorithm)a;
        if (is_hierarchical && is_inner &&
            (!r->algorithm || r->algorithm == COLLECTIVE_HIERARCHICAL) &&
            can_all_run(t, r, &plan, w))
            out->plans[out->n++] = plan;
    }
    if (out->n)
        return NULL;
    if (!allowed[0])
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "chips/%s.toml names no algorithm for %s%s in [collective]; add one",
                          t->chip.name, op_names[r->op], r->is_in_sbuf ? " in SBUF" : "");
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "%s of these groups cannot run as %s; %s has \"%s\" for it", op_names[r->op],
                      r->algorithm ? algorithm_names[r->algorithm] : "any algorithm", t->chip.name,
                      allowed);
}

/* The fastest plan, left in *best, its time in *out. */
static void choose(const collective_topology *t, const collective_request *r,
                   const candidates *list, workspace *w, traffic_plan *best, collective_time *out) {
    for (int i = 0; i < list->n; i++) {
        collective_time time;
        run_plan(t, r, &list->plans[i], w, &time);
        if (i == 0 || time.duration_ns < out->duration_ns) {
            *out = time;
            *best = list->plans[i];
        }
    }
}

static vtrn_status estimate(const collective_topology *t, const collective_request *r,
                            collective_time *out, double *link_bytes) {
    workspace w;
    candidates list;
    traffic_plan best;
    VTRN_RETURN_IF_ERROR(check_shape(r));
    VTRN_RETURN_IF_ERROR(allocate(t, r, &w));
    vtrn_status status = check(t, r, w.seen);
    if (!status)
        status = list_candidates(t, r, &w, &list);
    if (!status) {
        choose(t, r, &list, &w, &best, out);
        if (link_bytes) {
            run_plan(t, r, &best, &w, out);
            for (int l = 0; l < t->n_links; l++)
                link_bytes[l] += w.moved[l];
        }
    }
    free(w.memory);
    return status;
}

vtrn_status collective_estimate(const collective_topology *topology,
                                const collective_request *request, collective_time *out) {
    *out = (collective_time){.busiest_link = -1};
    return estimate(topology, request, out, NULL);
}

vtrn_status collective_link_bytes(const collective_topology *topology,
                                  const collective_request *request, double *link_bytes) {
    collective_time time;
    return estimate(topology, request, &time, link_bytes);
}

const char *collective_restriction(const collective_topology *t, const collective_request *r) {
    int n = r->group_size;
    if (r->op == COLLECTIVE_PERMUTE)
        return NULL;
    if (r->op == COLLECTIVE_ALL_TO_ALL)
        return n == 1 || n == 4 || n == 8 || n == 16 || n % 32 == 0
                   ? NULL
                   : "the runtime's all_to_all takes groups of 4, 8, 16 or a multiple of 32 cores";
    if (t->chip.gen == 2 && n != 1 && n != 2 && n != 8 && n != 16 && n % 32 != 0)
        return "the runtime takes groups of 1, 2, 8, 16 or a multiple of 32 cores on this chip";
    return NULL;
}
