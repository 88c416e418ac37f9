/* Largest first: each slot takes the lowest gap among those placed already whose lifetimes meet its
 * own. Large tensors so lie side by side, and small ones fill what is left between them. */
#include "compiler/build/scratch.h"

#include <stdlib.h>

enum { ALIGN_BYTES = 64 };

typedef struct placed {
    uint64_t begin, end; /* bytes */
    uint32_t first, last;
} placed;

typedef struct candidate {
    uint64_t size; /* aligned */
    uint32_t slot;
} candidate;

static int compare_candidates(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->size != y->size)
        return x->size < y->size ? 1 : -1;
    return (x->slot > y->slot) - (x->slot < y->slot);
}

/* live is sorted by begin. */
static uint64_t lowest_gap(const placed *live, uint32_t n, const placed *want, uint64_t size,
                           bool has_control_flow) {
    uint64_t at = 0;
    for (uint32_t i = 0; i < n && live[i].begin < at + size; i++) {
        bool meets =
            has_control_flow || (live[i].first <= want->last && want->first <= live[i].last);
        if (meets && live[i].end > at)
            at = live[i].end;
    }
    return at;
}

static void insert(placed *live, uint32_t n, const placed *p) {
    uint32_t i = n;
    for (; i > 0 && live[i - 1].begin > p->begin; i--)
        live[i] = live[i - 1];
    live[i] = *p;
}

vtrn_status scratch_assign(build_slot *slots, uint32_t n_slots, bool has_control_flow,
                           uint64_t *out_size) {
    candidate *order = malloc((n_slots + 1) * sizeof *order);
    placed *live = malloc((n_slots + 1) * sizeof *live);
    *out_size = 0;
    if (!order || !live) {
        free(order);
        free(live);
        return VTRN_OUT_OF_MEMORY(n_slots * sizeof *live);
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_slots; i++) {
        if (slots[i].slot.kind != VTRN_SLOT_SCRATCH)
            continue;
        if (slots[i].first == UINT32_MAX)
            slots[i].slot.size_bytes = 0; /* no instruction names it: its value stays in SBUF */
        else
            order[n++] = (candidate){
                (slots[i].slot.size_bytes + ALIGN_BYTES - 1) & ~(uint64_t)(ALIGN_BYTES - 1), i};
    }
    qsort(order, n, sizeof *order, compare_candidates);
    for (uint32_t i = 0; i < n; i++) {
        build_slot *s = &slots[order[i].slot];
        placed p = {.first = s->first, .last = s->last};
        p.begin = lowest_gap(live, i, &p, order[i].size, has_control_flow);
        p.end = p.begin + order[i].size;
        insert(live, i, &p);
        s->slot.offset = p.begin;
        *out_size = p.end > *out_size ? p.end : *out_size;
    }
    free(order);
    free(live);
    return NULL;
}
