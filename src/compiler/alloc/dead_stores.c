/* Counts who reads each tensor in HBM; a DMA into one that nobody reads is dropped. */
#include "compiler/alloc/dead_stores.h"

#include "isa/access.h"

#include <stdlib.h>

/* Adds `step` to the count of each tensor that the instruction reads. */
static void count_reads(const lower *l, const vtrn_instr *instr, uint32_t *n_reads, uint32_t step) {
    isa_access a;
    for (access_walk w = access_begin(instr, l->customs, l->n_customs); access_next(&w, &a);)
        if (a.space == VTRN_SPACE_HBM && a.is_read)
            n_reads[a.slot] += step;
}

static bool is_dead(const lower *l, const vtrn_instr *instr, const uint32_t *n_reads) {
    const vtrn_ap *to = &instr->ap[0];
    return instr->opcode == VTRN_OP_DMA_COPY && to->space == VTRN_SPACE_HBM &&
           l->slots[to->slot].slot.kind == VTRN_SLOT_SCRATCH && n_reads[to->slot] == 0;
}

/* Closes the gaps that dropped instructions (opcode VTRN_OP_COUNT) left. */
static void compact(lower *l) {
    uint32_t n = 0;
    for (uint32_t b = 0; b < l->n_blocks; b++) {
        uint32_t begin = n;
        for (uint32_t i = l->blocks[b].begin; i < l->blocks[b].end; i++)
            if (l->list[i].opcode != VTRN_OP_COUNT)
                l->list[n++] = l->list[i];
        l->blocks[b].begin = begin;
        l->blocks[b].end = n;
    }
    l->n_list = n;
}

vtrn_status dead_stores_drop(lower *l) {
    uint32_t *n_reads = calloc((size_t)l->n_slots + 1, sizeof *n_reads);
    if (!n_reads)
        return VTRN_OUT_OF_MEMORY(((size_t)l->n_slots + 1) * sizeof *n_reads);
    for (uint32_t i = 0; i < l->n_list; i++)
        count_reads(l, &l->list[i], n_reads, 1);
    for (uint32_t b = 0; b < l->n_blocks; b++)
        n_reads[l->blocks[b].cond_slot]++;
    /* backwards: what a dropped transfer read was written before it */
    bool has_dropped = true;
    while (has_dropped) {
        has_dropped = false;
        for (uint32_t i = l->n_list; i-- > 0;) {
            vtrn_instr *instr = &l->list[i];
            if (!is_dead(l, instr, n_reads))
                continue;
            count_reads(l, instr, n_reads, UINT32_MAX);
            instr->opcode = VTRN_OP_COUNT;
            has_dropped = true;
        }
    }
    free(n_reads);
    compact(l);
    return NULL;
}
