/* Instruction list, slots, constants, sources: what a program is made of. */
#include "compiler/build/builder.h"

#include "base/array.h"

#include <stdlib.h>
#include <string.h>

vtrn_instr *build_append(builder *b, vtrn_opcode opcode, vtrn_engine engine) {
    if (!array_grow((void **)&b->list, b->n_list, &b->cap_list, sizeof *b->list))
        return NULL;
    vtrn_instr *instr = &b->list[b->n_list++];
    memset(instr, 0, sizeof *instr);
    instr->opcode = (uint16_t)opcode;
    instr->engine = (uint8_t)engine;
    instr->update_semaphore = VTRN_NO_SEMAPHORE;
    instr->source = b->source;
    return instr;
}

vtrn_status build_alternate(builder *b, const uint32_t *begin, int n) {
    uint32_t first = begin[0], n_instrs = b->n_list - first, at = first;
    if (n < 2 || n_instrs == 0)
        return NULL;
    vtrn_instr *old = malloc(n_instrs * sizeof *old);
    if (!old)
        return VTRN_OUT_OF_MEMORY(n_instrs * sizeof *old);
    memcpy(old, b->list + first, n_instrs * sizeof *old);
    for (uint32_t k = 0; at < b->n_list; k++)
        for (int i = 0; i < n; i++) {
            uint32_t end = i + 1 < n ? begin[i + 1] : b->n_list;
            if (k < end - begin[i])
                b->list[at++] = old[begin[i] + k - first];
        }
    free(old);
    return NULL;
}

/* Refused before anything is emitted: a tensor beyond the HBM would unroll to as many instructions.
 */
static vtrn_status check_hbm(const builder *b, vtrn_dtype dtype, uint64_t size_bytes) {
    uint64_t stack = b->chip->hbm_bytes / (uint64_t)b->chip->n_hbm_stacks;
    uint64_t reach = stack - b->chip->hbm_reserved_stack_bytes;
    if (size_bytes <= reach)
        return NULL;
    return VTRN_ERROR(
        VTRN_CAPACITY,
        "HBM: %llu bytes requested for one %s tensor, a core of %s reaches %llu; use a "
        "smaller shape or type, or split the tensor",
        (unsigned long long)size_bytes, dtype_name(dtype), b->chip->name,
        (unsigned long long)reach);
}

vtrn_status build_slot_add(builder *b, vtrn_slot_kind kind, vtrn_dtype dtype, uint64_t size_bytes,
                           int32_t index, uint32_t *out) {
    VTRN_RETURN_IF_ERROR(check_hbm(b, dtype, size_bytes));
    if (!array_grow((void **)&b->slots, b->n_slots, &b->cap_slots, sizeof *b->slots))
        return VTRN_OUT_OF_MEMORY(sizeof *b->slots);
    b->slots[b->n_slots] = (build_slot){.slot = {.kind = (uint8_t)kind,
                                                 .dtype = (uint8_t)dtype,
                                                 .index = index,
                                                 .size_bytes = size_bytes}};
    *out = b->n_slots++;
    return NULL;
}

vtrn_status build_constant_add(builder *b, vtrn_dtype dtype, const void *bytes, uint64_t size,
                               uint32_t *out_slot) {
    for (uint32_t i = 0; i < b->n_slots; i++) {
        const vtrn_slot *s = &b->slots[i].slot;
        if (s->kind == VTRN_SLOT_CONSTANT && s->size_bytes == size && s->dtype == dtype &&
            memcmp(b->data + s->offset, bytes, size) == 0) {
            *out_slot = i;
            return NULL;
        }
    }
    uint64_t offset = (b->n_data + 63) & ~63ull;
    if (offset + size > b->cap_data) {
        uint64_t want = (offset + size) * 2;
        uint8_t *grown = realloc(b->data, want);
        if (!grown)
            return VTRN_OUT_OF_MEMORY(want);
        b->data = grown;
        b->cap_data = want;
    }
    if (offset > b->n_data)
        memset(b->data + b->n_data, 0, offset - b->n_data);
    if (size)
        memcpy(b->data + offset, bytes, size);
    b->n_data = offset + size;
    VTRN_RETURN_IF_ERROR(build_slot_add(b, VTRN_SLOT_CONSTANT, dtype, size, 0, out_slot));
    b->slots[*out_slot].slot.offset = offset;
    return NULL;
}

vtrn_status build_counting_add(builder *b, int64_t n, uint32_t *out_slot) {
    int32_t *numbers = malloc((size_t)n * sizeof *numbers);
    if (!numbers)
        return VTRN_OUT_OF_MEMORY((size_t)n * sizeof *numbers);
    for (int64_t i = 0; i < n; i++)
        numbers[i] = (int32_t)i;
    vtrn_status status =
        build_constant_add(b, VTRN_DTYPE_INT32, numbers, (uint64_t)n * sizeof *numbers, out_slot);
    free(numbers);
    return status;
}

vtrn_status build_source_set(builder *b, const char *op, const char *place) {
    if (b->n_sources) {
        const vtrn_source *last = &b->sources[b->n_sources - 1];
        if (last->op == op && last->place == place)
            return NULL;
    }
    if (!array_grow((void **)&b->sources, b->n_sources, &b->cap_sources, sizeof *b->sources))
        return VTRN_OUT_OF_MEMORY(sizeof *b->sources);
    b->sources[b->n_sources] = (vtrn_source){op, place};
    b->source = b->n_sources++;
    return NULL;
}

vtrn_status build_custom_add(builder *b, const vtrn_custom *custom, uint32_t *out) {
    if (!array_grow((void **)&b->customs, b->n_customs, &b->cap_customs, sizeof *b->customs))
        return VTRN_OUT_OF_MEMORY(sizeof *b->customs);
    b->customs[b->n_customs] = *custom;
    *out = b->n_customs++;
    return NULL;
}

vtrn_status build_block_begin(builder *b, uint32_t *out_block) {
    if (!array_grow((void **)&b->blocks, b->n_blocks, &b->cap_blocks, sizeof *b->blocks))
        return VTRN_OUT_OF_MEMORY(sizeof *b->blocks);
    b->blocks[b->n_blocks] = (build_block){.begin = b->n_list, .end = b->n_list};
    *out_block = b->n_blocks++;
    return NULL;
}

void build_count_flops(builder *b, uint64_t n) {
    b->blocks[b->block_i].flops += n;
}

void build_block_end(builder *b, uint32_t block_i, vtrn_block_end kind, uint32_t next0,
                     uint32_t next1, uint32_t cond_slot) {
    build_block *block = &b->blocks[block_i];
    block->end = b->n_list;
    block->kind = kind;
    block->next[0] = next0;
    block->next[1] = next1;
    block->cond_slot = cond_slot;
}

void build_free(builder *b) {
    free(b->list);
    free(b->blocks);
    free(b->slots);
    free(b->sources);
    free(b->customs);
    free(b->data);
    *b = (builder){0};
}
