/* Cycles of neighbouring chips, found by search: a torus of 4 x 4 has two without a common link. */
#include "collective/topology.h"

/* Steps of one search. A torus of 4 x 4 takes some hundreds; a set of chips without a cycle could
 * take as many as there are paths. */
enum { MAX_STEPS = 20000, MAX_CHIPS = 64 };

typedef struct search {
    uint64_t free_edges[MAX_CHIPS]; /* a bit for each chip that an unused link leads to */
    int n, max_cycles, n_steps;
    int *cycles; /* [max_cycles][n] */
} search;

static bool find_cycle(search *s, int cycle_i, int depth, uint64_t seen);

static void take_edges(search *s, const int *cycle, bool is_taken) {
    for (int i = 0; i < s->n; i++) {
        int a = cycle[i], b = cycle[(i + 1) % s->n];
        if (is_taken) {
            s->free_edges[a] &= ~(1ull << b);
            s->free_edges[b] &= ~(1ull << a);
        } else {
            s->free_edges[a] |= 1ull << b;
            s->free_edges[b] |= 1ull << a;
        }
    }
}

/* A cycle is complete: true if the others are found beside it. */
static bool finish_cycle(search *s, int cycle_i) {
    if (cycle_i + 1 == s->max_cycles)
        return true;
    int *cycle = s->cycles + cycle_i * s->n;
    take_edges(s, cycle, true);
    cycle[s->n] = 0; /* the next cycle begins at the same chip */
    bool is_found = find_cycle(s, cycle_i + 1, 1, 1);
    take_edges(s, cycle, false);
    return is_found;
}

static bool find_cycle(search *s, int cycle_i, int depth, uint64_t seen) {
    int *cycle = s->cycles + cycle_i * s->n;
    if (depth == s->n)
        return (s->free_edges[cycle[depth - 1]] & 1) && finish_cycle(s, cycle_i);
    uint64_t next = s->free_edges[cycle[depth - 1]] & ~seen;
    for (int i = 0; i < s->n && s->n_steps < MAX_STEPS; i++) {
        if (!(next >> i & 1))
            continue;
        s->n_steps++;
        cycle[depth] = i;
        if (find_cycle(s, cycle_i, depth + 1, seen | 1ull << i))
            return true;
    }
    return false;
}

int topology_rings(const collective_topology *t, const int *chips, int n, int max_cycles,
                   int *cycles) {
    search s = {.n = n, .cycles = cycles};
    for (int i = 0; i < n; i++)
        cycles[i] = i;
    if (n < 3 || n > MAX_CHIPS || t->is_switch)
        return 1;
    for (int a = 0; a < n; a++)
        for (int b = 0; b < n; b++)
            if (topology_is_neighbour(t, chips[a], chips[b]))
                s.free_edges[a] |= 1ull << b;
    for (s.max_cycles = max_cycles; s.max_cycles > 0; s.max_cycles--) {
        s.n_steps = 0;
        cycles[0] = 0;
        if (find_cycle(&s, 0, 1, 1))
            return s.max_cycles;
    }
    for (int i = 0; i < n; i++)
        cycles[i] = i;
    return 1;
}
