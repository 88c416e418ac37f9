/* Saves tiles that have no room to the next memory, those of SBUF to HBM by DMA and those of PSUM
 * to SBUF, and reloads them before they are named again. The list is walked once with the tiles
 * that are there; where one more does not fit, that whose next use is farthest away leaves. It is
 * saved behind the last instruction that wrote it, once for each of its values. What PSUM had is
 * read where it was saved until it is written again. Source: NKI, "Memory hierarchy": the compiler
 * inserts spills and refills between a memory that live data overflow and the next one. */
#include "base/array.h"
#include "isa/access.h"
#include "nki/nki_session.h"

#include <stdlib.h>
#include <string.h>

enum {
    NOT_THERE = UINT32_MAX,
    RELOAD_AHEAD = 16 /* instructions by which a reload may be earlier than its reader */
};

/* A tile while the list is walked. */
typedef struct walked {
    nki_record *now;     /* what instructions from here on name; NULL: not in SBUF */
    nki_record *scratch; /* its place in HBM; NULL: none yet */
    nki_map written;     /* elements that instructions have written so far */
    uint32_t first_use;  /* in spilling.use */
    uint32_t n_uses, n_used;
    uint32_t last_write; /* instruction that changed what the scratch has; NOT_THERE: none did */
    uint32_t there_i;    /* in spilling.there */
    uint64_t scratch_at; /* edit.at of the last transfer of the scratch */
} walked;

/* A scratch whose tile is over. */
typedef struct idle_scratch {
    nki_record *record; /* NULL: taken */
    uint64_t free_at;   /* edit.at of the last transfer that names it */
} idle_scratch;

/* A transfer to be inserted. */
typedef struct edit {
    uint64_t at; /* twice the instruction's number; + 1: behind it */
    uint32_t seq;
    nki_issued issued;
} edit;

typedef struct spilling {
    nki_session *s;
    vtrn_space space;
    int core;
    uint64_t align;
    uint64_t budget, in_use; /* bytes of a partition */
    walked *tiles;           /* [n_records] */
    uint32_t n_tiles;
    uint32_t *use;   /* numbers of instructions, tile after tile */
    uint32_t *there; /* tiles in SBUF */
    uint32_t n_there;
    idle_scratch *idle; /* the oldest first */
    uint32_t n_idle, first_idle, cap_idle;
    edit *edits;
    uint32_t n_edits, cap_edits;
} spilling;

static uint64_t size_of(const spilling *p, const nki_record *r) {
    return (r->storage.row_bytes + p->align - 1) / p->align * p->align;
}

static walked *tile_of(const spilling *p, const nki_issued *issued, int i) {
    const nki_record *r = issued->operand[i];
    bool is_tile =
        r && r->storage.id < p->n_tiles && r->storage.space == p->space && r->core == p->core;
    return is_tile ? &p->tiles[r->storage.id] : NULL;
}

/* The instructions that name each tile. */
static vtrn_status find_uses(spilling *p) {
    nki_uses *of = calloc((size_t)p->n_tiles + 1, sizeof *of);
    if (!of)
        return VTRN_OUT_OF_MEMORY(p->n_tiles * sizeof *of);
    vtrn_status status = nki_find_uses(p->s, of, &p->use);
    for (uint32_t i = 0; i < p->n_tiles; i++) {
        p->tiles[i].first_use = of[i].first;
        p->tiles[i].n_uses = of[i].n;
    }
    free(of);
    return status;
}

static uint32_t next_use(const spilling *p, const walked *t) {
    return t->n_used < t->n_uses ? p->use[t->first_use + t->n_used] : NOT_THERE;
}

static void enter(spilling *p, walked *t) {
    t->there_i = p->n_there;
    p->there[p->n_there++] = (uint32_t)(t - p->tiles);
    p->in_use += size_of(p, t->now);
}

static void leave(spilling *p, walked *t) {
    p->in_use -= size_of(p, t->now);
    uint32_t moved = p->there[--p->n_there];
    p->there[t->there_i] = moved;
    p->tiles[moved].there_i = t->there_i;
    t->now = NULL;
}

/* A part of the tile's life, in one of the memories on chip. */
static vtrn_status add_part(spilling *p, const walked *t, vtrn_space space, nki_record **out) {
    const nki_record *tile = p->s->records[t - p->tiles];
    VTRN_RETURN_IF_ERROR(nki_record_add(p->s, out));
    uint32_t id = (*out)->storage.id;
    (*out)->storage = tile->storage;
    (*out)->storage.id = id;
    (*out)->storage.space = (uint8_t)space;
    (*out)->core = tile->core;
    (*out)->name = tile->name;
    (*out)->keeps_partition = tile->keeps_partition;
    (*out)->is_released = true;
    return NULL;
}

/* The scratch of a save at `at`: the oldest of the tile's size that is no longer used, as HBM is
 * reused as SBUF is. A save stands behind the last write, which may be before transfers that were
 * listed earlier: one of those may still reload what the scratch has. */
static vtrn_status take_scratch(spilling *p, walked *t, uint64_t at) {
    if (p->space == VTRN_SPACE_PSUM) /* SBUF has places for each in turn */
        return add_part(p, t, VTRN_SPACE_SBUF, &t->scratch);
    for (uint32_t i = p->first_idle; i < p->n_idle && !t->scratch; i++)
        if (p->idle[i].record && p->idle[i].free_at < at &&
            p->idle[i].record->storage.n_bytes == t->now->storage.n_bytes) {
            t->scratch = p->idle[i].record;
            p->idle[i].record = NULL;
        }
    while (p->first_idle < p->n_idle && !p->idle[p->first_idle].record)
        p->first_idle++;
    return t->scratch ? NULL : nki_scratch_add(p->s, &t->now->storage, &t->scratch);
}

static vtrn_status give_scratch(spilling *p, walked *t) {
    if (!t->scratch || p->space == VTRN_SPACE_PSUM)
        return NULL;
    if (!array_grow((void **)&p->idle, p->n_idle, &p->cap_idle, sizeof *p->idle))
        return VTRN_OUT_OF_MEMORY(p->n_idle * sizeof *p->idle);
    p->idle[p->n_idle++] = (idle_scratch){t->scratch, t->scratch_at};
    return NULL;
}

/* The whole of a record, a row for each partition. */
static nki_view whole(const nki_record *r, uint32_t n_partitions) {
    int64_t size = (int64_t)dtype_size((vtrn_dtype)r->storage.dtype);
    int64_t columns = (int64_t)r->storage.n_bytes / n_partitions / (size ? size : 1);
    return (nki_view){.storage = (nki_storage *)&r->storage,
                      .dtype = r->storage.dtype,
                      .n_dims = 2,
                      .shape = {n_partitions, columns},
                      .step = {columns, 1}};
}

/* Counts the transfer of a tile that is first used at `source`, and gives it its own source. */
static vtrn_status note(nki_session *s, uint32_t source, const nki_record *tile,
                        nki_issued *transfer) {
    uint32_t i = 0;
    while (i < s->n_spills &&
           (s->spills[i].source != source || s->spills[i].space != tile->storage.space))
        i++;
    if (i == s->n_spills) {
        if (!array_grow((void **)&s->spills, i, &s->cap_spills, sizeof *s->spills))
            return VTRN_OUT_OF_MEMORY(i * sizeof *s->spills);
        s->spills[s->n_spills++] = (nki_spilled){.name = tile->name ? tile->name : "",
                                                 .source = source,
                                                 .space = (vtrn_space)tile->storage.space};
    }
    nki_spilled *group = &s->spills[i];
    bool is_save = transfer->operand[1] == tile;
    uint64_t n_bytes = tile->storage.row_bytes * tile->storage.n_partitions;
    group->tile_bytes = n_bytes > group->tile_bytes ? n_bytes : group->tile_bytes;
    *(is_save ? &group->n_saves : &group->n_reloads) += 1;
    *(is_save ? &group->save_bytes : &group->reload_bytes) += n_bytes;
    transfer->instr.source = NKI_SPILL_SOURCE + 2 * i + (is_save ? 0 : 1);
    return NULL;
}

/* The instruction that copies one record to another. */
static vtrn_status make_copy(const spilling *p, nki_record *to, nki_record *from,
                             uint32_t n_partitions, vtrn_instr *out) {
    nki_view view[2] = {whole(to, n_partitions), whole(from, n_partitions)};
    *out = (vtrn_instr){.opcode = VTRN_OP_TENSOR_COPY,
                        .engine = VTRN_ENGINE_VECTOR,
                        .update_semaphore = VTRN_NO_SEMAPHORE};
    if (p->space == VTRN_SPACE_PSUM) {
        VTRN_RETURN_IF_ERROR(nki_operand(&view[0], 0, NULL, &out->ap[0]));
        return nki_operand(&view[1], 0, NULL, &out->ap[1]);
    }
    out->opcode = VTRN_OP_DMA_COPY;
    out->engine = to->storage.space == VTRN_SPACE_HBM ? VTRN_ENGINE_GPSIMD : VTRN_ENGINE_SYNC;
    out->flags = VTRN_FLAG_SPILL;
    VTRN_RETURN_IF_ERROR(nki_dma_operands(&view[0], &view[1], &out->ap[0], &out->ap[1]));
    nki_choose_ring(p->s, out);
    return NULL;
}

static vtrn_status add_transfer(spilling *p, walked *t, uint64_t at, bool is_save) {
    nki_session *s = p->s;
    if (!array_grow((void **)&p->edits, p->n_edits, &p->cap_edits, sizeof *p->edits))
        return VTRN_OUT_OF_MEMORY(p->n_edits * sizeof *p->edits);
    edit *e = &p->edits[p->n_edits];
    t->scratch_at = at > t->scratch_at ? at : t->scratch_at;
    nki_record *to = is_save ? t->scratch : t->now, *from = is_save ? t->now : t->scratch;
    *e = (edit){
        .at = at, .seq = p->n_edits++, .issued = {.operand = {to, from}, .core = (uint8_t)p->core}};
    VTRN_RETURN_IF_ERROR(make_copy(p, to, from, t->now->storage.n_partitions, &e->issued.instr));
    return note(s, nki_source_of(s, &s->list[p->use[t->first_use]]), t->now, &e->issued);
}

/* The tile leaves after what has named it so far. */
static vtrn_status evict(spilling *p, walked *t) {
    if (t->last_write != NOT_THERE) {
        uint64_t at = 2 * (uint64_t)t->last_write + 1;
        VTRN_RETURN_IF_ERROR(take_scratch(p, t, at));
        VTRN_RETURN_IF_ERROR(add_transfer(p, t, at, true));
        nki_record *first = p->s->records[t - p->tiles];
        /* The save reads all of the tile. */
        first->is_filled |= t->written.n_set < t->written.n_bytes;
        t->last_write = NOT_THERE;
    }
    leave(p, t);
    return NULL;
}

/* Makes room for `size` bytes: the tile whose next use is farthest away leaves, none that the
 * instruction at k names. False: there is none. */
static bool make_room(spilling *p, uint64_t size, uint32_t k, vtrn_status *status) {
    while (p->in_use + size > p->budget) {
        walked *farthest = NULL;
        for (uint32_t i = 0; i < p->n_there; i++) {
            walked *t = &p->tiles[p->there[i]];
            const nki_record *r = p->s->records[p->there[i]];
            if (r->is_placed || r->is_kept_there || next_use(p, t) == k)
                continue;
            if (!farthest || next_use(p, t) > next_use(p, farthest) ||
                (next_use(p, t) == next_use(p, farthest) && t < farthest))
                farthest = t;
        }
        if (!farthest)
            return false;
        *status = evict(p, farthest);
        if (*status)
            return false;
    }
    return true;
}

/* Bytes of an operand that is read for the last time at k, in the place of which a tile of `size`
 * bytes that begins there may lie. */
static uint64_t taken_over(const spilling *p, const nki_record *tile, uint32_t k) {
    const nki_issued *issued = &p->s->list[k];
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const walked *t = tile_of(p, issued, i);
        int64_t addr;
        int partition;
        if (t && t->now && t->n_used + 1 == t->n_uses && !issued->operand[i]->is_placed &&
            size_of(p, issued->operand[i]) >= size_of(p, tile) &&
            nki_takes_over(issued, issued->operand[i], tile, &addr, &partition))
            return size_of(p, tile);
    }
    return 0;
}

/* Whether the instruction can name what was saved in the tile's place. */
static bool reads_saved(const spilling *p, const walked *t, const nki_issued *issued) {
    if (p->space != VTRN_SPACE_PSUM || t->n_used == 0)
        return false;
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (tile_of(p, issued, i) == t && access_is_written(&issued->instr, i))
            return false;
    return true;
}

/* The tile is there when the instruction at k runs. */
static vtrn_status bring(spilling *p, walked *t, uint32_t k, bool *has_room) {
    nki_record *tile = p->s->records[t - p->tiles];
    vtrn_status status = NULL;
    uint64_t shared = t->n_used == 0 ? taken_over(p, tile, k) : 0;
    *has_room = make_room(p, size_of(p, tile) - shared, k, &status);
    if (!*has_room)
        return status;
    if (t->n_used == 0) {
        t->now = tile;
        t->last_write = k;
        t->written.n_bytes = tile->storage.n_bytes;
    } else {
        VTRN_RETURN_IF_ERROR(add_part(p, t, p->space, &t->now));
        VTRN_RETURN_IF_ERROR(add_transfer(p, t, 2 * (uint64_t)k, false));
    }
    enter(p, t);
    return NULL;
}

static vtrn_status note_write(walked *t, const nki_record *tile, const nki_issued *issued, int i,
                              uint32_t k) {
    t->last_write = k;
    const vtrn_ap *ap = &issued->instr.ap[i];
    int64_t size = (int64_t)dtype_size((vtrn_dtype)ap->dtype);
    if (!size || t->written.n_set == t->written.n_bytes || access_keeps(&issued->instr) ||
        access_is_table(&issued->instr, i))
        return NULL;
    int64_t row = (int64_t)tile->storage.row_bytes / size;
    nki_view view = {.storage = (nki_storage *)&tile->storage,
                     .dtype = ap->dtype,
                     .n_dims = (uint8_t)(ap->n_dims + 1),
                     .offset = ap->partition * row + ap->addr / size,
                     .shape = {ap->n_partitions},
                     .step = {ap->partition_step * row}};
    for (int d = 0; d < ap->n_dims; d++) {
        view.shape[ap->n_dims - d] = ap->dim[d].num;
        view.step[ap->n_dims - d] = ap->dim[d].step;
    }
    return nki_map_mark(&t->written, &view);
}

static void rename_operand(nki_issued *issued, int i, nki_record *to) {
    issued->operand[i] = to;
    issued->instr.ap[i].space = to->storage.space;
}

/* The instruction at k names its tiles where they are now; those that it is the last to name leave.
 */
static vtrn_status pass(spilling *p, uint32_t k) {
    nki_issued *issued = &p->s->list[k];
    walked *tile[VTRN_MAX_AP];
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        tile[i] = tile_of(p, issued, i);
        if (tile[i] && access_is_written(&issued->instr, i))
            VTRN_RETURN_IF_ERROR(note_write(tile[i], issued->operand[i], issued, i, k));
    }
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        bool is_again = false;
        for (int j = 0; j < i; j++)
            is_again |= tile[j] == tile[i];
        if (!tile[i] || is_again)
            continue;
        nki_record *named = tile[i]->now ? tile[i]->now : tile[i]->scratch;
        for (int j = i; j < VTRN_MAX_AP; j++)
            if (tile[j] == tile[i])
                rename_operand(issued, j, named);
        if (++tile[i]->n_used < tile[i]->n_uses)
            continue;
        VTRN_RETURN_IF_ERROR(give_scratch(p, tile[i]));
        if (tile[i]->now)
            leave(p, tile[i]);
    }
    return NULL;
}

static vtrn_status walk(spilling *p, bool *out_fits) {
    nki_session *s = p->s;
    *out_fits = true;
    for (uint32_t k = 0; k < s->n_list && *out_fits; k++) {
        for (int begins = 0; begins < 2; begins++) /* operands before results */
            for (int i = 0; i < VTRN_MAX_AP && *out_fits; i++) {
                walked *t = tile_of(p, &s->list[k], i);
                if (t && !t->now && (t->n_used == 0) == begins && !reads_saved(p, t, &s->list[k]))
                    VTRN_RETURN_IF_ERROR(bring(p, t, k, out_fits));
            }
        if (*out_fits)
            VTRN_RETURN_IF_ERROR(pass(p, k));
    }
    return NULL;
}

/* Bytes of a partition that the list's instructions leave, each by itself; NULL: no memory. */
static uint64_t *find_room(const spilling *p) {
    const nki_session *s = p->s;
    uint64_t *free_bytes = malloc(((size_t)s->n_list + 1) * sizeof *free_bytes);
    uint32_t *first = malloc(((size_t)s->n_records + 1) * sizeof *first);
    uint32_t *last = calloc((size_t)s->n_records + 1, sizeof *last);
    int64_t *change = calloc((size_t)s->n_list + 1, sizeof *change);
    for (uint32_t i = 0; first && i < s->n_records; i++)
        first[i] = NOT_THERE;
    for (uint32_t e = 0; e < p->n_edits && first && last; e++)
        for (int i = 0; i < 2; i++) {
            uint32_t id = p->edits[e].issued.operand[i]->storage.id;
            uint32_t k = (uint32_t)(p->edits[e].at / 2);
            first[id] = k < first[id] ? k : first[id];
            last[id] = k > last[id] ? k : last[id];
        }
    for (uint32_t k = 0; k < s->n_list && first && last; k++)
        for (int i = 0; i < VTRN_MAX_AP; i++)
            if (s->list[k].operand[i]) {
                uint32_t id = s->list[k].operand[i]->storage.id;
                first[id] = k < first[id] ? k : first[id];
                last[id] = k > last[id] ? k : last[id];
            }
    if (!free_bytes || !first || !last || !change) {
        free(free_bytes), free(first), free(last), free(change);
        return NULL;
    }
    for (uint32_t i = 0; i < s->n_records; i++) {
        const nki_record *r = s->records[i];
        if (r->storage.space != p->space || r->core != p->core || first[i] == NOT_THERE)
            continue;
        change[first[i]] += (int64_t)size_of(p, r);
        change[last[i] + 1] -= (int64_t)size_of(p, r);
    }
    int64_t in_use = 0;
    for (uint32_t k = 0; k < s->n_list; k++) {
        in_use += change[k];
        free_bytes[k] = in_use < (int64_t)p->budget ? p->budget - (uint64_t)in_use : 0;
    }
    free(first), free(last), free(change);
    return free_bytes;
}

/* Moves reloads up by as many instructions as leave them room, so that the first reader need not
 * wait, but not before what they read is saved. */
static vtrn_status reload_early(spilling *p) {
    uint64_t *free_bytes = find_room(p);
    uint64_t *saved_at = calloc((size_t)p->s->n_records + 1, sizeof *saved_at);
    vtrn_status status = NULL;
    if (!free_bytes || !saved_at)
        status = VTRN_OUT_OF_MEMORY(p->s->n_list * sizeof *free_bytes);
    for (uint32_t e = 0; e < p->n_edits && !status; e++) {
        edit *reload = &p->edits[e];
        nki_record *to = reload->issued.operand[0], *from = reload->issued.operand[1];
        if (to->storage.space != p->space) { /* a save */
            saved_at[to->storage.id] = reload->at;
            continue;
        }
        uint32_t k = (uint32_t)(reload->at / 2), n = 0;
        uint64_t size = size_of(p, to);
        while (n < RELOAD_AHEAD && k && 2 * (uint64_t)(k - 1) > saved_at[from->storage.id] &&
               free_bytes[k - 1] >= size) {
            free_bytes[--k] -= size;
            n++;
        }
        reload->at = 2 * (uint64_t)k;
    }
    free(free_bytes), free(saved_at);
    return status;
}

static int by_place(const void *a, const void *b) {
    const edit *x = a, *y = b;
    if (x->at != y->at)
        return x->at < y->at ? -1 : 1;
    return (x->seq > y->seq) - (x->seq < y->seq);
}

/* The list with the transfers. What waits before an instruction waits before its reloads. */
static vtrn_status insert(spilling *p) {
    nki_session *s = p->s;
    uint32_t n = s->n_list + p->n_edits, at = 0, next = 0, meet = 0;
    /* No smaller than the list that is there: what was kept of it may return (nki_place.c). */
    uint32_t cap = n < s->cap_list ? s->cap_list : n + 1;
    nki_issued *list = malloc((size_t)cap * sizeof *list);
    if (!list)
        return VTRN_OUT_OF_MEMORY(cap * sizeof *list);
    if (p->n_edits)
        qsort(p->edits, p->n_edits, sizeof *p->edits, by_place);
    for (uint32_t k = 0; k < s->n_list; k++) {
        for (; meet < s->n_meets && s->meets[meet].at == k; meet++)
            s->meets[meet].at = at;
        for (; next < p->n_edits && p->edits[next].at <= 2 * (uint64_t)k; next++)
            list[at++] = p->edits[next].issued;
        list[at++] = s->list[k];
        for (; next < p->n_edits && p->edits[next].at <= 2 * (uint64_t)k + 1; next++)
            list[at++] = p->edits[next].issued;
    }
    for (; meet < s->n_meets; meet++)
        s->meets[meet].at = at;
    free(s->list);
    s->list = list;
    s->n_list = n;
    s->cap_list = cap;
    nki_note_uses(s);
    return NULL;
}

vtrn_status nki_spill(nki_session *s, vtrn_space space, int core, uint64_t budget, bool *out_fits) {
    bool is_psum = space == VTRN_SPACE_PSUM;
    spilling p = {.s = s,
                  .space = space,
                  .core = core,
                  .align = is_psum ? nki_chip(s)->psum_bank_bytes : NKI_TILE_ALIGN,
                  .budget = budget,
                  .n_tiles = s->n_records};
    p.tiles = calloc((size_t)p.n_tiles + 1, sizeof *p.tiles);
    p.there = malloc(((size_t)p.n_tiles + 1) * sizeof *p.there);
    vtrn_status status = NULL;
    *out_fits = false;
    if (!p.tiles || !p.there)
        status = VTRN_OUT_OF_MEMORY(p.n_tiles * sizeof *p.tiles);
    for (uint32_t i = 0; !status && i < p.n_tiles; i++)
        p.tiles[i].last_write = NOT_THERE;
    if (!status)
        status = find_uses(&p);
    if (!status)
        status = walk(&p, out_fits);
    if (!status && *out_fits && !is_psum)
        status = reload_early(&p);
    if (!status && *out_fits)
        status = insert(&p);
    for (uint32_t i = 0; p.tiles && i < p.n_tiles; i++)
        free(p.tiles[i].written.bytes);
    free(p.tiles), free(p.there), free(p.use), free(p.idle), free(p.edits);
    return status;
}

uint32_t nki_source_of(const nki_session *s, const nki_issued *issued) {
    uint32_t source = issued->instr.source;
    return source < NKI_SPILL_SOURCE ? source : s->spills[(source - NKI_SPILL_SOURCE) / 2].source;
}

const nki_spilled *vtrn_nki_spills(const nki_session *s, uint32_t *n) {
    *n = s->n_spills;
    return s->spills;
}
