/* Makes tiles of their own of the parts of a tile that no instruction names together, as of an
 * array of tiles that a kernel declares as one tensor: each is in use for a shorter time, so the
 * next one's loads need not wait for the whole. The vendor's compiler places the blocks of a tensor
 * one by one, too. */
#include "base/array.h"
#include "isa/access.h"
#include "nki/nki_session.h"

#include <stdlib.h>

/* Bytes that an element takes at most: parts begin at multiples. */
enum { LEAST_ALIGN = 8 };

/* Bytes [lo, hi) of a partition that an operand names. */
typedef struct named {
    nki_record *tile;
    int64_t lo, hi;
    vtrn_ap *ap;
    nki_record **operand;
} named;

typedef struct parting {
    nki_session *s;
    vtrn_space space;
    int core;
    int64_t align; /* parts begin at multiples: a bank of PSUM has one sum at a time */
    named *named;
    uint32_t n, cap;
} parting;

static bool may_part(const parting *p, const nki_record *r) {
    return r && r->storage.space == p->space && r->core == p->core && !r->is_placed &&
           !r->is_filled && r->storage.row_bytes > (uint64_t)p->align;
}

static int by_place(const void *a, const void *b) {
    const named *x = a, *y = b;
    if (x->tile != y->tile)
        return x->tile->storage.id < y->tile->storage.id ? -1 : 1;
    if (x->lo != y->lo)
        return x->lo < y->lo ? -1 : 1;
    return (x->operand > y->operand) - (x->operand < y->operand);
}

/* Whole units of the alignment. */
static void widen(named *at, int64_t align) {
    at->lo = at->lo / align * align;
    at->hi = (at->hi + align - 1) / align * align;
}

static vtrn_status collect(parting *p) {
    for (uint32_t k = 0; k < p->s->n_list; k++) {
        nki_issued *issued = &p->s->list[k];
        for (int i = 0; i < VTRN_MAX_AP; i++) {
            if (!may_part(p, issued->operand[i]))
                continue;
            if (!array_grow((void **)&p->named, p->n, &p->cap, sizeof *p->named))
                return VTRN_OUT_OF_MEMORY((p->n + 1) * sizeof *p->named);
            named *at = &p->named[p->n++];
            *at = (named){.tile = issued->operand[i],
                          .ap = &issued->instr.ap[i],
                          .operand = &issued->operand[i]};
            if (access_is_table(&issued->instr, i)) /* of which indices choose */
                at->hi = (int64_t)at->tile->storage.row_bytes;
            else
                isa_ap_extent(at->ap, &at->lo, &at->hi);
            widen(at, p->space == VTRN_SPACE_PSUM ? p->align : LEAST_ALIGN);
        }
    }
    if (p->n)
        qsort(p->named, p->n, sizeof *p->named, by_place);
    return NULL;
}

/* The operands [begin, end) name bytes [lo, hi) of their tile, which nothing else names. */
static vtrn_status make_part(parting *p, uint32_t begin, uint32_t end, int64_t hi) {
    nki_record *tile = p->named[begin].tile, *part;
    int64_t lo = p->named[begin].lo;
    if (hi > (int64_t)tile->storage.row_bytes)
        hi = (int64_t)tile->storage.row_bytes;
    VTRN_RETURN_IF_ERROR(nki_record_add(p->s, &part));
    uint32_t id = part->storage.id;
    part->storage = tile->storage;
    part->storage.id = id;
    part->storage.row_bytes = (uint64_t)(hi - lo);
    part->storage.n_bytes = part->storage.row_bytes * part->storage.n_partitions;
    part->name = tile->name;
    part->is_kept_there = tile->is_kept_there;
    part->core = tile->core;
    part->is_released = true;
    for (uint32_t i = begin; i < end; i++) {
        p->named[i].ap->addr -= lo;
        *p->named[i].operand = part;
    }
    return NULL;
}

/* The operands [first, *next) name a part that no other operand below `end` does. Returns its end.
 */
static int64_t find_part(const parting *p, uint32_t first, uint32_t end, uint32_t *next) {
    int64_t hi = p->named[first].hi;
    uint32_t i = first + 1;
    for (; i < end && p->named[i].lo < hi; i++)
        hi = p->named[i].hi > hi ? p->named[i].hi : hi;
    *next = i;
    return hi;
}

/* A tile begins at a multiple of the alignment: small parts would need more room than the whole. */
static void widen_small(parting *p, uint32_t begin, uint32_t end) {
    const int64_t LEAST_UNITS = 16; /* so that parts take a sixteenth more at most */
    bool is_small = false;
    for (uint32_t first = begin, next; first < end && !is_small; first = next)
        is_small = find_part(p, first, end, &next) - p->named[first].lo < LEAST_UNITS * p->align;
    for (uint32_t i = begin; i < end && is_small; i++)
        widen(&p->named[i], p->align);
}

static vtrn_status part_tile(parting *p, uint32_t begin, uint32_t end) {
    bool is_one = true;
    widen_small(p, begin, end);
    for (uint32_t first = begin, i = begin; first < end; first = i) {
        int64_t hi = find_part(p, first, end, &i);
        is_one &= first == begin && i == end;
        if (!is_one)
            VTRN_RETURN_IF_ERROR(make_part(p, first, i, hi));
    }
    return NULL;
}

vtrn_status nki_parts(nki_session *s, vtrn_space space, int core) {
    parting p = {.s = s, .space = space, .core = core};
    p.align = space == VTRN_SPACE_PSUM ? (int64_t)nki_chip(s)->psum_bank_bytes : NKI_TILE_ALIGN;
    vtrn_status status = collect(&p);
    for (uint32_t begin = 0, end = 0; begin < p.n && !status; begin = end) {
        while (end < p.n && p.named[end].tile == p.named[begin].tile)
            end++;
        status = part_tile(&p, begin, end);
    }
    free(p.named);
    return status;
}
