#include "runtime/outline.h"

#include "engine/plan.h"
#include "runtime/execute.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* A core without a machine around it. Memory is reserved and hardly touched. */
typedef struct stage {
    uint8_t *hbm;
    uint64_t hbm_bytes;
    uint64_t *slot_base;
    team *team;
    engine_core core;
    engine_plan plan;
} stage;

static uint64_t rounded(uint64_t n) {
    return (n + 63) / 64 * 64;
}

/* Arguments and outputs one after the other, behind the constants and the scratch tensors. */
static void place_slots(const vtrn_program *p, stage *s) {
    uint64_t scratch = rounded(p->data_size), at = scratch + rounded(p->scratch_size);
    for (uint32_t i = 0; i < p->n_slots; i++) {
        const vtrn_slot *slot = &p->slots[i];
        s->slot_base[i] = slot->kind == VTRN_SLOT_CONSTANT  ? slot->offset
                          : slot->kind == VTRN_SLOT_SCRATCH ? scratch + slot->offset
                                                            : at;
        if (program_slot_has_index(slot))
            at += rounded(slot->size_bytes);
    }
    s->hbm_bytes = at + 64;
}

static vtrn_status stage_open(const vtrn_program *p, const vtrn_chip *chip, stage *s) {
    s->slot_base = calloc((size_t)p->n_slots + 1, sizeof *s->slot_base);
    if (!s->slot_base)
        return VTRN_OUT_OF_MEMORY(p->n_slots * sizeof *s->slot_base);
    place_slots(p, s);
    void *hbm = mmap(NULL, s->hbm_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (hbm == MAP_FAILED)
        return VTRN_OUT_OF_MEMORY(s->hbm_bytes);
    s->hbm = hbm;
    if (p->data_size)
        memcpy(s->hbm, p->data, p->data_size);
    VTRN_RETURN_IF_ERROR(team_create(1, &s->team));
    VTRN_RETURN_IF_ERROR(engine_core_create(chip, s->hbm, s->hbm_bytes, s->team, &s->core));
    return engine_plan_create(p, chip, 1, &s->plan);
}

static void stage_close(stage *s) {
    engine_plan_destroy(&s->plan);
    engine_core_destroy(&s->core);
    team_destroy(s->team);
    if (s->hbm)
        munmap(s->hbm, s->hbm_bytes);
    free(s->slot_base);
}

bool runtime_has_branches(const vtrn_program *program) {
    for (uint32_t i = 0; i < program->n_blocks; i++)
        if (program->blocks[i].end == VTRN_END_BRANCH || program->blocks[i].end == VTRN_END_SWITCH)
            return true;
    return false;
}

/* One block after the other to the end; a jump back never ends. */
static vtrn_status follow_jumps(const vtrn_program *p, uint32_t **out, uint32_t *n_out) {
    uint32_t *trace = malloc((p->n_blocks + 1) * sizeof *trace), n = 0;
    if (!trace)
        return VTRN_OUT_OF_MEMORY(p->n_blocks * sizeof *trace);
    for (uint32_t at = 0; n < p->n_blocks; at = p->blocks[at].next[0]) {
        trace[n++] = at;
        if (p->blocks[at].end == VTRN_END_STOP) {
            *out = trace;
            *n_out = n;
            return NULL;
        }
    }
    free(trace);
    return VTRN_ERROR(VTRN_UNDEFINED, "%s: its blocks jump in a circle that nothing ends",
                      p->name ? p->name : "program");
}

vtrn_status runtime_outline(const vtrn_program *program, const vtrn_chip *chip, uint32_t **out,
                            uint32_t *n_out) {
    if (!runtime_has_branches(program))
        return follow_jumps(program, out, n_out);
    stage s = {.hbm = NULL};
    engine_run run = {.program = program,
                      .plan = &s.plan,
                      .is_outline = true,
                      .max_blocks = RUNTIME_OUTLINE_BLOCKS};
    vtrn_status status = stage_open(program, chip, &s);
    run.slot_base = s.slot_base;
    if (!status)
        status = engine_execute(&s.core, &run);
    stage_close(&s);
    if (status) {
        bool is_endless = run.n_block_trace == run.max_blocks;
        free(run.block_trace);
        return !is_endless
                   ? status
                   : vtrn_status_annotate(status, "without values a loop that they end goes on for "
                                                  "ever; `vtrn profile` runs the program");
    }
    *out = run.block_trace;
    *n_out = run.n_block_trace;
    return NULL;
}
