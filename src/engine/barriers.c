/* When the threads must meet: tracks who wrote and who read what since they last met.
 *
 * A partition of SBUF or PSUM, and a column of the PE array, is only written by its owner. So only
 * two pairs of accesses can race: a write and a later crossing read, a crossing read and a later
 * write. The state of a granule (some bytes of a partition, all partitions) is the epoch of its
 * last write and of its last crossing read, each with the groups of partitions concerned; an epoch
 * is the time between two barriers.
 *
 * Accesses to HBM of this epoch are kept by tensor: see engine/sharing.h.
 *
 * Only equal partitions count as one owner's, as if there were a thread for each group of them. So
 * what is found here holds for a team of any size. */
#include "engine/plan_parts.h"
#include "engine/sharing.h"
#include "isa/access.h"

#include <string.h>

enum {
    GRANULE_BYTES = 128,
    MAX_ACCESSES = 128, /* of a tensor in an epoch; then the list shrinks to one that covers all */
};

typedef struct granule {
    uint32_t write_epoch, write_groups;
    uint32_t read_epoch, read_groups;
} granule;

typedef struct hbm_list {
    uint32_t epoch;
    int n;
    bool has_writes;
    share_hbm *access; /* [MAX_ACCESSES], made when first needed */
} hbm_list;

struct barriers {
    const vtrn_program *program;
    arena *memory;
    uint32_t epoch;
    bool is_empty;     /* nothing was admitted in this epoch */
    bool is_closed;    /* nothing more may be admitted in this epoch */
    bool is_exhausted; /* host memory ran short: a barrier before each HBM access is safe */
    uint32_t n_granules[VTRN_SPACE_HBM];
    granule *granules[VTRN_SPACE_HBM]; /* by space */
    granule pe;
    uint32_t *root;  /* by slot: the slot that stands for the memory it lies in */
    hbm_list *lists; /* by root slot */
};

static granule *granules_create(barriers *b, int space, uint32_t n_bytes) {
    b->n_granules[space] = (n_bytes + GRANULE_BYTES - 1) / GRANULE_BYTES;
    b->granules[space] = ARENA_NEW(b->memory, granule, b->n_granules[space]);
    return b->granules[space];
}

/* All scratch tensors share one allocation; an output may lie in the memory of an argument. */
static void find_roots(barriers *b) {
    const vtrn_program *p = b->program;
    uint32_t scratch = UINT32_MAX;
    for (uint32_t i = 0; i < p->n_slots; i++) {
        const vtrn_slot *slot = &p->slots[i];
        b->root[i] = i;
        if (slot->kind == VTRN_SLOT_SCRATCH)
            b->root[i] = scratch = scratch == UINT32_MAX ? i : scratch;
        if (slot->kind != VTRN_SLOT_OUTPUT || !p->output_alias || slot->index < 0 ||
            (uint32_t)slot->index >= p->n_outputs || p->output_alias[slot->index] < 0)
            continue;
        for (uint32_t k = 0; k < p->n_slots; k++)
            if (p->slots[k].kind == VTRN_SLOT_ARGUMENT &&
                p->slots[k].index == p->output_alias[slot->index]) {
                b->root[i] = k;
                break;
            }
    }
}

barriers *barriers_create(arena *a, const vtrn_program *program, const vtrn_chip *chip) {
    barriers *b = ARENA_NEW(a, barriers, 1);
    if (!b)
        return NULL;
    b->program = program;
    b->memory = a;
    barriers_meet(b);
    b->root = ARENA_NEW(a, uint32_t, program->n_slots);
    b->lists = ARENA_NEW(a, hbm_list, program->n_slots);
    if (!b->root || !b->lists || !granules_create(b, VTRN_SPACE_SBUF, chip->sbuf_partition_bytes) ||
        !granules_create(b, VTRN_SPACE_PSUM, chip->psum_partition_bytes))
        return NULL;
    find_roots(b);
    return b;
}

void barriers_meet(barriers *b) {
    b->epoch++;
    b->is_empty = true;
    b->is_closed = false;
}

static bool granule_races(const granule *g, uint32_t epoch, uint32_t groups, share_kind kind) {
    if (kind == SHARE_CROSSING_READ)
        return g->write_epoch == epoch && (g->write_groups & groups);
    return kind == SHARE_OWNER_WRITE && g->read_epoch == epoch && (g->read_groups & groups);
}

static void granule_note(granule *g, uint32_t epoch, uint32_t groups, share_kind kind) {
    uint32_t *last = kind == SHARE_OWNER_WRITE ? &g->write_epoch : &g->read_epoch;
    uint32_t *mask = kind == SHARE_OWNER_WRITE ? &g->write_groups : &g->read_groups;
    *mask = *last == epoch ? *mask | groups : groups;
    *last = epoch;
}

/* An operand in SBUF or PSUM, as the granules see it. */
typedef struct tile_access {
    granule *first, *end;
    uint32_t groups;
    share_kind kind;
} tile_access;

static tile_access tile_access_of(const barriers *b, const vtrn_ap *ap, share_kind kind) {
    int64_t lo, hi;
    isa_ap_extent(ap, &lo, &hi);
    granule *table = b->granules[ap->space];
    return (tile_access){
        .first = table + lo / GRANULE_BYTES,
        .end = table + (hi + GRANULE_BYTES - 1) / GRANULE_BYTES,
        .groups = share_groups_of(ap->partition, ap->partition_step ? ap->n_partitions : 1),
        .kind = kind,
    };
}

static hbm_list *list_of(const barriers *b, uint32_t slot) {
    return &b->lists[b->root[slot]];
}

static bool list_races(const hbm_list *list, uint32_t epoch, const share_hbm *a) {
    if (list->epoch != epoch || (!a->is_write && !list->has_writes))
        return false;
    for (int i = 0; i < list->n; i++)
        if (share_hbm_races(&list->access[i], a))
            return true;
    return false;
}

/* One access that stands for all of the list. */
static share_hbm cover(const hbm_list *list) {
    share_hbm all = list->access[0];
    all.split = SHARE_ANY_SPLIT;
    all.shape = NULL;
    all.pitch = 0;
    for (int i = 1; i < list->n; i++) {
        const share_hbm *a = &list->access[i];
        all.base = a->base < all.base ? a->base : all.base;
        all.end = a->end > all.end ? a->end : all.end;
        all.is_write |= a->is_write;
    }
    return all;
}

static void list_note(barriers *b, hbm_list *list, const share_hbm *a) {
    if (list->epoch != b->epoch) {
        list->epoch = b->epoch;
        list->n = 0;
        list->has_writes = false;
    }
    if (!list->access)
        list->access = ARENA_NEW(b->memory, share_hbm, MAX_ACCESSES);
    if (!list->access) {
        b->is_exhausted = true;
        return;
    }
    if (list->n == MAX_ACCESSES) {
        list->access[0] = cover(list);
        list->n = 1;
    }
    list->access[list->n++] = *a;
    list->has_writes |= a->is_write;
}

/* The PE array: columns are written by ldweights as if column m were partition m, and read by a
 * matmul whose dst row m is somewhere else. */
static bool pe_access_of(barriers *b, const vtrn_instr *instr, tile_access *out) {
    bool is_load = access_writes_weights(instr);
    bool is_crossing = access_reads_weights(instr) && instr->ap[0].partition != 0;
    *out = (tile_access){&b->pe, &b->pe + 1, UINT32_MAX,
                         is_load ? SHARE_OWNER_WRITE : SHARE_CROSSING_READ};
    return is_load || is_crossing;
}

/* The accesses of one instruction that concern more than their owner. */
typedef struct accesses {
    tile_access tile[VTRN_MAX_AP + 1];
    share_hbm hbm[VTRN_MAX_AP];
    hbm_list *list[VTRN_MAX_AP]; /* of hbm[i] */
    int n_tiles, n_hbm;
} accesses;

/* Where the tensor begins in the memory that it shares with others. */
static int64_t offset_of(const barriers *b, uint32_t slot) {
    const vtrn_slot *s = &b->program->slots[slot];
    return s->kind == VTRN_SLOT_SCRATCH ? (int64_t)s->offset : 0;
}

static void collect(barriers *b, const vtrn_instr *instr, accesses *out) {
    out->n_tiles = out->n_hbm = 0;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const vtrn_ap *ap = &instr->ap[i];
        if (!access_is_memory(instr, i))
            continue;
        if (ap->space == VTRN_SPACE_HBM) {
            out->list[out->n_hbm] = list_of(b, ap->slot);
            out->hbm[out->n_hbm++] = share_hbm_of(instr, i, offset_of(b, ap->slot));
            continue;
        }
        share_kind kind = share_kind_of(instr, i);
        if (kind != SHARE_OWNER_READ)
            out->tile[out->n_tiles++] = tile_access_of(b, ap, kind);
    }
    out->n_tiles += pe_access_of(b, instr, &out->tile[out->n_tiles]);
}

/* Does a crossing read of the instruction meet its own write? */
static bool races_itself(const accesses *a) {
    const tile_access *dst = &a->tile[0];
    for (int i = 1; i < a->n_tiles; i++)
        if (dst->kind == SHARE_OWNER_WRITE && a->tile[i].kind == SHARE_CROSSING_READ &&
            dst->first < a->tile[i].end && a->tile[i].first < dst->end &&
            (dst->groups & a->tile[i].groups))
            return true;
    for (int i = 1; i < a->n_hbm; i++)
        if (a->list[0] == a->list[i] && share_hbm_races(&a->hbm[0], &a->hbm[i]))
            return true;
    return false;
}

static bool races(const barriers *b, const accesses *a) {
    for (int i = 0; i < a->n_tiles; i++)
        for (const granule *g = a->tile[i].first; g < a->tile[i].end; g++)
            if (granule_races(g, b->epoch, a->tile[i].groups, a->tile[i].kind))
                return true;
    for (int i = 0; i < a->n_hbm; i++)
        if (b->is_exhausted || list_races(a->list[i], b->epoch, &a->hbm[i]))
            return true;
    return false;
}

bool barriers_admit(barriers *b, const vtrn_instr *instr, bool *is_alone) {
    if (b->is_closed)
        return false;
    accesses a;
    collect(b, instr, &a);
    *is_alone = instr->opcode == VTRN_OP_CUSTOM_OP || instr->opcode == VTRN_OP_COLLECTIVE ||
                races_itself(&a);
    if (!b->is_empty && (*is_alone || races(b, &a)))
        return false;
    b->is_empty = false;
    b->is_closed = *is_alone;
    for (int i = 0; i < a.n_tiles; i++)
        for (granule *g = a.tile[i].first; g < a.tile[i].end; g++)
            granule_note(g, b->epoch, a.tile[i].groups, a.tile[i].kind);
    for (int i = 0; i < a.n_hbm; i++)
        list_note(b, a.list[i], &a.hbm[i]);
    return true;
}
