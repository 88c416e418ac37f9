/* Building blocks of a program: instruction list, slots, constants, sources; and the final layout.
 */
#include "compiler/alloc/dead_stores.h"
#include "compiler/alloc/donate.h"
#include "compiler/alloc/scratch.h"
#include "compiler/lower/lower.h"
#include "compiler/schedule/semaphores.h"
#include "isa/access.h"

#include <stdlib.h>
#include <string.h>

/* Makes room for one more element in a malloc'd array. */
static bool grow(void **array, uint32_t n, uint32_t *cap, size_t size) {
    if (n < *cap)
        return true;
    uint32_t want = *cap ? *cap * 2 : 64;
    void *grown = realloc(*array, want * size);
    if (!grown)
        return false;
    *array = grown;
    *cap = want;
    return true;
}

vtrn_instr *lower_append(lower *l, vtrn_opcode opcode, vtrn_engine engine) {
    if (!grow((void **)&l->list, l->n_list, &l->cap_list, sizeof *l->list))
        return NULL;
    vtrn_instr *instr = &l->list[l->n_list++];
    memset(instr, 0, sizeof *instr);
    instr->opcode = (uint16_t)opcode;
    instr->engine = (uint8_t)engine;
    instr->update_semaphore = VTRN_NO_SEMAPHORE;
    instr->source = l->source;
    return instr;
}

vtrn_status lower_kernel(lower *l, kernel_kind kind, const void *spec, size_t spec_bytes,
                         uint64_t sbuf_bytes) {
    kernel *k = plan_add(&l->plan, kind, spec, spec_bytes);
    if (!k)
        return VTRN_OUT_OF_MEMORY(spec_bytes);
    k->source = l->source;
    k->block_i = l->block_i;
    k->sbuf_bytes = sbuf_bytes;
    return NULL;
}

/* Refused before anything is emitted: a tensor beyond the HBM would unroll to as many instructions.
 */
static vtrn_status check_hbm(const lower *l, vtrn_dtype dtype, uint64_t size_bytes) {
    uint64_t stack = l->chip->hbm_bytes / (uint64_t)l->chip->n_hbm_stacks;
    uint64_t reach = stack - l->chip->hbm_reserved_stack_bytes;
    if (size_bytes <= reach)
        return NULL;
    return VTRN_ERROR(
        VTRN_CAPACITY,
        "HBM: %llu bytes requested for one %s tensor, a core of %s reaches %llu; use a "
        "smaller shape or type, or split the tensor",
        (unsigned long long)size_bytes, dtype_name(dtype), l->chip->name,
        (unsigned long long)reach);
}

vtrn_status lower_slot_add(lower *l, vtrn_slot_kind kind, vtrn_dtype dtype, uint64_t size_bytes,
                           int32_t index, uint32_t *out) {
    VTRN_RETURN_IF_ERROR(check_hbm(l, dtype, size_bytes));
    if (!grow((void **)&l->slots, l->n_slots, &l->cap_slots, sizeof *l->slots))
        return VTRN_OUT_OF_MEMORY(sizeof *l->slots);
    l->slots[l->n_slots] = (lower_slot){.slot = {.kind = (uint8_t)kind,
                                                 .dtype = (uint8_t)dtype,
                                                 .index = index,
                                                 .size_bytes = size_bytes}};
    *out = l->n_slots++;
    return NULL;
}

vtrn_status lower_constant_add(lower *l, vtrn_dtype dtype, const void *bytes, uint64_t size,
                               uint32_t *out_slot) {
    for (uint32_t i = 0; i < l->n_slots; i++) {
        const vtrn_slot *s = &l->slots[i].slot;
        if (s->kind == VTRN_SLOT_CONSTANT && s->size_bytes == size && s->dtype == dtype &&
            memcmp(l->data + s->offset, bytes, size) == 0) {
            *out_slot = i;
            return NULL;
        }
    }
    uint64_t offset = (l->n_data + 63) & ~63ull;
    if (offset + size > l->cap_data) {
        uint64_t want = (offset + size) * 2;
        uint8_t *grown = realloc(l->data, want);
        if (!grown)
            return VTRN_OUT_OF_MEMORY(want);
        l->data = grown;
        l->cap_data = want;
    }
    if (offset > l->n_data)
        memset(l->data + l->n_data, 0, offset - l->n_data);
    if (size)
        memcpy(l->data + offset, bytes, size);
    l->n_data = offset + size;
    VTRN_RETURN_IF_ERROR(lower_slot_add(l, VTRN_SLOT_CONSTANT, dtype, size, 0, out_slot));
    l->slots[*out_slot].slot.offset = offset;
    return NULL;
}

vtrn_status lower_source_set(lower *l, const char *op, const char *place) {
    if (l->n_sources) {
        const vtrn_source *last = &l->sources[l->n_sources - 1];
        if (last->op == op && last->place == place)
            return NULL;
    }
    if (!grow((void **)&l->sources, l->n_sources, &l->cap_sources, sizeof *l->sources))
        return VTRN_OUT_OF_MEMORY(sizeof *l->sources);
    l->sources[l->n_sources] = (vtrn_source){op, place};
    l->source = l->n_sources++;
    return NULL;
}

vtrn_status lower_block_begin(lower *l, uint32_t *out_block) {
    if (!grow((void **)&l->blocks, l->n_blocks, &l->cap_blocks, sizeof *l->blocks))
        return VTRN_OUT_OF_MEMORY(sizeof *l->blocks);
    l->blocks[l->n_blocks] = (lower_block){0};
    *out_block = l->block_i = l->n_blocks++;
    return NULL;
}

void lower_block_end(lower *l, uint32_t block, vtrn_block_end kind, uint32_t next0, uint32_t next1,
                     uint32_t cond_slot) {
    lower_block *b = &l->blocks[block];
    b->kind = kind;
    b->next[0] = next0;
    b->next[1] = next1;
    b->cond_slot = cond_slot;
}

/* Which instructions name each scratch slot. */
static void find_lifetimes(lower *l) {
    for (uint32_t i = 0; i < l->n_slots; i++) {
        l->slots[i].first = UINT32_MAX;
        l->slots[i].last = 0;
    }
    for (uint32_t i = 0; i < l->n_list; i++) {
        isa_access a;
        for (access_walk w = access_begin(&l->list[i], l->customs, l->n_customs);
             access_next(&w, &a);) {
            if (a.space != VTRN_SPACE_HBM)
                continue;
            lower_slot *s = &l->slots[a.slot];
            if (s->first == UINT32_MAX)
                s->first = i;
            s->last = i;
        }
    }
}

static vtrn_status copy_strings(lower *l, vtrn_program *p) {
    p->sources = ARENA_NEW(&p->arena, vtrn_source, l->n_sources);
    if (!p->sources)
        return VTRN_OUT_OF_MEMORY(l->n_sources * sizeof *p->sources);
    const char *last_op = NULL, *last_op_copy = NULL;
    for (uint32_t i = 0; i < l->n_sources; i++) {
        const vtrn_source *s = &l->sources[i];
        if (s->op != last_op) {
            last_op = s->op;
            last_op_copy = arena_strdup(&p->arena, s->op, strlen(s->op));
        }
        p->sources[i].op = last_op_copy;
        p->sources[i].place = arena_strdup(&p->arena, s->place, strlen(s->place));
        if (!p->sources[i].op || !p->sources[i].place)
            return VTRN_OUT_OF_MEMORY(strlen(s->place));
    }
    p->n_sources = l->n_sources;
    return NULL;
}

static vtrn_status block_end(vtrn_program *p, const lower_block *from, vtrn_block *to) {
    to->end = (uint8_t)from->kind;
    to->next[0] = from->next[0];
    to->next[1] = from->next[1];
    to->cond_slot = from->cond_slot;
    to->n_targets = from->n_targets;
    if (!from->n_targets)
        return NULL;
    uint32_t *targets = ARENA_NEW(&p->arena, uint32_t, from->n_targets);
    if (!targets)
        return VTRN_OUT_OF_MEMORY(from->n_targets * sizeof *targets);
    memcpy(targets, from->targets, from->n_targets * sizeof *targets);
    to->targets = targets;
    return NULL;
}

/* The streams of every block, one behind the other. */
static vtrn_status emit_blocks(lower *l, vtrn_program *p) {
    schedule_input *in = ARENA_NEW(&l->tmp, schedule_input, l->n_blocks);
    schedule **schedules = ARENA_NEW(&l->tmp, schedule *, l->n_blocks);
    uint32_t *n_out = ARENA_NEW(&l->tmp, uint32_t, l->n_blocks), n = 0;
    p->blocks = ARENA_NEW(&p->arena, vtrn_block, l->n_blocks);
    if (!in || !schedules || !n_out || !p->blocks)
        return VTRN_OUT_OF_MEMORY(l->n_blocks * sizeof *p->blocks);
    for (uint32_t b = 0; b < l->n_blocks; b++) {
        in[b] = (schedule_input){.chip = l->chip,
                                 .slots = p->slots,
                                 .n_slots = p->n_slots,
                                 .customs = l->customs,
                                 .n_customs = l->n_customs,
                                 .output_alias = p->output_alias,
                                 .list = l->list + l->blocks[b].begin,
                                 .n = l->blocks[b].end - l->blocks[b].begin};
        VTRN_RETURN_IF_ERROR(schedule_analyse(&in[b], &l->tmp, &schedules[b], &n_out[b]));
        n += n_out[b];
    }
    p->instrs = ARENA_NEW(&p->arena, vtrn_instr, n);
    if (!p->instrs)
        return VTRN_OUT_OF_MEMORY(n * sizeof(vtrn_instr));
    for (uint32_t b = 0; b < l->n_blocks; b++) {
        vtrn_block *to = &p->blocks[b];
        schedule_emit(schedules[b], p->instrs + p->n_instrs, to->first, to->count);
        for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
            to->first[e] += p->n_instrs;
        p->n_instrs += n_out[b];
        VTRN_RETURN_IF_ERROR(block_end(p, &l->blocks[b], to));
    }
    p->n_blocks = l->n_blocks;
    return NULL;
}

vtrn_status lower_finish(lower *l) {
    vtrn_program *p = l->program;
    VTRN_RETURN_IF_ERROR(dead_stores_drop(l));
    find_lifetimes(l);
    VTRN_RETURN_IF_ERROR(donate_settle(l, p->output_alias));
    VTRN_RETURN_IF_ERROR(scratch_assign(l->slots, l->n_slots, l->n_blocks > 1, &p->scratch_size));
    p->slots = ARENA_NEW(&p->arena, vtrn_slot, l->n_slots);
    p->customs = ARENA_NEW(&p->arena, vtrn_custom, l->n_customs);
    uint8_t *data = ARENA_NEW(&p->arena, uint8_t, l->n_data);
    if (!p->slots || !p->customs || !data)
        return VTRN_OUT_OF_MEMORY(l->n_data);
    for (uint32_t i = 0; i < l->n_slots; i++)
        p->slots[i] = l->slots[i].slot;
    p->n_slots = l->n_slots;
    if (l->n_customs)
        memcpy(p->customs, l->customs, l->n_customs * sizeof *p->customs);
    p->n_customs = l->n_customs;
    if (l->n_data)
        memcpy(data, l->data, l->n_data);
    p->data = data;
    p->data_size = l->n_data;
    p->sbuf_peak_bytes = l->sbuf_peak;
    p->psum_peak_bytes = (uint64_t)l->psum_peak_banks * l->chip->psum_bank_bytes;
    VTRN_RETURN_IF_ERROR(copy_strings(l, p));
    return emit_blocks(l, p);
}
