/* Drops loads of what an earlier load has brought, and arithmetic and transposes by Tensor that an
 * earlier instruction has done with the same operands, as the vendor's compiler does with kernels
 * of the first generation whose loops do so again in each turn: the later readers read the earlier
 * tile. */
#include "base/arena.h"
#include "isa/access.h"
#include "nki/nki_session.h"

#include <stdlib.h>
#include <string.h>

enum { NONE = UINT32_MAX };

typedef struct reusing {
    nki_session *s;
    int core;
    uint32_t *n_writes;  /* by record */
    bool *is_final;      /* by record: nothing writes it behind its first reader */
    bool *is_row;        /* by record: what writes it does so from its begin to its end */
    uint64_t *n_filled;  /* by record: bytes of a partition that instructions so far have written */
    uint32_t *filled_by; /* by record: the last of them; NONE: none has */
    nki_record **instead; /* by record: the tile that has the same values */
    /* Numbers of values: two tiles of one number hold the same. */
    uint32_t *value_of; /* by record: of a settled tile; else a number that no other has */
    uint32_t *makes;    /* by instruction: of what its tile then has; NONE: it has to stay */
    uint32_t *before;   /* by instruction: the one that wrote the tile before it; NONE: none */
    uint32_t n_values;
    uint32_t *table; /* of instructions, by what they make; NONE: empty */
    uint32_t table_mask;
    bool *is_again; /* by instruction: what it makes is still there */
} reusing;

/* is_read: [n_records] to work in, false. */
static void count_writes(const reusing *r, bool *is_read) {
    for (uint32_t i = 0; i < r->s->n_records; i++)
        r->is_final[i] = true;
    for (uint32_t k = 0; k < r->s->n_list; k++)
        for (int i = 0; i < VTRN_MAX_AP; i++) {
            const nki_issued *issued = &r->s->list[k];
            if (!issued->operand[i])
                continue;
            uint32_t id = issued->operand[i]->storage.id;
            if (access_is_written(&issued->instr, i)) {
                r->n_writes[id]++;
                r->is_final[id] &= !is_read[id];
            }
            is_read[id] |= access_is_read(&issued->instr, i);
        }
}

/* Notes whether each tile is filled in a row: several instructions do so where turns of a loop have
 * one tile together (nki_turns.c) and what makes its parts is not merged as what reads them is. */
static void find_rows(const reusing *r) {
    for (uint32_t i = 0; i < r->s->n_records; i++)
        r->is_row[i] = true;
    for (uint32_t k = 0; k < r->s->n_list; k++)
        for (int i = 0; i < VTRN_MAX_AP; i++) {
            const nki_issued *issued = &r->s->list[k];
            const nki_record *tile = issued->operand[i];
            if (!tile || !access_is_written(&issued->instr, i))
                continue;
            const vtrn_ap *ap = &issued->instr.ap[i];
            uint64_t n = isa_ap_free_size(ap) * dtype_size((vtrn_dtype)ap->dtype);
            uint64_t *n_filled = &r->n_filled[tile->storage.id];
            int64_t lo, hi;
            isa_ap_extent(ap, &lo, &hi);
            r->is_row[tile->storage.id] &= i == 0 && lo == (int64_t)*n_filled &&
                                           hi - lo == (int64_t)n && issued->core == r->core &&
                                           !issued->is_exchange &&
                                           ap->n_partitions == tile->storage.n_partitions;
            *n_filled += n;
        }
    for (uint32_t i = 0; i < r->s->n_records; i++)
        r->is_row[i] &= r->n_filled[i] == r->s->records[i]->storage.row_bytes;
}

/* A tile on chip that instructions such as this one fill and that nothing changes then. */
static bool is_settled(const reusing *r, const nki_issued *issued) {
    const nki_record *tile = issued->operand[0];
    if (!tile || tile->storage.space == VTRN_SPACE_HBM || tile->is_placed || tile->is_filled)
        return false;
    uint32_t id = tile->storage.id;
    return r->is_row[id] && r->is_final[id] &&
           (tile->storage.space == VTRN_SPACE_SBUF || r->n_writes[id] == 1);
}

static bool is_in_psum(const nki_issued *issued) {
    return issued->operand[0]->storage.space == VTRN_SPACE_PSUM;
}

/* Where in its tile the part that the instruction makes ends. */
static int64_t end_of(const nki_issued *issued) {
    int64_t lo, hi;
    isa_ap_extent(&issued->instr.ap[0], &lo, &hi);
    return hi;
}

/* Whether the instruction makes the last part, or all, of a tile in SBUF that has a number. */
static bool makes_tile(const reusing *r, uint32_t k) {
    const nki_issued *issued = &r->s->list[k];
    return r->makes[k] != NONE && !is_in_psum(issued) &&
           end_of(issued) == (int64_t)issued->operand[0]->storage.row_bytes;
}

/* A load of an argument that nothing changes. */
static bool is_load(const reusing *r, const nki_issued *issued) {
    const nki_record *from = issued->operand[1];
    return issued->instr.opcode == VTRN_OP_DMA_COPY && !issued->instr.flags && from &&
           from->storage.space == VTRN_SPACE_HBM && from->kind != NKI_LOCAL &&
           r->n_writes[from->storage.id] == 0;
}

/* Arithmetic, or a transpose by Tensor, of tiles that nothing changes. In PSUM that is what a
 * transpose has made of one. */
static bool is_arithmetic(const reusing *r, const nki_issued *issued) {
    bool is_transpose = issued->instr.opcode == VTRN_OP_PE_TRANSPOSE;
    if ((!nki_is_elementwise(&issued->instr) && !is_transpose) ||
        (issued->instr.flags & (VTRN_FLAG_ACCUMULATE | VTRN_FLAG_RESET | VTRN_FLAG_STOCHASTIC)))
        return false;
    for (int i = 1; i < VTRN_MAX_AP; i++) {
        const nki_record *from = issued->operand[i];
        if (!from)
            continue;
        uint32_t id = from->storage.id;
        bool is_known = from->storage.space == VTRN_SPACE_SBUF   ? r->is_final[id]
                        : from->storage.space == VTRN_SPACE_PSUM ? r->value_of[id] != id
                                                                 : false;
        if (!is_known || from == issued->operand[0] || from->is_placed || from->is_filled)
            return false;
    }
    return true;
}

static bool is_reusable(const reusing *r, const nki_issued *issued) {
    return is_settled(r, issued) && (is_load(r, issued) || is_arithmetic(r, issued)) &&
           (!is_in_psum(issued) || issued->instr.opcode == VTRN_OP_PE_TRANSPOSE);
}

/* Whether all engines give the same bits: integers go through fp32 on some and not on others
 * (compiler/build/twins.c). */
static bool is_any_engine(const vtrn_instr *instr) {
    if (isa_ops[instr->opcode].is_dma)
        return true;
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (access_is_memory(instr, i) && !dtype_is_float((vtrn_dtype)instr->ap[i].dtype))
            return false;
    return true;
}

/* What the tile has when the instruction at k writes a part of it; NONE: nothing. */
static uint32_t begun_with(const reusing *r, uint32_t k) {
    return r->before[k] == NONE ? NONE : r->makes[r->before[k]];
}

/* Whether both make the same, from operands of the same values. */
static bool is_same(const reusing *r, uint32_t k, uint32_t other) {
    const nki_issued *a = &r->s->list[k], *b = &r->s->list[other];
    const vtrn_instr *x = &a->instr, *y = &b->instr;
    bool is_same = begun_with(r, k) == begun_with(r, other) && x->opcode == y->opcode &&
                   x->op0 == y->op0 && x->op1 == y->op1 && x->func == y->func &&
                   x->flags == y->flags && x->arg[0] == y->arg[0] && x->arg[1] == y->arg[1] &&
                   x->imm[0].bits == y->imm[0].bits && x->imm[1].bits == y->imm[1].bits &&
                   (x->engine == y->engine || is_any_engine(x)) &&
                   a->operand[0]->storage.dtype == b->operand[0]->storage.dtype &&
                   a->operand[0]->storage.row_bytes == b->operand[0]->storage.row_bytes;
    for (int i = 0; i < VTRN_MAX_AP && is_same; i++) {
        const nki_record *from = a->operand[i], *to = b->operand[i];
        is_same = !from == !to && memcmp(&x->ap[i], &y->ap[i], sizeof(vtrn_ap)) == 0 &&
                  (i == 0 || !from || r->value_of[from->storage.id] == r->value_of[to->storage.id]);
    }
    return is_same;
}

static uint32_t mixed(uint32_t hash, uint64_t with) {
    return (uint32_t)(((hash ^ with) * UINT64_C(0x9e3779b97f4a7c15)) >> 29);
}

static uint32_t hash_of(const reusing *r, uint32_t k) {
    const nki_issued *issued = &r->s->list[k];
    const vtrn_instr *instr = &issued->instr;
    uint32_t hash = mixed(instr->opcode, (uint64_t)instr->imm[0].bits << 16 | instr->op0);
    hash = mixed(hash, begun_with(r, k));
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const nki_record *from = i ? issued->operand[i] : NULL;
        hash = mixed(hash, (uint64_t)instr->ap[i].addr);
        hash = mixed(hash, from ? r->value_of[from->storage.id] : 0);
    }
    return hash;
}

/* Numbers values in the order in which they are made. */
static void number_values(reusing *r) {
    r->n_values = r->s->n_records;
    for (uint32_t i = 0; i < r->n_values; i++)
        r->value_of[i] = i;
    for (uint32_t k = 0; k < r->s->n_list; k++) {
        const nki_issued *issued = &r->s->list[k];
        r->makes[k] = r->before[k] = NONE;
        if (!is_reusable(r, issued))
            continue;
        uint32_t *filled_by = &r->filled_by[issued->operand[0]->storage.id];
        int64_t lo, hi;
        isa_ap_extent(&issued->instr.ap[0], &lo, &hi);
        if (lo && (*filled_by == NONE || end_of(&r->s->list[*filled_by]) != lo))
            continue; /* the part before is made by what may make anything */
        r->before[k] = lo ? *filled_by : NONE;
        *filled_by = k;
        uint32_t slot = hash_of(r, k) & r->table_mask;
        while (r->table[slot] != NONE && !is_same(r, r->table[slot], k))
            slot = (slot + 1) & r->table_mask;
        if (r->table[slot] == NONE) {
            r->table[slot] = k;
            r->makes[k] = r->n_values++;
        } else {
            r->makes[k] = r->makes[r->table[slot]];
        }
        if (end_of(issued) == (int64_t)issued->operand[0]->storage.row_bytes)
            r->value_of[issued->operand[0]->storage.id] = r->makes[k];
    }
}

static uint64_t bytes_of(const nki_record *tile) {
    return (tile->storage.row_bytes + NKI_TILE_ALIGN - 1) / NKI_TILE_ALIGN * NKI_TILE_ALIGN;
}

/* --- what there is room for ------------------------------------------------------------------ */

/* An instruction that makes a value of a tile in SBUF. Statements (lines of the kernel) that make
 * the same values are a group. */
typedef struct making {
    uint32_t group, at;
    /* The bytes of what the group has made since it made the value before, this one included: what
     * has to be kept so that this instruction need not make it again. 0: it is the first. */
    uint64_t window;
} making;

static uint32_t root_of(uint32_t *group, uint32_t source) {
    while (group[source] != source)
        source = group[source] = group[group[source]];
    return source;
}

static int by_group(const void *a, const void *b) {
    const making *x = a, *y = b;
    return x->group != y->group ? (x->group < y->group ? -1 : 1)
                                : (x->at > y->at) - (x->at < y->at);
}

static int by_window(const void *a, const void *b) {
    const making *x = a, *y = b;
    return x->window != y->window ? (x->window < y->window ? -1 : 1)
                                  : (x->at > y->at) - (x->at < y->at);
}

/* Adds to a tree of partial sums of n places; bytes may be negative. */
static void add_at(int64_t *sums, uint32_t n, uint32_t place, int64_t bytes) {
    for (uint32_t i = place + 1; i <= n; i += i & -i)
        sums[i] += bytes;
}

static int64_t sum_before(const int64_t *sums, uint32_t place) {
    int64_t sum = 0;
    for (uint32_t i = place; i > 0; i -= i & -i)
        sum += sums[i];
    return sum;
}

/* Windows of the makings of one group, in the order of the list. last: [values] to work in, where
 * in `all` the value was made the last time, NONE before; sums: [n + 1] of zeros. */
static void find_windows(const reusing *r, making *all, uint32_t n, uint32_t *last, int64_t *sums) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t value = r->makes[all[i].at], before = last[value];
        int64_t bytes = (int64_t)bytes_of(r->s->list[all[i].at].operand[0]);
        if (before != NONE) {
            all[i].window = (uint64_t)(sum_before(sums, i) - sum_before(sums, before));
            add_at(sums, n, before, -bytes);
        }
        add_at(sums, n, i, bytes);
        last[value] = i;
    }
}

/* Whether the instruction reads PSUM, where what is known is what a transpose has made. */
static bool is_of_transpose(const nki_issued *issued) {
    for (int i = 1; i < VTRN_MAX_AP; i++)
        if (issued->operand[i] && issued->operand[i]->storage.space == VTRN_SPACE_PSUM)
            return true;
    return false;
}

/* Marks what need not be made again. A loop's tiles are kept all or none: one that reads more than
 * there is room for reads all of it again, as the vendor's compiler has it, which moves a statement
 * out of a loop only as a whole. The smallest windows are first, those of the innermost loops.
 * Transposes are kept where that loop makes one alone: kernels that turn several in each turn of an
 * outer loop were measured to turn them each time (docs/accuracy.md, CS149-009 and 010). */
static void grant(const reusing *r, making *all, uint32_t n, uint64_t *given, uint64_t room) {
    qsort(all, n, sizeof *all, by_window);
    uint64_t total = 0;
    for (uint32_t i = 0; i < n; i++) {
        const nki_issued *issued = &r->s->list[all[i].at];
        uint64_t *of_group = &given[all[i].group];
        if (!all[i].window ||
            (is_of_transpose(issued) && all[i].window > bytes_of(issued->operand[0])))
            continue;
        uint64_t more = all[i].window > *of_group ? all[i].window - *of_group : 0;
        if (total + more > room)
            continue;
        total += more;
        *of_group += more;
        r->is_again[all[i].at] = true;
    }
}

/* Sets is_again, where the tiles that are kept for it take no more than `room` bytes a partition.
 * false: the host has no memory. */
static bool choose(const reusing *r, uint64_t room) {
    uint32_t n = 0, n_sources = 0;
    for (uint32_t k = 0; k < r->s->n_list; k++)
        if (makes_tile(r, k) && r->s->list[k].instr.source >= n_sources)
            n_sources = r->s->list[k].instr.source + 1;
    arena tmp = ARENA_EMPTY;
    uint32_t *group = ARENA_NEW(&tmp, uint32_t, n_sources);
    uint32_t *last = ARENA_NEW(&tmp, uint32_t, r->n_values);
    uint64_t *given = ARENA_NEW(&tmp, uint64_t, n_sources);
    making *all = ARENA_NEW(&tmp, making, r->s->n_list);
    int64_t *sums = ARENA_NEW(&tmp, int64_t, (size_t)r->s->n_list + 1);
    bool is_ok = group && last && given && all && sums;
    for (uint32_t i = 0; is_ok && i < n_sources; i++)
        group[i] = i;
    if (is_ok && r->n_values)
        memset(last, 0xff, r->n_values * sizeof *last);
    for (uint32_t k = 0; is_ok && k < r->s->n_list; k++) {
        const nki_issued *issued = &r->s->list[k];
        if (!makes_tile(r, k))
            continue;
        uint32_t before = last[r->makes[k]];
        if (before != NONE)
            group[root_of(group, issued->instr.source)] = root_of(group, before);
        last[r->makes[k]] = issued->instr.source;
        all[n++].at = k;
    }
    for (uint32_t i = 0; is_ok && i < n; i++)
        all[i].group = root_of(group, r->s->list[all[i].at].instr.source);
    if (is_ok) {
        qsort(all, n, sizeof *all, by_group);
        memset(last, 0xff, r->n_values * sizeof *last);
    }
    for (uint32_t i = 0, end; is_ok && i < n; i = end) {
        for (end = i; end < n && all[end].group == all[i].group;)
            end++;
        find_windows(r, &all[i], end - i, last, sums);
        memset(sums, 0, ((size_t)(end - i) + 1) * sizeof *sums);
    }
    if (is_ok)
        grant(r, all, n, given, room);
    arena_free(&tmp);
    return is_ok;
}

/* holder: [values] to work in, NULL. */
static uint32_t drop(const reusing *r, bool *is_dropped, nki_record **holder) {
    nki_session *s = r->s;
    uint32_t n = 0;
    for (uint32_t k = 0; k < s->n_list; k++) {
        nki_issued *issued = &s->list[k];
        for (int i = 0; i < VTRN_MAX_AP; i++)
            if (issued->operand[i] && r->instead[issued->operand[i]->storage.id])
                issued->operand[i] = r->instead[issued->operand[i]->storage.id];
        if (!makes_tile(r, k))
            continue;
        uint32_t value = r->makes[k];
        if (!r->is_again[k]) {
            holder[value] = issued->operand[0];
            continue;
        }
        holder[value]->keeps_partition |= issued->operand[0]->keeps_partition;
        r->instead[issued->operand[0]->storage.id] = holder[value];
        for (uint32_t part = k; part != NONE; part = r->before[part], n++)
            is_dropped[part] = true;
    }
    return n;
}

/* Drops transposes whose tile in PSUM nothing reads any more. is_read: [n_records] to work in,
 * false. */
static uint32_t drop_unread(const reusing *r, bool *is_dropped, bool *is_read) {
    nki_session *s = r->s;
    uint32_t n = 0;
    for (uint32_t k = 0; k < s->n_list; k++)
        for (int i = 0; i < VTRN_MAX_AP; i++)
            if (!is_dropped[k] && s->list[k].operand[i])
                is_read[s->list[k].operand[i]->storage.id] |= access_is_read(&s->list[k].instr, i);
    for (uint32_t k = 0; k < s->n_list; k++) {
        if (r->makes[k] == NONE || !is_in_psum(&s->list[k]) ||
            is_read[s->list[k].operand[0]->storage.id])
            continue;
        is_dropped[k] = true;
        n++;
    }
    return n;
}

vtrn_status nki_repeats(nki_session *s, int core, uint64_t room, uint32_t *out_n) {
    size_t n_records = (size_t)s->n_records + 1, n_list = (size_t)s->n_list + 1;
    size_t n_table = 2;
    while (n_table < 2 * n_list)
        n_table *= 2;
    arena tmp = ARENA_EMPTY;
    reusing r = {.s = s, .core = core, .table_mask = (uint32_t)(n_table - 1)};
    r.n_writes = ARENA_NEW(&tmp, uint32_t, n_records);
    r.instead = ARENA_NEW(&tmp, nki_record *, n_records);
    r.value_of = ARENA_NEW(&tmp, uint32_t, n_records);
    r.is_final = ARENA_NEW(&tmp, bool, n_records);
    r.makes = ARENA_NEW(&tmp, uint32_t, n_list);
    r.before = ARENA_NEW(&tmp, uint32_t, n_list);
    r.is_row = ARENA_NEW(&tmp, bool, n_records);
    r.n_filled = ARENA_NEW(&tmp, uint64_t, n_records);
    r.filled_by = ARENA_NEW(&tmp, uint32_t, n_records);
    r.is_again = ARENA_NEW(&tmp, bool, n_list);
    r.table = ARENA_NEW(&tmp, uint32_t, n_table);
    bool *is_dropped = ARENA_NEW(&tmp, bool, n_list);
    bool *is_read = ARENA_NEW(&tmp, bool, n_records);
    nki_record **holder = ARENA_NEW(&tmp, nki_record *, n_records + n_list);
    vtrn_status status = NULL;
    *out_n = 0;
    bool is_ok = r.n_writes && r.instead && r.value_of && r.is_final && r.makes && r.is_again &&
                 r.before && r.is_row && r.n_filled && r.filled_by && r.table && is_dropped &&
                 is_read && holder;
    if (is_ok) {
        memset(r.table, 0xff, n_table * sizeof *r.table);
        memset(r.filled_by, 0xff, n_records * sizeof *r.filled_by);
        count_writes(&r, is_read);
        find_rows(&r);
        number_values(&r);
        is_ok = choose(&r, room);
    }
    if (is_ok) {
        *out_n = drop(&r, is_dropped, holder);
        memset(is_read, 0, n_records * sizeof *is_read);
        *out_n += drop_unread(&r, is_dropped, is_read);
        nki_list_drop(s, is_dropped);
        nki_note_uses(s);
    } else {
        status = VTRN_OUT_OF_MEMORY(n_table * sizeof *r.table);
    }
    arena_free(&tmp);
    return status;
}
