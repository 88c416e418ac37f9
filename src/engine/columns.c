/* Finds stretches of products, and has the threads do them column by column. See columns.h. */
#include "engine/columns.h"

#include "engine/engine.h"
#include "engine/tensor.h"

#include <sched.h>
#include <string.h>

enum {
    /* of HBM that a stretch reads at least: one core takes some 8 us for them, and threads meet in
     * less than one */
    LEAST_BYTES = 128 << 10,
    SPINS = 2000,  /* some 20 to 100 us */
    YIELDS = 2000, /* some ms, as far as others have the core */
    MAX_SUMS = 16, /* ranges of PSUM in a stretch */
    CACHE_LINE_BYTES = 64,
};

/* Bytes of a partition of PSUM that products of a stretch write. Threads divide a range always in
 * the same way, so ranges must be the same or apart. */
typedef struct sums {
    struct {
        int64_t lo, hi;
    } range[MAX_SUMS];
    int n;
} sums;

/* Whether the product may be divided beside those before it. */
static bool sums_add(sums *s, const vtrn_ap *dst) {
    int64_t lo = dst->addr, hi = lo + (int64_t)(isa_ap_free_size(dst) * sizeof(float));
    for (int i = 0; i < s->n; i++) {
        if (s->range[i].lo == lo && s->range[i].hi == hi)
            return true;
        if (s->range[i].lo < hi && lo < s->range[i].hi)
            return false;
    }
    if (s->n == MAX_SUMS)
        return false;
    s->range[s->n].lo = lo;
    s->range[s->n++].hi = hi;
    return true;
}

/* Takes steps from `first` on; returns the end of the stretch that begins there, `first` if none
 * does. */
static uint32_t stretch_end(const vtrn_program *program, const engine_block_plan *block,
                            uint32_t first, uint64_t *n_bytes) {
    const vtrn_instr *load = NULL;
    uint32_t end = first;
    sums written = {.n = 0};
    *n_bytes = 0;
    for (uint32_t i = first; i < block->n_steps; i++) {
        const vtrn_instr *instr = engine_step_instr(program, block, i);
        if (block->steps[i].is_left_out)
            continue;
        if (tensor_is_divisible_load(instr))
            load = instr;
        else if (!load || !tensor_is_divisible(load, instr) || !sums_add(&written, &instr->ap[0]))
            break;
        else if (instr->ap[1].space == VTRN_SPACE_HBM)
            *n_bytes += isa_ap_free_size(&instr->ap[1]) * instr->ap[1].n_partitions *
                        dtype_size((vtrn_dtype)instr->ap[1].dtype);
        end = i + 1;
    }
    return end;
}

vtrn_status columns_find(const vtrn_program *program, engine_block_plan *block, arena *kept,
                         uint64_t *n_bytes) {
    if (!block->in_place)
        return NULL;
    engine_stretch *found = NULL;
    for (int pass = 0; pass < 2; pass++) { /* counts, then notes */
        uint32_t n = 0, end;
        uint64_t n_read;
        for (uint32_t i = 0; i<block->n_steps; i = end> i ? end : i + 1) {
            end = stretch_end(program, block, i, &n_read);
            if (n_read < LEAST_BYTES)
                continue;
            if (found) {
                found[n] = (engine_stretch){i, end};
                *n_bytes += n_read;
            }
            n++;
        }
        if (!n || found)
            continue;
        found = ARENA_NEW(kept, engine_stretch, n);
        if (!found)
            return VTRN_OUT_OF_MEMORY(n * sizeof *found);
        block->n_stretches = n;
    }
    block->stretches = found;
    return NULL;
}

void columns_begin(columns_work *w, engine_core *alone, const engine_run *run, int n_threads) {
    memset(w, 0, sizeof *w);
    w->core = alone;
    w->run = run;
    w->n_parts = n_threads < COLUMNS_MAX_PARTS ? n_threads : COLUMNS_MAX_PARTS;
}

static void do_part(const columns_work *w, int part_i, int thread_i) {
    tensor_part part = {.thread_i = thread_i, .part_i = part_i, .n_parts = w->n_parts};
    for (uint32_t i = w->stretch->first; i < w->stretch->end; i++)
        if (!w->block->steps[i].is_left_out)
            tensor_do_part(w->core, engine_step_instr(w->run->program, w->block, i),
                           w->run->slot_base, &part);
}

/* Whether part part_i of stretch `number` is the caller's to do. */
static bool take(columns_work *w, int part_i, uint32_t number) {
    uint32_t before = number - 1;
    return atomic_compare_exchange_strong(&w->part[part_i].taken, &before, number);
}

static void pause_briefly(int n_waits) {
    if (n_waits >= SPINS)
        sched_yield();
#if defined(__x86_64__)
    else
        __builtin_ia32_pause();
#endif
}

void columns_run(columns_work *w, const engine_block_plan *block, const engine_stretch *stretch) {
    const uint32_t number = ++w->n_posted;
    uint32_t n_others = 0;
    w->block = block;
    w->stretch = stretch;
    atomic_store_explicit(&w->n_done, 0, memory_order_relaxed);
    atomic_store_explicit(&w->posted, number, memory_order_release);
    do_part(w, 0, 0);
    for (int p = 1; p < w->n_parts; p++) {
        if (take(w, p, number))
            do_part(w, p, 0);
        else
            n_others++;
    }
    int n_waits = 0;
    while (atomic_load_explicit(&w->n_done, memory_order_acquire) != n_others)
        pause_briefly(n_waits++);
    w->has_waited |= n_waits > SPINS + YIELDS;
}

void columns_end(columns_work *w) {
    atomic_store_explicit(&w->is_over, true, memory_order_release);
}

/* What products read that are still to come: steps [step, end) of a block, from a row of the
 * first's moving tile on. Each thread that waits has rows of its own. */
typedef struct glance {
    const engine_block_plan *block;
    uint32_t step, end;
    int first_row, row, row_step;
} glance;

/* Of the stretch behind the one of which the caller has taken a part. */
static glance behind_stretch(const columns_work *w, int thread_i) {
    const engine_stretch *next = w->stretch + 1;
    if (next == w->block->stretches + w->block->n_stretches)
        return (glance){.end = 0};
    return (glance){.block = w->block,
                    .step = next->first,
                    .end = next->end,
                    .first_row = thread_i - 1,
                    .row = thread_i - 1,
                    .row_step = w->n_parts - 1};
}

/* Prefetches one row of a moving tile, with the columns of all threads, into the second-level
 * cache: the other threads read what this one has fetched from there, which is sooner than from
 * memory. False: no row of the stretch is left. */
static bool look_ahead(const columns_work *w, glance *g) {
    for (; g->step < g->end; g->step++, g->row = g->first_row) {
        const vtrn_instr *instr = engine_step_instr(w->run->program, g->block, g->step);
        const vtrn_ap *tile = &instr->ap[1];
        if (instr->opcode != VTRN_OP_MATMUL || tile->space != VTRN_SPACE_HBM ||
            g->row >= tile->n_partitions)
            continue;
        const uint8_t *row = engine_row(w->core, tile, w->run->slot_base, 0) +
                             g->row * (int64_t)engine_row_stride(w->core, tile);
        g->row += g->row_step;
        const size_t n = isa_ap_free_size(tile) * dtype_size((vtrn_dtype)tile->dtype);
        for (size_t i = 0; i < n; i += CACHE_LINE_BYTES)
            __builtin_prefetch(row + i, 0, 2);
        return true;
    }
    return false;
}

void columns_help(columns_work *w, int thread_i) {
    if (thread_i >= w->n_parts)
        return;
    uint32_t seen = 0;
    glance coming = {.end = 0};
    for (int n_waits = 0; !atomic_load_explicit(&w->is_over, memory_order_acquire);) {
        uint32_t number = atomic_load_explicit(&w->posted, memory_order_acquire);
        if (number == seen) {
            if (look_ahead(w, &coming))
                continue;
            pause_briefly(n_waits);
            n_waits += n_waits < SPINS;
            continue;
        }
        seen = number;
        n_waits = 0;
        coming.end = 0;
        if (!take(w, thread_i, number))
            continue;
        do_part(w, thread_i, thread_i);
        /* Once this part is done the first thread may post another stretch. */
        coming = behind_stretch(w, thread_i);
        atomic_fetch_add_explicit(&w->n_done, 1, memory_order_release);
    }
}
