/* Drops loads of what an earlier load has brought, as the vendor's compiler does with kernels of
 * the first generation whose loops load a tile again in each turn: the later readers read the
 * earlier tile. */
#include "isa/access.h"
#include "nki/nki_session.h"

#include <stdlib.h>
#include <string.h>

/* A tile that a load has filled, and that may serve later ones. */
typedef struct kept_load {
    uint32_t list_i;
    uint32_t used; /* when a load asked for it last */
} kept_load;

typedef struct reusing {
    nki_session *s;
    int core;
    uint32_t *n_writes;   /* by record */
    nki_record **instead; /* by record: the tile that has the same values */
    kept_load *kept;
    uint32_t n_kept;
    uint64_t kept_bytes, room;
} reusing;

static void count_writes(const reusing *r) {
    for (uint32_t k = 0; k < r->s->n_list; k++)
        for (int i = 0; i < VTRN_MAX_AP; i++) {
            const nki_issued *issued = &r->s->list[k];
            if (issued->operand[i] && access_is_written(&issued->instr, i))
                r->n_writes[issued->operand[i]->storage.id]++;
        }
}

static bool fills(const vtrn_ap *ap, const nki_record *tile) {
    uint64_t n = isa_ap_free_size(ap) * dtype_size((vtrn_dtype)ap->dtype);
    int64_t lo, hi;
    isa_ap_extent(ap, &lo, &hi);
    return n == tile->storage.row_bytes && lo == 0 && hi == (int64_t)n &&
           ap->n_partitions == tile->storage.n_partitions;
}

/* A load of an argument that nothing changes into a tile that nothing changes. */
static bool is_reusable(const reusing *r, const nki_issued *issued) {
    const nki_record *tile = issued->operand[0], *from = issued->operand[1];
    return issued->instr.opcode == VTRN_OP_DMA_COPY && !issued->instr.flags &&
           issued->core == r->core && !issued->is_exchange && tile && from &&
           tile->storage.space == VTRN_SPACE_SBUF && from->storage.space == VTRN_SPACE_HBM &&
           from->kind != NKI_LOCAL && !tile->is_placed && !tile->is_filled &&
           r->n_writes[tile->storage.id] == 1 && r->n_writes[from->storage.id] == 0 &&
           fills(&issued->instr.ap[0], tile);
}

static bool is_same(const nki_issued *a, const nki_issued *b) {
    return a->operand[1] == b->operand[1] &&
           a->operand[0]->storage.dtype == b->operand[0]->storage.dtype &&
           a->operand[0]->storage.row_bytes == b->operand[0]->storage.row_bytes &&
           memcmp(&a->instr.ap[0], &b->instr.ap[0], sizeof(vtrn_ap)) == 0 &&
           memcmp(&a->instr.ap[1], &b->instr.ap[1], sizeof(vtrn_ap)) == 0;
}

static kept_load *find(const reusing *r, const nki_issued *issued) {
    for (uint32_t i = 0; i < r->n_kept; i++)
        if (is_same(&r->s->list[r->kept[i].list_i], issued))
            return &r->kept[i];
    return NULL;
}

static uint64_t bytes_of(const reusing *r, uint32_t list_i) {
    uint64_t n = r->s->list[list_i].operand[0]->storage.row_bytes;
    return (n + NKI_TILE_ALIGN - 1) / NKI_TILE_ALIGN * NKI_TILE_ALIGN;
}

/* The tile of the load at k may serve later ones; those that were asked for the longest ago make
 * room. */
static void keep(reusing *r, uint32_t k) {
    uint64_t n_bytes = bytes_of(r, k);
    if (n_bytes > r->room)
        return;
    while (r->kept_bytes + n_bytes > r->room) {
        uint32_t oldest = 0;
        for (uint32_t i = 1; i < r->n_kept; i++)
            if (r->kept[i].used < r->kept[oldest].used)
                oldest = i;
        r->kept_bytes -= bytes_of(r, r->kept[oldest].list_i);
        r->kept[oldest] = r->kept[--r->n_kept];
    }
    r->kept[r->n_kept++] = (kept_load){.list_i = k, .used = k};
    r->kept_bytes += n_bytes;
}

static uint32_t drop(reusing *r, bool *is_dropped) {
    nki_session *s = r->s;
    uint32_t n = 0;
    for (uint32_t k = 0; k < s->n_list; k++) {
        nki_issued *issued = &s->list[k];
        if (is_reusable(r, issued)) {
            kept_load *same = find(r, issued);
            if (same) {
                nki_record *tile = s->list[same->list_i].operand[0];
                same->used = k;
                tile->is_contracted |= issued->operand[0]->is_contracted;
                r->instead[issued->operand[0]->storage.id] = tile;
                is_dropped[k] = true;
                n++;
                continue;
            }
            keep(r, k);
        }
        for (int i = 0; i < VTRN_MAX_AP; i++)
            if (issued->operand[i] && r->instead[issued->operand[i]->storage.id])
                issued->operand[i] = r->instead[issued->operand[i]->storage.id];
    }
    return n;
}

vtrn_status nki_loads(nki_session *s, int core, uint64_t room, uint32_t *out_n) {
    size_t n_records = (size_t)s->n_records + 1, n_list = (size_t)s->n_list + 1;
    reusing r = {.s = s, .core = core, .room = room};
    r.n_writes = calloc(n_records, sizeof *r.n_writes);
    r.instead = calloc(n_records, sizeof *r.instead);
    r.kept = malloc((room / NKI_TILE_ALIGN + 1) * sizeof *r.kept);
    bool *is_dropped = calloc(n_list, sizeof *is_dropped);
    vtrn_status status = NULL;
    *out_n = 0;
    if (r.n_writes && r.instead && r.kept && is_dropped) {
        count_writes(&r);
        *out_n = drop(&r, is_dropped);
        nki_list_drop(s, is_dropped);
        nki_note_uses(s);
    } else {
        status = VTRN_OUT_OF_MEMORY(n_list * sizeof *is_dropped);
    }
    free(r.n_writes), free(r.instead), free(r.kept), free(is_dropped);
    return status;
}
