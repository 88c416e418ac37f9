/* SBUF for every kernel, in order. */
#include "compiler/plan/place.h"

#include "compiler/plan/map_plan.h"
#include "compiler/plan/resident.h"

#include <string.h>

enum {
    /* Kernels follow each other through a window of SBUF: far enough apart to overlap, near enough
     * to stay in the host's cache. Above it are residents, which make room for a kernel that needs
     * more. Bytes of a partition; assumed, tuned on the chars step. */
    SBUF_WINDOW = 64 << 10,
    MAX_LIVE = 128, /* residents at a time */
    MAX_ROUNDS = 4, /* of placement, each without the residents that served no kernel before */
    NEVER = UINT32_MAX,
};

/* A kernel that reads or writes a tensor. */
typedef struct use {
    uint32_t kernel_i;
    bool is_written;
} use;

typedef struct placer {
    plan *p;
    uint32_t *first_use; /* by tensor, one more at the end: its uses in `uses`, in order */
    use *uses;
    resident *live[MAX_LIVE]; /* by address, highest first; those of the kernel at hand included */
    uint32_t n_live;
    uint32_t kernel_i; /* being placed */
    uint32_t cursor, peak;
} placer;

static map_plan *map_of(const placer *s, uint32_t kernel_i) {
    kernel *k = &s->p->list.kernels[kernel_i];
    return k->kind == KERNEL_MAP ? k->spec : NULL;
}

static contraction *contraction_of(const placer *s, uint32_t kernel_i) {
    kernel *k = &s->p->list.kernels[kernel_i];
    return k->kind == KERNEL_CONTRACT ? k->spec : NULL;
}

/* --- who can read what in SBUF ------------------------------------------------------------------
 */

static vtrn_status find_uses(placer *s) {
    const plan *p = s->p;
    uint32_t n_slots = s->p->build->n_slots;
    s->first_use = ARENA_NEW(&s->p->home, uint32_t, (size_t)n_slots + 2);
    s->uses = ARENA_NEW(&s->p->home, use, p->list.n_accesses);
    if (!s->first_use || !s->uses)
        return VTRN_OUT_OF_MEMORY(p->list.n_accesses * sizeof *s->uses);
    for (uint32_t i = 0; i < p->list.n_accesses; i++)
        s->first_use[p->list.accesses[i].map.slot + 2]++;
    for (uint32_t i = 2; i < n_slots + 2; i++)
        s->first_use[i] += s->first_use[i - 1];
    for (uint32_t k = 0; k < p->list.n_kernels; k++)
        for (uint32_t a = 0; a < p->list.kernels[k].n_accesses; a++) {
            const kernel_access *access = &p->list.accesses[p->list.kernels[k].access_i + a];
            s->uses[s->first_use[access->map.slot + 1]++] = (use){k, access->is_written};
        }
    return NULL;
}

static bool kernel_takes(const placer *s, uint32_t kernel_i, const resident *r) {
    const map_plan *m = map_of(s, kernel_i);
    const contraction *c = contraction_of(s, kernel_i);
    return m ? map_takes(m, r) : c && contract_takes(c, r);
}

/* The kernels after the maker that can read the resident, up to the end of the block or to a kernel
 * that writes the tensor. */
static vtrn_status find_takers(placer *s, resident *r) {
    uint32_t begin = s->first_use[r->slot], end = s->first_use[r->slot + 1];
    uint32_t *takers = ARENA_NEW(&s->p->home, uint32_t, end - begin);
    if (!takers)
        return VTRN_OUT_OF_MEMORY((end - begin) * sizeof *takers);
    r->takers = takers;
    uint32_t block_i = s->p->list.kernels[r->maker_i].block_i;
    for (uint32_t i = begin; i < end; i++) {
        uint32_t k = s->uses[i].kernel_i;
        if (k <= r->maker_i)
            continue;
        if (s->uses[i].is_written || s->p->list.kernels[k].block_i != block_i)
            break;
        bool is_known = r->n_takers && takers[r->n_takers - 1] == k;
        if (!is_known && kernel_takes(s, k, r))
            takers[r->n_takers++] = k;
    }
    return NULL;
}

/* Describes what may stay of a node; false when it is not the whole of a dense scratch tensor, or
 * larger than SBUF. */
static bool describe_resident(const placer *s, const map_plan *m, const fusion_node *node,
                              resident *r) {
    if (!map_can_keep(m, node))
        return false;
    const view *v = &node->store_view;
    const vtrn_slot *slot = &s->p->build->slots[v->slot].slot;
    int64_t n = view_count(v), cols = map_node_cols(m, node), rows = n / cols;
    int64_t row_step = fusion_row_step(m);
    int64_t batch_rows = m->is_flat ? 0 : m->f->batch_rows;
    uint32_t pitch = m->f->n_side ? (uint32_t)((uint64_t)cols * dtype_size((vtrn_dtype)node->dtype))
                                  : resident_pitch(node->dtype, cols);
    uint64_t n_bytes = sbuf_round((uint64_t)resident_tiles(rows, row_step, batch_rows) * pitch);
    vtrn_dtype in_memory;
    fusion_tile_dtype((vtrn_dtype)v->dtype, &in_memory);
    if (slot->kind != VTRN_SLOT_SCRATCH || v->offset || !view_is_dense(v) || n % cols ||
        in_memory != node->dtype || (uint64_t)n * dtype_size(in_memory) != slot->size_bytes ||
        n_bytes + SBUF_WINDOW > s->p->sbuf_limit)
        return false;
    *r = (resident){.slot = v->slot,
                    .dtype = node->dtype,
                    .rows = rows,
                    .cols = cols,
                    .row_step = row_step,
                    .batch_rows = batch_rows,
                    .pitch = pitch,
                    .n_bytes = (uint32_t)n_bytes};
    return true;
}

static vtrn_status find_candidates(placer *s) {
    for (uint32_t k = 0; k < s->p->list.n_kernels; k++) {
        map_plan *m = map_of(s, k);
        for (int i = 0; m && i < m->f->n_nodes; i++) {
            fusion_node *node = &m->f->nodes[i];
            resident r;
            if (!describe_resident(s, m, node, &r))
                continue;
            r.maker_i = k;
            VTRN_RETURN_IF_ERROR(find_takers(s, &r));
            if (!r.n_takers)
                continue;
            node->candidate = ARENA_NEW(&s->p->home, resident, 1);
            if (!node->candidate)
                return VTRN_OUT_OF_MEMORY(sizeof r);
            *node->candidate = r;
        }
    }
    return NULL;
}

/* --- the residents at hand ----------------------------------------------------------------------
 */

/* The next kernel, the one at hand included, that can read the resident. */
static uint32_t next_taker(const placer *s, const resident *r) {
    for (uint32_t i = 0; i < r->n_takers; i++)
        if (r->takers[i] >= s->kernel_i)
            return r->takers[i];
    return NEVER;
}

static bool is_new(const placer *s, const resident *r) {
    return r->maker_i == s->kernel_i;
}

static void forget(placer *s, uint32_t index) {
    s->n_live--;
    memmove(&s->live[index], &s->live[index + 1], (s->n_live - index) * sizeof s->live[0]);
}

static void forget_unread(placer *s) {
    for (uint32_t i = s->n_live; i-- > 0;)
        if (next_taker(s, s->live[i]) == NEVER)
            forget(s, i);
}

static const resident *live_of(const placer *s, uint32_t slot) {
    for (uint32_t i = 0; i < s->n_live; i++)
        if (s->live[i]->slot == slot && !is_new(s, s->live[i]))
            return s->live[i];
    return NULL;
}

/* Forgets the resident that is read last, if that is after kernel `next`. */
static bool forget_last(placer *s, uint32_t next) {
    uint32_t last = s->n_live, last_next = next;
    for (uint32_t i = 0; i < s->n_live; i++) {
        uint32_t k = next_taker(s, s->live[i]);
        if (is_new(s, s->live[i]) || k <= last_next)
            continue;
        last = i;
        last_next = k;
    }
    if (last == s->n_live)
        return false;
    forget(s, last);
    return true;
}

/* The highest gap of n_bytes above `floor`: its place in `live`, and its address. */
static bool find_gap(const placer *s, uint32_t n_bytes, uint64_t floor, uint32_t *index,
                     uint32_t *addr) {
    uint32_t top = s->p->sbuf_limit / SBUF_ALIGN * SBUF_ALIGN;
    for (uint32_t i = 0; i <= s->n_live && s->n_live < MAX_LIVE; i++) {
        uint32_t bottom = i < s->n_live ? s->live[i]->addr + s->live[i]->n_bytes : SBUF_WINDOW;
        if (top >= bottom && top - bottom >= n_bytes && top - n_bytes >= floor) {
            *index = i;
            *addr = top - n_bytes;
            return true;
        }
        if (i < s->n_live)
            top = s->live[i]->addr;
    }
    return false;
}

/* Gives the resident an address, if need be that of residents that are read later. */
static bool open(placer *s, resident *r, uint64_t floor) {
    uint32_t index, addr, n_live = s->n_live;
    resident *saved[MAX_LIVE];
    memcpy(saved, s->live, n_live * sizeof saved[0]);
    while (!find_gap(s, r->n_bytes, floor, &index, &addr))
        if (!forget_last(s, r->takers[0])) {
            memcpy(s->live, saved, n_live * sizeof saved[0]);
            s->n_live = n_live;
            return false;
        }
    memmove(&s->live[index + 1], &s->live[index], (s->n_live - index) * sizeof s->live[0]);
    s->live[index] = r;
    s->n_live++;
    r->addr = addr;
    return true;
}

/* Whether a kernel can take the bytes below n_bytes and leave what it reads and makes in place. */
static bool leaves_needed(const placer *s, uint64_t n_bytes) {
    for (uint32_t i = 0; i < s->n_live && n_bytes > SBUF_WINDOW; i++)
        if (s->live[i]->addr < n_bytes &&
            (is_new(s, s->live[i]) || next_taker(s, s->live[i]) == s->kernel_i))
            return false;
    return true;
}

/* Bytes below the residents that the kernel at hand reads or makes. */
static uint32_t room_below_needed(const placer *s) {
    uint32_t room = s->p->sbuf_limit;
    for (uint32_t i = 0; i < s->n_live; i++) {
        const resident *r = s->live[i];
        if ((is_new(s, r) || next_taker(s, r) == s->kernel_i) && r->addr < room)
            room = r->addr;
    }
    return room;
}

/* --- kernels ------------------------------------------------------------------------------------
 */

/* Reads operands from SBUF where a resident has them. */
static void take_operands(placer *s, map_plan *m) {
    for (int i = 0; i < m->f->n_nodes; i++) {
        fusion_node *node = &m->f->nodes[i];
        const resident *r = node->op == FUSION_LOAD ? live_of(s, node->source_view.slot) : NULL;
        node->taken = r && map_load_takes(m, node, r) ? r : NULL;
    }
    for (int i = 0; i < m->n_contracts; i++)
        contract_take(&m->contracts[i], live_of(s, m->contracts[i].spec->a.slot),
                      live_of(s, m->contracts[i].spec->b.slot));
    if (m->f->conv)
        conv_take(&m->conv, live_of(s, m->f->conv->image.slot));
}

static void load_operands(map_plan *m) {
    for (int i = 0; i < m->f->n_nodes; i++)
        m->f->nodes[i].taken = NULL;
    for (int i = 0; i < m->n_contracts; i++)
        contract_take(&m->contracts[i], NULL, NULL);
    if (m->f->conv)
        conv_take(&m->conv, NULL);
}

static void keep_nothing(placer *s, map_plan *m) {
    for (int i = 0; i < m->f->n_nodes; i++) {
        m->f->nodes[i].kept = NULL;
        m->f->nodes[i].stays_in_sbuf = false;
    }
    for (uint32_t i = s->n_live; i-- > 0;)
        if (is_new(s, s->live[i]))
            forget(s, i);
}

/* Which results stay in SBUF, and which operands are read from there; bytes that the kernel takes
 * beside them. */
static uint64_t place_map(placer *s, map_plan *m) {
    fusion *f = m->f;
    load_operands(m);
    keep_nothing(s, m);
    for (int i = 0; i < f->n_nodes; i++)
        f->nodes[i].stays_in_sbuf = f->nodes[i].candidate && !f->nodes[i].candidate->is_excluded;
    uint64_t floor = map_size(m);
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        node->stays_in_sbuf = node->stays_in_sbuf && open(s, node->candidate, floor);
        node->kept = node->stays_in_sbuf ? node->candidate : NULL;
    }
    take_operands(s, m);
    uint64_t n_bytes = map_size(m);
    if (leaves_needed(s, n_bytes))
        return n_bytes;
    if (map_limit(m, room_below_needed(s)))
        return map_size(m);
    load_operands(m);
    n_bytes = map_size(m);
    bool is_free = true;
    for (uint32_t i = 0; i < s->n_live; i++)
        is_free = is_free && (s->live[i]->addr >= n_bytes || !is_new(s, s->live[i]));
    if (is_free)
        return n_bytes;
    keep_nothing(s, m);
    return map_size(m);
}

static uint64_t place_contraction(placer *s, contraction *c) {
    contract_take(c, live_of(s, c->spec->a.slot), live_of(s, c->spec->b.slot));
    if (!leaves_needed(s, contract_kernel_demand(c).sbuf_bytes) &&
        !contract_limit(c, room_below_needed(s)))
        contract_take(c, NULL, NULL);
    return contract_kernel_demand(c).sbuf_bytes;
}

static void note_served(const placer *s, const resident *served) {
    for (uint32_t i = 0; served && i < s->n_live; i++)
        if (s->live[i] == served)
            s->live[i]->n_served++;
}

static void note_all_served(const placer *s, map_plan *m, const contraction *c) {
    for (int i = 0; m && i < m->f->n_nodes; i++)
        note_served(s, m->f->nodes[i].taken);
    if (m && m->f->conv)
        note_served(s, m->conv.image_from);
    int n = m ? m->n_contracts : c ? 1 : 0;
    for (int i = 0; i < n; i++) {
        note_served(s, m ? m->contracts[i].a_from : c->a_from);
        note_served(s, m ? m->contracts[i].b_from : c->b_from);
    }
}

static vtrn_status too_large(const plan *p, const kernel *k, uint64_t n_bytes) {
    const vtrn_source *source = &p->build->sources[k->source];
    vtrn_status status = VTRN_ERROR(
        VTRN_CAPACITY,
        "SBUF: a kernel needs %llu bytes of each partition, %s has %u usable; the "
        "compiler cannot tile it smaller: choose a chip with more SBUF, or run operations as "
        "their reference (VTRN_REFERENCE_ONLY=1)",
        (unsigned long long)n_bytes, p->chip->name, p->sbuf_limit);
    return vtrn_status_annotate(status, "the %s kernel of %s%s%s",
                                kernel_name((kernel_kind)k->kind), source->op,
                                *source->place ? " " : "", source->place);
}

/* Whether a convolution has room behind the kernel before it, below all residents: its weights and
 * the first of its image are loaded then while that kernel still computes. */
static bool fits_behind(const placer *s, const map_plan *m, uint32_t n_bytes) {
    uint32_t end = s->n_live ? s->live[s->n_live - 1]->addr : s->p->sbuf_limit;
    return m && m->f->conv && s->cursor + n_bytes <= end;
}

static vtrn_status place_kernel(placer *s) {
    kernel *k = &s->p->list.kernels[s->kernel_i];
    map_plan *m = map_of(s, s->kernel_i);
    contraction *c = contraction_of(s, s->kernel_i);
    forget_unread(s);
    if (m)
        k->demand.sbuf_bytes = place_map(s, m);
    else if (c)
        k->demand.sbuf_bytes = place_contraction(s, c);
    if (k->demand.sbuf_bytes > s->p->sbuf_limit)
        return too_large(s->p, k, k->demand.sbuf_bytes);
    uint32_t n_bytes = sbuf_round(k->demand.sbuf_bytes);
    uint32_t window = SBUF_WINDOW < s->p->sbuf_limit ? SBUF_WINDOW : s->p->sbuf_limit;
    if (s->cursor + n_bytes > window && !fits_behind(s, m, n_bytes))
        s->cursor = 0;
    k->sbuf_addr = s->cursor;
    s->cursor += n_bytes;
    note_all_served(s, m, c);
    while (s->n_live && s->live[s->n_live - 1]->addr < s->cursor)
        forget(s, s->n_live - 1);
    uint32_t in_use = s->cursor;
    for (uint32_t i = 0; i < s->n_live; i++)
        in_use += s->live[i]->n_bytes;
    s->peak = in_use > s->peak ? in_use : s->peak;
    return NULL;
}

static vtrn_status place_all(placer *s) {
    s->n_live = s->cursor = s->peak = 0;
    for (uint32_t k = 0; k < s->p->list.n_kernels; k++) {
        if (k && s->p->list.kernels[k].block_i != s->p->list.kernels[k - 1].block_i)
            s->n_live = 0;
        s->kernel_i = k;
        VTRN_RETURN_IF_ERROR(place_kernel(s));
    }
    return NULL;
}

/* Excludes the residents that no kernel read, whose room may serve others; false when all did. */
static bool exclude_unserved(placer *s) {
    bool has_unserved = false;
    for (uint32_t k = 0; k < s->p->list.n_kernels; k++) {
        map_plan *m = map_of(s, k);
        for (int i = 0; m && i < m->f->n_nodes; i++) {
            const fusion_node *node = &m->f->nodes[i];
            if (!node->candidate)
                continue;
            if (node->kept && !node->candidate->n_served)
                has_unserved = node->candidate->is_excluded = true;
            node->candidate->n_served = 0;
        }
    }
    return has_unserved;
}

vtrn_status plan_place(plan *p) {
    placer s = {.p = p};
    VTRN_RETURN_IF_ERROR(find_uses(&s));
    if (!p->options->has_no_residents)
        VTRN_RETURN_IF_ERROR(find_candidates(&s));
    int round = 0;
    do
        VTRN_RETURN_IF_ERROR(place_all(&s));
    while (exclude_unserved(&s) && ++round < MAX_ROUNDS);
    p->sbuf_peak = s.peak;
    return NULL;
}
