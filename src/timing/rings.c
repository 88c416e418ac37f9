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

/* When it starts on work that is ready at ready_ns. */
static double take(rings_carrier *carrier, double ready_ns, double work_ns) {
    double start_ns = later_ns(ready_ns, carrier->gap_start_ns);
    if (start_ns + work_ns <= carrier->gap_end_ns) {
        carrier->gap_start_ns = start_ns + work_ns;
        return start_ns;
    }
    start_ns = later_ns(ready_ns, carrier->free_ns);
    if (start_ns > carrier->free_ns) {
        carrier->gap_start_ns = carrier->free_ns;
        carrier->gap_end_ns = start_ns;
    }
    carrier->free_ns = start_ns + work_ns;
    return start_ns;
}

/* A transfer that the HBM's share slows down ends later on the engine that ends last; its other
 * engines are free as if it had not, since the order of bytes between engines is not known. */
static double wait_for_hbm(rings_state *rings, const transfer_cost *transfer,
                           const rings_times *times) {
    double bytes = (double)(transfer->hbm_read_bytes + transfer->hbm_write_bytes);
    if (bytes == 0)
        return times->last_byte_ns;
    double work_ns = bytes * rings->hbm_ns_per_byte;
    return later_ns(times->last_byte_ns,
                    take(&rings->hbm, times->first_byte_ns, work_ns) + work_ns);
}

/* Each engine of the core raises the semaphore once, also those without data, and the core takes
 * one update at a time. A transfer that ends well before one that began earlier does not wait for
 * it. */
static double take_semaphore(rings_state *rings, const vtrn_chip *chip, double done_ns) {
    double updates_ns = chip->n_dma_engines * chip->cost.semaphore_serial_ns;
    return take(&rings->semaphore, done_ns - updates_ns, updates_ns) + updates_ns;
}

rings_times rings_run(rings_state *rings, const vtrn_chip *chip, const transfer_cost *transfer,
                      int issuer, int ring, double trigger_ns) {
    rings->has_run = true;
    double issued_ns = later_ns(trigger_ns, rings->issue_free_ns[issuer]);
    rings->issue_free_ns[issuer] = issued_ns + transfer->issue_ns;
    double ready_ns = issued_ns + transfer->start_ns;
    rings_times times = {INFINITY, ready_ns, 0};
    int n_engines = chip->n_dma_engines, engine = transfer->first_engine;
    for (int i = 0; i < transfer->n_engines; i++) {
        double work_ns = i + 1 == transfer->n_engines ? transfer->last_ns : transfer->engine_ns;
        double *behind_ns = &rings->ring_start_ns[ring][engine];
        double at_ns = later_ns(ready_ns + engine * transfer->skew_ns, *behind_ns);
        double start_ns = *behind_ns = take(&rings->engine[engine], at_ns, work_ns);
        double end_ns = start_ns + work_ns;
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
    times.semaphore_ns = take_semaphore(rings, chip, times.last_byte_ns + chip->dma.complete_ns);
    return times;
}

bool rings_are_at_rest(const rings_state *rings) {
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        if (rings->issue_free_ns[e] > 0)
            return false;
    return true;
}

void rings_shift(rings_state *rings, double ns) {
    if (!rings->has_run && rings_are_at_rest(rings))
        return;
    rings_state next = {.hbm_ns_per_byte = rings->hbm_ns_per_byte};
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        next.issue_free_ns[e] = later_ns(0, rings->issue_free_ns[e] - ns);
    *rings = next;
}
