/* Gives each tile an address on the chip, by the instructions that first and last name it. */
#include "base/array.h"
#include "isa/access.h"
#include "isa/validate.h"
#include "nki/nki_session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Tiles of one memory. */
typedef struct placing {
    nki_session *s;
    vtrn_space space;
    int core;
    uint64_t limit, align;
    nki_record **tiles; /* by first use */
    uint32_t n;
    uint64_t peak;
    bool is_tight;  /* small tiles beside each other in the partitions */
    bool may_share; /* a result has the place of an operand that is read for the last time */
} placing;

/* Tiles whose places a new one may not touch. */
typedef struct living {
    nki_record **tiles;
    uint32_t n;
} living;

static bool lives_with(const nki_record *a, const nki_record *b) {
    return a->first <= b->last && b->first <= a->last;
}

static uint64_t size_of(const placing *p, const nki_record *r) {
    return (r->storage.row_bytes + p->align - 1) / p->align * p->align;
}

static int by_first(const void *a, const void *b) {
    const nki_record *x = *(nki_record *const *)a, *y = *(nki_record *const *)b;
    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return x->storage.id < y->storage.id ? -1 : 1;
}

static vtrn_status collect(placing *p) {
    nki_session *s = p->s;
    p->tiles = malloc((s->n_records + 1) * sizeof *p->tiles);
    if (!p->tiles)
        return VTRN_OUT_OF_MEMORY(s->n_records * sizeof *p->tiles);
    for (uint32_t i = 0; i < s->n_records; i++)
        if (s->records[i]->storage.space == p->space && s->records[i]->core == p->core &&
            s->records[i]->first != UINT32_MAX)
            p->tiles[p->n++] = s->records[i];
    if (p->n)
        qsort(p->tiles, p->n, sizeof *p->tiles, by_first);
    return NULL;
}

static bool share_partitions(const nki_record *a, uint32_t partition, const nki_record *b) {
    return partition < b->chip_partition + b->storage.n_partitions &&
           b->chip_partition < partition + a->storage.n_partitions;
}

/* The operand by which an instruction names the tile; -1: none, or several. */
static int only_operand(const nki_issued *issued, const nki_record *r) {
    int found = -1;
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (issued->operand[i] == r) {
            if (found >= 0)
                return -1;
            found = i;
        }
    return found;
}

bool nki_takes_over(const nki_issued *issued, const nki_record *old, const nki_record *made,
                    int64_t *addr, int *partition) {
    int from = only_operand(issued, old), to = only_operand(issued, made);
    if (from < 0 || to < 0 || !nki_is_elementwise(&issued->instr) ||
        access_is_written(&issued->instr, from) || !access_is_written(&issued->instr, to) ||
        access_is_read(&issued->instr, to))
        return false;
    const vtrn_ap *a = &issued->instr.ap[from], *b = &issued->instr.ap[to];
    bool is_alike = a->n_dims == b->n_dims && a->n_partitions == b->n_partitions &&
                    a->partition_step == 1 && b->partition_step == 1 &&
                    dtype_size((vtrn_dtype)a->dtype) == dtype_size((vtrn_dtype)b->dtype);
    for (int k = 0; k < a->n_dims && is_alike; k++)
        is_alike = a->dim[k].num == b->dim[k].num &&
                   (a->dim[k].num == 1 || a->dim[k].step == b->dim[k].step);
    *addr = a->addr - b->addr;
    *partition = (int)a->partition - (int)b->partition;
    return is_alike;
}

/* Whether the instruction that reads `old` for the last time is the first to write `made`, which
 * may have its place. */
static bool takes_over(const placing *p, const nki_record *old, const nki_record *made,
                       int64_t *addr, int *partition) {
    return p->may_share && old->last == made->first && !made->is_filled &&
           nki_takes_over(&p->s->list[made->first], old, made, addr, partition);
}

/* Whether two tiles of the same time may lie so, as one takes the other's elements over. */
static bool shares(const placing *p, const nki_record *tile, uint32_t partition, int64_t at,
                   const nki_record *other) {
    int64_t addr;
    int rows;
    if (takes_over(p, other, tile, &addr, &rows))
        return at == other->chip_addr + addr && (int)partition == (int)other->chip_partition + rows;
    if (takes_over(p, tile, other, &addr, &rows))
        return other->chip_addr == at + addr && (int)other->chip_partition == (int)partition + rows;
    return false;
}

/* The first place at or behind `from`, from a partition on, that no living tile has. */
static bool find_address(const placing *p, const nki_record *tile, uint32_t partition,
                         const living *live, int64_t from, int64_t *out) {
    int64_t at = from, size = (int64_t)size_of(p, tile);
    bool has_moved = true;
    while (has_moved && at + size <= (int64_t)p->limit) {
        has_moved = false;
        for (uint32_t i = 0; i < live->n; i++) {
            const nki_record *other = live->tiles[i];
            int64_t lo = other->chip_addr, hi = lo + (int64_t)size_of(p, other);
            if (at < hi && lo < at + size && share_partitions(tile, partition, other) &&
                !shares(p, tile, partition, at, other)) {
                at = (hi + (int64_t)p->align - 1) / (int64_t)p->align * (int64_t)p->align;
                has_moved = true;
            }
        }
    }
    *out = at;
    return at + size <= (int64_t)p->limit;
}

/* Sets the tile's place, at the partition that gives the lowest address where is_tight. */
static bool find_place(const placing *p, nki_record *tile, const living *live, int64_t from) {
    uint32_t n = tile->storage.n_partitions, max = (uint32_t)nki_chip(p->s)->n_partitions;
    /* Where a tile may start. Source: docs/hardware.md, "Operands". */
    uint32_t grid = n > max / 2 ? max : n > max / 4 ? max / 2 : max / 4;
    bool is_found = false;
    bool may_move = p->is_tight && p->space == VTRN_SPACE_SBUF && !tile->keeps_partition;
    for (uint32_t partition = 0; partition + n <= (may_move ? max : n); partition += grid) {
        int64_t at;
        if (!find_address(p, tile, partition, live, from, &at) ||
            (is_found && at >= tile->chip_addr))
            continue;
        is_found = true;
        tile->chip_addr = at;
        tile->chip_partition = partition;
    }
    return is_found;
}

static const char *place_of(const nki_finish_options *o, const nki_session *s,
                            const nki_record *r) {
    uint32_t source = nki_source_of(s, &s->list[r->first]);
    return source < o->n_sources ? o->sources[source].place : "";
}

/* Tiles of one size that one line of the kernel makes. */
typedef struct residents {
    const char *place;
    uint64_t row_bytes, total;
    uint32_t n, last; /* the last instruction that names one of them */
} residents;

enum { MAX_RESIDENTS = 64 };

static uint32_t group_residents(const placing *p, const nki_finish_options *o, const living *live,
                                residents *out) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < live->n; i++) {
        const nki_record *r = live->tiles[i];
        const char *place = place_of(o, p->s, r);
        uint32_t k = 0;
        while (k < n &&
               (out[k].row_bytes != r->storage.row_bytes || strcmp(out[k].place, place) != 0))
            k++;
        if (k == MAX_RESIDENTS)
            continue;
        if (k == n)
            out[n++] = (residents){.place = place, .row_bytes = r->storage.row_bytes};
        out[k].n++;
        out[k].total += size_of(p, r);
        out[k].last = r->last > out[k].last ? r->last : out[k].last;
    }
    return n;
}

static int by_total(const void *a, const void *b) {
    const residents *x = a, *y = b;
    return x->total != y->total ? (x->total > y->total ? -1 : 1) : strcmp(x->place, y->place);
}

static vtrn_status overflow(const placing *p, const nki_finish_options *o, const nki_record *tile,
                            const living *live) {
    enum { MAX_SHOWN = 12 };
    uint64_t in_use = 0;
    for (uint32_t i = 0; i < live->n; i++)
        in_use += size_of(p, live->tiles[i]);
    vtrn_status status = VTRN_ERROR(
        VTRN_CAPACITY,
        "%s: a tile of %llu bytes a partition does not fit: %u tiles live with it and take %llu of "
        "%llu; use smaller tiles, or read some for the last time before",
        p->space == VTRN_SPACE_PSUM ? "PSUM" : "SBUF", (unsigned long long)tile->storage.row_bytes,
        live->n, (unsigned long long)in_use, (unsigned long long)p->limit);
    status = vtrn_status_annotate(status, "%s, where instruction %u is the first to use it",
                                  place_of(o, p->s, tile), tile->first);
    residents groups[MAX_RESIDENTS];
    uint32_t n = group_residents(p, o, live, groups);
    qsort(groups, n, sizeof *groups, by_total);
    for (uint32_t i = 0; i < n && i < MAX_SHOWN; i++)
        status = vtrn_status_annotate(
            status, " %u of %llu bytes, first used at %s, last by instruction %u", groups[i].n,
            (unsigned long long)groups[i].row_bytes, groups[i].place, groups[i].last);
    return status;
}

static vtrn_status overlap(const placing *p, const nki_finish_options *o, const nki_record *a,
                           const nki_record *b) {
    return VTRN_ERROR(VTRN_HAZARD,
                      "%s: the tile placed at byte %lld (%s) and that at %lld (%s) overlap while "
                      "both are in use; place one elsewhere",
                      p->space == VTRN_SPACE_PSUM ? "PSUM" : "SBUF", (long long)a->placed_addr,
                      place_of(o, p->s, a), (long long)b->placed_addr, place_of(o, p->s, b));
}

/* Tiles placed by hand that live with the tile join `live`, behind those that are there. */
static vtrn_status add_placed(const placing *p, const nki_finish_options *o, const nki_record *tile,
                              living *live) {
    for (uint32_t i = 0; i < p->n; i++) {
        nki_record *other = p->tiles[i];
        if (!other->is_placed || other == tile || !lives_with(other, tile))
            continue;
        int64_t lo = other->placed_addr, hi = lo + (int64_t)other->storage.row_bytes;
        if (tile->is_placed && tile->placed_addr < hi &&
            lo < tile->placed_addr + (int64_t)tile->storage.row_bytes)
            return overlap(p, o, tile, other);
        live->tiles[live->n++] = other;
    }
    return NULL;
}

/* Drops what is over before instruction `first`. */
static void expire(living *live, uint32_t first) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < live->n; i++)
        if (live->tiles[i]->last >= first)
            live->tiles[n++] = live->tiles[i];
    live->n = n;
}

static bool put_where_placed(placing *p) {
    bool has_placed = false;
    for (uint32_t i = 0; i < p->n; i++) {
        nki_record *tile = p->tiles[i];
        tile->chip_partition = 0;
        if (tile->is_placed)
            tile->chip_addr = tile->placed_addr;
        has_placed |= tile->is_placed;
    }
    return has_placed;
}

/* In the order in which tiles are first used. They take turns, so that one is written while another
 * is read, or lie as low as there is room. */
static vtrn_status place_by_use(placing *p, const nki_finish_options *o, living *live) {
    int64_t cursor = 0;
    bool has_placed = put_where_placed(p);
    p->peak = 0;
    live->n = 0;
    qsort(p->tiles, p->n, sizeof *p->tiles, by_first);
    for (uint32_t i = 0; i < p->n; i++) {
        nki_record *tile = p->tiles[i];
        expire(live, tile->first);
        living with = *live;
        if (has_placed)
            VTRN_RETURN_IF_ERROR(add_placed(p, o, tile, &with));
        if (!tile->is_placed) {
            if (!find_place(p, tile, &with, cursor) && !find_place(p, tile, &with, 0))
                return overflow(p, o, tile, &with);
            cursor = p->is_tight ? 0 : tile->chip_addr + (int64_t)size_of(p, tile);
        }
        uint64_t in_use = size_of(p, tile);
        for (uint32_t k = 0; k < with.n && !p->is_tight; k++)
            in_use += size_of(p, with.tiles[k]);
        if (p->is_tight)
            in_use += (uint64_t)tile->chip_addr;
        p->peak = in_use > p->peak ? in_use : p->peak;
        if (!tile->is_placed)
            live->tiles[live->n++] = tile;
    }
    return NULL;
}

static int by_size(const void *a, const void *b) {
    const nki_record *x = *(nki_record *const *)a, *y = *(nki_record *const *)b;
    uint64_t m = x->storage.row_bytes * x->storage.n_partitions;
    uint64_t n = y->storage.row_bytes * y->storage.n_partitions;
    if (m != n)
        return m > n ? -1 : 1;
    return by_first(a, b);
}

/* Tiles by when they are in use: the list in stretches of equal length, and for each the tiles that
 * are in use there. */
typedef struct timetable {
    struct stretch {
        uint32_t *tiles; /* in placing.tiles */
        uint32_t n, cap;
    } * stretches;
    uint32_t n, length;
    uint32_t *asked_by; /* [tiles] the tile that asked for it last, + 1 */
} timetable;

static void timetable_free(timetable *table) {
    for (uint32_t i = 0; table->stretches && i < table->n; i++)
        free(table->stretches[i].tiles);
    free(table->stretches);
    free(table->asked_by);
}

static vtrn_status timetable_init(const placing *p, timetable *out) {
    enum { MAX_STRETCHES = 1024, LEAST = 64 };
    uint32_t n_list = p->s->n_list;
    out->length = n_list / MAX_STRETCHES + LEAST;
    out->n = n_list / out->length + 1;
    out->stretches = calloc(out->n, sizeof *out->stretches);
    out->asked_by = calloc((size_t)p->n + 1, sizeof *out->asked_by);
    return out->stretches && out->asked_by ? NULL : VTRN_OUT_OF_MEMORY(p->n * sizeof(uint32_t));
}

static vtrn_status timetable_add(const placing *p, timetable *table, uint32_t tile_i) {
    const nki_record *tile = p->tiles[tile_i];
    for (uint32_t i = tile->first / table->length; i <= tile->last / table->length; i++) {
        struct stretch *s = &table->stretches[i];
        if (!array_grow((void **)&s->tiles, s->n, &s->cap, sizeof *s->tiles))
            return VTRN_OUT_OF_MEMORY(s->n * sizeof *s->tiles);
        s->tiles[s->n++] = tile_i;
    }
    return NULL;
}

/* Those of the table that are in use with the tile, but itself. */
static void timetable_ask(const placing *p, timetable *table, uint32_t tile_i, living *out) {
    const nki_record *tile = p->tiles[tile_i];
    out->n = 0;
    for (uint32_t i = tile->first / table->length; i <= tile->last / table->length; i++)
        for (uint32_t k = 0; k < table->stretches[i].n; k++) {
            uint32_t other = table->stretches[i].tiles[k];
            if (other == tile_i || table->asked_by[other] == tile_i + 1 ||
                !lives_with(p->tiles[other], tile))
                continue;
            table->asked_by[other] = tile_i + 1;
            out->tiles[out->n++] = p->tiles[other];
        }
}

/* The largest first, each at the lowest place that no placed tile of its time has. *out_fits:
 * whether there is room. */
static vtrn_status place_by_size(placing *p, timetable *table, living *live, bool *out_fits) {
    put_where_placed(p);
    p->peak = 0;
    *out_fits = true;
    qsort(p->tiles, p->n, sizeof *p->tiles, by_size);
    for (uint32_t i = 0; i < p->n; i++)
        if (p->tiles[i]->is_placed)
            VTRN_RETURN_IF_ERROR(timetable_add(p, table, i));
    for (uint32_t i = 0; i < p->n; i++) {
        nki_record *tile = p->tiles[i];
        if (!tile->is_placed) {
            timetable_ask(p, table, i, live);
            *out_fits = find_place(p, tile, live, 0);
            if (!*out_fits)
                return NULL;
            VTRN_RETURN_IF_ERROR(timetable_add(p, table, i));
        }
        uint64_t end = (uint64_t)tile->chip_addr + size_of(p, tile);
        p->peak = end > p->peak ? end : p->peak;
    }
    return NULL;
}

static vtrn_status try_by_size(placing *p, living *live, bool *out_fits) {
    timetable table = {0};
    *out_fits = false;
    vtrn_status status = timetable_init(p, &table);
    if (!status)
        status = place_by_size(p, &table, live, out_fits);
    timetable_free(&table);
    return status;
}

bool nki_is_legal(const nki_session *s, const nki_issued *issued) {
    vtrn_instr instr = issued->instr;
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (issued->operand[i] && issued->operand[i]->storage.space != VTRN_SPACE_HBM)
            instr.ap[i].addr += nki_placed_offset(issued->operand[i], &instr.ap[i]);
    const vtrn_program program = {.slots = s->slots,
                                  .n_slots = s->n_slots,
                                  .n_arguments = s->n_arguments,
                                  .gen = (uint8_t)nki_chip(s)->gen};
    vtrn_status status = program_validate_lone(&program, nki_chip(s), &instr, NULL);
    bool is_valid = !status;
    vtrn_status_free(status);
    return is_valid;
}

/* Quickly, or where that leaves no room thoroughly. */
static vtrn_status place_all(placing *p, const nki_finish_options *o, living *live) {
    vtrn_status status = place_by_use(p, o, live);
    if (!status || vtrn_status_category(status) != VTRN_CAPACITY)
        return status;
    p->is_tight = true;
    bool is_placed;
    vtrn_status failed = try_by_size(p, live, &is_placed);
    if (failed) {
        vtrn_status_free(status);
        return failed;
    }
    if (!is_placed && p->may_share) {
        vtrn_status again = place_by_use(p, o, live);
        is_placed = !again;
        vtrn_status_free(again);
    }
    if (!is_placed)
        return status;
    vtrn_status_free(status);
    return NULL;
}

static vtrn_status place_tiles(placing *p, const nki_finish_options *o) {
    vtrn_status status = collect(p);
    living live = {0};
    if (!status) {
        live.tiles = malloc((2 * (size_t)p->n + 1) * sizeof(nki_record *));
        status =
            live.tiles ? place_all(p, o, &live) : VTRN_OUT_OF_MEMORY(p->n * sizeof(nki_record *));
    }
    free(live.tiles);
    free(p->tiles);
    return status;
}

/* What an attempt changes of a record. */
typedef struct kept_record {
    bool is_filled, keeps_partition;
} kept_record;

/* The list as it is before something is tried. */
typedef struct kept_list {
    nki_issued *list;
    nki_meeting *meets;
    nki_turn *turns;
    kept_record *records; /* [n_records] */
    nki_spilled *spills;
    uint32_t n_list, n_meets, n_turns, n_records, n_slots, n_spills;
} kept_list;

static void list_free(kept_list *kept) {
    free(kept->list), free(kept->meets), free(kept->turns);
    free(kept->records), free(kept->spills);
    *kept = (kept_list){0};
}

static vtrn_status list_keep(const nki_session *s, kept_list *out) {
    *out = (kept_list){.n_list = s->n_list,
                       .n_meets = s->n_meets,
                       .n_turns = s->n_turns,
                       .n_records = s->n_records,
                       .n_slots = s->n_slots,
                       .n_spills = s->n_spills};
    out->list = malloc(((size_t)s->n_list + 1) * sizeof *out->list);
    out->meets = malloc(((size_t)s->n_meets + 1) * sizeof *out->meets);
    out->turns = malloc(((size_t)s->n_turns + 1) * sizeof *out->turns);
    out->records = malloc(((size_t)s->n_records + 1) * sizeof *out->records);
    out->spills = malloc(((size_t)s->n_spills + 1) * sizeof *out->spills);
    if (!out->list || !out->meets || !out->turns || !out->records || !out->spills) {
        list_free(out);
        return VTRN_OUT_OF_MEMORY(s->n_list * sizeof *out->list);
    }
    if (s->n_list)
        memcpy(out->list, s->list, s->n_list * sizeof *out->list);
    if (s->n_meets)
        memcpy(out->meets, s->meets, s->n_meets * sizeof *out->meets);
    if (s->n_turns)
        memcpy(out->turns, s->turns, s->n_turns * sizeof *out->turns);
    if (s->n_spills)
        memcpy(out->spills, s->spills, s->n_spills * sizeof *out->spills);
    for (uint32_t i = 0; i < s->n_records; i++)
        out->records[i] = (kept_record){.is_filled = s->records[i]->is_filled,
                                        .keeps_partition = s->records[i]->keeps_partition};
    return NULL;
}

/* As it was: the list has room, as it was at least as long. Tensors that were added are gone. */
static void list_restore(nki_session *s, const kept_list *kept) {
    if (kept->n_list)
        memcpy(s->list, kept->list, kept->n_list * sizeof *kept->list);
    if (kept->n_meets)
        memcpy(s->meets, kept->meets, kept->n_meets * sizeof *kept->meets);
    if (kept->n_turns)
        memcpy(s->turns, kept->turns, kept->n_turns * sizeof *kept->turns);
    if (kept->n_spills)
        memcpy(s->spills, kept->spills, kept->n_spills * sizeof *kept->spills);
    for (uint32_t i = kept->n_records; i < s->n_records; i++)
        free(s->records[i]); /* of parts and scratches, which own nothing */
    for (uint32_t i = 0; i < kept->n_records; i++) {
        s->records[i]->is_filled = kept->records[i].is_filled;
        s->records[i]->keeps_partition = kept->records[i].keeps_partition;
    }
    s->n_list = kept->n_list;
    s->n_records = kept->n_records;
    s->n_slots = kept->n_slots;
    s->n_spills = kept->n_spills;
    nki_note_uses(s);
}

/* Places the core's tiles anew, with those whose making need not be repeated: as many as leave the
 * others room to take turns, where one would wait for another's place otherwise. */
static vtrn_status place_reused(placing *p, const nki_finish_options *o, const placing *fresh) {
    nki_session *s = p->s;
    uint64_t room = p->peak < p->limit ? p->limit - p->peak : 0;
    uint32_t n = 1;
    kept_list kept;
    VTRN_RETURN_IF_ERROR(list_keep(s, &kept));
    vtrn_status status = NULL;
    bool is_placed = false;
    for (; !status && !is_placed && n && room >= NKI_TILE_ALIGN; room = room * 3 / 4) {
        status = nki_repeats(s, p->core, room, &n);
        if (status || !n)
            break;
        placing with = *fresh;
        status = place_tiles(&with, o);
        is_placed = !status && !with.is_tight;
        if (is_placed)
            *p = with;
        else
            list_restore(s, &kept);
        if (status && vtrn_status_category(status) == VTRN_CAPACITY) {
            vtrn_status_free(status);
            status = NULL;
        }
    }
    if (!status && !is_placed) {
        list_restore(s, &kept);
        *p = *fresh;
        status = place_tiles(p, o);
    }
    list_free(&kept);
    return status;
}

/* Places the core's tiles, some of which are in HBM for a time. Tiles that lie apart leave gaps
 * too small for others, so that less than the whole memory may be given to them. `why`: the error
 * of what does not fit without, which stays where this is no help. */
static vtrn_status place_spilled(placing *p, const nki_finish_options *o, const placing *fresh,
                                 vtrn_status why) {
    /* The budget's steps, in parts of the memory. Down to LEAST_LOOSE only placements are taken in
     * which tiles follow one another around the memory: a tile at the lowest free address would be
     * reloaded there only after the last reader of the tile before it. */
    enum { PARTS = 32, LEAST_LOOSE = 24, LEAST = 8 };
    nki_session *s = p->s;
    kept_list kept;
    vtrn_status status = list_keep(s, &kept);
    bool is_placed = false;
    for (int may_be_tight = 0; may_be_tight < 2; may_be_tight++)
        for (uint64_t n = PARTS; n >= (may_be_tight ? LEAST : LEAST_LOOSE); n--) {
            bool fits;
            if (status || is_placed)
                break;
            status = nki_spill(s, fresh->space, fresh->core, fresh->limit * n / PARTS, &fits);
            *p = *fresh;
            p->may_share = true;
            if (!status && fits) {
                status = place_tiles(p, o);
                is_placed = !status && (may_be_tight || !p->is_tight);
                if (status && vtrn_status_category(status) == VTRN_CAPACITY) {
                    vtrn_status_free(status);
                    status = NULL;
                }
            }
            if (!is_placed)
                list_restore(s, &kept);
        }
    list_free(&kept);
    if (!is_placed && !status)
        return why;
    vtrn_status_free(why);
    return status;
}

/* Places the core's tiles with the list ordered by demand. `why` as in place_spilled(). */
static vtrn_status place_demanded(placing *p, const nki_finish_options *o, const placing *fresh,
                                  vtrn_status why) {
    nki_session *s = p->s;
    kept_list kept;
    vtrn_status status = list_keep(s, &kept);
    if (!status)
        status = nki_demand(s, fresh->space == VTRN_SPACE_SBUF);
    *p = *fresh;
    p->may_share = true;
    if (!status)
        status = place_tiles(p, o);
    bool is_placed = !status;
    s->n_orders += is_placed;
    if (!is_placed && kept.list)
        list_restore(s, &kept);
    list_free(&kept);
    if (status && vtrn_status_category(status) == VTRN_CAPACITY) {
        vtrn_status_free(status);
        return why;
    }
    vtrn_status_free(why);
    return status;
}

static vtrn_status place_core(nki_session *s, const nki_finish_options *o, vtrn_space space,
                              int core, uint64_t *out_peak) {
    const vtrn_chip *chip = nki_chip(s);
    bool is_psum = space == VTRN_SPACE_PSUM;
    const placing fresh = {.s = s,
                           .space = space,
                           .core = core,
                           .limit = is_psum ? chip->psum_partition_bytes
                                            : chip->sbuf_partition_bytes -
                                                  chip->sbuf_reserved_partition_bytes,
                           .align = is_psum ? chip->psum_bank_bytes : NKI_TILE_ALIGN};
    placing p = fresh;
    VTRN_RETURN_IF_ERROR(nki_parts(s, space, core));
    VTRN_RETURN_IF_ERROR(nki_split(s, space, core));
    vtrn_status status = place_tiles(&p, o);
    if (status && vtrn_status_category(status) == VTRN_CAPACITY) { /* with less prefetching */
        vtrn_status_free(status);
        p = fresh;
        p.may_share = true;
        status = nki_delay(s, space, core);
        if (!status)
            status = place_tiles(&p, o);
        if (status && vtrn_status_category(status) == VTRN_CAPACITY && s->reuses_loads)
            status = place_demanded(&p, o, &fresh, status);
        if (status && vtrn_status_category(status) == VTRN_CAPACITY && !s->refuses_spills)
            status = place_spilled(&p, o, &fresh, status);
    } else if (!status && s->reuses_loads && !is_psum)
        status = place_reused(&p, o, &fresh);
    *out_peak = p.peak > *out_peak ? p.peak : *out_peak;
    return status;
}

/* Of each core by itself; out_peak is that of the fullest. */
static vtrn_status place_memory(nki_session *s, const nki_finish_options *o, vtrn_space space,
                                uint64_t *out_peak) {
    *out_peak = 0;
    for (int core = 0; core < NKI_MAX_CORES; core++)
        VTRN_RETURN_IF_ERROR(place_core(s, o, space, core, out_peak));
    return NULL;
}

static vtrn_status place_both(nki_session *s, const nki_finish_options *o, uint64_t *sbuf_bytes,
                              uint64_t *psum_bytes) {
    VTRN_RETURN_IF_ERROR(place_memory(s, o, VTRN_SPACE_SBUF, sbuf_bytes));
    uint32_t n_listed = s->n_list, n_orders = s->n_orders;
    VTRN_RETURN_IF_ERROR(place_memory(s, o, VTRN_SPACE_PSUM, psum_bytes));
    if (s->n_list == n_listed && s->n_orders == n_orders)
        return NULL;
    /* What has no room in PSUM is in SBUF, or tiles of SBUF are in use at other times. */
    return place_memory(s, o, VTRN_SPACE_SBUF, sbuf_bytes);
}

/* Bytes that spills move. */
static uint64_t spilled(const nki_session *s) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < s->n_spills; i++)
        n += s->spills[i].save_bytes + s->spills[i].reload_bytes;
    return n;
}

static vtrn_status place_side_by_side(nki_session *s, const nki_finish_options *o,
                                      uint64_t *sbuf_bytes, uint64_t *psum_bytes) {
    VTRN_RETURN_IF_ERROR(nki_turns_merge(s));
    return place_both(s, o, sbuf_bytes, psum_bytes);
}

/* With turns of loops side by side, or where that moves more bytes of tiles that do not fit, one
 * after another. */
static vtrn_status place_turns(nki_session *s, const nki_finish_options *o, uint64_t *sbuf_bytes,
                               uint64_t *psum_bytes) {
    kept_list kept;
    VTRN_RETURN_IF_ERROR(list_keep(s, &kept));
    vtrn_status status = place_side_by_side(s, o, sbuf_bytes, psum_bytes);
    uint64_t n_bytes = status ? UINT64_MAX : spilled(s);
    if (n_bytes && (!status || vtrn_status_category(status) == VTRN_CAPACITY)) {
        vtrn_status_free(status);
        list_restore(s, &kept);
        status = place_both(s, o, sbuf_bytes, psum_bytes);
        if (n_bytes < UINT64_MAX && (status || spilled(s) >= n_bytes)) {
            vtrn_status_free(status);
            list_restore(s, &kept);
            status = place_side_by_side(s, o, sbuf_bytes, psum_bytes);
        }
    }
    list_free(&kept);
    s->n_turns = 0; /* they are no more where they were */
    return status;
}

vtrn_status nki_place(nki_session *s, const nki_finish_options *options, uint64_t *sbuf_bytes,
                      uint64_t *psum_bytes) {
    VTRN_RETURN_IF_ERROR(nki_copies(s));
    VTRN_RETURN_IF_ERROR(nki_copies_out_of_psum(s));
    if (s->reuses_loads)
        VTRN_RETURN_IF_ERROR(nki_dead_fills(s));
    return s->n_turns ? place_turns(s, options, sbuf_bytes, psum_bytes)
                      : place_both(s, options, sbuf_bytes, psum_bytes);
}

vtrn_status vtrn_nki_place(nki_session *s, const nki_finish_options *options, uint64_t *sbuf_bytes,
                           uint64_t *psum_bytes) {
    return nki_place(s, options, sbuf_bytes, psum_bytes);
}
