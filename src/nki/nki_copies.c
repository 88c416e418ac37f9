/* Drops copies that the kernel does not ask for. In the first generation `x[i] = nl.load(y)` makes
 * a tile and copies it into x[i]; the vendor's compiler loads into x[i]. Where what an instruction
 * makes is copied, for which the kernel has no call, and read by nothing else, the instruction
 * writes to where the copy would be. */
#include "compiler/build/twins.h"
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

/* Whether the next or the previous turn of the innermost loop has the same instruction with the
 * same operand 1, so that the vendor's compiler makes it once, before the loop. */
static bool is_invariant(const nki_session *s, uint32_t k) {
    uint32_t lo = 0, hi = s->n_turns; /* the turn that it is in begins at one of [lo, hi) */
    while (hi - lo > 1) {
        uint32_t middle = lo + (hi - lo) / 2;
        *(s->turns[middle].at <= k ? &lo : &hi) = middle;
    }
    if (lo + 1 >= s->n_turns || s->turns[lo].at > k || s->turns[lo].loop != s->turns[lo + 1].loop)
        return false;
    const nki_issued *here = &s->list[k];
    for (int before = 0; before < 2; before++) {
        if (before && (lo == 0 || s->turns[lo - 1].loop != s->turns[lo].loop))
            return false;
        uint32_t begin = before ? s->turns[lo - 1].at : s->turns[lo + 1].at;
        uint32_t at = begin + (k - s->turns[lo].at);
        const nki_issued *there = at < s->n_list ? &s->list[at] : here;
        if (there != here && there->instr.opcode == here->instr.opcode &&
            there->operand[1] == here->operand[1] &&
            isa_ap_is_same(&there->instr.ap[1], &here->instr.ap[1]))
            return true;
    }
    return false;
}

/* Whether the tile is what the PE array makes of a row that the innermost loop does not change. */
static bool is_of_invariant_row(const nki_session *s, const naming *names, const nki_record *tile) {
    const nki_issued *maker = &s->list[names[tile->storage.id].first];
    const nki_record *row = maker->operand[1];
    if (maker->instr.opcode != VTRN_OP_MATMUL || !row)
        return false;
    uint32_t at = names[row->storage.id].first;
    return s->list[at].instr.opcode == VTRN_OP_DMA_COPY && is_invariant(s, at);
}

/* Lets the only reader of a copy out of PSUM read PSUM itself; false: it cannot. What a loop does
 * not change is kept in SBUF. */
static bool read_in_psum(nki_session *s, const naming *names, uint32_t k) {
    const nki_issued *copy = &s->list[k];
    const nki_record *to = copy->operand[0];
    nki_record *tile = copy->operand[1];
    if (!copy->is_implied || copy->instr.opcode != VTRN_OP_TENSOR_COPY || copy->is_exchange ||
        !to || !tile || to->storage.space != VTRN_SPACE_SBUF ||
        tile->storage.space != VTRN_SPACE_PSUM || to->is_placed || tile->is_placed ||
        to->is_filled || tile->is_filled || names[to->storage.id].n != 2 ||
        names[to->storage.id].first != k || copy->instr.ap[0].dtype != copy->instr.ap[1].dtype ||
        is_of_invariant_row(s, names, tile))
        return false;
    for (uint32_t b = k + 1; b < s->n_list && b - k <= MAX_BETWEEN; b++) {
        nki_issued read = s->list[b];
        for (uint32_t m = 0; m < s->n_meets; m++)
            if (s->meets[m].at == b)
                return false;
        if (disturbs(&read, tile, &copy->instr.ap[1], false))
            return false;
        for (int i = 0; i < VTRN_MAX_AP; i++) {
            if (read.operand[i] != to)
                continue;
            if (read.instr.opcode == VTRN_OP_DMA_COPY || read.core != copy->core ||
                read.is_exchange || access_is_written(&read.instr, i) ||
                !isa_ap_is_same(&read.instr.ap[i], &copy->instr.ap[0]))
                return false;
            read.operand[i] = tile;
            read.instr.ap[i] = copy->instr.ap[1];
            if (!nki_is_legal(s, &read))
                return false;
            s->list[b] = read;
            return true;
        }
    }
    return false;
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
        is_dropped[k] = forward(s, names, k) || read_in_psum(s, names, k);
    nki_list_drop(s, is_dropped);
    nki_note_uses(s); /* tiles and tensors that are filled are so before their first use */
    free(is_dropped);
    free(names);
    return NULL;
}

/* By record: whether all that writes to it are matmuls, whose sums are no signalling NaN; whether
 * all that reads it is the PE array, whose sums of one are those of the NaN that it is quieted to.
 */
typedef struct copied {
    bool *is_sum, *is_operand;
} copied;

static void find_copied(const nki_session *s, copied *of) {
    for (uint32_t i = 0; i < s->n_records; i++) {
        const nki_record *r = s->records[i];
        bool is_own = !r->is_placed && !r->is_filled;
        of->is_sum[i] = is_own && r->storage.space == VTRN_SPACE_PSUM;
        of->is_operand[i] = is_own && r->storage.space == VTRN_SPACE_SBUF;
    }
    for (uint32_t k = 0; k < s->n_list; k++)
        for (int i = 0; i < VTRN_MAX_AP; i++) {
            const vtrn_instr *instr = &s->list[k].instr;
            const nki_record *r = s->list[k].operand[i];
            if (!r)
                continue;
            of->is_sum[r->storage.id] &=
                !access_is_written(instr, i) || instr->opcode == VTRN_OP_MATMUL;
            of->is_operand[r->storage.id] &= !access_is_read(instr, i) ||
                                             instr->opcode == VTRN_OP_LDWEIGHTS ||
                                             instr->opcode == VTRN_OP_MATMUL;
        }
}

/* Whether a copy on Scalar gives what the kernel's does, as far as anything can tell. */
static bool is_same_on_scalar(const nki_issued *copy, const copied *of) {
    const vtrn_instr *instr = &copy->instr;
    const nki_record *to = copy->operand[0], *from = copy->operand[1];
    if (instr->opcode != VTRN_OP_TENSOR_COPY || instr->engine != VTRN_ENGINE_VECTOR ||
        instr->keeps_engine || instr->flags || !to || !from ||
        from->storage.space != VTRN_SPACE_PSUM || instr->ap[0].dtype != instr->ap[1].dtype)
        return false;
    return (of->is_sum[from->storage.id] && instr->ap[0].dtype == VTRN_DTYPE_FP32) ||
           (of->is_operand[to->storage.id] && copy->is_implied &&
            dtype_is_float((vtrn_dtype)instr->ap[0].dtype));
}

vtrn_status nki_copies_out_of_psum(nki_session *s) {
    size_t n = (size_t)s->n_records + 1;
    copied of = {.is_sum = malloc(n), .is_operand = malloc(n)};
    bool is_ok = of.is_sum && of.is_operand;
    if (is_ok)
        find_copied(s, &of);
    for (uint32_t k = 0; is_ok && k < s->n_list; k++) {
        nki_issued scalar = s->list[k];
        if (!is_same_on_scalar(&scalar, &of))
            continue;
        scalar.instr = twins_scalar_copy(&scalar.instr);
        if (nki_is_legal(s, &scalar))
            s->list[k] = scalar;
    }
    free(of.is_sum), free(of.is_operand);
    return is_ok ? NULL : VTRN_OUT_OF_MEMORY(n);
}
