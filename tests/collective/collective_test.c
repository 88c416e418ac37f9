/* Times of collectives: figures worked out by hand on a chip of round numbers, and what must hold
 * on every instance. */
#include "collective/collective.h"
#include "collective/topology.h"
#include "test_seed.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_DEVICES = 2048 };

/* Two cores a chip; 1 GB/s is a byte a ns. */
static vtrn_chip round_chip(void) {
    vtrn_chip chip = {.name = "round", .gen = 4, .n_cores = 2};
    chip.collective.start_ns = 1000;
    chip.collective.peer_ns = 10;
    chip.collective.local_step_ns = 100;
    chip.collective.step_ns = 200;
    chip.collective.ring_hop_ns = 300;
    chip.collective.network_step_ns = 5000;
    chip.collective.pair_bytes_per_s = 2e9;
    chip.collective.core_bytes_per_s = 4e9;
    chip.collective.write_bytes_per_s = 8e9;
    chip.collective.mesh_efficiency = 0.5;
    chip.collective.ring_efficiency = 0.25;
    chip.collective.network_efficiency = 0.5;
    strcpy(chip.collective.all_reduce, "mesh,rdh,ring,kangaring");
    strcpy(chip.collective.all_gather, "mesh,rdh,ring,kangaring");
    strcpy(chip.collective.reduce_scatter, "mesh,rdh,ring,kangaring");
    strcpy(chip.collective.broadcast, "mesh");
    strcpy(chip.collective.sbuf, "mesh");
    return chip;
}

static vtrn_instance round_instance(const char *topology, int n_chips) {
    vtrn_instance instance = {.name = "round.big",
                              .chip = "round",
                              .n_chips = n_chips,
                              .link_bytes_per_s = 1e9,
                              .z_link_bytes_per_s = 1e9,
                              .n_nics = n_chips / 2 ? n_chips / 2 : 1,
                              .nic_bytes_per_s = 1e9};
    strcpy(instance.topology, topology);
    return instance;
}

static collective_topology *round_topology(const char *topology, int n_chips, int n_nodes) {
    vtrn_chip chip = round_chip();
    vtrn_instance instance = round_instance(topology, n_chips);
    collective_topology *t;
    assert_null(collective_topology_create(&instance, &chip, 1, n_nodes, &t));
    return t;
}

static int *consecutive(int n) {
    static int devices[MAX_DEVICES];
    for (int i = 0; i < n; i++)
        devices[i] = i;
    return devices;
}

static collective_request request_of(collective_op op, uint64_t bytes, int n) {
    return (collective_request){
        .op = op, .bytes = bytes, .devices = consecutive(n), .n_groups = 1, .group_size = n};
}

static collective_time time_of(const collective_topology *t, const collective_request *request) {
    collective_time time;
    vtrn_status status = collective_estimate(t, request, &time);
    if (status)
        fail_msg("%s", vtrn_status_text(status));
    return time;
}

static void assert_ns(double ours, double expected) {
    if (fabs(ours - expected) > 1e-6 * fabs(expected) + 1e-9)
        fail_msg("%.9g ns, expected %.9g", ours, expected);
}

static void two_cores_of_a_chip_reduce_in_two_steps(void **state) {
    (void)state;
    collective_topology *t = round_topology("single", 1, 1);
    collective_request r = request_of(COLLECTIVE_ALL_REDUCE, 4000, 2);
    collective_time time = time_of(t, &r);
    /* Each step moves half of the buffer at 2 bytes a ns. */
    assert_ns(time.duration_ns, 1000 + 2 * 10 + 2 * (100 + 2000 / 2));
    assert_ns(time.latency_ns, 1000 + 2 * 10 + 2 * 100);
    assert_int_equal(time.algorithm, COLLECTIVE_MESH);
    assert_int_equal(time.n_steps, 2);
    assert_int_equal(time.busiest_link, -1);
    r.op = COLLECTIVE_ALL_GATHER;
    assert_ns(time_of(t, &r).duration_ns, 1000 + 2 * 10 + 100 + 2000 / 2);
    collective_topology_destroy(t);
}

static void a_mesh_loads_the_links_of_a_row(void **state) {
    (void)state;
    collective_topology *t = round_topology("ring-4", 4, 1);
    collective_request r = request_of(COLLECTIVE_ALL_GATHER, 8000, 8);
    r.algorithm = COLLECTIVE_MESH;
    collective_time time = time_of(t, &r);
    /* A piece of 1000 B; between two chips 2 x 2 pieces. A link carries those to the neighbour and
     * half of those to the chips two away, from two chips. */
    double bytes = 4 * 1000 + 2 * (4 * 1000 / 2);
    assert_ns(time.busiest_link_bytes, bytes);
    assert_ns(time.duration_ns, 1000 + 8 * 10 + 200 + bytes / 0.5);
    collective_topology_destroy(t);
}

static void a_ring_uses_both_directions_and_a_torus_two_cycles(void **state) {
    (void)state;
    collective_topology *row = round_topology("ring-4", 4, 1);
    collective_topology *torus = round_topology("torus-4x4", 16, 1);
    collective_request r = request_of(COLLECTIVE_ALL_REDUCE, 1 << 20, 8);
    r.algorithm = COLLECTIVE_RING;
    assert_ns(time_of(row, &r).busiest_link_bytes, 2 * 7.0 / 8 * (1 << 20) / 2);
    r = request_of(COLLECTIVE_ALL_REDUCE, 1 << 20, 32);
    r.algorithm = COLLECTIVE_KANGARING;
    collective_time time = time_of(torus, &r);
    double bytes = 2 * 15.0 / 16 * (1 << 20) / 4;
    assert_ns(time.busiest_link_bytes, bytes);
    assert_int_equal(time.n_steps, 2 * 15);
    assert_ns(time.duration_ns, 1000 + 2 * 10 + 30 * 300 + bytes / 0.25);
    collective_topology_destroy(row);
    collective_topology_destroy(torus);
}

static void cycles_of_a_torus_share_no_link(void **state) {
    (void)state;
    collective_topology *t = round_topology("torus-4x4", 16, 1);
    int cycles[3 * 64], chips[16];
    for (int i = 0; i < 16; i++)
        chips[i] = i;
    assert_int_equal(topology_rings(t, chips, 16, 2, cycles), 2);
    bool is_used[16][16] = {0};
    for (int c = 0; c < 2; c++) {
        unsigned seen = 0;
        for (int i = 0; i < 16; i++) {
            int a = cycles[c * 16 + i], b = cycles[c * 16 + (i + 1) % 16];
            assert_true(topology_is_neighbour(t, a, b));
            assert_false(is_used[a][b]);
            is_used[a][b] = is_used[b][a] = true;
            seen |= 1u << a;
        }
        assert_int_equal(seen, 0xffff);
    }
    collective_topology_destroy(t);
}

static void rdh_halves_what_it_sends(void **state) {
    (void)state;
    collective_topology *t = round_topology("ring-4", 4, 1);
    collective_request r = request_of(COLLECTIVE_REDUCE_SCATTER, 8000, 8);
    r.algorithm = COLLECTIVE_RDH;
    collective_time time = time_of(t, &r);
    /* 4000 B to the neighbour, then 2000 B two chips away, half either way, two over each link. */
    assert_ns(time.duration_ns, 1000 + 2 * 10 + 2 * 200 + 4000 / 0.25 + 2000 / 0.25);
    assert_int_equal(time.n_steps, 2);
    collective_topology_destroy(t);
}

static void levels_follow_each_other_between_nodes(void **state) {
    (void)state;
    collective_topology *t = round_topology("single", 1, 4);
    assert_int_equal(collective_n_devices(t), 8);
    collective_request r = request_of(COLLECTIVE_ALL_REDUCE, 8000, 8);
    r.algorithm = COLLECTIVE_HIERARCHICAL;
    collective_time time = time_of(t, &r);
    double inside = 2 * (100 + 4000 / 2.0), between = 6 * 5000 + 2 * 0.75 * 8000 / 0.5;
    assert_ns(time.duration_ns, 1000 + 8 * 10 + inside + between);
    assert_int_equal(time.n_steps, 2 + 6);
    collective_topology_destroy(t);
}

static void permutes_share_the_links_of_their_routes(void **state) {
    (void)state;
    collective_topology *t = round_topology("chain-4", 4, 1);
    const int pairs[] = {0, 2, 3, 5, 1, 3}; /* chips 0 -> 1, 1 -> 2, 0 -> 1 */
    collective_request r = {COLLECTIVE_PERMUTE, 1000, pairs, 3, 2, false, COLLECTIVE_LOCAL};
    collective_time time = time_of(t, &r);
    assert_ns(time.duration_ns, 1000 + 10 + 200 + 2000 / 0.5);
    assert_int_equal(time.algorithm, COLLECTIVE_ROUTED);
    double load[64] = {0};
    assert_null(collective_link_bytes(t, &r, load));
    for (int l = 0; l < collective_n_links(t); l++) {
        collective_link link = collective_link_at(t, l);
        double expected = link.from == 0 && link.to == 1 ? 2000 : link.from == 1 && link.to == 2;
        assert_ns(load[l], expected == 1 ? 1000 : expected);
    }
    const int far[] = {0, 6}; /* three links of a chain, each with the message */
    r.devices = far;
    r.n_groups = 1;
    assert_ns(time_of(t, &r).duration_ns, 1000 + 10 + 200 + 1000 / 0.5);
    collective_topology_destroy(t);
}

static void groups_slow_each_other_on_common_links_alone(void **state) {
    (void)state;
    collective_topology *t = round_topology("torus-4x4", 16, 1);
    int columns[4][8], rows[4][8];
    for (int g = 0; g < 4; g++)
        for (int i = 0; i < 8; i++) {
            rows[g][i] = g * 8 + i;
            columns[g][i] = i / 2 * 8 + g * 2 + i % 2;
        }
    collective_request r = {COLLECTIVE_ALL_REDUCE, 1 << 20, rows[0], 1, 8, false, 0};
    double one = time_of(t, &r).duration_ns;
    r.n_groups = 4;
    assert_ns(time_of(t, &r).duration_ns, one);
    r.devices = columns[0];
    assert_ns(time_of(t, &r).duration_ns, one);
    /* The first core of each chip in one group, the second in another: the same links twice. */
    int twice[2][4] = {{0, 2, 4, 6}, {1, 3, 5, 7}};
    r = (collective_request){COLLECTIVE_ALL_REDUCE, 1 << 20, twice[0], 1, 4, false,
                             COLLECTIVE_RING};
    double alone = time_of(t, &r).duration_ns, latency = time_of(t, &r).latency_ns;
    r.n_groups = 2;
    assert_ns(time_of(t, &r).duration_ns - latency, 2 * (alone - latency));
    collective_topology_destroy(t);
}

static void one_member_copies(void **state) {
    (void)state;
    collective_topology *t = round_topology("single", 1, 1);
    collective_request r = request_of(COLLECTIVE_ALL_REDUCE, 8000, 1);
    collective_time time = time_of(t, &r);
    assert_int_equal(time.algorithm, COLLECTIVE_LOCAL);
    assert_ns(time.duration_ns, 100 + 8000 / 8.0);
    collective_topology_destroy(t);
}

static void places_are_dense(void **state) {
    (void)state;
    collective_topology *t = round_topology("torus-4x4x4", 64, 2);
    assert_int_equal(collective_n_devices(t), 256);
    collective_place place = collective_place_of(t, 128 + 2 * (16 + 4 + 3) + 1);
    assert_int_equal(place.node, 1);
    assert_int_equal(place.chip, 23);
    assert_int_equal(place.core, 1);
    assert_int_equal(place.xyz[0], 3);
    assert_int_equal(place.xyz[1], 1);
    assert_int_equal(place.xyz[2], 4 + 1);
    collective_topology_destroy(t);
}

static void assert_refused(vtrn_status status, const char *part) {
    assert_non_null(status);
    assert_int_equal(vtrn_status_category(status), VTRN_BAD_ARGUMENT);
    if (!strstr(vtrn_status_message(status), part))
        fail_msg("'%s' does not contain '%s'", vtrn_status_message(status), part);
    vtrn_status_free(status);
}

static void wrong_requests_are_refused(void **state) {
    (void)state;
    collective_topology *t = round_topology("ring-4", 4, 1);
    collective_time time;
    const int twice[] = {0, 1, 2, 1}, outside[] = {0, 8}, none[] = {0, 1, -1, -1};
    collective_request r = {COLLECTIVE_ALL_REDUCE, 8, twice, 2, 2, false, 0};
    assert_refused(collective_estimate(t, &r, &time), "device 1 is named a second time");
    r = (collective_request){COLLECTIVE_ALL_REDUCE, 8, outside, 1, 2, false, 0};
    assert_refused(collective_estimate(t, &r, &time), "device 8; there are 0 to 7");
    r = (collective_request){COLLECTIVE_ALL_REDUCE, 8, none, 2, 2, false, 0};
    assert_refused(collective_estimate(t, &r, &time), "group 1 has no member");
    r = (collective_request){COLLECTIVE_ALL_REDUCE, 8, none, 0, 2, false, 0};
    assert_refused(collective_estimate(t, &r, &time), "both must be 1 or more");
    r = (collective_request){COLLECTIVE_PERMUTE, 8, twice, 1, 4, false, 0};
    assert_refused(collective_estimate(t, &r, &time), "pairs");
    const int same_target[] = {0, 3, 1, 3};
    r = (collective_request){COLLECTIVE_PERMUTE, 8, same_target, 2, 2, false, 0};
    assert_refused(collective_estimate(t, &r, &time), "as a target");
    const int three[] = {0, 2, 4};
    r = (collective_request){COLLECTIVE_ALL_REDUCE, 8, three, 1, 3, false, COLLECTIVE_RDH};
    assert_refused(collective_estimate(t, &r, &time), "cannot run as rdh");
    r = (collective_request){COLLECTIVE_ALL_TO_ALL, 8, twice, 1, 3, false, COLLECTIVE_RING};
    assert_refused(collective_estimate(t, &r, &time), "cannot run as ring");
    collective_topology_destroy(t);
}

static void wrong_topologies_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *topology;
        int n_chips, lnc, n_nodes;
        const char *part;
    } cases[] = {
        {"cube-8", 8, 1, 1, "not known"},   {"torus-4x4", 8, 1, 1, "has 16 chips, chips = 8"},
        {"torus-0x4", 16, 1, 1, "has 0"},   {"torus-4x4 ", 16, 1, 1, "not known"},
        {"ring--4", 4, 1, 1, "has 0"},      {"single", 1, 3, 1, "LNC 3"},
        {"single", 1, 1, 0, "0 nodes"},     {"torus-4x4x", 16, 1, 1, "not known"},
        {"ring-99999", 4, 1, 1, "has 0"},   {"", 1, 1, 1, "not known"},
        {"single", 2, 1, 1, "has 1 chips"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vtrn_chip chip = round_chip();
        vtrn_instance instance = round_instance(cases[i].topology, cases[i].n_chips);
        collective_topology *t;
        assert_refused(
            collective_topology_create(&instance, &chip, cases[i].lnc, cases[i].n_nodes, &t),
            cases[i].part);
        assert_null(t);
    }
    vtrn_chip chip = round_chip();
    vtrn_instance instance = round_instance("single", 1);
    collective_topology *t;
    instance.n_nics = 0;
    assert_refused(collective_topology_create(&instance, &chip, 1, 2, &t), "network adapters");
    chip.collective.pair_bytes_per_s = 0;
    assert_refused(collective_topology_create(&instance, &chip, 1, 1, &t), "[collective]");
    strcpy(chip.name, "other");
    assert_refused(collective_topology_create(&instance, &chip, 1, 1, &t), "not other");
}

static unsigned test_random(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(*seed >> 33);
}

/* A random partition of some devices into groups of one size; pairs for permute. */
static void random_request(uint64_t *seed, int n_devices, int *devices, collective_request *r) {
    int order[MAX_DEVICES];
    for (int i = 0; i < n_devices; i++)
        order[i] = i;
    bool is_shuffled = test_random(seed) % 2;
    for (int i = n_devices - 1; i > 0 && is_shuffled; i--) {
        int j = (int)(test_random(seed) % (unsigned)(i + 1)), other = order[i];
        order[i] = order[j];
        order[j] = other;
    }
    r->op = (collective_op)(test_random(seed) % COLLECTIVE_N_OPS);
    int size = 1 + (int)(test_random(seed) % (unsigned)(n_devices < 40 ? n_devices : 40));
    r->group_size = r->op == COLLECTIVE_PERMUTE ? 2 : size;
    int most = n_devices / r->group_size;
    r->n_groups = most < 1 ? 1 : 1 + (int)(test_random(seed) % (unsigned)(most < 6 ? most : 6));
    for (int i = 0; i < r->n_groups * r->group_size; i++)
        devices[i] = order[i % n_devices];
    r->devices = devices;
    r->bytes = 1u << test_random(seed) % 28;
}

/* More bytes are never faster, nor slower links, more latency, another group at the same time. */
static void time_is_monotone_on_every_instance(void **state) {
    (void)state;
    uint64_t seed = test_seed();
    vtrn_instance all[CHIP_MAX_INSTANCES];
    static int devices[2 * MAX_DEVICES];
    int n_instances, n_seen = 0;
    assert_null(chip_instances(all, CHIP_MAX_INSTANCES, &n_instances));
    for (int i = 0; i < n_instances; i++) {
        vtrn_chip chip;
        assert_null(chip_load(all[i].chip, &chip));
        int n_nodes = all[i].n_nics && all[i].n_chips <= 16 ? 1 + i % 3 : 1;
        collective_topology *t, *slow;
        vtrn_status status = collective_topology_create(&all[i], &chip, 1, n_nodes, &t);
        if (chip.gen == 1) { /* has no collectives */
            assert_refused(status, "[collective]");
            continue;
        }
        assert_null(status);
        vtrn_instance slower = all[i];
        slower.link_bytes_per_s *= 0.5;
        slower.z_link_bytes_per_s *= 0.75;
        slower.nic_bytes_per_s *= 0.75;
        chip.collective.step_ns *= 1.5;
        chip.collective.pair_bytes_per_s *= 0.75;
        assert_null(collective_topology_create(&slower, &chip, 1, n_nodes, &slow));
        for (int trial = 0; trial < 40; trial++) {
            collective_request r = {0};
            random_request(&seed, collective_n_devices(t), devices, &r);
            if (r.op == COLLECTIVE_PERMUTE && collective_n_devices(t) < 2)
                continue;
            collective_time time = time_of(t, &r), again = time_of(t, &r);
            assert_memory_equal(&time, &again, sizeof time);
            assert_true(time.duration_ns >= time.latency_ns && time.latency_ns > 0);
            assert_true(isfinite(time.duration_ns));
            assert_true(time_of(slow, &r).duration_ns >= time.duration_ns);
            collective_request more = r;
            more.bytes += 1 + r.bytes / 3;
            assert_true(time_of(t, &more).duration_ns >= time.duration_ns);
            if (r.n_groups > 1) {
                more = r;
                more.n_groups--;
                assert_true(time_of(t, &more).duration_ns <= time.duration_ns * (1 + 1e-12));
            }
            n_seen++;
        }
        collective_topology_destroy(t);
        collective_topology_destroy(slow);
    }
    assert_true(n_seen > 300);
}

/* What links carry into a chip's neighbours adds up: a route has one end and one beginning. */
static void routes_begin_and_end_where_they_should(void **state) {
    (void)state;
    static const struct {
        const char *topology;
        int n_chips;
    } cases[] = {{"torus-4x4x4", 64}, {"torus-3x5", 15}, {"ring-2", 2},
                 {"ring-7", 7},       {"chain-6", 6},    {"switch-9", 9}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        collective_topology *t = round_topology(cases[c].topology, cases[c].n_chips, 1);
        for (int a = 0; a < cases[c].n_chips; a++)
            for (int b = 0; b < cases[c].n_chips; b++) {
                double load[512] = {0}, balance[65] = {0};
                topology_route(t, a, b, 1, load);
                for (int l = 0; l < collective_n_links(t); l++) {
                    collective_link link = collective_link_at(t, l);
                    balance[link.from + 1] -= load[l];
                    balance[link.to + 1] += load[l];
                }
                for (int i = 0; i < cases[c].n_chips; i++)
                    assert_ns(balance[i + 1], (i == b) - (i == a));
            }
        collective_topology_destroy(t);
    }
}

static void the_runtime_s_group_sizes_are_told(void **state) {
    (void)state;
    vtrn_instance instance;
    vtrn_chip chip;
    collective_topology *t;
    assert_null(chip_instance_load("trn1.32xlarge", &instance));
    assert_null(chip_load("trn1", &chip));
    assert_null(collective_topology_create(&instance, &chip, 1, 1, &t));
    collective_request r = request_of(COLLECTIVE_ALL_REDUCE, 8, 8);
    assert_null(collective_restriction(t, &r));
    r = request_of(COLLECTIVE_ALL_REDUCE, 8, 12);
    assert_non_null(strstr(collective_restriction(t, &r), "multiple of 32"));
    r = request_of(COLLECTIVE_ALL_TO_ALL, 8, 2);
    assert_non_null(strstr(collective_restriction(t, &r), "all_to_all"));
    collective_topology_destroy(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_cores_of_a_chip_reduce_in_two_steps),
        cmocka_unit_test(a_mesh_loads_the_links_of_a_row),
        cmocka_unit_test(a_ring_uses_both_directions_and_a_torus_two_cycles),
        cmocka_unit_test(cycles_of_a_torus_share_no_link),
        cmocka_unit_test(rdh_halves_what_it_sends),
        cmocka_unit_test(levels_follow_each_other_between_nodes),
        cmocka_unit_test(permutes_share_the_links_of_their_routes),
        cmocka_unit_test(groups_slow_each_other_on_common_links_alone),
        cmocka_unit_test(one_member_copies),
        cmocka_unit_test(places_are_dense),
        cmocka_unit_test(wrong_requests_are_refused),
        cmocka_unit_test(wrong_topologies_are_refused),
        cmocka_unit_test(time_is_monotone_on_every_instance),
        cmocka_unit_test(routes_begin_and_end_where_they_should),
        cmocka_unit_test(the_runtime_s_group_sizes_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
