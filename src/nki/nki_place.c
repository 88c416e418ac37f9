/* Gives each tile an address on the chip, by the instructions that first and last name it. */
#include "nki/nki_session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Tiles of one memory. */
typedef struct placing {
    nki_session *s;
    vtrn_space space;
    uint64_t limit, align;
    nki_record **tiles; /* by first use */
    uint32_t n;
    uint64_t peak;
} placing;

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
        if (s->records[i]->storage.space == p->space && s->records[i]->first != UINT32_MAX)
            p->tiles[p->n++] = s->records[i];
    if (p->n)
        qsort(p->tiles, p->n, sizeof *p->tiles, by_first);
    return NULL;
}

/* The first place at or behind `from` that no living tile has. */
static bool find_place(const placing *p, uint32_t tile_i, nki_record *const *live, uint32_t n_live,
                       int64_t from, int64_t *out) {
    const nki_record *tile = p->tiles[tile_i];
    int64_t at = from, size = (int64_t)size_of(p, tile);
    bool has_moved = true;
    while (has_moved && at + size <= (int64_t)p->limit) {
        has_moved = false;
        for (uint32_t i = 0; i < n_live; i++) {
            int64_t lo = live[i]->chip_addr, hi = lo + (int64_t)size_of(p, live[i]);
            if (at < hi && lo < at + size) {
                at = (hi + (int64_t)p->align - 1) / (int64_t)p->align * (int64_t)p->align;
                has_moved = true;
            }
        }
    }
    *out = at;
    return at + size <= (int64_t)p->limit;
}

static const char *place_of(const nki_finish_options *o, const nki_session *s,
                            const nki_record *r) {
    uint32_t source = s->list[r->first].instr.source;
    return source < o->n_sources ? o->sources[source].place : "";
}

static vtrn_status overflow(const placing *p, const nki_finish_options *o, const nki_record *tile,
                            nki_record *const *live, uint32_t n_live) {
    enum { MAX_SHOWN = 8 };
    uint64_t in_use = 0;
    for (uint32_t i = 0; i < n_live; i++)
        in_use += size_of(p, live[i]);
    vtrn_status status = VTRN_ERROR(
        VTRN_CAPACITY,
        "%s: a tile of %llu bytes a partition does not fit: %u tiles live with it and take %llu of "
        "%llu; use smaller tiles, or read some for the last time before",
        p->space == VTRN_SPACE_PSUM ? "PSUM" : "SBUF", (unsigned long long)tile->storage.row_bytes,
        n_live, (unsigned long long)in_use, (unsigned long long)p->limit);
    status = vtrn_status_annotate(status, "%s, where it is first used", place_of(o, p->s, tile));
    for (uint32_t i = 0; i < n_live && i < MAX_SHOWN; i++)
        status = vtrn_status_annotate(
            status, " %llu bytes at %lld, first used at %s, last by instruction %u",
            (unsigned long long)live[i]->storage.row_bytes, (long long)live[i]->chip_addr,
            place_of(o, p->s, live[i]), live[i]->last);
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
                              nki_record **live, uint32_t *n_live) {
    for (uint32_t i = 0; i < p->n; i++) {
        nki_record *other = p->tiles[i];
        if (!other->is_placed || other == tile || !lives_with(other, tile))
            continue;
        int64_t lo = other->placed_addr, hi = lo + (int64_t)other->storage.row_bytes;
        if (tile->is_placed && tile->placed_addr < hi &&
            lo < tile->placed_addr + (int64_t)tile->storage.row_bytes)
            return overlap(p, o, tile, other);
        live[(*n_live)++] = other;
    }
    return NULL;
}

/* Drops what is over before instruction `first`. */
static void expire(nki_record **live, uint32_t *n_live, uint32_t first) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < *n_live; i++)
        if (live[i]->last >= first)
            live[n++] = live[i];
    *n_live = n;
}

static vtrn_status place_all(placing *p, const nki_finish_options *o, nki_record **live) {
    uint32_t n_live = 0;
    int64_t cursor = 0; /* tiles take turns, so that one is written while another is read */
    bool has_placed = false;
    for (uint32_t i = 0; i < p->n; i++)
        has_placed |= p->tiles[i]->is_placed;
    for (uint32_t i = 0; i < p->n; i++) {
        nki_record *tile = p->tiles[i];
        expire(live, &n_live, tile->first);
        uint32_t n = n_live;
        if (has_placed)
            VTRN_RETURN_IF_ERROR(add_placed(p, o, tile, live, &n));
        if (tile->is_placed) {
            tile->chip_addr = tile->placed_addr;
        } else {
            if (!find_place(p, i, live, n, cursor, &tile->chip_addr) &&
                !find_place(p, i, live, n, 0, &tile->chip_addr))
                return overflow(p, o, tile, live, n);
            cursor = tile->chip_addr + (int64_t)size_of(p, tile);
        }
        uint64_t in_use = size_of(p, tile);
        for (uint32_t k = 0; k < n; k++)
            in_use += size_of(p, live[k]);
        p->peak = in_use > p->peak ? in_use : p->peak;
        if (!tile->is_placed)
            live[n_live++] = tile;
    }
    return NULL;
}

static vtrn_status place_memory(nki_session *s, const nki_finish_options *o, vtrn_space space,
                                uint64_t *out_peak) {
    const vtrn_chip *chip = nki_chip(s);
    bool is_psum = space == VTRN_SPACE_PSUM;
    placing p = {.s = s,
                 .space = space,
                 .limit = is_psum
                              ? chip->psum_partition_bytes
                              : chip->sbuf_partition_bytes - chip->sbuf_reserved_partition_bytes,
                 .align = is_psum ? chip->psum_bank_bytes : 64};
    vtrn_status status = collect(&p);
    nki_record **live = NULL;
    if (!status) {
        live = malloc((2 * (size_t)p.n + 1) * sizeof *live);
        status = live ? place_all(&p, o, live) : VTRN_OUT_OF_MEMORY(p.n * sizeof *live);
    }
    free(live);
    free(p.tiles);
    *out_peak = p.peak;
    return status;
}

vtrn_status nki_place(nki_session *s, const nki_finish_options *options, uint64_t *sbuf_bytes,
                      uint64_t *psum_bytes) {
    VTRN_RETURN_IF_ERROR(place_memory(s, options, VTRN_SPACE_SBUF, sbuf_bytes));
    return place_memory(s, options, VTRN_SPACE_PSUM, psum_bytes);
}

vtrn_status vtrn_nki_place(nki_session *s, const nki_finish_options *options, uint64_t *sbuf_bytes,
                           uint64_t *psum_bytes) {
    return nki_place(s, options, sbuf_bytes, psum_bytes);
}
