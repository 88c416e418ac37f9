/* Drops loads of what an earlier load has brought, and arithmetic and transposes by Tensor that an
 * earlier instruction has done with the same operands, as the vendor's compiler does with kernels
 * of the first generation whose loops do so again in each turn: the later readers read the earlier
 * tile. */
#include "isa/access.h"
#include "nki/nki_session.h"

#include <stdlib.h>
#include <string.h>

/* A tile that an instruction has filled, and that may serve later ones. */
typedef struct kept_tile {
    uint32_t value; /* its number */
    uint32_t next;  /* the instruction that makes it again */
    nki_record *tile;
} kept_tile;

enum { NONE = UINT32_MAX };

typedef struct reusing {
    nki_session *s;
    int core;
    uint32_t *n_writes;   /* by record */
    bool *is_final;       /* by record: nothing writes it behind its first reader */
    nki_record **instead; /* by record: the tile that has the same values */
    /* Numbers of values: two tiles of one number hold the same. */
    uint32_t *value_of; /* by record: of a settled tile; else a number that no other has */
    uint32_t *makes;    /* by instruction: the number of what it fills; NONE: it has to stay */
    uint32_t *next;     /* by instruction: the next that makes the same, NONE: none */
    uint32_t *table;    /* of instructions, by what they make; NONE: empty */
    uint32_t table_mask;
    kept_tile *kept;
    uint32_t n_kept;
    uint64_t kept_bytes, room;
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

static bool fills(const vtrn_ap *ap, const nki_record *tile) {
    uint64_t n = isa_ap_free_size(ap) * dtype_size((vtrn_dtype)ap->dtype);
    int64_t lo, hi;
    isa_ap_extent(ap, &lo, &hi);
    return n == tile->storage.row_bytes && lo == 0 && hi == (int64_t)n &&
           ap->n_partitions == tile->storage.n_partitions;
}

/* A tile on chip that the instruction fills and that nothing changes. */
static bool is_settled(const reusing *r, const nki_issued *issued) {
    const nki_record *tile = issued->operand[0];
    return issued->core == r->core && !issued->is_exchange && tile &&
           tile->storage.space != VTRN_SPACE_HBM && !tile->is_placed && !tile->is_filled &&
           r->n_writes[tile->storage.id] == 1 && fills(&issued->instr.ap[0], tile);
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
           (issued->operand[0]->storage.space == VTRN_SPACE_SBUF ||
            issued->instr.opcode == VTRN_OP_PE_TRANSPOSE);
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

/* Whether both make the same, from operands of the same values. */
static bool is_same(const reusing *r, const nki_issued *a, const nki_issued *b) {
    const vtrn_instr *x = &a->instr, *y = &b->instr;
    bool is_same = x->opcode == y->opcode && x->op0 == y->op0 && x->op1 == y->op1 &&
                   x->func == y->func && x->flags == y->flags && x->arg[0] == y->arg[0] &&
                   x->arg[1] == y->arg[1] && x->imm[0].bits == y->imm[0].bits &&
                   x->imm[1].bits == y->imm[1].bits &&
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

static uint32_t hash_of(const reusing *r, const nki_issued *issued) {
    const vtrn_instr *instr = &issued->instr;
    uint32_t hash = mixed(instr->opcode, (uint64_t)instr->imm[0].bits << 16 | instr->op0);
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const nki_record *from = i ? issued->operand[i] : NULL;
        hash = mixed(hash, (uint64_t)instr->ap[i].addr);
        hash = mixed(hash, from ? r->value_of[from->storage.id] : 0);
    }
    return hash;
}

/* Numbers values in the order in which they are made. next_of: [values] to work in. */
static void number_values(reusing *r, uint32_t *next_of) {
    uint32_t n_values = r->s->n_records;
    for (uint32_t i = 0; i < n_values; i++)
        r->value_of[i] = i;
    for (uint32_t k = 0; k < r->s->n_list; k++) {
        const nki_issued *issued = &r->s->list[k];
        r->makes[k] = NONE;
        if (!is_reusable(r, issued))
            continue;
        uint32_t slot = hash_of(r, issued) & r->table_mask;
        while (r->table[slot] != NONE && !is_same(r, &r->s->list[r->table[slot]], issued))
            slot = (slot + 1) & r->table_mask;
        if (r->table[slot] == NONE) {
            r->table[slot] = k;
            r->makes[k] = n_values++;
        } else {
            r->makes[k] = r->makes[r->table[slot]];
        }
        r->value_of[issued->operand[0]->storage.id] = r->makes[k];
    }
    for (uint32_t i = 0; i < n_values; i++)
        next_of[i] = NONE;
    for (uint32_t k = r->s->n_list; k-- > 0;)
        if (r->makes[k] != NONE) {
            r->next[k] = next_of[r->makes[k]];
            next_of[r->makes[k]] = k;
        }
}

static uint64_t bytes_of(const nki_record *tile) {
    return (tile->storage.row_bytes + NKI_TILE_ALIGN - 1) / NKI_TILE_ALIGN * NKI_TILE_ALIGN;
}

static kept_tile *find(const reusing *r, uint32_t value) {
    for (uint32_t i = 0; i < r->n_kept; i++)
        if (r->kept[i].value == value)
            return &r->kept[i];
    return NULL;
}

static void forget(reusing *r, kept_tile *kept) {
    r->kept_bytes -= bytes_of(kept->tile);
    *kept = r->kept[--r->n_kept];
}

/* The tile that k fills may serve later instructions; those that are made again the latest make
 * room. */
static void keep(reusing *r, uint32_t k, nki_record *tile) {
    uint64_t n_bytes = bytes_of(tile);
    if (n_bytes > r->room || r->next[k] == NONE)
        return;
    while (r->kept_bytes + n_bytes > r->room) {
        kept_tile *latest = &r->kept[0];
        for (uint32_t i = 1; i < r->n_kept; i++)
            if (r->kept[i].next > latest->next)
                latest = &r->kept[i];
        if (latest->next < r->next[k])
            return;
        forget(r, latest);
    }
    r->kept[r->n_kept++] = (kept_tile){.value = r->makes[k], .next = r->next[k], .tile = tile};
    r->kept_bytes += n_bytes;
}

static uint32_t drop(reusing *r, bool *is_dropped) {
    nki_session *s = r->s;
    uint32_t n = 0;
    for (uint32_t k = 0; k < s->n_list; k++) {
        nki_issued *issued = &s->list[k];
        for (int i = 0; i < VTRN_MAX_AP; i++)
            if (issued->operand[i] && r->instead[issued->operand[i]->storage.id])
                issued->operand[i] = r->instead[issued->operand[i]->storage.id];
        uint32_t value = r->makes[k];
        if (value == NONE || issued->operand[0]->storage.space == VTRN_SPACE_PSUM)
            continue;
        kept_tile *same = find(r, value);
        if (!same) {
            keep(r, k, issued->operand[0]);
            continue;
        }
        same->next = r->next[k];
        same->tile->keeps_partition |= issued->operand[0]->keeps_partition;
        r->instead[issued->operand[0]->storage.id] = same->tile;
        is_dropped[k] = true;
        n++;
        if (r->next[k] == NONE)
            forget(r, same);
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
        const nki_record *tile = s->list[k].operand[0];
        if (r->makes[k] == NONE || tile->storage.space != VTRN_SPACE_PSUM ||
            is_read[tile->storage.id])
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
    reusing r = {.s = s, .core = core, .room = room, .table_mask = (uint32_t)(n_table - 1)};
    r.n_writes = calloc(n_records, sizeof *r.n_writes);
    r.instead = calloc(n_records, sizeof *r.instead);
    r.value_of = malloc(n_records * sizeof *r.value_of);
    r.makes = malloc(n_list * sizeof *r.makes);
    r.next = malloc(n_list * sizeof *r.next);
    r.table = malloc(n_table * sizeof *r.table);
    uint32_t *next_of = malloc((n_records + n_list) * sizeof *next_of);
    r.kept = malloc((room / NKI_TILE_ALIGN + 1) * sizeof *r.kept);
    bool *is_dropped = calloc(n_list, sizeof *is_dropped);
    bool *is_read = calloc(n_records, sizeof *is_read);
    r.is_final = calloc(n_records, sizeof *r.is_final);
    vtrn_status status = NULL;
    *out_n = 0;
    if (is_read && r.is_final && r.n_writes && r.instead && r.value_of && r.makes && r.next &&
        r.table && next_of && r.kept && is_dropped) {
        memset(r.table, 0xff, n_table * sizeof *r.table);
        count_writes(&r, is_read);
        number_values(&r, next_of);
        *out_n = drop(&r, is_dropped);
        memset(is_read, 0, n_records * sizeof *is_read);
        *out_n += drop_unread(&r, is_dropped, is_read);
        nki_list_drop(s, is_dropped);
        nki_note_uses(s);
    } else {
        status = VTRN_OUT_OF_MEMORY(n_table * sizeof *r.table);
    }
    free(r.n_writes), free(r.instead), free(r.value_of), free(r.makes), free(r.next);
    free(r.table), free(next_of), free(r.kept), free(is_dropped), free(is_read), free(r.is_final);
    return status;
}
