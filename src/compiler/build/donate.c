/* Decides by walking the program's accesses to each argument and its output: an access is a set of
 * runs of equal length, all of them multiples of a common unit, and a bit a unit says what the
 * output has overwritten. So tile i may be read and then written, whatever the tile's shape.
 *
 * Across blocks the order is that of the control flow: no read may be reachable from a write. */
#include "compiler/build/donate.h"

#include "base/array.h"
#include "isa/access.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_UNITS = 1 << 24, /* of a tensor: 2 MiB of bits; beyond it extents must do */
    MAX_BLOCKS = 1024,   /* of a program: a byte for each pair of them */
    MAX_LEVELS = VTRN_MAX_FREE_DIMS + 1,
};

/* The bytes of a tensor that one operand names: runs of `run` bytes at addr + sum of i * step. */
typedef struct footprint {
    int64_t addr, run;
    int n;
    struct {
        int64_t num, step;
    } level[MAX_LEVELS]; /* steps positive and ascending */
} footprint;

typedef struct access {
    uint32_t next; /* of the pair, or NONE */
    uint32_t block;
    bool is_write;
    footprint at;
} access;

enum { NONE = UINT32_MAX };

typedef struct pair {
    uint32_t output;
    uint64_t size_bytes;
    uint32_t first, last;
} pair;

typedef struct donation {
    const builder *b;
    pair *pairs;
    uint32_t n_pairs;
    uint32_t *read_pair, *write_pair; /* by slot, or NONE */
    access *accesses;
    uint32_t n_accesses, cap_accesses;
    uint8_t *reaches; /* [from * n_blocks + to]: by one edge or more */
    uint8_t *is_overwritten;
} donation;

static void add_level(footprint *f, int64_t num, int64_t step_bytes) {
    if (num <= 1 || step_bytes == 0)
        return;
    if (step_bytes < 0) { /* the order within an access does not matter */
        f->addr += step_bytes * (num - 1);
        step_bytes = -step_bytes;
    }
    int at = f->n++;
    for (; at > 0 && f->level[at - 1].step > step_bytes; at--)
        f->level[at] = f->level[at - 1];
    f->level[at].num = num;
    f->level[at].step = step_bytes;
}

/* Levels that continue the run become part of it. */
static void merge_runs(footprint *f) {
    int n = 0;
    for (int i = 0; i < f->n; i++) {
        if (n == 0 && f->level[i].step <= f->run)
            f->run += f->level[i].step * (f->level[i].num - 1);
        else
            f->level[n++] = f->level[i];
    }
    f->n = n;
}

/* A table's rows are chosen by data: its whole extent. */
static footprint footprint_of(const isa_access *a, uint64_t slot_bytes) {
    footprint f = {0};
    if (!a->ap || a->is_table) {
        int64_t end;
        access_extent(a, slot_bytes, &f.addr, &end);
        f.run = end - f.addr;
        return f;
    }
    int64_t size = (int64_t)dtype_size(a->ap->dtype);
    f.addr = a->ap->addr;
    f.run = size;
    add_level(&f, a->n_rows, a->ap->partition_step * size);
    for (int i = 0; i < a->ap->n_dims; i++)
        add_level(&f, a->ap->dim[i].num, a->ap->dim[i].step * size);
    merge_runs(&f);
    return f;
}

static vtrn_status add_access(donation *d, uint32_t pair_i, uint32_t block, bool is_write,
                              const isa_access *what) {
    if (!array_grow((void **)&d->accesses, d->n_accesses, &d->cap_accesses, sizeof *d->accesses))
        return VTRN_OUT_OF_MEMORY(d->n_accesses * sizeof *d->accesses);
    pair *p = &d->pairs[pair_i];
    d->accesses[d->n_accesses] = (access){.next = NONE,
                                          .block = block,
                                          .is_write = is_write,
                                          .at = footprint_of(what, p->size_bytes)};
    *(p->first == NONE ? &p->first : &d->accesses[p->last].next) = d->n_accesses;
    p->last = d->n_accesses++;
    return NULL;
}

static bool is_same_place(const vtrn_ap *a, const vtrn_ap *b) {
    return a->dtype == b->dtype && a->addr == b->addr && a->n_partitions == b->n_partitions &&
           a->partition_step == b->partition_step && a->n_dims == b->n_dims &&
           !memcmp(a->dim, b->dim, a->n_dims * sizeof a->dim[0]);
}

static vtrn_status collect_accesses(donation *d, const vtrn_instr *instr, uint32_t block,
                                    bool is_write) {
    isa_access a;
    for (access_walk w = access_begin(instr, d->b->customs, d->b->n_customs);
         access_next(&w, &a);) {
        if (a.space != VTRN_SPACE_HBM || !(is_write ? a.is_written : a.is_read))
            continue;
        uint32_t p = (is_write ? d->write_pair : d->read_pair)[a.slot];
        if (p != NONE)
            VTRN_RETURN_IF_ERROR(add_access(d, p, block, is_write, &a));
    }
    return NULL;
}

/* Writes first, because an instruction that reads what it overwrites has no order within it; unless
 * it puts each element back where it was. */
static vtrn_status collect_instr(donation *d, const vtrn_instr *instr, uint32_t block) {
    bool is_in_place =
        instr->opcode == VTRN_OP_DMA_COPY && is_same_place(&instr->ap[0], &instr->ap[1]);
    VTRN_RETURN_IF_ERROR(collect_accesses(d, instr, block, !is_in_place));
    return collect_accesses(d, instr, block, is_in_place);
}

/* By slot which pair's argument it is, and which pair's output. */
static void find_slots(donation *d, const uint32_t *pair_of_argument,
                       const uint32_t *pair_of_output) {
    for (uint32_t i = 0; i < d->b->n_slots; i++) {
        const vtrn_slot *slot = &d->b->slots[i].slot;
        bool is_argument = slot->kind == VTRN_SLOT_ARGUMENT;
        d->read_pair[i] = is_argument ? pair_of_argument[slot->index] : NONE;
        d->write_pair[i] = slot->kind == VTRN_SLOT_OUTPUT ? pair_of_output[slot->index] : NONE;
        if (d->read_pair[i] != NONE)
            d->pairs[d->read_pair[i]].size_bytes = slot->size_bytes;
    }
}

static vtrn_status find_pairs(donation *d, arena *tmp, const int32_t *output_alias) {
    const builder *b = d->b;
    uint32_t n_arguments = b->program->n_arguments, n_outputs = b->program->n_outputs;
    uint32_t *pair_of_argument = ARENA_NEW(tmp, uint32_t, n_arguments);
    uint32_t *pair_of_output = ARENA_NEW(tmp, uint32_t, n_outputs);
    d->pairs = ARENA_NEW(tmp, pair, n_outputs);
    d->read_pair = ARENA_NEW(tmp, uint32_t, b->n_slots);
    d->write_pair = ARENA_NEW(tmp, uint32_t, b->n_slots);
    if (!pair_of_argument || !pair_of_output || !d->pairs || !d->read_pair || !d->write_pair)
        return VTRN_OUT_OF_MEMORY(b->n_slots * sizeof(uint32_t));
    for (uint32_t a = 0; a < n_arguments; a++)
        pair_of_argument[a] = NONE;
    for (uint32_t o = 0; o < n_outputs; o++) {
        pair_of_output[o] = NONE;
        if (output_alias[o] < 0)
            continue;
        pair_of_argument[output_alias[o]] = pair_of_output[o] = d->n_pairs;
        d->pairs[d->n_pairs++] = (pair){.output = o, .first = NONE, .last = NONE};
    }
    find_slots(d, pair_of_argument, pair_of_output);
    return NULL;
}

static void reach(const donation *d, uint32_t from, uint32_t at) {
    const build_block *block = &d->b->blocks[at];
    uint32_t n_next = block->kind == VTRN_END_JUMP ? 1 : block->kind == VTRN_END_BRANCH ? 2 : 0;
    const uint32_t *next = block->next;
    if (block->kind == VTRN_END_SWITCH) {
        n_next = block->n_targets;
        next = block->targets;
    }
    for (uint32_t i = 0; i < n_next; i++) {
        uint8_t *is_reached = &d->reaches[from * d->b->n_blocks + next[i]];
        if (*is_reached)
            continue;
        *is_reached = 1;
        reach(d, from, next[i]);
    }
}

static vtrn_status find_reach(donation *d, arena *tmp) {
    uint32_t n = d->b->n_blocks;
    d->reaches = arena_alloc(tmp, n, n);
    if (!d->reaches)
        return VTRN_OUT_OF_MEMORY((size_t)n * n);
    for (uint32_t k = 0; n > 1 && k < n; k++)
        reach(d, k, k);
    return NULL;
}

/* A block's condition reads the argument when the block ends. */
static bool decides_a_branch(const donation *d, const pair *p) {
    uint32_t pair_i = (uint32_t)(p - d->pairs);
    for (uint32_t k = 0; k < d->b->n_blocks; k++) {
        const build_block *block = &d->b->blocks[k];
        bool has_condition = block->kind == VTRN_END_BRANCH || block->kind == VTRN_END_SWITCH;
        if (has_condition && d->read_pair[block->cond_slot] == pair_i)
            return true;
    }
    return false;
}

static bool is_read_in_later_block(const donation *d, const pair *p) {
    if (d->b->n_blocks == 1)
        return false;
    uint32_t done = NONE; /* block whose writes were looked at */
    for (uint32_t w = p->first; w != NONE; w = d->accesses[w].next) {
        const access *write = &d->accesses[w];
        if (!write->is_write || write->block == done)
            continue;
        done = write->block;
        for (uint32_t r = p->first; r != NONE; r = d->accesses[r].next)
            if (!d->accesses[r].is_write &&
                d->reaches[done * d->b->n_blocks + d->accesses[r].block])
                return true;
    }
    return false;
}

/* Bytes of the largest unit that no access of the pair cuts. */
static int64_t unit_of(const donation *d, const pair *p) {
    int64_t unit = (int64_t)p->size_bytes;
    for (uint32_t i = p->first; i != NONE; i = d->accesses[i].next) {
        const footprint *f = &d->accesses[i].at;
        unit = common_divisor(common_divisor(unit, f->addr), f->run);
        for (int k = 0; k < f->n; k++)
            unit = common_divisor(unit, f->level[k].step);
    }
    return unit;
}

/* Extent instead of runs: more than the operand names. */
static footprint hull_of(const footprint *f) {
    footprint hull = {.addr = f->addr, .run = f->run};
    for (int i = 0; i < f->n; i++)
        hull.run += f->level[i].step * (f->level[i].num - 1);
    return hull;
}

/* Writes: marks the units. Reads: true when one of them is marked. */
static bool visit(donation *d, const footprint *f, int level, int64_t addr, int64_t unit,
                  bool is_write) {
    if (level >= 0) {
        for (int64_t i = 0; i < f->level[level].num; i++)
            if (visit(d, f, level - 1, addr + i * f->level[level].step, unit, is_write))
                return true;
        return false;
    }
    for (int64_t u = addr / unit, end = (addr + f->run) / unit; u < end; u++) {
        if (is_write)
            d->is_overwritten[u >> 3] |= (uint8_t)(1u << (u & 7));
        else if (d->is_overwritten[u >> 3] >> (u & 7) & 1)
            return true;
    }
    return false;
}

/* A part of a tensor that extents describe, and one more. */
static footprint widen(footprint all, footprint more) {
    if (!all.run)
        return more;
    int64_t end = all.addr + all.run, more_end = more.addr + more.run;
    all.addr = more.addr < all.addr ? more.addr : all.addr;
    all.run = (more_end > end ? more_end : end) - all.addr;
    return all;
}

/* Reads of the argument that come after a write of the output, within one run of a block. */
static vtrn_status is_read_after_write(donation *d, const pair *p, bool *out) {
    int64_t unit = unit_of(d, p);
    bool is_exact = unit > 0 && p->size_bytes / (uint64_t)unit <= MAX_UNITS;
    footprint written = {0}; /* when extents must do */
    size_t n_bytes = is_exact ? p->size_bytes / (uint64_t)unit / 8 + 1 : 1;
    d->is_overwritten = calloc(n_bytes, 1);
    if (!d->is_overwritten)
        return VTRN_OUT_OF_MEMORY(n_bytes);
    uint32_t block = NONE;
    *out = false;
    for (uint32_t i = p->first; i != NONE && !*out; i = d->accesses[i].next) {
        const access *a = &d->accesses[i];
        footprint hull = hull_of(&a->at);
        if (block != a->block) {
            memset(d->is_overwritten, 0, n_bytes);
            written.run = 0;
        }
        block = a->block;
        if (hull.addr < 0 || hull.addr + hull.run > (int64_t)p->size_bytes)
            *out = true;
        else if (is_exact)
            *out = visit(d, &a->at, a->at.n - 1, a->at.addr, unit, a->is_write);
        else if (a->is_write)
            written = widen(written, hull);
        else
            *out = hull.addr < written.addr + written.run && written.addr < hull.addr + hull.run;
    }
    free(d->is_overwritten);
    return NULL;
}

static bool is_written(const donation *d, const pair *p) {
    uint32_t i = p->first;
    while (i != NONE && !d->accesses[i].is_write)
        i = d->accesses[i].next;
    return i != NONE;
}

/* The program was lowered for the output to begin as the argument. */
static bool is_needed(const builder *b, uint32_t output) {
    for (uint32_t i = 0; i < b->n_slots; i++)
        if (b->slots[i].is_in_place && b->slots[i].slot.index == (int32_t)output)
            return true;
    return false;
}

static vtrn_status settle(donation *d, arena *tmp, int32_t *output_alias) {
    const builder *b = d->b;
    VTRN_RETURN_IF_ERROR(find_pairs(d, tmp, output_alias));
    if (!d->n_pairs)
        return NULL;
    if (b->n_blocks <= MAX_BLOCKS)
        VTRN_RETURN_IF_ERROR(find_reach(d, tmp));
    for (uint32_t k = 0; k < b->n_blocks; k++)
        for (uint32_t i = b->blocks[k].begin; i < b->blocks[k].end; i++)
            VTRN_RETURN_IF_ERROR(collect_instr(d, &b->list[i], k));
    for (uint32_t i = 0; i < d->n_pairs; i++) {
        const pair *p = &d->pairs[i];
        if (!is_written(d, p)) /* the output is the argument as it was */
            continue;
        bool is_late =
            b->n_blocks > MAX_BLOCKS || decides_a_branch(d, p) || is_read_in_later_block(d, p);
        if (!is_late)
            VTRN_RETURN_IF_ERROR(is_read_after_write(d, p, &is_late));
        if (is_late && is_needed(b, p->output))
            return VTRN_ERROR(VTRN_INTERNAL,
                              "donation: output %u is updated in the memory of argument %d, which "
                              "is read afterwards; this is a bug of the compiler, please report "
                              "the program",
                              p->output, output_alias[p->output]);
        if (is_late)
            output_alias[p->output] = -1;
    }
    return NULL;
}

vtrn_status donate_settle(const builder *b, int32_t *output_alias) {
    donation d = {.b = b};
    arena tmp = ARENA_EMPTY;
    vtrn_status status = settle(&d, &tmp, output_alias);
    free(d.accesses);
    arena_free(&tmp);
    return status;
}
