#include "compiler/build/core_model.h"

static double later(double a_ns, double b_ns) {
    return a_ns > b_ns ? a_ns : b_ns;
}

double core_latency_ns(const vtrn_chip *chip, const instr_cost *cost, const transfer_cost *t) {
    if (cost->kind != COST_KIND_DMA)
        return cost->latency_ns + chip->cost.semaphore_post_ns;
    double engine_ns = t->n_engines > 1 ? later(t->engine_ns, t->last_ns) : t->last_ns;
    return cost->latency_ns + t->start_ns + engine_ns + chip->dma.complete_ns;
}

/* v2 lets one of two engines at a time use a port. */
static double port_free(const core_model *core, int engine, uint8_t ports) {
    double ns = 0;
    if (ports & COST_PORT_SBUF)
        ns = core->sbuf_free_ns[engine == VTRN_ENGINE_VECTOR ? VTRN_ENGINE_GPSIMD
                                                             : VTRN_ENGINE_VECTOR];
    if (ports & COST_PORT_PSUM)
        ns = later(ns, core->psum_free_ns[engine == VTRN_ENGINE_VECTOR ? VTRN_ENGINE_SCALAR
                                                                       : VTRN_ENGINE_VECTOR]);
    return ns;
}

/* Returns when the last byte has arrived. */
static double transfer(core_model *core, int issuer, const transfer_cost *t, double trigger_ns) {
    double issued_ns = later(trigger_ns, core->issue_free_ns[issuer]);
    double ready_ns = issued_ns + t->start_ns, end_ns = ready_ns;
    core->issue_free_ns[issuer] = issued_ns + t->issue_ns;
    for (uint32_t k = 0; k < t->n_engines; k++) {
        uint32_t engine = (t->first_engine + k) % (uint32_t)core->chip->n_dma_engines;
        double *free_ns = &core->dma_free_ns[engine];
        *free_ns = later(*free_ns, ready_ns + engine * t->skew_ns) +
                   (k + 1u < t->n_engines ? t->engine_ns : t->last_ns);
        end_ns = later(end_ns, *free_ns);
    }
    double bytes = (double)(t->hbm_read_bytes + t->hbm_write_bytes);
    core->hbm_free_ns =
        later(core->hbm_free_ns, ready_ns) + bytes * 1e9 / core->chip->hbm_bytes_per_s;
    return later(end_ns, core->hbm_free_ns);
}

/* Weights load behind the matmul that runs; the queue may look ahead meanwhile. */
static void run_on_pe(core_model *core, const instr_cost *cost, double *start_ns) {
    if (cost->kind == COST_KIND_LDWEIGHTS) {
        *start_ns = later(*start_ns, later(core->load_free_ns, core->last_matmul_ns));
        core->load_free_ns = *start_ns + cost->ii_ns;
    } else {
        *start_ns = later(*start_ns, later(core->stream_free_ns, core->load_free_ns));
        core->last_matmul_ns = *start_ns;
        core->stream_free_ns = *start_ns + cost->weights_ns + cost->ii_ns;
    }
}

double core_run(core_model *core, int engine, const instr_cost *cost, const transfer_cost *t,
                double *start_ns) {
    *start_ns = later(*start_ns, core->free_ns[engine]);
    if (cost->ports)
        *start_ns = later(*start_ns, port_free(core, engine, cost->ports));
    core->free_ns[engine] = *start_ns + cost->ii_ns;
    if (cost->kind == COST_KIND_MATMUL || cost->kind == COST_KIND_LDWEIGHTS) {
        run_on_pe(core, cost, start_ns);
        core->free_ns[engine] = *start_ns;
    }
    if (cost->ports & COST_PORT_SBUF)
        core->sbuf_free_ns[engine] = core->free_ns[engine];
    if (cost->ports & COST_PORT_PSUM)
        core->psum_free_ns[engine] = core->free_ns[engine];
    if (cost->kind == COST_KIND_DMA)
        return transfer(core, engine, t, *start_ns + cost->latency_ns) +
               core->chip->dma.complete_ns;
    return *start_ns + cost->latency_ns + core->chip->cost.semaphore_post_ns;
}
