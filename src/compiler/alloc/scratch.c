/* First fit over lifetimes: slots in order of their first use take the lowest free gap. */
#include "compiler/alloc/scratch.h"

#include <stdlib.h>

enum { ALIGN_BYTES = 64 };

typedef struct live_range {
    uint64_t begin, end; /* bytes */
    uint32_t last;
} live_range;

vtrn_status scratch_assign(lower_slot *slots, uint32_t n_slots, bool has_control_flow,
                           uint64_t *out_size) {
    uint32_t *order = malloc((n_slots + 1) * sizeof *order);
    live_range *live = malloc((n_slots + 1) * sizeof *live);
    *out_size = 0;
    if (!order || !live) {
        free(order);
        free(live);
        return VTRN_OUT_OF_MEMORY(n_slots * sizeof *live);
    }
    uint32_t n = 0, n_live = 0;
    for (uint32_t i = 0; i < n_slots; i++)
        if (slots[i].slot.kind == VTRN_SLOT_SCRATCH && slots[i].first != UINT32_MAX)
            order[n++] = i;
    /* insertion sort: slots are made in nearly the order of their first use */
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t j = i; j > 0 && slots[order[j]].first < slots[order[j - 1]].first; j--) {
            uint32_t swap = order[j];
            order[j] = order[j - 1];
            order[j - 1] = swap;
        }
    for (uint32_t i = 0; i < n; i++) {
        lower_slot *s = &slots[order[i]];
        uint64_t size = (s->slot.size_bytes + ALIGN_BYTES - 1) & ~(uint64_t)(ALIGN_BYTES - 1);
        uint32_t kept = 0;
        for (uint32_t j = 0; j < n_live; j++)
            if (has_control_flow || live[j].last >= s->first)
                live[kept++] = live[j];
        n_live = kept;
        /* live is sorted by begin */
        uint64_t at = 0;
        uint32_t place = 0;
        while (place < n_live && live[place].begin < at + size) {
            if (live[place].end > at)
                at = live[place].end;
            place++;
        }
        while (place > 0 && live[place - 1].begin > at)
            place--;
        for (uint32_t j = n_live; j > place; j--)
            live[j] = live[j - 1];
        live[place] = (live_range){at, at + size, s->last};
        n_live++;
        s->slot.offset = at;
        if (at + size > *out_size)
            *out_size = at + size;
    }
    free(order);
    free(live);
    return NULL;
}
