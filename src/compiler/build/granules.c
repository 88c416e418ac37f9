#include "compiler/build/granules.h"

#include "base/array.h"
#include "compiler/build/slot_grid.h"
#include "isa/access.h"

#include <stdlib.h>
#include <string.h>

enum {
    GRANULE_SHIFT = 6,  /* bytes of a partition that are tracked as one */
    QUADRANT = 32,      /* partitions that are tracked as one: operands start at multiples of it */
    MAX_GRANULES = 256, /* of an HBM tensor */
    /* Tiles of small tensors are a few hundred bytes, as heads of single tokens are; for others
     * finer granules only take time. */
    SMALL_SLOT_BYTES = 32 << 10,
    LEAST_SLOT_SHIFT = 9,
    /* Where a tile's store meets the next one's load in a granule, the load has a wait that it does
     * not need: 8 KiB is where tiles of 128 rows begin. */
    MAX_IN_PLACE = 4096,
    N_LANES = VTRN_ENGINE_COUNT + VTRN_N_QUEUES, /* what completes in order: engines and rings */
};

/* Instructions are numbered from 1 here; 0: none. */
typedef struct granule {
    uint32_t writer;
    uint32_t readers; /* since: first node of a list, or 0 */
} granule;

typedef struct reader {
    uint32_t instr, next;
} reader;

/* Granules of one HBM slot; granularity follows the size so that a pass over it stays cheap. */
typedef struct slot_track {
    granule *granules;
    slot_grid grid;
    bool is_touched, is_in_place; /* in place: an argument that becomes an output, tile by tile */
    /* By lane, the last instruction that touched it, and the last one that touched slots whose
     * memory it reuses: whatever touches a granule first must follow those. */
    uint32_t user[N_LANES], before[N_LANES];
} slot_track;

struct granules {
    const granules_input *in;
    arena *home;
    granule *sbuf, *psum; /* the rows of a column are neighbours: most accesses have all */
    uint32_t sbuf_cols, psum_cols, n_rows;
    slot_track *tracks; /* by slot; an output that may share an argument's memory uses its track */
    uint32_t *track_of;
    reader *readers; /* nodes of all lists; node 0 is none */
    uint32_t n_readers, cap_readers;
    uint32_t at;       /* the instruction at hand, from 1 */
    uint32_t *seen_by; /* by instruction: the last one that found it */
    uint32_t *found;   /* where it stands among the dependences of that one */
    dependence *deps;
    uint32_t n_deps, cap_deps;
};

static uint32_t lane_of(const vtrn_instr *instr) {
    return isa_is_dma(instr->opcode) ? VTRN_ENGINE_COUNT + instr->queue : instr->engine;
}

static vtrn_status add_dependence(granules *g, uint32_t on, bool is_of_data) {
    if (on == 0 || on == g->at) /* an instruction is no hazard to itself */
        return NULL;
    if (g->seen_by[on] == g->at) {
        g->deps[g->found[on]].is_of_data |= is_of_data;
        return NULL;
    }
    if (!array_grow((void **)&g->deps, g->n_deps, &g->cap_deps, sizeof *g->deps))
        return VTRN_OUT_OF_MEMORY(g->n_deps * sizeof *g->deps);
    g->seen_by[on] = g->at;
    g->found[on] = g->n_deps;
    g->deps[g->n_deps++] = (dependence){on - 1, is_of_data};
    return NULL;
}

/* Puts the instruction at hand in front of a list, once. */
static vtrn_status add_reader(granules *g, uint32_t *list) {
    if (*list && g->readers[*list].instr == g->at)
        return NULL;
    if (!array_grow((void **)&g->readers, g->n_readers, &g->cap_readers, sizeof *g->readers))
        return VTRN_OUT_OF_MEMORY(g->n_readers * sizeof *g->readers);
    g->readers[g->n_readers] = (reader){g->at, *list};
    *list = g->n_readers++;
    return NULL;
}

/* is_read: also what an instruction writes may depend on what was there. */
static vtrn_status touch(granules *g, granule *to, bool is_write, bool is_read) {
    VTRN_RETURN_IF_ERROR(add_dependence(g, to->writer, is_read));
    if (!is_write)
        return add_reader(g, &to->readers);
    for (uint32_t r = to->readers; r; r = g->readers[r].next)
        VTRN_RETURN_IF_ERROR(add_dependence(g, g->readers[r].instr, false));
    *to = (granule){.writer = g->at};
    return NULL;
}

/* The granule that an access touched last. Neighbours mostly have the same past, which then adds
 * no dependence and gives them the same list: lists only grow at their front, so they share it. */
typedef struct touched {
    granule before, after;
} touched;

enum { NO_INSTR = UINT32_MAX };

/* Another engine may be the first to touch another part of a slot. */
static vtrn_status follow_earlier_slots(granules *g, const slot_track *t) {
    for (int l = 0; l < N_LANES; l++)
        VTRN_RETURN_IF_ERROR(add_dependence(g, t->before[l], false));
    return NULL;
}

typedef struct touch_kind {
    bool is_write, is_read;
    const slot_track *slot; /* in HBM; else NULL */
} touch_kind;

static bool is_alike(const granule *a, const granule *b) {
    return a->writer == b->writer && a->readers == b->readers;
}

/* n granules, step apart. */
static vtrn_status touch_run(granules *g, granule *first, granule *end, uint32_t step,
                             const touch_kind *how) {
    touched last = {.before.writer = NO_INSTR};
    for (granule *to = first; to < end; to += step) {
        if (is_alike(to, &last.before)) {
            *to = last.after;
            continue;
        }
        last.before = *to;
        if (how->slot && !to->writer && !to->readers)
            VTRN_RETURN_IF_ERROR(follow_earlier_slots(g, how->slot));
        VTRN_RETURN_IF_ERROR(touch(g, to, how->is_write, how->is_read));
        last.after = *to;
    }
    return NULL;
}

static vtrn_status touch_partitions(granules *g, const isa_access *a, bool is_write) {
    bool is_sbuf = a->space == VTRN_SPACE_SBUF;
    granule *memory = is_sbuf ? g->sbuf : g->psum;
    uint32_t cols = is_sbuf ? g->sbuf_cols : g->psum_cols;
    int64_t lo, hi;
    access_extent(a, 0, &lo, &hi);
    uint32_t rows = a->ap->partition_step == 0 ? 1 : (uint32_t)a->n_rows;
    uint32_t row0 = a->ap->partition / QUADRANT, row1 = (a->ap->partition + rows - 1) / QUADRANT;
    int64_t first = lo >> GRANULE_SHIFT, end = ((hi - 1) >> GRANULE_SHIFT) + 1;
    if (end > cols)
        end = cols;
    if (first >= end)
        return NULL;
    const touch_kind how = {is_write, a->is_read, NULL};
    granule *from = &memory[(size_t)first * g->n_rows], *to = &memory[(size_t)end * g->n_rows];
    if (row0 == 0 && row1 + 1 >= g->n_rows)
        return touch_run(g, from, to, 1, &how);
    for (uint32_t row = row0; row <= row1 && row < g->n_rows; row++)
        VTRN_RETURN_IF_ERROR(touch_run(g, from + row, to, g->n_rows, &how));
    return NULL;
}

static bool slots_overlap(const vtrn_slot *a, const vtrn_slot *b) {
    return a->kind == VTRN_SLOT_SCRATCH && b->kind == VTRN_SLOT_SCRATCH &&
           a->offset < b->offset + b->size_bytes && b->offset < a->offset + a->size_bytes;
}

/* First touch of a slot: its memory may have been another slot's, all of whose uses are over. */
static vtrn_status open_slot(granules *g, uint32_t slot_i, const isa_access *first, slot_track *t) {
    const vtrn_slot *slot = &g->in->slots[slot_i];
    t->is_touched = true;
    int shift = slot->size_bytes <= SMALL_SLOT_BYTES ? GRANULE_SHIFT : LEAST_SLOT_SHIFT;
    while ((slot->size_bytes >> shift) > (t->is_in_place ? MAX_IN_PLACE : MAX_GRANULES))
        shift++;
    isa_access whole = {.is_written = false};
    t->grid = slot_grid_for(t->is_in_place ? &whole : first, slot->size_bytes, 1ll << shift);
    size_t n = (size_t)t->grid.n_cols * t->grid.n_blocks;
    t->granules = ARENA_NEW(g->home, granule, n);
    if (!t->granules)
        return VTRN_OUT_OF_MEMORY(n * sizeof(granule));
    if (!g->in->has_addresses || slot->kind != VTRN_SLOT_SCRATCH)
        return NULL;
    for (uint32_t i = 0; i < g->in->n_slots; i++)
        if (g->tracks[i].is_touched && i != slot_i && slots_overlap(slot, &g->in->slots[i]))
            for (int l = 0; l < N_LANES; l++)
                if (g->tracks[i].user[l] > t->before[l])
                    t->before[l] = g->tracks[i].user[l];
    return NULL;
}

static vtrn_status touch_slot(granules *g, const isa_access *a, bool is_write) {
    uint32_t slot_i = g->track_of[a->slot];
    slot_track *t = &g->tracks[slot_i];
    if (!t->is_touched)
        VTRN_RETURN_IF_ERROR(open_slot(g, slot_i, a, t));
    t->user[lane_of(&g->in->list[g->at - 1])] = g->at;
    if (g->in->slots[slot_i].kind == VTRN_SLOT_CONSTANT)
        return NULL;
    slot_box box;
    if (!slot_grid_box(&t->grid, a, g->in->slots[a->slot].size_bytes, &box))
        return NULL;
    const touch_kind how = {is_write, a->is_read, t};
    uint32_t end = box.last_col < t->grid.n_cols ? box.last_col + 1 : t->grid.n_cols;
    for (uint32_t b = box.first_block; b <= box.last_block; b++) {
        granule *block = &t->granules[(size_t)b * t->grid.n_cols];
        VTRN_RETURN_IF_ERROR(touch_run(g, block + box.first_col, block + end, 1, &how));
    }
    return NULL;
}

/* Writes first: they must find the earlier readers, not this instruction's own read. */
vtrn_status granules_next(granules *g, const dependence **out, uint32_t *n) {
    const vtrn_instr *instr = &g->in->list[g->at++];
    isa_access a;
    g->n_deps = 0;
    for (int is_write = 1; is_write >= 0; is_write--)
        for (access_walk w = access_begin(instr, g->in->customs, g->in->n_customs);
             access_next(&w, &a);) {
            if (is_write ? !a.is_written : !a.is_read)
                continue;
            if (a.space == VTRN_SPACE_HBM)
                VTRN_RETURN_IF_ERROR(touch_slot(g, &a, is_write));
            else
                VTRN_RETURN_IF_ERROR(touch_partitions(g, &a, is_write));
        }
    *out = g->deps;
    *n = g->n_deps;
    return NULL;
}

/* An output in the memory of the argument that it may take is tracked as that argument. */
static void find_tracks(granules *g) {
    const granules_input *in = g->in;
    for (uint32_t i = 0; i < in->n_slots; i++) {
        g->track_of[i] = i;
        const vtrn_slot *slot = &in->slots[i];
        if (slot->kind != VTRN_SLOT_OUTPUT || in->output_alias[slot->index] < 0)
            continue;
        for (uint32_t a = 0; a < in->n_slots; a++)
            if (in->slots[a].kind == VTRN_SLOT_ARGUMENT &&
                in->slots[a].index == in->output_alias[slot->index]) {
                g->track_of[i] = a;
                g->tracks[a].is_in_place = true;
            }
    }
}

vtrn_status granules_create(const granules_input *in, arena *home, granules **out) {
    granules *g = *out = ARENA_NEW(home, granules, 1);
    if (!g)
        return VTRN_OUT_OF_MEMORY(sizeof *g);
    *g = (granules){.in = in, .home = home, .n_readers = 1};
    g->n_rows = ((uint32_t)in->chip->n_partitions + QUADRANT - 1) / QUADRANT;
    g->sbuf_cols = (in->chip->sbuf_partition_bytes >> GRANULE_SHIFT) + 1;
    g->psum_cols = (in->chip->psum_partition_bytes >> GRANULE_SHIFT) + 1;
    /* calloc leaves untouched pages untouched: a tiny program pays for what it uses */
    g->sbuf = calloc((size_t)g->n_rows * g->sbuf_cols, sizeof *g->sbuf);
    g->psum = calloc((size_t)g->n_rows * g->psum_cols, sizeof *g->psum);
    g->tracks = ARENA_NEW(home, slot_track, in->n_slots);
    g->track_of = ARENA_NEW(home, uint32_t, in->n_slots);
    g->seen_by = ARENA_NEW(home, uint32_t, (size_t)in->n + 1);
    g->found = ARENA_NEW(home, uint32_t, (size_t)in->n + 1);
    if (!g->sbuf || !g->psum || !g->tracks || !g->track_of || !g->seen_by || !g->found) {
        granules_destroy(g);
        *out = NULL;
        return VTRN_OUT_OF_MEMORY(in->n * sizeof *g->found);
    }
    find_tracks(g);
    return NULL;
}

void granules_destroy(granules *g) {
    if (!g)
        return;
    free(g->sbuf);
    free(g->psum);
    free(g->readers);
    free(g->deps);
    *g = (granules){0};
}
