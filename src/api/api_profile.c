/* What the chip would have done in an executable's last execution. */
#include "api/api.h"

#include <stdlib.h>
#include <string.h>

static double share(double part, double whole) {
    return whole > 0 ? part / whole : 0;
}

static void fill_times(const timing_summary *t, const vtrn_chip *chip, vtrn_profile *p) {
    p->step_ns = t->total_ns;
    p->tensor_active = share(t->active_ns[VTRN_ENGINE_TENSOR], t->total_ns);
    p->vector_active = share(t->active_ns[VTRN_ENGINE_VECTOR], t->total_ns);
    p->scalar_active = share(t->active_ns[VTRN_ENGINE_SCALAR], t->total_ns);
    p->gpsimd_active = share(t->active_ns[VTRN_ENGINE_GPSIMD], t->total_ns);
    p->sync_active = share(t->active_ns[VTRN_ENGINE_SYNC], t->total_ns);
    p->dma_active = share(t->dma_active_ns, t->total_ns);
    p->flops = t->flops;
    p->mfu = share((double)t->flops, t->total_ns * 1e-9 * chip->peak_tensor_flops);
    p->hbm_read_bytes = t->hbm_read_bytes;
    p->hbm_write_bytes = t->hbm_write_bytes;
    p->spill_save_bytes = t->spill_save_bytes;
    p->spill_reload_bytes = t->spill_reload_bytes;
    p->n_instructions = 0; /* a DMA counts once, where it is queued */
    for (int i = 0; i < VTRN_ENGINE_COUNT; i++)
        p->n_instructions += t->n_instrs[i];
}

static void fill_program(const runtime_program *l, vtrn_profile *p) {
    const vtrn_chip *chip = &l->device->chip;
    const vtrn_program *program = l->program;
    p->hbm_peak_bytes = l->hbm_peak_bytes;
    p->sbuf_peak_bytes = program->sbuf_peak_bytes * (uint64_t)chip->n_partitions;
    p->psum_peak_bytes = program->psum_peak_bytes * (uint64_t)chip->n_partitions;
    p->n_reference_ops = program_n_reference_ops(program);
    p->reference_time_share = share(l->custom_seconds, l->functional_seconds);
    p->host_seconds = l->host_seconds;
    p->functional_seconds = l->functional_seconds;
    p->timing_seconds = l->timing_seconds;
    p->dollars_per_hour = l->device->instance.dollars_per_hour;
    p->instance_cores = l->device->n_cores;
}

vtrn_status vtrn_executable_profile(const vtrn_executable *executable, vtrn_profile *out) {
    runtime_program *l = executable->loaded;
    if (out->struct_size < sizeof out->struct_size)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "vtrn_profile: struct_size is %zu; set it to sizeof(vtrn_profile)",
                          out->struct_size);
    vtrn_profile p = {0};
    pthread_mutex_lock(&l->device->run_lock);
    bool has_run = l->last_timing >= 0;
    if (has_run) {
        fill_times(&l->timings[l->last_timing].summary, &l->device->chip, &p);
        fill_program(l, &p);
    }
    pthread_mutex_unlock(&l->device->run_lock);
    if (!has_run)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s has no profile: it has not run yet, or VTRN_TIMING is off; "
                          "execute it once",
                          executable->name);
    size_t size = out->struct_size < sizeof p ? out->struct_size : sizeof p;
    p.struct_size = out->struct_size;
    memcpy(out, &p, size);
    return NULL;
}
