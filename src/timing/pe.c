/* The PE array: background weight loads, streaming matmuls, warm and cold. */
#include "timing/pe.h"

#include <math.h>

/* A load fills the spare weights while a matmul streams: it waits for the matmul that took the
 * previous load to start. A matmul waits for the stream and for its weights. Source:
 * docs/hardware.md, "Tensor engine" (background and fast LoadStationary). */
double pe_start(const pe_state *pe, const instr_cost *cost, double start_ns) {
    if (cost->kind == COST_KIND_LDWEIGHTS)
        return later_ns(start_ns, later_ns(pe->load_free_ns, pe->last_matmul_ns));
    if (cost->weights_ns > 0) { /* loads its own weights first, behind the running stream */
        double loaded = later_ns(start_ns, later_ns(pe->load_free_ns, pe->last_matmul_ns));
        return later_ns(pe->stream_free_ns, loaded + cost->weights_ns);
    }
    return later_ns(start_ns, later_ns(pe->stream_free_ns, pe->load_free_ns));
}

/* Closes the windows before the one that holds now_ns. What counts is work: a cold array that is
 * always busy does half of what a warm one does. */
static void advance_windows(pe_state *pe, const vtrn_chip *chip, double now_ns) {
    double window_ns = chip->cost.tensor_warm_ns;
    int64_t window_i = (int64_t)((now_ns - pe->first_window_ns) / window_ns);
    while (pe->window_i < window_i) {
        pe->is_warm = pe->busy_ns >= chip->cost.tensor_warm_share * window_ns;
        pe->busy_ns = fmin(pe->spill_ns, window_ns);
        pe->spill_ns -= pe->busy_ns;
        pe->window_i++;
        if (!pe->is_warm && pe->busy_ns == 0 && pe->spill_ns == 0)
            pe->window_i = window_i; /* idle since: nothing more to close */
    }
}

/* From start_ns to end_ns, of which `share` is work. */
static void add_busy(pe_state *pe, double window_ns, double start_ns, double end_ns, double share) {
    double window_end_ns = pe->first_window_ns + (double)(pe->window_i + 1) * window_ns;
    double inside_ns = fmin(end_ns, window_end_ns) - start_ns;
    pe->busy_ns += share * later_ns(inside_ns, 0);
    pe->spill_ns += share * later_ns(end_ns - later_ns(window_end_ns, start_ns), 0);
}

double pe_run(pe_state *pe, const vtrn_chip *chip, const instr_cost *cost, double start_ns) {
    if (cost->kind == COST_KIND_LDWEIGHTS) {
        pe->load_free_ns = start_ns + cost->ii_ns;
        return start_ns + cost->latency_ns;
    }
    double ii_ns = cost->ii_ns, latency_ns = cost->latency_ns;
    double window_ns = chip->cost.tensor_warm_ns;
    if (window_ns > 0) {
        advance_windows(pe, chip, start_ns);
        if (!pe->is_warm) {
            double slower_ns = ii_ns * (chip->cost.tensor_cold_factor - 1);
            ii_ns += slower_ns;
            latency_ns += slower_ns + chip->cost.tensor_cold_latency_ns;
        }
        add_busy(pe, window_ns, start_ns, start_ns + ii_ns, cost->ii_ns / ii_ns);
    }
    pe->last_matmul_ns = start_ns;
    pe->stream_free_ns = start_ns + ii_ns;
    if (cost->weights_ns > 0)
        pe->load_free_ns = later_ns(pe->load_free_ns, start_ns);
    return start_ns + latency_ns;
}

void pe_shift(pe_state *pe, double ns) {
    pe->stream_free_ns = later_ns(0, pe->stream_free_ns - ns);
    pe->last_matmul_ns = later_ns(0, pe->last_matmul_ns - ns);
    pe->load_free_ns = later_ns(0, pe->load_free_ns - ns);
    pe->first_window_ns -= ns;
}
