/* The time of a kernel on two cores, or of a rank among others: each core's program by itself, from
 * meeting to meeting. */
#include "chip/chip.h"
#include "collective/collective.h"
#include "nki/nki_session.h"
#include "timing/timing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A core's program and its replay. */
typedef struct timed_core {
    vtrn_program *program;
    timing_model *model;
    timing_walk *walk;
    timing_stop stop;
    uint32_t *trace;
} timed_core;

/* What a core does by itself. */
typedef struct part {
    int core;
    bool is_rank;
    int active_cores_per_stack;
} part;

static void drop(timed_core *c) {
    timing_walk_destroy(c->walk);
    timing_model_destroy(c->model);
    program_destroy(c->program);
    free(c->trace);
}

static vtrn_status start(nki_session *s, const nki_finish_options *options, part of,
                         timed_core *c) {
    timing_options how = {.active_cores_per_stack = of.active_cores_per_stack};
    vtrn_status status = nki_core_program(s, options, of.core, of.is_rank, &c->program);
    if (status) {
        c->program = NULL;
        return status;
    }
    c->trace = malloc((c->program->n_blocks + 1) * sizeof *c->trace);
    if (!c->trace)
        return VTRN_OUT_OF_MEMORY(c->program->n_blocks * sizeof *c->trace);
    for (uint32_t i = 0; i < c->program->n_blocks; i++)
        c->trace[i] = i;
    VTRN_RETURN_IF_ERROR(timing_prepare(nki_chip(s), c->program, &c->model));
    VTRN_RETURN_IF_ERROR(
        timing_walk_begin(c->model, c->trace, c->program->n_blocks, &how, &c->walk));
    return timing_walk_next(c->walk, &c->stop);
}

/* Both stand at the same meeting; the later one's arrival counts for both. */
static vtrn_status meet(const vtrn_chip *chip, timed_core cores[NKI_MAX_CORES]) {
    double last_ns = fmax(cores[0].stop.arrival_ns, cores[1].stop.arrival_ns);
    for (int i = 0; i < NKI_MAX_CORES; i++) {
        timing_walk_meet(cores[i].walk,
                         (timing_meeting){.wait_ns = last_ns - cores[i].stop.arrival_ns,
                                          .run_ns = chip->cost.event_semaphore_ns});
        VTRN_RETURN_IF_ERROR(timing_walk_next(cores[i].walk, &cores[i].stop));
    }
    return NULL;
}

static void add(const timed_core *c, int n_cores, nki_times *out) {
    timing_result result;
    timing_walk_take(c->walk, &result);
    const timing_summary *t = &result.summary;
    out->latency_ns = fmax(out->latency_ns, t->total_ns);
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        out->active_ns[e] += t->active_ns[e] / n_cores;
        out->n_instrs += t->n_instrs[e];
    }
    out->dma_active_ns += t->dma_active_ns / n_cores;
    out->wait_ns += t->skew_ns / n_cores;
    out->flops += t->flops;
    out->hbm_read_bytes += t->hbm_read_bytes;
    out->hbm_write_bytes += t->hbm_write_bytes;
    out->spill_save_bytes += t->spill_save_bytes;
    out->spill_reload_bytes += t->spill_reload_bytes;
    out->sbuf_bytes = c->program->sbuf_peak_bytes;
    out->psum_bytes = c->program->psum_peak_bytes;
    timing_result_free(&result);
}

static vtrn_status run(nki_session *s, const nki_finish_options *options,
                       timed_core cores[NKI_MAX_CORES], nki_times *out) {
    for (int i = 0; i < NKI_MAX_CORES; i++)
        VTRN_RETURN_IF_ERROR(start(s, options, (part){i, false, NKI_MAX_CORES}, &cores[i]));
    while (!cores[0].stop.is_over && !cores[1].stop.is_over)
        VTRN_RETURN_IF_ERROR(meet(nki_chip(s), cores));
    VTRN_CHECK(cores[0].stop.is_over && cores[1].stop.is_over, "cores meet equally often");
    for (int i = 0; i < NKI_MAX_CORES; i++)
        add(&cores[i], NKI_MAX_CORES, out);
    out->peak_flops = nki_chip(s)->peak_tensor_flops;
    return NULL;
}

vtrn_status vtrn_nki_time_cores(nki_session *s, const nki_finish_options *options, nki_times *out) {
    timed_core cores[NKI_MAX_CORES] = {{0}};
    *out = (nki_times){0};
    vtrn_status status = run(s, options, cores, out);
    for (int i = 0; i < NKI_MAX_CORES; i++)
        drop(&cores[i]);
    return status;
}

/* -- ranks */

struct nki_walk {
    nki_session *session;
    timed_core core;
};

vtrn_status vtrn_nki_walk_begin(nki_session *s, const nki_finish_options *options, nki_walk **out) {
    *out = NULL;
    const vtrn_chip *chip = nki_chip(s);
    int share = options->n_cores < chip->cores_per_stack ? options->n_cores : chip->cores_per_stack;
    nki_walk *walk = calloc(1, sizeof *walk);
    if (!walk)
        return VTRN_OUT_OF_MEMORY(sizeof *walk);
    walk->session = s;
    vtrn_status status = start(s, options, (part){options->core, true, share}, &walk->core);
    if (status)
        vtrn_nki_walk_drop(walk);
    else
        *out = walk;
    return status;
}

bool vtrn_nki_walk_is_over(const nki_walk *walk, double *arrival_ns) {
    *arrival_ns = walk->core.stop.arrival_ns;
    return walk->core.stop.is_over;
}

vtrn_status vtrn_nki_walk_meet(nki_walk *walk, double wait_ns, double run_ns) {
    timing_walk_meet(walk->core.walk, (timing_meeting){.wait_ns = wait_ns, .run_ns = run_ns});
    return timing_walk_next(walk->core.walk, &walk->core.stop);
}

void vtrn_nki_walk_take(nki_walk *const *walks, int n, nki_times *out) {
    *out = (nki_times){.peak_flops = nki_chip(walks[0]->session)->peak_tensor_flops};
    for (int i = 0; i < n; i++)
        add(&walks[i]->core, n, out);
}

void vtrn_nki_walk_drop(nki_walk *walk) {
    if (!walk)
        return;
    drop(&walk->core);
    free(walk);
}

enum { MAX_INSTANCES = 64 };

/* The instance of that name, or of the chip the one with the fewest chips that has as many cores.
 */
static vtrn_status instance_of(const vtrn_chip *chip, const char *name, int n_cores,
                               vtrn_instance *out) {
    if (name)
        return chip_instance_load(name, out);
    vtrn_instance all[MAX_INSTANCES], *best = NULL;
    int n = 0;
    VTRN_RETURN_IF_ERROR(chip_instances(all, MAX_INSTANCES, &n));
    for (int i = 0; i < n; i++)
        if (!strcmp(all[i].chip, chip->name) && all[i].n_chips * chip->n_cores >= n_cores &&
            (!best || all[i].n_chips < best->n_chips))
            best = &all[i];
    if (!best)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "ranks on %d NeuronCores: no instance of %s has as many; launch fewer",
                          n_cores, chip->name);
    *out = *best;
    return NULL;
}

vtrn_status vtrn_nki_exchange_time(const nki_session *s, const nki_exchange *x,
                                   nki_exchange_time *out) {
    vtrn_instance instance;
    collective_topology *topology;
    collective_time time;
    const vtrn_chip *chip = nki_chip(s);
    VTRN_RETURN_IF_ERROR(instance_of(chip, x->instance, x->n_ranks * x->n_rank_cores, &instance));
    if (strcmp(instance.chip, chip->name) != 0)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "instance %s has chips %s, and the kernel is for %s; name one of %s, or "
                          "none",
                          instance.name, instance.chip, chip->name, chip->name);
    VTRN_RETURN_IF_ERROR(
        collective_topology_create(&instance, chip, x->n_rank_cores, 1, &topology));
    collective_request request = {.bytes = x->bytes,
                                  .devices = x->devices,
                                  .n_groups = x->n_groups,
                                  .group_size = x->group_size,
                                  .is_in_sbuf = x->is_in_sbuf};
    int op = 0;
    while (op < COLLECTIVE_N_OPS && strcmp(collective_op_name((collective_op)op), x->op) != 0)
        op++;
    vtrn_status status = NULL;
    if (op == COLLECTIVE_N_OPS)
        status = VTRN_ERROR(VTRN_BAD_ARGUMENT,
                            "no collective is named %s; docs/scaling.md lists those that there are",
                            x->op);
    if (!status) {
        request.op = (collective_op)op;
        status = collective_estimate(topology, &request, &time);
    }
    collective_topology_destroy(topology);
    if (status)
        return status;
    *out = (nki_exchange_time){.duration_ns = time.duration_ns,
                               .algorithm = collective_algorithm_name(time.algorithm)};
    memcpy(out->instance, instance.name, sizeof out->instance);
    return NULL;
}

void vtrn_nki_exchanging(nki_session *s, bool is_exchanging) {
    s->is_exchanging = is_exchanging;
}
