/* Drops copies that the kernel does not ask for. In the first generation `x[i] = nl.load(y)` makes
 * a tile and copies it into x[i]; the vendor's compiler loads into x[i]. Where what an instruction
 * makes is copied, for which the kernel has no call, and read by nothing else, the instruction
 * writes to where the copy would be. */
#include "isa/access.h"
#include "nki/nki_session.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_BETWEEN = 32 /* instructions between the two; that many are looked through for each copy */
};

/* Who names a record. */
typedef struct naming {
    uint32_t n; /* operands */
    uint32_t first;
} naming;

/* Whether the instruction names bytes of the place. The maker may read them where it writes each
 * after it has read it. */
static bool disturbs(const nki_issued *issued, const nki_record *to, const vtrn_ap *place,
                     bool is_maker) {
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (issued->operand[i] == to &&
            (access_is_table(&issued->instr, i) || isa_ap_meet(&issued->instr.ap[i], place)) &&
            !(is_maker && nki_is_elementwise(&issued->instr) && i < 3 &&
              isa_ap_is_same(&issued->instr.ap[i], place)))
            return true;
    return false;
}

/* The operand by which `maker` makes all of the tile and does nothing else with it, -1: none. */
static int made_by(const nki_issued *maker, const nki_record *tile, const vtrn_ap *read) {
    int found = -1;
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (maker->operand[i] == tile) {
            if (found >= 0 || access_is_read(&maker->instr, i) ||
                access_is_kept(&maker->instr, i) || !access_is_written(&maker->instr, i))
                return -1;
            found = i;
        }
    bool is_whole = found >= 0 && !access_keeps(&maker->instr) &&
                    isa_ap_is_same(&maker->instr.ap[found], read) &&
                    maker->instr.ap[found].dtype == read->dtype;
    return is_whole ? found : -1;
}

/* Lets the tile's maker write to where the copy at k writes; false: it cannot. */
static bool forward(nki_session *s, naming *names, uint32_t k) {
    const nki_issued *copy = &s->list[k];
    nki_record *to = copy->operand[0], *tile = copy->operand[1];
    if (!copy->is_implied || copy->instr.opcode != VTRN_OP_TENSOR_COPY || copy->is_exchange ||
        !to || !tile || to == tile || tile->is_placed || tile->is_filled || to->is_filled ||
        tile->storage.space == VTRN_SPACE_HBM || to->storage.space == VTRN_SPACE_HBM ||
        copy->instr.ap[0].dtype != copy->instr.ap[1].dtype)
        return false;
    naming of = names[tile->storage.id];
    uint32_t a = of.first;
    if (of.n != 2 || a >= k || k - a > MAX_BETWEEN || s->list[a].core != copy->core ||
        s->list[a].is_exchange)
        return false;
    for (uint32_t m = 0; m < s->n_meets; m++)
        if (s->meets[m].at > a && s->meets[m].at <= k)
            return false;
    int i = made_by(&s->list[a], tile, &copy->instr.ap[1]);
    if (i < 0)
        return false;
    for (uint32_t b = a; b < k; b++)
        if (disturbs(&s->list[b], to, &copy->instr.ap[0], b == a))
            return false;
    nki_issued moved = s->list[a]; /* engines do not reach all memories and partitions */
    moved.instr.ap[i] = copy->instr.ap[0];
    moved.operand[i] = to;
    if (!nki_is_legal(s, &moved))
        return false;
    s->list[a] = moved;
    if (names[to->storage.id].first == k)
        names[to->storage.id].first = a;
    return true;
}

vtrn_status nki_copies(nki_session *s) {
    naming *names = calloc((size_t)s->n_records + 1, sizeof *names);
    if (!names)
        return VTRN_OUT_OF_MEMORY(s->n_records * sizeof *names);
    for (uint32_t k = 0; k < s->n_list; k++)
        for (int i = 0; i < VTRN_MAX_AP; i++) {
            const nki_record *r = s->list[k].operand[i];
            if (r && !names[r->storage.id].n++)
                names[r->storage.id].first = k;
        }
    bool *is_dropped = calloc((size_t)s->n_list + 1, sizeof *is_dropped);
    if (!is_dropped) {
        free(names);
        return VTRN_OUT_OF_MEMORY(s->n_list * sizeof *is_dropped);
    }
    for (uint32_t k = 0; k < s->n_list; k++)
        is_dropped[k] = forward(s, names, k);
    nki_list_drop(s, is_dropped);
    nki_note_uses(s); /* tiles and tensors that are filled are so before their first use */
    free(is_dropped);
    free(names);
    return NULL;
}
