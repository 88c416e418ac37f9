/* Operands as runs of bytes, and whether two of them meet. */
#include "check/footprint.h"

#include "base/dtype.h"

#include <stdio.h>

uint32_t footprint_slot_memory(const vtrn_program *program, uint32_t slot_i, int64_t *base) {
    const vtrn_slot *slot = &program->slots[slot_i];
    uint32_t n_arguments = program->n_arguments, n_outputs = program->n_outputs;
    *base = 0;
    switch ((vtrn_slot_kind)slot->kind) {
    case VTRN_SLOT_ARGUMENT:
        return (uint32_t)slot->index;
    case VTRN_SLOT_OUTPUT:
        if (program->output_alias && program->output_alias[slot->index] >= 0)
            return (uint32_t)program->output_alias[slot->index];
        return n_arguments + (uint32_t)slot->index;
    case VTRN_SLOT_CONSTANT:
        *base = (int64_t)slot->offset;
        return n_arguments + n_outputs;
    case VTRN_SLOT_SCRATCH:
        break;
    case VTRN_SLOT_RANK:
        *base = slot->index * (int64_t)sizeof(uint32_t);
        return n_arguments + n_outputs + 2;
    }
    *base = (int64_t)slot->offset;
    return n_arguments + n_outputs + 1;
}

/* Takes inner dimensions into the run while they continue it, then finds the extent. */
static void settle(footprint *f) {
    while (f->n_dims && f->dim[f->n_dims - 1].step == f->unit)
        f->unit *= f->dim[--f->n_dims].num;
    f->lo = f->origin;
    f->hi = f->origin + f->unit;
    for (int i = 0; i < f->n_dims; i++) {
        int64_t reach = f->dim[i].step * (f->dim[i].num - 1);
        *(reach < 0 ? &f->lo : &f->hi) += reach;
    }
}

static void add_dim(footprint *f, int64_t step, uint32_t num) {
    if (num == 1 || step == 0) /* the same bytes again */
        return;
    f->dim[f->n_dims].step = step;
    f->dim[f->n_dims++].num = num;
}

footprint footprint_of(const vtrn_program *program, const isa_access *a, bool is_write) {
    footprint f = {.space = a->space, .is_write = is_write, .end_row = 1};
    uint64_t slot_bytes = 0;
    if (a->space == VTRN_SPACE_HBM) {
        f.memory = footprint_slot_memory(program, a->slot, &f.origin);
        slot_bytes = program->slots[a->slot].size_bytes;
    }
    if (!a->ap || a->is_table) { /* which rows is known only to the values */
        int64_t lo, hi;
        access_extent(a, slot_bytes, &lo, &hi);
        f.origin += lo;
        f.unit = hi - lo;
        settle(&f);
        return f;
    }
    const vtrn_ap *ap = a->ap;
    int64_t size = (int64_t)dtype_size((vtrn_dtype)ap->dtype);
    f.unit = size;
    if (a->space == VTRN_SPACE_HBM) {
        add_dim(&f, ap->partition_step * size, ap->n_partitions);
    } else {
        f.first_row = ap->partition;
        f.end_row = ap->partition + (ap->partition_step ? ap->n_partitions : 1u);
    }
    f.origin += ap->addr;
    for (int i = 0; i < ap->n_dims; i++)
        add_dim(&f, ap->dim[i].step * size, ap->dim[i].num);
    settle(&f);
    return f;
}

static int64_t floor_divide(int64_t a, int64_t b) {
    return a / b - (a % b != 0 && a < 0);
}

/* Whether the dimensions from `level` on, begun at `origin`, touch bytes [lo, hi). */
static bool touches(const footprint *f, int level, int64_t origin, int64_t lo, int64_t hi) {
    int64_t low = origin, high = origin + f->unit;
    for (int i = level; i < f->n_dims; i++) {
        int64_t reach = f->dim[i].step * (f->dim[i].num - 1);
        *(reach < 0 ? &low : &high) += reach;
    }
    if (high <= lo || low >= hi)
        return false;
    if (level == f->n_dims)
        return true;
    /* Turned to ascend; then only those i count whose part reaches into [lo, hi). */
    int64_t step = f->dim[level].step, last = f->dim[level].num - 1;
    if (step < 0) {
        origin += step * last;
        step = -step;
    }
    int64_t part_low = 0, part_high = f->unit; /* of one part, from its origin */
    for (int i = level + 1; i < f->n_dims; i++) {
        int64_t reach = f->dim[i].step * (f->dim[i].num - 1);
        *(reach < 0 ? &part_low : &part_high) += reach;
    }
    int64_t first = floor_divide(lo - part_high - origin, step) + 1;
    int64_t end = floor_divide(hi - part_low - origin - 1, step);
    first = first < 0 ? 0 : first;
    end = end > last ? last : end;
    for (int64_t i = first; i <= end; i++)
        if (touches(f, level + 1, origin + i * step, lo, hi))
            return true;
    return false;
}

bool footprint_runs(const footprint *f, footprint_visit visit, void *ctx) {
    uint32_t at[FOOTPRINT_DIMS] = {0};
    int64_t origin = f->origin;
    for (;;) {
        if (!visit(ctx, origin, origin + f->unit))
            return false;
        int d = f->n_dims - 1;
        for (; d >= 0; d--) {
            origin += f->dim[d].step;
            if (++at[d] < f->dim[d].num)
                break;
            origin -= f->dim[d].step * f->dim[d].num;
            at[d] = 0;
        }
        if (d < 0)
            return true;
    }
}

static bool misses(void *ctx, int64_t lo, int64_t hi) {
    const footprint *other = ctx;
    return !touches(other, 0, other->origin, lo, hi);
}

static uint64_t n_runs(const footprint *f) {
    uint64_t n = 1;
    for (int i = 0; i < f->n_dims; i++)
        n *= f->dim[i].num;
    return n;
}

bool footprint_overlap(const footprint *a, const footprint *b) {
    if (a->space != b->space || a->memory != b->memory || a->end_row <= b->first_row ||
        b->end_row <= a->first_row || a->hi <= b->lo || b->hi <= a->lo)
        return false;
    if (n_runs(a) > n_runs(b)) {
        const footprint *swapped = a;
        a = b;
        b = swapped;
    }
    return !footprint_runs(a, misses, (void *)(uintptr_t)b);
}

void footprint_print(const footprint *f, char *text, size_t size) {
    if (f->space == VTRN_SPACE_HBM)
        snprintf(text, size, "HBM bytes %lld-%lld", (long long)f->lo, (long long)f->hi - 1);
    else
        snprintf(text, size, "%s partitions %u-%u, bytes %lld-%lld",
                 f->space == VTRN_SPACE_PSUM ? "PSUM" : "SBUF", f->first_row, f->end_row - 1,
                 (long long)f->lo, (long long)f->hi - 1);
}
