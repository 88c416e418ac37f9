/* DMA rings: start latency, engines in parallel, the HBM's share, completion. */
#include "timing/rings.h"

#include <math.h>
#include <string.h>

void rings_reset(rings_state *rings, const vtrn_chip *chip, int active_cores_per_stack) {
    memset(rings, 0, sizeof *rings);
    int n = active_cores_per_stack > 0 ? active_cores_per_stack : 1;
    if (n > chip->cores_per_stack)
        n = chip->cores_per_stack;
    rings->hbm_ns_per_byte = 1e9 * n / chip->hbm_bytes_per_s;
}

/* A transfer that the HBM's share slows down ends later on the engine that ends last; its other
 * engines are free as if it had not, since the order of bytes between engines is not known. */
static double wait_for_hbm(rings_state *rings, const transfer_cost *transfer,
                           const rings_times *times) {
    double bytes = (double)(transfer->hbm_read_bytes + transfer->hbm_write_bytes);
    if (bytes == 0)
        return times->last_byte_ns;
    double start_ns = later_ns(rings->hbm_free_ns, times->first_byte_ns);
    rings->hbm_free_ns = start_ns + bytes * rings->hbm_ns_per_byte;
    return later_ns(times->last_byte_ns, rings->hbm_free_ns);
}

rings_times rings_run(rings_state *rings, const vtrn_chip *chip, const transfer_cost *transfer,
                      int issuer, double trigger_ns) {
    double issued_ns = later_ns(trigger_ns, rings->issue_free_ns[issuer]);
    rings->issue_free_ns[issuer] = issued_ns + transfer->issue_ns;
    double ready_ns = issued_ns + transfer->start_ns;
    rings_times times = {INFINITY, ready_ns, 0};
    int n_engines = chip->n_dma_engines, engine = transfer->first_engine;
    for (int i = 0; i < transfer->n_engines; i++) {
        double work_ns = i + 1 == transfer->n_engines ? transfer->last_ns : transfer->engine_ns;
        double skew_ns = engine * transfer->skew_ns;
        double start_ns = later_ns(ready_ns + skew_ns, rings->engine_free_ns[engine]);
        double end_ns = start_ns + work_ns;
        rings->engine_free_ns[engine] = end_ns;
        rings->busy_ns += work_ns;
        if (start_ns < times.first_byte_ns)
            times.first_byte_ns = start_ns;
        times.last_byte_ns = later_ns(times.last_byte_ns, end_ns);
        engine = engine + 1 == n_engines ? 0 : engine + 1;
    }
    times.last_byte_ns = wait_for_hbm(rings, transfer, &times);
    rings->active_ns +=
        later_ns(0, times.last_byte_ns - later_ns(times.first_byte_ns, rings->active_until_ns));
    rings->active_until_ns = later_ns(rings->active_until_ns, times.last_byte_ns);
    /* Each engine of the core raises the semaphore once, also those without data. */
    times.semaphore_ns =
        later_ns(times.last_byte_ns + chip->dma.complete_ns,
                 rings->semaphore_free_ns + n_engines * chip->cost.semaphore_serial_ns);
    rings->semaphore_free_ns = times.semaphore_ns;
    return times;
}
