/* How full the memories are over a step: liveness of what instructions write, from their intervals.
 *
 * SBUF and PSUM are watched in chunks of CHUNK_BYTES of a partition's address space (a tile of the
 * compiler occupies its address range in all partitions). A chunk is live from a write to the last
 * read before the next write that does not read it too. Slots of HBM are live as a whole. */
#include "profile/profile.h"

#include "isa/access.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK_BYTES = 64 };

/* One unit of memory that is live or not. */
typedef struct unit {
    double born_ns, last_ns; /* of the value it holds now */
    bool is_live;
} unit;

typedef struct change {
    double t_ns;
    int64_t bytes;
    uint8_t memory; /* 0 HBM, 1 SBUF, 2 PSUM */
} change;

typedef struct liveness {
    unit *units[3]; /* slots, SBUF chunks, PSUM chunks */
    size_t n_units[3];
    change *changes;
    size_t n_changes, cap_changes;
    bool is_short;
} liveness;

static void push(liveness *l, double t_ns, int memory, int64_t bytes) {
    if (l->n_changes == l->cap_changes) {
        size_t capacity = l->cap_changes ? l->cap_changes * 2 : 4096;
        change *grown = l->is_short ? NULL : realloc(l->changes, capacity * sizeof *grown);
        if (!grown) {
            l->is_short = true;
            return;
        }
        l->changes = grown;
        l->cap_changes = capacity;
    }
    l->changes[l->n_changes++] = (change){t_ns, bytes, (uint8_t)memory};
}

static void end_unit(liveness *l, int memory, unit *u, int64_t bytes) {
    if (u->is_live && bytes > 0) {
        push(l, u->born_ns, memory, bytes);
        push(l, u->last_ns, memory, -bytes);
    }
    u->is_live = false;
}

static void read_unit(unit *u, double end_ns) {
    if (u->is_live && end_ns > u->last_ns)
        u->last_ns = end_ns;
}

static void write_unit(liveness *l, int memory, unit *u, int64_t bytes, const timing_interval *t,
                       bool is_kept) {
    if (!is_kept || !u->is_live) {
        /* a value that is overwritten while its last reader still runs dies with the write */
        if (u->is_live && u->last_ns > t->start_ns)
            u->last_ns = t->start_ns > u->born_ns ? t->start_ns : u->born_ns;
        end_unit(l, memory, u, bytes);
        *u = (unit){t->start_ns, t->end_ns, true};
    }
    read_unit(u, t->end_ns);
}

static bool slot_is_resident(const vtrn_slot *slot) {
    return slot->kind == VTRN_SLOT_ARGUMENT || slot->kind == VTRN_SLOT_CONSTANT ||
           slot->kind == VTRN_SLOT_RANK;
}

static void touch_slot(liveness *l, const vtrn_program *p, uint32_t slot, const timing_interval *t,
                       bool is_write) {
    if (slot >= p->n_slots || slot_is_resident(&p->slots[slot]))
        return;
    unit *u = &l->units[0][slot];
    if (is_write && !u->is_live)
        *u = (unit){t->start_ns, t->end_ns, true};
    read_unit(u, t->end_ns);
}

static void touch_access(liveness *l, const vtrn_program *p, const vtrn_chip *chip,
                         const timing_interval *t, const isa_access *a) {
    if (a->space == VTRN_SPACE_HBM) {
        touch_slot(l, p, a->slot, t, a->is_written);
        return;
    }
    int memory = a->space == VTRN_SPACE_SBUF ? 1 : 2;
    int64_t lo, hi, bytes = (int64_t)CHUNK_BYTES * chip->n_partitions;
    access_extent(a, 0, &lo, &hi);
    for (int64_t i = lo < 0 ? 0 : lo / CHUNK_BYTES;
         i * CHUNK_BYTES < hi && i < (int64_t)l->n_units[memory]; i++) {
        unit *u = &l->units[memory][i];
        if (a->is_written)
            write_unit(l, memory, u, bytes, t, a->is_read);
        else
            read_unit(u, t->end_ns);
    }
}

/* What it only reads before what it writes. */
static void touch_instr(liveness *l, const vtrn_program *p, const vtrn_chip *chip,
                        const timing_interval *t, const vtrn_instr *instr) {
    isa_access a;
    for (int is_written = 0; is_written < 2; is_written++)
        for (access_walk w = access_begin(instr, p->customs, p->n_customs); access_next(&w, &a);)
            if (a.is_written == is_written)
                touch_access(l, p, chip, t, &a);
}

/* Intervals in order of start. */
static int compare_intervals(const void *a, const void *b) {
    const timing_interval *x = *(timing_interval *const *)a, *y = *(timing_interval *const *)b;
    if (x->start_ns != y->start_ns)
        return x->start_ns < y->start_ns ? -1 : 1;
    return (x > y) - (x < y);
}

static int compare_changes(const void *a, const void *b) {
    const change *x = a, *y = b;
    if (x->t_ns != y->t_ns)
        return x->t_ns < y->t_ns ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* ends before begins */
}

static void walk(liveness *l, const vtrn_program *p, const vtrn_chip *chip,
                 const timing_interval **order, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const timing_interval *t = order[i];
        if (t->instr >= p->n_instrs)
            continue;
        const vtrn_instr *instr = &p->instrs[t->instr];
        /* A DMA is seen twice: as a queue instruction and on its ring. The ring moves the bytes. */
        if (isa_is_dma((vtrn_opcode)instr->opcode) && t->lane < TIMING_LANE_DMA)
            continue;
        touch_instr(l, p, chip, t, instr);
    }
}

static void end_all(liveness *l, const vtrn_program *p, const vtrn_chip *chip, double total_ns) {
    for (int memory = 0; memory < 3; memory++)
        for (size_t i = 0; i < l->n_units[memory]; i++) {
            int64_t bytes = (int64_t)CHUNK_BYTES * chip->n_partitions;
            unit *u = &l->units[memory][i];
            if (memory == 0) {
                bytes = (int64_t)p->slots[i].size_bytes;
                bool is_new = p->slots[i].kind == VTRN_SLOT_OUTPUT &&
                              (!p->output_alias || p->slots[i].index < 0 ||
                               (uint32_t)p->slots[i].index >= p->n_outputs ||
                               p->output_alias[p->slots[i].index] < 0);
                if (p->slots[i].kind == VTRN_SLOT_OUTPUT && !is_new)
                    continue; /* lives in an argument's memory, which is counted */
                if (is_new)
                    u->last_ns = total_ns;
            }
            end_unit(l, memory, u, bytes);
        }
}

/* Running sums at each change; of every stretch of total_ns / max_samples the highest. */
static size_t sample(const liveness *l, int64_t resident_bytes, double total_ns, size_t max_samples,
                     profile_memory_sample *out) {
    int64_t now[3] = {resident_bytes, 0, 0};
    size_t n = 0;
    double width = total_ns / (double)max_samples;
    out[n++] = (profile_memory_sample){0, (uint64_t)resident_bytes, 0, 0};
    for (size_t i = 0; i < l->n_changes;) {
        double t_ns = l->changes[i].t_ns;
        for (; i < l->n_changes && l->changes[i].t_ns == t_ns; i++)
            now[l->changes[i].memory] += l->changes[i].bytes;
        profile_memory_sample s = {t_ns, (uint64_t)now[0], (uint64_t)now[1], (uint64_t)now[2]};
        profile_memory_sample *last = &out[n - 1];
        bool is_near = width > 0 && (size_t)(t_ns / width) == (size_t)(last->t_ns / width);
        if (!is_near && n < max_samples) {
            out[n++] = s;
            continue;
        }
        last->hbm_bytes = s.hbm_bytes > last->hbm_bytes ? s.hbm_bytes : last->hbm_bytes;
        last->sbuf_bytes = s.sbuf_bytes > last->sbuf_bytes ? s.sbuf_bytes : last->sbuf_bytes;
        last->psum_bytes = s.psum_bytes > last->psum_bytes ? s.psum_bytes : last->psum_bytes;
    }
    return n;
}

static vtrn_status liveness_create(const vtrn_program *p, const vtrn_chip *chip, liveness *l) {
    *l = (liveness){.n_units = {p->n_slots, chip->sbuf_partition_bytes / CHUNK_BYTES,
                                chip->psum_partition_bytes / CHUNK_BYTES}};
    for (int memory = 0; memory < 3; memory++) {
        l->units[memory] = calloc(l->n_units[memory] + 1, sizeof(unit));
        if (!l->units[memory])
            return VTRN_OUT_OF_MEMORY(l->n_units[memory] * sizeof(unit));
    }
    return NULL;
}

static void liveness_free(liveness *l) {
    for (int memory = 0; memory < 3; memory++)
        free(l->units[memory]);
    free(l->changes);
}

vtrn_status profile_memory(const vtrn_program *program, const vtrn_chip *chip,
                           const timing_result *timing, size_t max_samples,
                           profile_memory_sample **out, size_t *n_out) {
    *out = NULL;
    *n_out = 0;
    max_samples = max_samples < 2 ? 2 : max_samples;
    size_t n = timing->n_intervals;
    const timing_interval **order = malloc((n + 1) * sizeof *order);
    liveness l = {0};
    vtrn_status status = order ? liveness_create(program, chip, &l) : VTRN_OUT_OF_MEMORY(n);
    if (!status) {
        for (size_t i = 0; i < n; i++)
            order[i] = &timing->intervals[i];
        qsort(order, n, sizeof *order, compare_intervals);
        int64_t resident_bytes = 0;
        for (uint32_t i = 0; i < program->n_slots; i++)
            if (slot_is_resident(&program->slots[i]))
                resident_bytes += (int64_t)program->slots[i].size_bytes;
        walk(&l, program, chip, order, n);
        end_all(&l, program, chip, timing->summary.total_ns);
        if (l.n_changes)
            qsort(l.changes, l.n_changes, sizeof *l.changes, compare_changes);
        profile_memory_sample *samples = malloc(max_samples * sizeof *samples);
        if (l.is_short || !samples) {
            free(samples);
            status = VTRN_OUT_OF_MEMORY(l.n_changes * sizeof *l.changes);
        } else {
            *n_out = sample(&l, resident_bytes, timing->summary.total_ns, max_samples, samples);
            *out = samples;
        }
    }
    liveness_free(&l);
    free(order);
    return status;
}
