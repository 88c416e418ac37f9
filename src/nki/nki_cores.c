/* The time of a kernel on two cores: each core's program by itself, from meeting to meeting. */
#include "nki/nki_session.h"
#include "timing/timing.h"

#include <math.h>
#include <stdlib.h>

/* A core's program and its replay. */
typedef struct timed_core {
    vtrn_program *program;
    timing_model *model;
    timing_walk *walk;
    timing_stop stop;
    uint32_t *trace;
} timed_core;

static void drop(timed_core *c) {
    timing_walk_destroy(c->walk);
    timing_model_destroy(c->model);
    program_destroy(c->program);
    free(c->trace);
}

static vtrn_status start(nki_session *s, const nki_finish_options *options, int core,
                         timed_core *c) {
    timing_options how = {.active_cores_per_stack = NKI_MAX_CORES};
    vtrn_status status = nki_core_program(s, options, core, &c->program);
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

static void add(const timed_core *c, nki_times *out) {
    timing_result result;
    timing_walk_take(c->walk, &result);
    const timing_summary *t = &result.summary;
    out->latency_ns = fmax(out->latency_ns, t->total_ns);
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        out->active_ns[e] += t->active_ns[e] / NKI_MAX_CORES;
        out->n_instrs += t->n_instrs[e];
    }
    out->dma_active_ns += t->dma_active_ns / NKI_MAX_CORES;
    out->wait_ns += t->skew_ns / NKI_MAX_CORES;
    out->flops += t->flops;
    out->hbm_read_bytes += t->hbm_read_bytes;
    out->hbm_write_bytes += t->hbm_write_bytes;
    out->sbuf_bytes = c->program->sbuf_peak_bytes;
    out->psum_bytes = c->program->psum_peak_bytes;
    timing_result_free(&result);
}

static vtrn_status run(nki_session *s, const nki_finish_options *options,
                       timed_core cores[NKI_MAX_CORES], nki_times *out) {
    for (int i = 0; i < NKI_MAX_CORES; i++)
        VTRN_RETURN_IF_ERROR(start(s, options, i, &cores[i]));
    while (!cores[0].stop.is_over && !cores[1].stop.is_over)
        VTRN_RETURN_IF_ERROR(meet(nki_chip(s), cores));
    VTRN_CHECK(cores[0].stop.is_over && cores[1].stop.is_over, "cores meet equally often");
    for (int i = 0; i < NKI_MAX_CORES; i++)
        add(&cores[i], out);
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
