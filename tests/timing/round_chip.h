/* A chip of round numbers, for timing tests whose times are worked out by hand. */
#ifndef VTRN_TESTS_TIMING_ROUND_CHIP_H
#define VTRN_TESTS_TIMING_ROUND_CHIP_H

#include "chip/chip.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka needs the headers above.
#include <cmocka.h>

/* 1 ns a cycle on every engine. */
static inline vtrn_chip round_chip(void) {
    vtrn_chip chip;
    assert_null(chip_load("trn2", &chip));
    chip.tensor_hz = chip.vector_hz = chip.scalar_hz = chip.gpsimd_hz = chip.sync_hz = 1e9;
    chip.hbm_bytes_per_s = 1e12;
    chip.launch.preamble_ns = 1000;
    chip.launch.postamble_ns = 500;
    chip.cost.min_ii_cycles = chip.cost.tensor_min_ii_cycles = 64;
    chip.cost.ldweights_cols_per_cycle = 4;
    chip.cost.ldweights_latency_ns = 40;
    chip.cost.tensor_latency_ns = 22; /* 150 with the 128 columns of a full array */
    chip.cost.tensor_overhead_ns = 0;
    chip.cost.vector_latency_ns = 160;
    chip.cost.scalar_latency_ns = 170;
    chip.cost.vector_overhead_ns = 100;
    chip.cost.scalar_overhead_ns = 50;
    chip.cost.vector_scalar_overhead_ns = chip.cost.scalar_func_overhead_ns = 0;
    chip.cost.event_semaphore_ns = 10;
    chip.cost.semaphore_post_ns = 10;
    chip.cost.semaphore_wake_ns = 20;
    chip.cost.semaphore_serial_ns = 10;
    chip.cost.tensor_warm_ns = 0;
    chip.dma.trigger_ns = 100;
    chip.dma.uses_dge = false;
    chip.dma.dge_gpsimd_run_ns = chip.dma.dge_gpsimd_fetch_ns = 0;
    chip.dma.start_ns = chip.dma.store_start_ns = 700;
    chip.dma.engine_skew_ns = chip.dma.load_page_ns = 0;
    chip.dma.complete_ns = 300;
    chip.dma.engine_bytes_per_s = 10e9;
    chip.dma.load_bytes_per_s = chip.dma.strided_load_bytes_per_s = 10e9;
    chip.dma.element_ns = chip.dma.load_element_ns = 10;
    chip.dma.max_descriptor_bytes = 4096;
    chip.control.branch_ns = 200;
    chip.control.semaphore_clear_ns = 300;
    return chip;
}

static inline void assert_ns(double got, double want) {
    if (fabs(got - want) > 1e-6)
        fail_msg("%.9g ns, expected %.9g", got, want);
}

#endif
