/* When the threads must meet: tracks who wrote and who read what since they last met.
 *
 * A partition of SBUF or PSUM, and a column of the PE array, is only written by its owner. So only
 * two pairs of accesses can race: a write and a later crossing read, a crossing read and a later
 * write. The state of a granule (some bytes of a partition, all partitions) is the epoch of its
 * last write and of its last crossing read, each with the groups of partitions concerned; an epoch
 * is the time between two barriers.
 *
 * HBM is shared by rows: accesses of this epoch are kept by tensor, and two of them, one a write,
 * race unless their addresses are disjoint or they split the same addresses in the same way.
 *
 * Only equal partitions count as one owner's, as if there were a thread for each group of them. So
 * what is found here holds for a team of any size. */
#include "engine/plan_parts.h"
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

/* Bytes base + k*pitch + [0, len) for all k >= 0 below `end`; len > pitch when rows overlap. */
typedef struct hbm_access {
    int64_t base, end, pitch, len;
    uint32_t split;  /* equal values: equal rows go to equal threads; SPLIT_ANY equals nothing */
    uint32_t n_rows; /* that are split: those of the side in SBUF, which a row here may serve
                        several of */
    bool is_write;
    const vtrn_ap *shape; /* NULL with SPLIT_ANY: of several */
} hbm_access;

enum { SPLIT_ANY = 0 };

typedef struct hbm_list {
    uint32_t epoch;
    int n;
    bool has_writes;
    hbm_access *access; /* [MAX_ACCESSES], made when first needed */
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

/* What an operand does to memory that lies in partitions. */
typedef enum access_kind { OWNER_READ, CROSSING_READ, OWNER_WRITE } access_kind;

static uint32_t groups_of(int partition, int n) {
    int first = partition / ENGINE_OWNER_ROWS, last = (partition + n - 1) / ENGINE_OWNER_ROWS;
    return (uint32_t)((UINT64_C(2) << last) - (UINT64_C(1) << first));
}

static bool granule_races(const granule *g, uint32_t epoch, uint32_t groups, access_kind kind) {
    if (kind == CROSSING_READ)
        return g->write_epoch == epoch && (g->write_groups & groups);
    return kind == OWNER_WRITE && g->read_epoch == epoch && (g->read_groups & groups);
}

static void granule_note(granule *g, uint32_t epoch, uint32_t groups, access_kind kind) {
    uint32_t *last = kind == OWNER_WRITE ? &g->write_epoch : &g->read_epoch;
    uint32_t *mask = kind == OWNER_WRITE ? &g->write_groups : &g->read_groups;
    *mask = *last == epoch ? *mask | groups : groups;
    *last = epoch;
}

/* An operand in SBUF or PSUM, as the granules see it. */
typedef struct tile_access {
    granule *first, *end;
    uint32_t groups;
    access_kind kind;
} tile_access;

static access_kind kind_of(const vtrn_instr *instr, int ap_i, bool is_written) {
    if (is_written)
        return OWNER_WRITE;
    if (!access_crosses(instr, ap_i))
        return OWNER_READ;
    bool is_split_by_src =
        instr->opcode == VTRN_OP_DMA_TRANSPOSE && instr->ap[0].space == VTRN_SPACE_HBM;
    return is_split_by_src ? OWNER_READ : CROSSING_READ;
}

static tile_access tile_access_of(const barriers *b, const vtrn_ap *ap, access_kind kind) {
    int64_t lo, hi;
    isa_ap_extent(ap, &lo, &hi);
    granule *table = b->granules[ap->space];
    return (tile_access){
        .first = table + lo / GRANULE_BYTES,
        .end = table + (hi + GRANULE_BYTES - 1) / GRANULE_BYTES,
        .groups = groups_of(ap->partition, ap->partition_step ? ap->n_partitions : 1),
        .kind = kind,
    };
}

/* Largest stride over all dimensions as the pitch, the reach of the others as the length. */
static hbm_access hbm_access_of(const barriers *b, const vtrn_instr *instr, int ap_i,
                                bool is_written) {
    const vtrn_ap *ap = &instr->ap[ap_i];
    const vtrn_slot *slot = &b->program->slots[ap->slot];
    int64_t size = (int64_t)dtype_size(ap->dtype);
    hbm_access a = {.shape = ap, .is_write = is_written, .split = SPLIT_ANY};
    a.base = ap->addr + (slot->kind == VTRN_SLOT_SCRATCH ? (int64_t)slot->offset : 0);
    int64_t reach = 0, widest = 0, rows = access_rows(instr, ap_i);
    for (int i = -1; i < ap->n_dims; i++) {
        int64_t step = i < 0 ? ap->partition_step : ap->dim[i].step;
        int64_t span = step * ((i < 0 ? rows : (int64_t)ap->dim[i].num) - 1) * size;
        a.base += span < 0 ? span : 0;
        span = span < 0 ? -span : span;
        reach += span;
        int64_t pitch = (step < 0 ? -step : step) * size;
        if (span && pitch > a.pitch) {
            a.pitch = pitch;
            widest = span;
        }
    }
    a.end = a.base + reach + size;
    a.len = reach - widest + size;
    if (instr->opcode == VTRN_OP_DMA_COPY) {
        dma_split split = dma_split_of(instr);
        int partition = split == DMA_SPLIT_ROWS ? 0 : instr->ap[split == DMA_SPLIT_SRC].partition;
        a.n_rows = instr->ap[split == DMA_SPLIT_SRC].n_partitions;
        bool is_by_row = split != DMA_SPLIT_SRC || instr->ap[1].partition_step == 1;
        if (is_by_row)
            a.split = 1 + (split == DMA_SPLIT_ROWS) + 2u * (uint32_t)partition;
    }
    return a;
}

static bool is_same_split(const hbm_access *x, const hbm_access *y) {
    if (x->split != y->split || x->split == SPLIT_ANY || x->n_rows != y->n_rows ||
        x->base != y->base)
        return false;
    const vtrn_ap *a = x->shape, *b = y->shape;
    if (a->partition_step != b->partition_step || a->n_partitions != b->n_partitions ||
        a->n_dims != b->n_dims || dtype_size(a->dtype) != dtype_size(b->dtype))
        return false;
    return !memcmp(a->dim, b->dim, a->n_dims * sizeof a->dim[0]);
}

static bool hbm_races(const hbm_access *x, const hbm_access *y) {
    if ((!x->is_write && !y->is_write) || x->end <= y->base || y->end <= x->base)
        return false;
    if (x->pitch == y->pitch && x->pitch > 0) {
        int64_t distance = ((y->base - x->base) % x->pitch + x->pitch) % x->pitch;
        if (distance >= x->len && distance + y->len <= x->pitch)
            return false;
    }
    return !is_same_split(x, y);
}

static hbm_list *list_of(const barriers *b, uint32_t slot) {
    return &b->lists[b->root[slot]];
}

static bool list_races(const hbm_list *list, uint32_t epoch, const hbm_access *a) {
    if (list->epoch != epoch || (!a->is_write && !list->has_writes))
        return false;
    for (int i = 0; i < list->n; i++)
        if (hbm_races(&list->access[i], a))
            return true;
    return false;
}

/* One access that stands for all of the list. */
static hbm_access cover(const hbm_list *list) {
    hbm_access all = list->access[0];
    all.split = SPLIT_ANY;
    all.shape = NULL;
    all.pitch = 0;
    for (int i = 1; i < list->n; i++) {
        const hbm_access *a = &list->access[i];
        all.base = a->base < all.base ? a->base : all.base;
        all.end = a->end > all.end ? a->end : all.end;
        all.is_write |= a->is_write;
    }
    return all;
}

static void list_note(barriers *b, hbm_list *list, const hbm_access *a) {
    if (list->epoch != b->epoch) {
        list->epoch = b->epoch;
        list->n = 0;
        list->has_writes = false;
    }
    if (!list->access)
        list->access = ARENA_NEW(b->memory, hbm_access, MAX_ACCESSES);
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
    *out = (tile_access){&b->pe, &b->pe + 1, UINT32_MAX, is_load ? OWNER_WRITE : CROSSING_READ};
    return is_load || is_crossing;
}

/* The accesses of one instruction that concern more than their owner. */
typedef struct accesses {
    tile_access tile[VTRN_MAX_AP + 1];
    hbm_access hbm[VTRN_MAX_AP];
    hbm_list *list[VTRN_MAX_AP]; /* of hbm[i] */
    int n_tiles, n_hbm;
} accesses;

static void collect(barriers *b, const vtrn_instr *instr, accesses *out) {
    out->n_tiles = out->n_hbm = 0;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const vtrn_ap *ap = &instr->ap[i];
        if (!access_is_memory(instr, i))
            continue;
        bool is_written = access_is_written(instr, i);
        if (ap->space == VTRN_SPACE_HBM) {
            out->list[out->n_hbm] = list_of(b, ap->slot);
            out->hbm[out->n_hbm++] = hbm_access_of(b, instr, i, is_written);
            continue;
        }
        access_kind kind = kind_of(instr, i, is_written);
        if (kind != OWNER_READ)
            out->tile[out->n_tiles++] = tile_access_of(b, ap, kind);
    }
    out->n_tiles += pe_access_of(b, instr, &out->tile[out->n_tiles]);
}

/* Does a crossing read of the instruction meet its own write? */
static bool races_itself(const accesses *a) {
    const tile_access *dst = &a->tile[0];
    for (int i = 1; i < a->n_tiles; i++)
        if (dst->kind == OWNER_WRITE && a->tile[i].kind == CROSSING_READ &&
            dst->first < a->tile[i].end && a->tile[i].first < dst->end &&
            (dst->groups & a->tile[i].groups))
            return true;
    for (int i = 1; i < a->n_hbm; i++)
        if (a->list[0] == a->list[i] && hbm_races(&a->hbm[0], &a->hbm[i]))
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
