/* Counts the reads of each tensor in HBM; a DMA into one that has none is dropped. */
#include "compiler/build/dead_stores.h"

#include "isa/access.h"

#include <stdlib.h>

/* Adds `step` to the count of each tensor that the instruction reads. */
static void count_reads(const builder *b, const vtrn_instr *instr, uint32_t *n_reads,
                        uint32_t step) {
    isa_access a;
    for (access_walk w = access_begin(instr, b->customs, b->n_customs); access_next(&w, &a);)
        if (a.space == VTRN_SPACE_HBM && a.is_read)
            n_reads[a.slot] += step;
}

static bool is_dead(const builder *b, const vtrn_instr *instr, const uint32_t *n_reads) {
    const vtrn_ap *to = &instr->ap[0];
    return instr->opcode == VTRN_OP_DMA_COPY && to->space == VTRN_SPACE_HBM &&
           b->slots[to->slot].slot.kind == VTRN_SLOT_SCRATCH && n_reads[to->slot] == 0;
}

/* Closes the gaps that dropped instructions (opcode VTRN_OP_COUNT) left. */
static void compact(builder *b) {
    uint32_t n = 0;
    for (uint32_t k = 0; k < b->n_blocks; k++) {
        uint32_t begin = n;
        for (uint32_t i = b->blocks[k].begin; i < b->blocks[k].end; i++)
            if (b->list[i].opcode != VTRN_OP_COUNT)
                b->list[n++] = b->list[i];
        b->blocks[k].begin = begin;
        b->blocks[k].end = n;
    }
    b->n_list = n;
}

vtrn_status dead_stores_drop(builder *b) {
    uint32_t *n_reads = calloc((size_t)b->n_slots + 1, sizeof *n_reads);
    if (!n_reads)
        return VTRN_OUT_OF_MEMORY(((size_t)b->n_slots + 1) * sizeof *n_reads);
    for (uint32_t i = 0; i < b->n_list; i++)
        count_reads(b, &b->list[i], n_reads, 1);
    for (uint32_t k = 0; k < b->n_blocks; k++)
        n_reads[b->blocks[k].cond_slot]++;
    /* backwards: what a dropped transfer read was written before it */
    bool has_dropped = true;
    while (has_dropped) {
        has_dropped = false;
        for (uint32_t i = b->n_list; i-- > 0;) {
            vtrn_instr *instr = &b->list[i];
            if (!is_dead(b, instr, n_reads))
                continue;
            count_reads(b, instr, n_reads, UINT32_MAX);
            instr->opcode = VTRN_OP_COUNT;
            has_dropped = true;
        }
    }
    free(n_reads);
    compact(b);
    return NULL;
}
