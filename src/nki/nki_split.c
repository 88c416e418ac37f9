/* Cuts the life of a tile where an instruction overwrites the whole of it: each part may lie
 * elsewhere. The vendor's compiler places such a tile anew, too. */
#include "isa/access.h"
#include "nki/nki_session.h"

#include <stdlib.h>

/* Whether the operand names each byte of the tile once. */
static bool covers(const vtrn_ap *ap, const nki_record *r) {
    int64_t size = (int64_t)dtype_size((vtrn_dtype)ap->dtype);
    if (!size || ap->addr || ap->partition_step != 1 || ap->n_partitions != r->storage.n_partitions)
        return false;
    bool is_counted[VTRN_MAX_FREE_DIMS] = {0};
    int64_t run = 1; /* elements, from the innermost step outwards */
    for (int k = 0; k < ap->n_dims; k++) {
        int found = -1;
        for (int d = 0; d < ap->n_dims && found < 0; d++)
            if (!is_counted[d] && (ap->dim[d].num == 1 || ap->dim[d].step == run))
                found = d;
        if (found < 0)
            return false;
        is_counted[found] = true;
        run *= ap->dim[found].num;
    }
    return run * size == (int64_t)r->storage.row_bytes;
}

/* Whether nothing that the tile held is there behind the instruction, which does not read it. */
static bool overwrites(const nki_issued *issued, const nki_record *r) {
    bool is_over = false;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (issued->operand[i] != r)
            continue;
        if (access_is_read(&issued->instr, i) || access_is_kept(&issued->instr, i))
            return false;
        is_over |= access_is_written(&issued->instr, i) && covers(&issued->instr.ap[i], r);
    }
    return is_over && !access_keeps(&issued->instr);
}

/* A part of the tile, which instructions from now on name. */
static vtrn_status begin_part(nki_session *s, nki_record *tile) {
    nki_record *part;
    VTRN_RETURN_IF_ERROR(nki_record_add(s, &part));
    uint32_t id = part->storage.id;
    part->storage = tile->storage;
    part->storage.id = id;
    part->core = tile->core;
    part->name = tile->name;
    part->is_kept_there = tile->is_kept_there;
    part->is_released = true;
    tile->part = part;
    return NULL;
}

static bool is_one(const nki_record *r, vtrn_space space, int core) {
    return r && r->storage.space == space && r->core == core && !r->is_placed;
}

static void use(nki_record *r, const vtrn_instr *instr, int i, uint32_t list_i) {
    if (r->first == UINT32_MAX)
        r->first = list_i;
    r->last = list_i;
    r->keeps_partition |= nki_binds_partitions(instr, i);
}

vtrn_status nki_split(nki_session *s, vtrn_space space, int core) {
    uint32_t n_before = s->n_records;
    for (uint32_t i = 0; i < n_before; i++) {
        s->records[i]->part = s->records[i];
        if (is_one(s->records[i], space, core))
            s->records[i]->first = UINT32_MAX, s->records[i]->keeps_partition = false;
    }
    for (uint32_t k = 0; k < s->n_list; k++) {
        nki_issued *issued = &s->list[k];
        nki_record *tile[VTRN_MAX_AP];
        for (int i = 0; i < VTRN_MAX_AP; i++) {
            tile[i] = is_one(issued->operand[i], space, core) ? issued->operand[i] : NULL;
            if (tile[i] && tile[i]->part->first != UINT32_MAX && tile[i]->part->last != k &&
                overwrites(issued, tile[i]))
                VTRN_RETURN_IF_ERROR(begin_part(s, tile[i]));
            if (tile[i])
                use(tile[i]->part, &issued->instr, i, k);
        }
        for (int i = 0; i < VTRN_MAX_AP; i++)
            if (tile[i])
                issued->operand[i] = tile[i]->part;
    }
    return NULL;
}
