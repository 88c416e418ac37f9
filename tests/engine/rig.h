/* A bench for engine tests: a small program in the making, and a core to run it on. */
#ifndef VTRN_TESTS_ENGINE_RIG_H
#define VTRN_TESTS_ENGINE_RIG_H

#include "engine/engine.h"
#include "engine/plan_parts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum {
    RIG_MAX_INSTRS = 4096,
    RIG_MAX_SLOTS = 16,
    RIG_HBM_BYTES = 8 << 20,
    RIG_SBUF_BYTES = 196608, /* a partition. Source: docs/hardware.md, "Memories" */
    RIG_PSUM_BYTES = 16384,
};

typedef struct rig {
    vtrn_chip chip;
    team *threads;
    engine_core core;
    uint8_t *hbm;
    vtrn_program program;
    vtrn_slot slots[RIG_MAX_SLOTS];
    uint64_t slot_base[RIG_MAX_SLOTS];
    uint64_t hbm_used;
    vtrn_block block;
    vtrn_instr instrs[RIG_MAX_INSTRS];
    vtrn_source source;
    int coarser; /* shifts more than the plan wants in engine_core.owner_shift */
} rig;

static inline void rig_ok(vtrn_status status) {
    if (status)
        fail_msg("%s", vtrn_status_message(status));
}

static inline rig *rig_create(int n_threads) {
    rig *r = calloc(1, sizeof *r);
    assert_non_null(r);
    r->hbm = calloc(1, RIG_HBM_BYTES);
    assert_non_null(r->hbm);
    strcpy(r->chip.name, "test");
    r->chip.gen = 2;
    r->chip.n_partitions = 128;
    r->chip.sbuf_partition_bytes = RIG_SBUF_BYTES;
    r->chip.psum_partition_bytes = RIG_PSUM_BYTES;
    r->chip.psum_bank_bytes = 2048;
    r->chip.n_psum_banks = 8;
    r->chip.tensor_max_k = r->chip.tensor_max_m = 128;
    r->chip.tensor_max_n = 512;
    rig_ok(team_create(n_threads, &r->threads));
    rig_ok(engine_core_create(&r->chip, r->hbm, RIG_HBM_BYTES, r->threads, &r->core));
    r->source = (vtrn_source){"stablehlo.test", "model.py:42"};
    r->program = (vtrn_program){.name = "test",
                                .gen = 2,
                                .n_blocks = 1,
                                .blocks = &r->block,
                                .instrs = r->instrs,
                                .slots = r->slots,
                                .n_sources = 1,
                                .sources = &r->source};
    return r;
}

static inline void rig_destroy(rig *r) {
    engine_core_destroy(&r->core);
    team_destroy(r->threads);
    free(r->hbm);
    free(r);
}

/* A tensor in HBM; its contents are at rig_slot(). */
static inline uint32_t rig_add_slot(rig *r, uint64_t size_bytes) {
    uint32_t i = r->program.n_slots++;
    assert_true(i < RIG_MAX_SLOTS);
    r->slots[i] =
        (vtrn_slot){.kind = VTRN_SLOT_ARGUMENT, .index = (int32_t)i, .size_bytes = size_bytes};
    r->slot_base[i] = r->hbm_used;
    r->hbm_used += (size_bytes + 63) / 64 * 64;
    assert_true(r->hbm_used <= RIG_HBM_BYTES);
    return i;
}

static inline uint8_t *rig_slot(rig *r, uint32_t slot) {
    return r->hbm + r->slot_base[slot];
}

/* Instructions of one engine must be added together: its queue is one range. */
static inline vtrn_instr *rig_add(rig *r, vtrn_opcode opcode, vtrn_engine engine) {
    uint32_t i = r->program.n_instrs++;
    assert_true(i < RIG_MAX_INSTRS);
    if (!r->block.count[engine])
        r->block.first[engine] = i;
    assert_int_equal(r->block.first[engine] + r->block.count[engine], i);
    r->block.count[engine]++;
    r->instrs[i] = (vtrn_instr){.opcode = (uint16_t)opcode,
                                .engine = (uint8_t)engine,
                                .update_semaphore = VTRN_NO_SEMAPHORE};
    return &r->instrs[i];
}

static inline void rig_clear(rig *r) {
    r->program.n_instrs = 0;
    r->block = (vtrn_block){.end = VTRN_END_STOP};
}

/* Plans for the whole team, however little there is to do, and runs. */
static inline vtrn_status rig_run(rig *r) {
    engine_plan plan;
    vtrn_status status = plan_create(&r->program, &r->chip, team_size(r->threads), 0, &plan);
    if (status)
        return status;
    plan.owner_shift += r->coarser;
    engine_run run = {.program = &r->program, .plan = &plan, .slot_base = r->slot_base};
    status = engine_execute(&r->core, &run);
    free(run.block_trace);
    engine_plan_destroy(&plan);
    return status;
}

static inline uint64_t rig_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * 0x2545f4914f6cdd1du;
}

static inline uint32_t rig_below(uint64_t *state, uint32_t n) {
    return (uint32_t)(rig_random(state) >> 33) % n;
}

#endif
