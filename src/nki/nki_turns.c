/* Runs turns of a loop side by side and makes one instruction of what is alike in them, as the
 * vendor's compiler does with loops of the first generation whose turns are independent: a few
 * loads become one transfer, results of a few matmuls leave PSUM by one copy. */
#include "isa/access.h"
#include "nki/nki_session.h"

#include <stdlib.h>
#include <string.h>

/* Up to how much one instruction does. Source: the timelines of the attention kernels in
 * bench/accuracy/nki_kernels.csv (AKC-001 to 012): 2 loads of 256 KiB, 4 stores of 32 KiB and 8 of
 * 64 KiB are one transfer, loads of 512 KiB are not merged; four transposes of 512 B a partition,
 * a bank of PSUM, leave by one copy. Loads of one row each were measured as one by one (CS149-001),
 * and so were those of 128 elements in as many rows (CS149-002), of which a merged transfer has as
 * many descriptors. */
enum {
    MAX_TRANSFER_BYTES = 512 * 1024,
    MIN_RUN_BYTES = 64, /* assumed: runs of 4 bytes are not merged, of 256 bytes are */
    MAX_TURNS = 8,
    MAX_TURN_INSTRS = 24, /* in larger turns a fixed time of an instruction counts for little */
};

/* A run of one instruction, or of one that brings the stationary tile and those that use it. */
typedef struct unit {
    uint32_t at, n;  /* in the turn */
    uint32_t merged; /* turns that become one instruction; 1: none */
    bool repeats;    /* each turn makes the same: nki_repeats.c leaves one */
} unit;

/* Turns that are alike, one after another in the list. */
typedef struct turns {
    nki_session *s;
    nki_issued *list; /* of the first turn's first instruction */
    uint32_t begin;   /* its place */
    uint32_t n_instrs, n_turns;
    unit units[MAX_TURN_INSTRS];
    uint32_t n_units;
    bool *is_dropped; /* [n_list] */
} turns;

static nki_issued *at(const turns *t, uint32_t turn, uint32_t i) {
    return &t->list[turn * t->n_instrs + i];
}

/* Whether the record is used in that turn alone: then each turn has one of its own. */
static bool is_turns_own(const turns *t, const nki_record *r, uint32_t turn) {
    uint32_t begin = t->begin + turn * t->n_instrs;
    return r->storage.space != VTRN_SPACE_HBM && !r->is_placed && !r->is_filled &&
           r->first >= begin && r->last < begin + t->n_instrs;
}

static bool is_same_shape(const vtrn_ap *a, const vtrn_ap *b) {
    vtrn_ap moved = *b;
    moved.addr = a->addr;
    return a->dtype == b->dtype && isa_ap_is_same(a, &moved);
}

/* The operand of the turn that stands where `of` stands in the first one. */
static bool is_counterpart(const turns *t, const nki_record *of, const nki_record *r,
                           uint32_t turn) {
    if (of == r)
        return true;
    return of && r && is_turns_own(t, of, 0) && is_turns_own(t, r, turn) &&
           of->storage.space == r->storage.space && of->storage.dtype == r->storage.dtype &&
           of->storage.row_bytes == r->storage.row_bytes &&
           of->storage.n_partitions == r->storage.n_partitions && of->core == r->core;
}

/* Whether operands that are one record in the first turn are one in this, and no others. */
static bool names_alike(const turns *t, uint32_t turn, uint32_t i, int k) {
    const nki_record *a = at(t, 0, i)->operand[k], *b = at(t, turn, i)->operand[k];
    for (uint32_t j = 0; j <= i; j++)
        for (int m = 0; m < VTRN_MAX_AP; m++)
            if ((at(t, 0, j)->operand[m] == a) != (at(t, turn, j)->operand[m] == b))
                return false;
    return true;
}

/* Whether the turn does what the first does, at other places. */
static bool is_alike(const turns *t, uint32_t turn) {
    for (uint32_t i = 0; i < t->n_instrs; i++) {
        const nki_issued *a = at(t, 0, i), *b = at(t, turn, i);
        const vtrn_instr *x = &a->instr, *y = &b->instr;
        if (x->opcode != y->opcode || x->engine != y->engine || x->op0 != y->op0 ||
            x->op1 != y->op1 || x->func != y->func || x->flags != y->flags ||
            x->imm[0].bits != y->imm[0].bits || x->imm[1].bits != y->imm[1].bits ||
            x->arg[0] != y->arg[0] || x->arg[1] != y->arg[1] ||
            x->keeps_engine != y->keeps_engine || a->core != b->core || b->is_exchange)
            return false;
        for (int k = 0; k < VTRN_MAX_AP; k++)
            if (!is_counterpart(t, a->operand[k], b->operand[k], turn) ||
                !is_same_shape(&x->ap[k], &y->ap[k]) ||
                (a->operand[k] && !names_alike(t, turn, i, k)))
                return false;
    }
    return true;
}

/* Splits the turn into units; false: it has instructions whose order matters in ways that operands
 * do not show. */
static bool find_units(turns *t) {
    t->n_units = 0;
    for (uint32_t i = 0; i < t->n_instrs;) {
        const vtrn_instr *instr = &at(t, 0, i)->instr;
        access_states states = access_states_of(instr);
        uint32_t n = 1;
        switch (instr->opcode) {
        case VTRN_OP_LDWEIGHTS:
            while (i + n < t->n_instrs && at(t, 0, i + n)->instr.opcode == VTRN_OP_MATMUL)
                n++;
            break;
        case VTRN_OP_PE_TRANSPOSE:
            break;
        case VTRN_OP_DMA_COPY:
            if (instr->flags)
                return false;
            break;
        case VTRN_OP_TENSOR_TENSOR:
        case VTRN_OP_TENSOR_SCALAR:
        case VTRN_OP_SCALAR_TENSOR_TENSOR:
        case VTRN_OP_TENSOR_REDUCE:
        case VTRN_OP_TENSOR_COPY:
        case VTRN_OP_MEMSET:
        case VTRN_OP_RECIPROCAL:
        case VTRN_OP_ACTIVATE:
            if (states.written || (states.read & ~ACCESS_ACT_TABLE) ||
                (instr->flags & (VTRN_FLAG_ACCUMULATE | VTRN_FLAG_STOCHASTIC)))
                return false;
            break;
        default:
            return false;
        }
        t->units[t->n_units++] = (unit){.at = i, .n = n, .merged = 1};
        i += n;
    }
    return true;
}

/* Whether what one does to memory depends on which of the two is first. */
static bool conflicts(const nki_issued *a, const nki_issued *b) {
    for (int i = 0; i < VTRN_MAX_AP; i++)
        for (int k = 0; k < VTRN_MAX_AP; k++) {
            const vtrn_ap *x = &a->instr.ap[i], *y = &b->instr.ap[k];
            if (!a->operand[i] || a->operand[i] != b->operand[k] ||
                (!access_is_written(&a->instr, i) && !access_is_written(&b->instr, k)))
                continue;
            bool has_no_row =
                x->space != VTRN_SPACE_HBM && (x->partition + x->n_partitions <= y->partition ||
                                               y->partition + y->n_partitions <= x->partition);
            if (!has_no_row && isa_ap_meet(x, y))
                return true;
        }
    return false;
}

/* Whether the turns may run side by side: unit by unit, each in all turns before the next. */
static bool may_interleave(const turns *t) {
    for (uint32_t u = 0; u < t->n_units; u++)
        for (uint32_t v = 0; v < u; v++)
            for (uint32_t turn = 0; turn < t->n_turns; turn++)
                for (uint32_t later = turn + 1; later < t->n_turns; later++)
                    for (uint32_t i = 0; i < t->units[u].n; i++)
                        for (uint32_t k = 0; k < t->units[v].n; k++)
                            if (conflicts(at(t, turn, t->units[u].at + i),
                                          at(t, later, t->units[v].at + k)))
                                return false;
    return true;
}

/* How far apart operand k of the unit is from turn to turn, bytes; false: not evenly. */
static bool step_of(const turns *t, uint32_t i, int k, uint32_t first, uint32_t n, int64_t *step) {
    const nki_issued *a = at(t, first, i), *b = at(t, first + 1, i);
    *step = b->instr.ap[k].addr - a->instr.ap[k].addr;
    bool is_own = a->operand[k] != b->operand[k];
    for (uint32_t turn = first + 1; turn < first + n; turn++) {
        const nki_issued *c = at(t, turn, i);
        if (c->instr.ap[k].addr != a->instr.ap[k].addr + (int64_t)(turn - first) * *step ||
            (is_own ? c->operand[k] == a->operand[k] : c->operand[k] != a->operand[k]))
            return false;
    }
    if (is_own && *step)
        return false;
    if (is_own)
        *step = (int64_t)a->operand[k]->storage.row_bytes;
    int64_t size = (int64_t)dtype_size((vtrn_dtype)a->instr.ap[k].dtype);
    return size && *step % size == 0;
}

/* The operand of n turns in one. */
static bool extend(vtrn_ap *ap, int64_t step, uint32_t n, bool may_join) {
    int64_t size = (int64_t)dtype_size((vtrn_dtype)ap->dtype);
    if (step / size > INT32_MAX || step < 0)
        return false;
    while (ap->n_dims && ap->dim[0].num == 1 && may_join) {
        memmove(ap->dim, ap->dim + 1, (size_t)(ap->n_dims - 1) * sizeof *ap->dim);
        ap->n_dims--;
    }
    if (may_join && ap->n_dims && step / size == (int64_t)ap->dim[0].num * ap->dim[0].step) {
        ap->dim[0].num *= n;
        return true;
    }
    if (ap->n_dims == VTRN_MAX_FREE_DIMS)
        return false;
    memmove(ap->dim + 1, ap->dim, (size_t)ap->n_dims * sizeof *ap->dim);
    ap->dim[0] = (vtrn_dim){.step = (int32_t)(step / size), .num = n};
    ap->n_dims++;
    return true;
}

/* Whether the merged instruction reads what it has itself written, or writes a byte twice. */
static bool meets_itself(const nki_issued *one, const nki_issued *merged) {
    int64_t lo, hi;
    for (int k = 0; k < VTRN_MAX_AP; k++) {
        if (!merged->operand[k] || !access_is_written(&merged->instr, k))
            continue;
        isa_ap_extent(&one->instr.ap[k], &lo, &hi);
        const vtrn_ap *all = &merged->instr.ap[k];
        int64_t all_lo, all_hi;
        isa_ap_extent(all, &all_lo, &all_hi);
        if (all_hi - all_lo == hi - lo)
            return true; /* each turn overwrites what the one before has written */
        for (int j = 0; j < VTRN_MAX_AP; j++)
            if (j != k && merged->operand[j] == merged->operand[k] &&
                isa_ap_meet(&merged->instr.ap[j], all) &&
                !(nki_is_elementwise(&merged->instr) && j < 3 &&
                  isa_ap_is_same(&one->instr.ap[j], &one->instr.ap[k]) &&
                  isa_ap_is_same(&merged->instr.ap[j], all)))
                return true;
    }
    return false;
}

/* Whether n results that are `step` bytes apart have no byte in common. */
static bool is_apart(const vtrn_ap *ap, int64_t step, uint32_t n) {
    int64_t lo, hi;
    isa_ap_extent(ap, &lo, &hi);
    if (step >= hi - lo)
        return true;
    isa_ap_rows_extent(ap, 1, &lo, &hi);
    int64_t size = (int64_t)dtype_size((vtrn_dtype)ap->dtype);
    return ap->space == VTRN_SPACE_HBM && step >= hi - lo &&
           step * (int64_t)(n - 1) + hi - lo <= ap->partition_step * size;
}

/* n turns of the instruction in one; false: there is no such instruction. */
static bool merge(const turns *t, uint32_t i, uint32_t first, uint32_t n, nki_issued *out) {
    const nki_issued *one = at(t, first, i);
    *out = *one;
    for (int k = 0; k < VTRN_MAX_AP; k++) {
        const nki_record *r = one->operand[k];
        if (!r)
            continue;
        int64_t step;
        bool is_scalar = isa_ops[one->instr.opcode].roles[k] == 's';
        if (!step_of(t, i, k, first, n, &step) || (is_scalar && step))
            return false;
        if (is_scalar)
            continue;
        if (access_is_written(&one->instr, k) && !is_apart(&one->instr.ap[k], step, n))
            return false;
        bool may_join = one->instr.opcode != VTRN_OP_TENSOR_REDUCE;
        if (!extend(&out->instr.ap[k], step, n, may_join))
            return false;
    }
    return !meets_itself(one, out) && nki_is_legal(t->s, out);
}

/* Bytes of a row that lie side by side, from its first element on. */
static int64_t run_bytes(const vtrn_ap *ap) {
    int64_t run = 1;
    for (int k = ap->n_dims - 1; k >= 0 && (ap->dim[k].num == 1 || ap->dim[k].step == run); k--)
        run *= ap->dim[k].num;
    return run * (int64_t)dtype_size((vtrn_dtype)ap->dtype);
}

/* How many turns of the instruction one may do, by what it moves. */
static uint32_t limit_of(const turns *t, const nki_issued *issued) {
    uint64_t widest = 1;
    for (int k = 0; k < VTRN_MAX_AP; k++)
        if (issued->operand[k]) {
            const vtrn_ap *ap = &issued->instr.ap[k];
            uint64_t n_bytes = isa_ap_free_size(ap) * dtype_size((vtrn_dtype)ap->dtype);
            if (issued->instr.opcode == VTRN_OP_DMA_COPY) {
                if (ap->n_partitions == 1 || run_bytes(ap) < MIN_RUN_BYTES)
                    return 1;
                n_bytes *= ap->n_partitions;
            }
            widest = n_bytes > widest ? n_bytes : widest;
        }
    uint64_t most = issued->instr.opcode == VTRN_OP_DMA_COPY ? MAX_TRANSFER_BYTES
                                                             : nki_chip(t->s)->psum_bank_bytes;
    return most / widest > MAX_TURNS ? MAX_TURNS : (uint32_t)(most / widest);
}

/* How many turns are run side by side: their tiles in PSUM have a bank together. */
static uint32_t width_of(const turns *t) {
    uint64_t n_bytes = 0;
    for (uint32_t i = 0; i < t->n_instrs; i++)
        for (int k = 0; k < VTRN_MAX_AP; k++) {
            const nki_record *r = at(t, 0, i)->operand[k];
            if (r && r->storage.space == VTRN_SPACE_PSUM && r->first == t->begin + i &&
                access_is_written(&at(t, 0, i)->instr, k) && is_turns_own(t, r, 0))
                n_bytes += r->storage.row_bytes;
        }
    uint64_t n = n_bytes ? nki_chip(t->s)->psum_bank_bytes / n_bytes : MAX_TURNS;
    n = n > MAX_TURNS ? MAX_TURNS : n;
    return n > t->n_turns ? t->n_turns : (uint32_t)n;
}

/* Whether operand k of the instruction is a window on chip that slides over a row: each turn reads
 * elements that the next one reads, too, but not the same. */
static bool is_window(const turns *t, uint32_t i, int k) {
    const nki_issued *issued = at(t, 0, i);
    int64_t step;
    return issued->operand[k] && issued->operand[k]->storage.space != VTRN_SPACE_HBM &&
           access_is_read(&issued->instr, k) && step_of(t, i, k, 0, t->n_turns, &step) && step &&
           !is_apart(&issued->instr.ap[k], step, t->n_turns);
}

static bool has_window(const turns *t, uint32_t i) {
    for (int k = 0; k < VTRN_MAX_AP; k++)
        if (is_window(t, i, k))
            return true;
    return false;
}

/* Whether the turns slide over a row and name SBUF alone. They are not merged at all, where with an
 * operand in PSUM what reads no window is. No document says so; the convolutions of the tuner were
 * measured at twice their least interval a turn (ACOMP-033 to 036), and at less where the filter or
 * the sums are in PSUM (037, 038). */
static bool slides(const turns *t) {
    bool has_any = false;
    for (uint32_t i = 0; i < t->n_instrs; i++) {
        has_any |= has_window(t, i);
        for (int k = 0; k < VTRN_MAX_AP; k++) {
            const nki_record *r = at(t, 0, i)->operand[k];
            if (r && r->storage.space == VTRN_SPACE_PSUM)
                return false;
        }
    }
    return has_any;
}

/* The unit before u that makes the tile, which each turn has one of; NULL: none. */
static const unit *maker_of(const turns *t, uint32_t u, const nki_record *tile) {
    for (uint32_t v = u; v-- > 0;) {
        const nki_issued *maker = at(t, 0, t->units[v].at + t->units[v].n - 1);
        for (int i = 0; i < VTRN_MAX_AP; i++)
            if (maker->operand[i] == tile && access_is_written(&maker->instr, i))
                return &t->units[v];
    }
    return NULL;
}

/* Whether the unit makes the same in each turn: it reads what no turn changes. */
static bool repeats(const turns *t, uint32_t u) {
    const nki_issued *issued = at(t, 0, t->units[u].at), *next = at(t, 1, t->units[u].at);
    bool reads = false;
    if (t->units[u].n > 1)
        return false;
    for (int k = 0; k < VTRN_MAX_AP; k++) {
        if (!issued->operand[k] || !access_is_read(&issued->instr, k))
            continue;
        const unit *maker = maker_of(t, u, issued->operand[k]);
        bool is_same = issued->operand[k] == next->operand[k] &&
                       issued->instr.ap[k].addr == next->instr.ap[k].addr;
        if (maker ? !maker->repeats : !is_same)
            return false;
        reads = true;
    }
    return reads;
}

/* Finds what becomes one instruction; false: nothing. */
static bool find_merges(turns *t) {
    bool is_any = false;
    if (slides(t))
        return false;
    for (uint32_t u = 0; u < t->n_units; u++) {
        unit *found = &t->units[u];
        const nki_issued *issued = at(t, 0, found->at);
        access_states states = access_states_of(&issued->instr);
        uint32_t n = limit_of(t, issued);
        n = n > t->n_turns ? t->n_turns : n;
        found->repeats = repeats(t, u);
        if (found->n > 1 || states.written || found->repeats || has_window(t, found->at))
            continue;
        nki_issued merged;
        bool is_found = n > 1;
        for (uint32_t first = 0; first + 1 < t->n_turns && is_found; first += n) {
            uint32_t here = t->n_turns - first < n ? t->n_turns - first : n;
            is_found = merge(t, found->at, first, here, &merged);
        }
        if (is_found)
            found->merged = n;
        is_any |= is_found;
    }
    return is_any;
}

/* Gives the tiles that stand for each other in the turns one tile, in which they lie side by
 * side. */
static vtrn_status join_tiles(const turns *t, uint32_t i, int k) {
    nki_record *of[MAX_TURNS], *first = at(t, 0, i)->operand[k], *all;
    for (uint32_t turn = 0; turn < t->n_turns; turn++)
        of[turn] = at(t, turn, i)->operand[k];
    VTRN_RETURN_IF_ERROR(nki_record_add(t->s, &all));
    uint32_t id = all->storage.id;
    all->storage = first->storage;
    all->storage.id = id;
    all->storage.row_bytes *= t->n_turns;
    all->storage.n_bytes *= t->n_turns;
    all->core = first->core;
    all->is_released = true;
    for (uint32_t turn = 0; turn < t->n_turns; turn++) {
        all->keeps_partition |= of[turn]->keeps_partition;
        for (uint32_t j = 0; j < t->n_instrs; j++)
            for (int m = 0; m < VTRN_MAX_AP; m++)
                if (at(t, turn, j)->operand[m] == of[turn]) {
                    at(t, turn, j)->operand[m] = all;
                    at(t, turn, j)->instr.ap[m].addr +=
                        (int64_t)(turn * of[turn]->storage.row_bytes);
                }
    }
    return NULL;
}

static vtrn_status join_merged_tiles(const turns *t) {
    for (uint32_t u = 0; u < t->n_units; u++)
        for (int k = 0; k < VTRN_MAX_AP && t->units[u].merged > 1; k++)
            if (at(t, 0, t->units[u].at)->operand[k] != at(t, 1, t->units[u].at)->operand[k])
                VTRN_RETURN_IF_ERROR(join_tiles(t, t->units[u].at, k));
    return NULL;
}

/* Puts the turns side by side and merges what was found. */
static vtrn_status interleave(turns *t) {
    size_t n = (size_t)t->n_turns * t->n_instrs;
    nki_issued *order = malloc((n + 1) * sizeof *order);
    if (!order)
        return VTRN_OUT_OF_MEMORY(n * sizeof *order);
    vtrn_status status = join_merged_tiles(t);
    uint32_t to = 0;
    for (uint32_t u = 0; u < t->n_units && !status; u++) {
        const unit *part = &t->units[u];
        uint32_t merged = part->merged > 1 ? part->merged : 1;
        for (uint32_t turn = 0; turn < t->n_turns; turn++)
            for (uint32_t i = 0; i < part->n; i++) {
                order[to] = *at(t, turn, part->at + i);
                uint32_t here = t->n_turns - turn < merged ? t->n_turns - turn : merged;
                if (turn % merged)
                    t->is_dropped[t->begin + to] = true;
                else if (here > 1 && !merge(t, part->at, turn, here, &order[to]))
                    status =
                        VTRN_ERROR(VTRN_INTERNAL, "turns of a loop changed as they were merged");
                to++;
            }
    }
    if (!status)
        memcpy(t->list, order, n * sizeof *order);
    free(order);
    return status;
}

/* Turns of one loop that follow each other, each from its mark to the next. */
static vtrn_status run_loop(turns *t, const nki_turn *marks, uint32_t n_turns) {
    for (uint32_t i = 0; i < n_turns;) {
        t->begin = marks[i].at;
        t->list = &t->s->list[t->begin];
        t->n_instrs = marks[i + 1].at - t->begin;
        t->n_turns = 1;
        i++;
        if (!t->n_instrs || t->n_instrs > MAX_TURN_INSTRS || at(t, 0, 0)->is_exchange ||
            !find_units(t))
            continue;
        while (t->n_turns < MAX_TURNS && i < n_turns &&
               marks[i + 1].at - marks[i].at == t->n_instrs && is_alike(t, t->n_turns)) {
            t->n_turns++;
            i++;
        }
        uint32_t n = width_of(t);
        n = n ? n : 1;
        i -= t->n_turns - n;
        t->n_turns = n;
        if (n > 1 && find_merges(t) && may_interleave(t))
            VTRN_RETURN_IF_ERROR(interleave(t));
    }
    return NULL;
}

static bool is_between(const nki_session *s, uint32_t begin, uint32_t end) {
    for (uint32_t m = 0; m < s->n_meets; m++)
        if (s->meets[m].at > begin && s->meets[m].at < end)
            return true;
    return false;
}

vtrn_status nki_turns_merge(nki_session *s) {
    bool *is_dropped = calloc((size_t)s->n_list + 1, sizeof *is_dropped);
    if (!is_dropped)
        return VTRN_OUT_OF_MEMORY(s->n_list * sizeof *is_dropped);
    nki_note_uses(s);
    turns t = {.s = s, .is_dropped = is_dropped};
    vtrn_status status = NULL;
    for (uint32_t i = 0, end = 0; i < s->n_turns && !status; i = end) {
        for (end = i + 1; end < s->n_turns && s->turns[end].loop == s->turns[i].loop;)
            end++;
        if (end - i > 2 && !is_between(s, s->turns[i].at, s->turns[end - 1].at))
            status = run_loop(&t, &s->turns[i], end - i - 1);
    }
    if (!status)
        nki_list_drop(s, is_dropped);
    nki_note_uses(s);
    free(is_dropped);
    return status;
}
