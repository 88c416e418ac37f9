/* Drops memsets of what is overwritten before anything reads it. A kernel of the first generation
 * clears a tile of PSUM with nl.zeros and adds matmuls to it, of which the first overwrites it.
 * Source: the timelines of AKC-001 to 012 of bench/accuracy/nki_kernels.csv, whose kernels call
 * nl.zeros, have no memset on any engine. */
#include "isa/access.h"
#include "nki/nki_session.h"

#include <stdlib.h>

enum { MAX_PARTS = 64 /* in which a tile is overwritten; more are not looked through */ };

typedef struct fills {
    nki_session *s;
    nki_uses *of; /* [n_records] */
    uint32_t *at;
    bool *is_dropped;
} fills;

static uint64_t bytes_of(const vtrn_ap *ap) {
    return isa_ap_free_size(ap) * dtype_size((vtrn_dtype)ap->dtype) * ap->n_partitions;
}

/* Whether the operand names each byte between its first and its last one. */
static bool is_dense(const vtrn_ap *ap) {
    int64_t lo, hi;
    isa_ap_extent(ap, &lo, &hi);
    return ap->partition_step == 1 && bytes_of(ap) == (uint64_t)(hi - lo) * ap->n_partitions;
}

static bool is_within(const vtrn_ap *part, const vtrn_ap *all) {
    int64_t lo, hi, from, to;
    isa_ap_extent(part, &lo, &hi);
    isa_ap_extent(all, &from, &to);
    return lo >= from && hi <= to && part->partition >= all->partition &&
           part->partition + part->n_partitions <= all->partition + all->n_partitions;
}

/* Whether the instruction names nothing of the part of the tile. */
static bool leaves(const nki_issued *issued, const nki_record *tile, const vtrn_ap *part) {
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (issued->operand[i] == tile &&
            (access_is_table(&issued->instr, i) || isa_ap_meet(&issued->instr.ap[i], part)))
            return false;
    return true;
}

/* The operand by which the instruction overwrites a dense part of what was filled and names nothing
 * else of it; NULL: it does something else. */
static const vtrn_ap *overwritten(const nki_issued *issued, const nki_record *tile,
                                  const vtrn_ap *all) {
    const vtrn_ap *found = NULL;
    if (access_keeps(&issued->instr) || issued->is_exchange)
        return NULL;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (issued->operand[i] != tile)
            continue;
        if (found || !access_is_written(&issued->instr, i) || access_is_read(&issued->instr, i) ||
            access_is_kept(&issued->instr, i))
            return NULL;
        found = &issued->instr.ap[i];
    }
    return found && is_dense(found) && is_within(found, all) ? found : NULL;
}

/* Whether all of what k fills is overwritten before it is read. */
static bool is_dead(const fills *f, uint32_t k) {
    const nki_issued *fill = &f->s->list[k];
    const nki_record *tile = fill->operand[0];
    const vtrn_ap *all = &fill->instr.ap[0];
    if (fill->instr.opcode != VTRN_OP_MEMSET || fill->is_exchange || !tile ||
        tile->storage.space == VTRN_SPACE_HBM || !is_dense(all))
        return false;
    const vtrn_ap *parts[MAX_PARTS];
    uint32_t n_parts = 0;
    uint64_t missing = bytes_of(all);
    nki_uses of = f->of[tile->storage.id];
    for (uint32_t u = 0; u < of.n && missing; u++) {
        const nki_issued *issued = &f->s->list[f->at[of.first + u]];
        if (issued <= fill || leaves(issued, tile, all))
            continue;
        const vtrn_ap *part = overwritten(issued, tile, all);
        bool is_new = part && n_parts < MAX_PARTS && bytes_of(part) <= missing;
        for (uint32_t i = 0; i < n_parts && is_new; i++)
            is_new = !isa_ap_meet(parts[i], part);
        if (!is_new && part && n_parts < MAX_PARTS)
            continue; /* overwritten once more, at least in part */
        if (!is_new)
            return false;
        parts[n_parts++] = part;
        missing -= bytes_of(part);
    }
    return !missing;
}

vtrn_status nki_dead_fills(nki_session *s) {
    fills f = {.s = s};
    f.of = calloc((size_t)s->n_records + 1, sizeof *f.of);
    f.is_dropped = calloc((size_t)s->n_list + 1, sizeof *f.is_dropped);
    vtrn_status status = NULL;
    if (!f.of || !f.is_dropped)
        status = VTRN_OUT_OF_MEMORY(s->n_records * sizeof *f.of);
    if (!status)
        status = nki_find_uses(s, f.of, &f.at);
    for (uint32_t k = 0; k < s->n_list && !status; k++)
        f.is_dropped[k] = is_dead(&f, k);
    if (!status) {
        nki_list_drop(s, f.is_dropped);
        nki_note_uses(s);
    }
    free(f.of), free(f.at), free(f.is_dropped);
    return status;
}
