/* What operands do to memory that threads share. See sharing.h. */
#include "engine/sharing.h"

#include "engine/plan_parts.h"
#include "isa/access.h"

#include <string.h>

share_kind share_kind_of(const vtrn_instr *instr, int ap_i) {
    if (access_is_written(instr, ap_i))
        return SHARE_OWNER_WRITE;
    if (!access_crosses(instr, ap_i))
        return SHARE_OWNER_READ;
    bool is_split_by_src =
        instr->opcode == VTRN_OP_DMA_TRANSPOSE && instr->ap[0].space == VTRN_SPACE_HBM;
    return is_split_by_src ? SHARE_OWNER_READ : SHARE_CROSSING_READ;
}

uint32_t share_groups_of(int partition, int n) {
    int first = partition / ENGINE_OWNER_ROWS, last = (partition + n - 1) / ENGINE_OWNER_ROWS;
    return (uint32_t)((UINT64_C(2) << last) - (UINT64_C(1) << first));
}

/* Largest stride over all dimensions as the pitch, the reach of the others as the length. */
share_hbm share_hbm_of(const vtrn_instr *instr, int ap_i, int64_t offset) {
    const vtrn_ap *ap = &instr->ap[ap_i];
    int64_t size = (int64_t)dtype_size(ap->dtype);
    share_hbm a = {
        .shape = ap, .is_write = access_is_written(instr, ap_i), .split = SHARE_ANY_SPLIT};
    a.base = ap->addr + offset;
    int64_t reach = 0, widest = 0, rows = access_rows(instr, ap_i);
    for (int i = -1; i < ap->n_dims; i++) {
        int64_t step = i < 0 ? ap->partition_step : ap->dim[i].step;
        int64_t span = step * ((i < 0 ? rows : (int64_t)ap->dim[i].num) - 1) * size;
        a.base += span < 0 ? span : 0;
        span = span < 0 ? -span : span;
        reach += span;
        int64_t pitch = (step < 0 ? -step : step) * size;
        if (span && pitch > a.pitch) {
            a.pitch = pitch;
            widest = span;
        }
    }
    a.end = a.base + reach + size;
    a.len = reach - widest + size;
    if (instr->opcode == VTRN_OP_DMA_COPY) {
        dma_split split = dma_split_of(instr);
        int partition = split == DMA_SPLIT_ROWS ? 0 : instr->ap[split == DMA_SPLIT_SRC].partition;
        a.n_rows = instr->ap[split == DMA_SPLIT_SRC].n_partitions;
        bool is_by_row = split != DMA_SPLIT_SRC || instr->ap[1].partition_step == 1;
        if (is_by_row)
            a.split = 1 + (split == DMA_SPLIT_ROWS) + 2u * (uint32_t)partition;
    }
    return a;
}

static bool is_same_split(const share_hbm *x, const share_hbm *y) {
    if (x->split != y->split || x->split == SHARE_ANY_SPLIT || x->n_rows != y->n_rows ||
        x->base != y->base)
        return false;
    const vtrn_ap *a = x->shape, *b = y->shape;
    if (a->partition_step != b->partition_step || a->n_partitions != b->n_partitions ||
        a->n_dims != b->n_dims || dtype_size(a->dtype) != dtype_size(b->dtype))
        return false;
    return !memcmp(a->dim, b->dim, a->n_dims * sizeof a->dim[0]);
}

bool share_hbm_races(const share_hbm *x, const share_hbm *y) {
    if ((!x->is_write && !y->is_write) || x->end <= y->base || y->end <= x->base)
        return false;
    if (x->pitch == y->pitch && x->pitch > 0) {
        int64_t distance = ((y->base - x->base) % x->pitch + x->pitch) % x->pitch;
        if (distance >= x->len && distance + y->len <= x->pitch)
            return false;
    }
    return !is_same_split(x, y);
}
