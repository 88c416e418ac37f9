/* timing_prepare: the cost of every instruction, and what a replay needs to allocate once. */
#include "timing/model.h"

#include "isa/access.h"

#include <stdlib.h>
#include <string.h>

/* Larger than any memory, small enough that no sum of times or bytes overflows. */
enum { MAX_ON_CHIP_LOG2 = 24, MAX_HBM_LOG2 = 40 };

static bool is_too_large(const vtrn_ap *ap) {
    double n = 1;
    for (int i = 0; i < ap->n_dims; i++)
        n *= ap->dim[i].num;
    return n > (double)(1ull << (ap->space == VTRN_SPACE_HBM ? MAX_HBM_LOG2 : MAX_ON_CHIP_LOG2));
}

static vtrn_status check_operand(const vtrn_ap *ap, uint32_t i, int ap_i) {
    if (ap->n_dims > VTRN_MAX_FREE_DIMS || ap->dtype >= VTRN_DTYPE_COUNT)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "instruction %u: operand %d has %u dimensions (at most %d), dtype %u "
                          "(below %d)",
                          i, ap_i, ap->n_dims, VTRN_MAX_FREE_DIMS, ap->dtype, VTRN_DTYPE_COUNT);
    if (is_too_large(ap))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "instruction %u: operand %d has more than 2^%d elements a row", i, ap_i,
                          ap->space == VTRN_SPACE_HBM ? MAX_HBM_LOG2 : MAX_ON_CHIP_LOG2);
    bool is_on_chip = ap->space == VTRN_SPACE_SBUF || ap->space == VTRN_SPACE_PSUM;
    if (is_on_chip && (ap->addr < 0 || ap->addr > UINT32_MAX))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "instruction %u: operand %d lies at byte %lld of its partition, must be "
                          "0 to 2^32 - 1",
                          i, ap_i, (long long)ap->addr);
    return NULL;
}

static vtrn_status check_instr(const vtrn_program *program, uint32_t i) {
    const vtrn_instr *instr = &program->instrs[i];
    if (!isa_op_info(instr->opcode))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "instruction %u: opcode %u, must be below %d", i,
                          instr->opcode, VTRN_OP_COUNT);
    if (instr->engine >= VTRN_ENGINE_COUNT)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "instruction %u: engine %u, must be below %d", i,
                          instr->engine, VTRN_ENGINE_COUNT);
    if (isa_is_dma(instr->opcode) && instr->queue >= VTRN_N_QUEUES)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "instruction %u: DMA ring %u, must be below %d", i,
                          instr->queue, VTRN_N_QUEUES);
    if (instr->n_waits > VTRN_MAX_WAITS)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "instruction %u: %u waits, at most %d", i,
                          instr->n_waits, VTRN_MAX_WAITS);
    bool is_bad = instr->update_semaphore != VTRN_NO_SEMAPHORE &&
                  instr->update_semaphore >= VTRN_N_SEMAPHORES;
    for (int w = 0; w < instr->n_waits; w++)
        is_bad |= instr->wait[w].semaphore >= VTRN_N_SEMAPHORES;
    if (is_bad)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "instruction %u: a semaphore is not below %d", i,
                          VTRN_N_SEMAPHORES);
    for (int a = 0; a < VTRN_MAX_AP; a++)
        VTRN_RETURN_IF_ERROR(check_operand(&instr->ap[a], i, a));
    return NULL;
}

static bool has_update(const vtrn_instr *instr) {
    return instr->update_semaphore != VTRN_NO_SEMAPHORE && instr->update_value;
}

static bool overlaps(const vtrn_ap *a, const vtrn_ap *b) {
    bool is_on_chip = a->space == VTRN_SPACE_SBUF || a->space == VTRN_SPACE_PSUM;
    if (a->space != b->space || !is_on_chip)
        return false;
    if (a->partition >= b->partition + b->n_partitions ||
        b->partition >= a->partition + a->n_partitions)
        return false;
    int64_t a_lo, a_hi, b_lo, b_hi;
    isa_ap_extent(a, &a_lo, &a_hi);
    isa_ap_extent(b, &b_lo, &b_hi);
    return a_lo < b_hi && b_lo < a_hi;
}

/* Whether `later` reads bytes of SBUF or PSUM that `earlier` wrote. */
static bool depends(const vtrn_instr *earlier, const vtrn_instr *later) {
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (!access_is_written(earlier, i))
            continue;
        for (int j = 0; j < VTRN_MAX_AP; j++)
            if (access_is_read(later, j) && overlaps(&earlier->ap[i], &later->ap[j]))
                return true;
    }
    return false;
}

/* Which of the previous instructions of its queue an instruction must wait for. The PE array
 * accumulates in order without waiting, and a DMA is ordered by semaphores alone. */
static uint8_t back_mask(const vtrn_program *program, uint32_t first, uint32_t i) {
    const vtrn_instr *instr = &program->instrs[i];
    uint8_t mask = 0;
    if (instr->engine == VTRN_ENGINE_TENSOR || isa_is_dma(instr->opcode))
        return 0;
    for (uint32_t back = 1; back <= TIMING_MAX_BACK && back <= i - first; back++) {
        const vtrn_instr *earlier = &program->instrs[i - back];
        if (!isa_is_dma(earlier->opcode) && depends(earlier, instr))
            mask |= (uint8_t)(1u << (back - 1));
    }
    return mask;
}

/* Collectives wait for others, and windows of the PE array's dI/dt limit do not begin with blocks.
 */
static bool is_alike(const timing_model *model, uint32_t i) {
    const uint8_t kind = model->instrs[i].cost.kind;
    const bool is_product = kind == COST_KIND_MATMUL || kind == COST_KIND_LDWEIGHTS;
    return kind != COST_KIND_COLLECTIVE && (!is_product || model->chip->cost.tensor_warm_ns <= 0);
}

static vtrn_status prepare_block(timing_model *model, uint32_t block_i) {
    const vtrn_program *program = model->program;
    const vtrn_block *block = &program->blocks[block_i];
    timing_block *out = &model->blocks[block_i];
    uint32_t n_updates[VTRN_N_SEMAPHORES] = {0};
    out->is_alike = true;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        uint64_t end = (uint64_t)block->first[e] + block->count[e];
        if (end > program->n_instrs)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "block %u: the stream of %s ends at %llu, after the program's %u "
                              "instructions",
                              block_i, isa_engine_name(e), (unsigned long long)end,
                              program->n_instrs);
        for (uint32_t i = block->first[e]; i < end; i++) {
            const vtrn_instr *instr = &program->instrs[i];
            if (has_update(instr))
                n_updates[instr->update_semaphore]++;
            out->n_dmas += isa_is_dma(instr->opcode);
            out->is_alike &= is_alike(model, i);
            model->instrs[i].back_mask = back_mask(program, block->first[e], i);
        }
    }
    for (int s = 0; s < VTRN_N_SEMAPHORES; s++) {
        out->first_update[s] = out->n_updates;
        out->n_updates += n_updates[s];
    }
    if (out->n_updates > model->max_updates)
        model->max_updates = out->n_updates;
    return NULL;
}

static bool is_load_of_what_stays(const vtrn_program *program, const vtrn_instr *instr) {
    const vtrn_ap *src = &instr->ap[1];
    return src->space == VTRN_SPACE_HBM && src->slot < program->n_slots &&
           program->slots[src->slot].stays;
}

static void prepare_instr(timing_model *model, uint32_t i) {
    const vtrn_instr *instr = &model->program->instrs[i];
    timing_instr *out = &model->instrs[i];
    out->cost = cost_instr(model->chip, instr);
    out->queue = instr->queue;
    out->n_waits = instr->n_waits;
    for (int w = 0; w < instr->n_waits; w++) {
        out->wait_semaphore[w] = instr->wait[w].semaphore;
        out->wait_value[w] = instr->wait[w].value;
    }
    out->update_semaphore = has_update(instr) ? instr->update_semaphore : VTRN_NO_SEMAPHORE;
    out->update_value = instr->update_value;
    if (out->cost.kind == COST_KIND_CUSTOM)
        out->cost.ii_ns = out->cost.latency_ns = cost_custom(model->chip, model->program, instr).ns;
    if (out->cost.kind != COST_KIND_DMA)
        return;
    if (is_load_of_what_stays(model->program, instr)) {
        out->cost = (instr_cost){.kind = COST_KIND_ENGINE, .is_setup = true};
        return;
    }
    out->dma = model->n_transfers;
    model->transfers[model->n_transfers++] = cost_transfer(model->chip, instr);
}

static vtrn_status prepare(timing_model *model) {
    const vtrn_program *program = model->program;
    uint32_t n_dmas = 0;
    for (uint32_t i = 0; i < program->n_instrs; i++) {
        VTRN_RETURN_IF_ERROR(check_instr(program, i));
        n_dmas += isa_is_dma(program->instrs[i].opcode);
    }
    model->instrs = calloc((size_t)program->n_instrs + 1, sizeof *model->instrs);
    model->transfers = calloc((size_t)n_dmas + 1, sizeof *model->transfers);
    model->blocks = calloc((size_t)program->n_blocks + 1, sizeof *model->blocks);
    if (!model->instrs || !model->transfers || !model->blocks)
        return VTRN_OUT_OF_MEMORY(((size_t)program->n_instrs + 1) * sizeof *model->instrs);
    for (uint32_t i = 0; i < program->n_instrs; i++)
        prepare_instr(model, i);
    for (uint32_t b = 0; b < program->n_blocks; b++)
        VTRN_RETURN_IF_ERROR(prepare_block(model, b));
    return NULL;
}

vtrn_status timing_prepare(const vtrn_chip *chip, const vtrn_program *program, timing_model **out) {
    *out = NULL;
    if (!chip->is_executable)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "chip '%s' has too few published numbers to be timed; choose another",
                          chip->name);
    timing_model *model = calloc(1, sizeof *model);
    if (!model)
        return VTRN_OUT_OF_MEMORY(sizeof *model);
    model->chip = chip;
    model->program = program;
    vtrn_status status = prepare(model);
    if (status) {
        timing_model_destroy(model);
        return status;
    }
    *out = model;
    return NULL;
}

void timing_model_destroy(timing_model *model) {
    if (!model)
        return;
    free(model->instrs);
    free(model->transfers);
    free(model->blocks);
    free(model);
}
