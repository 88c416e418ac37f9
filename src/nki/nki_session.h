/* What the files of a session share. */
#ifndef VTRN_NKI_NKI_SESSION_H
#define VTRN_NKI_NKI_SESSION_H

#include "api/api.h"
#include "engine/engine.h"
#include "isa/access.h"
#include "isa/validate.h"
#include "nki/nki.h"
#include "nki/nki_queue.h"

/* Bytes [lo, hi). */
typedef struct nki_range {
    uint64_t lo, hi;
} nki_range;

/* Which bytes of a storage have a property: those of a few ranges, or as told byte by byte. */
typedef struct nki_map {
    uint8_t *bytes;   /* 0 or 1; NULL: all have it, or those of the ranges */
    uint64_t n_set;   /* bytes that have it */
    uint64_t n_bytes; /* in all */
    uint32_t n_alike; /* partitions that are all alike: bytes and ranges are of one; 0: of all */
    uint32_t n_ranges;
    nki_range range[8]; /* ascending, with gaps between them */
} nki_map;

typedef struct nki_record {
    nki_storage storage; /* first: the caller's view of it */
    uint32_t slot;       /* HBM */
    uint8_t kind;        /* nki_storage_kind */
    uint8_t core;        /* whose tile it is; HBM: 0 */
    bool is_released, is_placed;
    uint64_t epoch;       /* of the last instruction that names it: nki_queue_is_over() */
    uint32_t n_writes;    /* instructions that wrote to it so far */
    bool is_filled;       /* elements that nothing wrote are read: its program fills it first */
    bool keeps_partition; /* nki_binds_partitions() of an instruction that names it */
    int64_t placed_addr;
    runtime_memory *memory; /* HBM; NULL: the caller's */
    uint8_t *host;          /* HBM: its bytes */
    nki_map written;
    nki_map summed;       /* PSUM: by matmuls */
    nki_map valued;       /* PSUM: by others, but for memsets of 0 */
    uint32_t first, last; /* instructions that name it; first UINT32_MAX: none does */
    int64_t chip_addr;    /* found by nki_place */
    uint32_t chip_partition;
    struct nki_sharing *sharing; /* nki_race.c; NULL: one program alone has named it */
    struct nki_record *part;     /* nki_split.c: what instructions name; it or a later one */
    const char *name;            /* the kernel's own; NULL: none */
    char *owned_name;
    uint32_t n_blocks; /* as in nki_tensor_options */
    bool is_kept_there;
    bool is_spill; /* in HBM: what tiles are saved to */
} nki_record;

/* A stretch of a partition that nothing uses. */
typedef struct nki_gap {
    int64_t addr;
    uint64_t size;
} nki_gap;

/* A tile that was released and that instructions of an epoch name. */
typedef struct nki_late {
    int64_t addr;
    uint64_t size, epoch;
    uint8_t space;
} nki_late;

typedef struct nki_pool {
    nki_gap *gaps; /* by address */
    uint32_t n, cap;
} nki_pool;

/* An instruction as it was issued: addresses count from the operands' storages. */
typedef struct nki_issued {
    vtrn_instr instr;
    nki_record *operand[VTRN_MAX_AP];
    uint8_t core;
    bool is_implied;  /* as in nki_call */
    bool is_exchange; /* gives a rank what others sent: the collective before it takes the time */
} nki_issued;

/* Where in the list a core waits: before instruction `at`, for the kernel's other core, or for
 * other ranks. */
typedef struct nki_meeting {
    uint32_t at;
    int8_t core; /* that waits; -1: both, or the only one */
} nki_meeting;

/* Where in the list a turn of a loop begins or its last one ends. */
typedef struct nki_turn {
    uint32_t at, loop;
} nki_turn;

/* What a kernel runs on; kept when the kernel is over, as its memory is costly to map. */
typedef struct nki_machine {
    vtrn_device *device;
    vtrn_chip roomy; /* the chip with more memory on chip */
    engine_core core;
    nki_queue *queue;         /* of what runs on it */
    bool has_grown;           /* beyond roomy's first sizes */
    struct nki_machine *next; /* of those that no kernel has */
} nki_machine;

struct nki_session {
    nki_machine *machine;
    nki_pool pool[VTRN_SPACE_HBM]; /* of SBUF and PSUM */
    nki_late *late;                /* by epoch: what the pools get back once it is over */
    uint32_t n_late, cap_late;
    uint64_t late_bytes; /* of the late ones, in all partitions */
    /* Memory as large as the chip's, for tiles placed by hand: a tile overwrites what was placed
     * there before, and nki_place.c refuses the kernel if both are in use. */
    struct {
        bool is_there;
        int64_t addr;
    } placed[NKI_MAX_CORES][VTRN_SPACE_HBM];
    nki_record **records;
    uint32_t n_records, cap_records;
    vtrn_slot *slots; /* of HBM tensors */
    uint64_t *slot_base;
    uint32_t n_slots, cap_slots, n_arguments;
    nki_issued *list;
    uint32_t n_list, cap_list;
    nki_meeting *meets; /* by place in the list */
    uint32_t n_meets, cap_meets;
    nki_turn *turns; /* by place in the list */
    uint32_t n_turns, cap_turns;
    uint32_t n_barriers;        /* of them, those of both cores */
    bool is_exchanging;         /* what is issued now is_exchange */
    int core;                   /* that runs */
    int act_set[NKI_MAX_CORES]; /* table of functions that is loaded; 0: none is needed yet */
    engine_kept *kept;          /* [NKI_MAX_CORES] of cores that do not run; NULL: core 0 runs
                                   alone */
    /* What the instructions issued so far leave in the PE array. */
    program_stationary stationary[NKI_MAX_CORES];
    int next_ring;
    uint64_t flops;
    bool has_no_values;
    bool reuses_loads; /* nki_repeats.c, nki_turns.c, nki_dead_fills.c */
    bool refuses_spills;
    uint32_t n_orders;   /* how often nki_demand() has changed it for good */
    nki_spilled *spills; /* nki_spill.c, by line of the kernel */
    uint32_t n_spills, cap_spills;
    nki_fill fill;
    uint64_t n_filled;
    vtrn_status first_filled; /* owned; NULL: none */
    uint32_t first_filled_source;
    int program; /* of a launch of two, that runs; -1: not of one */
    uint64_t n_races;
    vtrn_status first_race;  /* owned; NULL: none */
    uint32_t race_source[2]; /* of the later access and the earlier one */
};

static inline const vtrn_chip *nki_chip(const nki_session *s) {
    return &s->machine->device->rt->chip;
}

static inline int64_t nki_element_bytes(const nki_view *view) {
    size_t size = dtype_size((vtrn_dtype)view->dtype);
    return size ? (int64_t)size : 1; /* every view has a type */
}

/* nki_session.c: what is written has memory of its own, and not the caller's. */
vtrn_status nki_own(nki_session *s, nki_record *r);

/* nki_session.c: carries out all that was issued, so that memory has it. */
vtrn_status nki_settle(nki_session *s);

/* nki_issue.c: gives a transfer a ring that its engine alone feeds: two that feed one would each
 * count the other's transfers as their own. Static rings take transfers of any engine. */
void nki_choose_ring(nki_session *s, vtrn_instr *dma);

/* nki_session.c: a record of nothing yet. */
vtrn_status nki_record_add(nki_session *s, nki_record **out);

enum { NKI_TILE_ALIGN = 64 /* bytes of SBUF that tiles begin at multiples of */ };

/* What to add to the operand's address to validate it before tiles are placed: the address that the
 * kernel chose for the record, else 0. Each block of an array that is larger than its memory counts
 * from address 0. */
static inline int64_t nki_placed_offset(const nki_record *r, const vtrn_ap *ap) {
    int64_t lo, hi;
    if (r->n_blocks <= 1)
        return r->placed_addr;
    isa_ap_extent(ap, &lo, &hi);
    int64_t block_bytes = (int64_t)r->storage.row_bytes / r->n_blocks;
    return lo < 0 ? 0 : -(lo / block_bytes * block_bytes);
}

/* Whether element i of the result depends on element i of each operand alone. */
static inline bool nki_is_elementwise(const vtrn_instr *instr) {
    return instr->opcode == VTRN_OP_TENSOR_TENSOR || instr->opcode == VTRN_OP_TENSOR_SCALAR ||
           instr->opcode == VTRN_OP_TENSOR_COPY || instr->opcode == VTRN_OP_ACTIVATE;
}

/* Whether the operand's partitions are rows of the PE array, or lanes whose sums or random numbers
 * the instruction goes on from or leaves: its tile stays in them. */
static inline bool nki_binds_partitions(const vtrn_instr *instr, int i) {
    enum { OF_LANES = ACCESS_REDUCE_REGS | ACCESS_VECTOR_REGS | ACCESS_GENERATOR };
    if (access_writes_weights(instr) || access_reads_weights(instr))
        return i >= 1;
    const access_states states = access_states_of(instr);
    bool has_result = instr->ap[0].space != VTRN_SPACE_NONE;
    return ((states.read | states.written) & OF_LANES) && i == !has_result;
}

/* nki_session.c: takes instructions out of the list. first and last of records are as they were. */
void nki_list_drop(nki_session *s, const bool *is_dropped);

/* nki_delay.c: finds first and last of all records. */
void nki_note_uses(nki_session *s);

/* nki_repeats.c: drops loads and arithmetic that an earlier instruction has done, while the tiles
 * that are kept for it take no more than `room` bytes a partition. *out_n: how many. */
vtrn_status nki_repeats(nki_session *s, int core, uint64_t room, uint32_t *out_n);

/* nki_place.c: whether the chip has the instruction with its operands where they are. */
bool nki_is_legal(const nki_session *s, const nki_issued *issued);

/* nki_turns.c: runs turns of loops side by side and merges what is alike in them. */
vtrn_status nki_turns_merge(nki_session *s);

/* nki_copies.c: drops copies for which the kernel has no call, of what an instruction has just
 * made and nothing else reads: it writes to where the copy is. */
vtrn_status nki_copies(nki_session *s);

/* nki_copies.c: copies out of PSUM, for which the kernel names no engine, of sums and of what the
 * PE array alone reads become ones that the Scalar engine makes with the same results; the
 * scheduler takes Vector for them where it is free. */
vtrn_status nki_copies_out_of_psum(nki_session *s);

/* nki_uses.c: instructions of the list that name a record are at[first .. first + n), ascending. */
typedef struct nki_uses {
    uint32_t first, n;
} nki_uses;
/* of: [n_records], all 0. *out_at: malloc. */
vtrn_status nki_find_uses(const nki_session *s, nki_uses *of, uint32_t **out_at);

/* nki_dead_fills.c: drops memsets of what is overwritten before anything reads it. */
vtrn_status nki_dead_fills(nki_session *s);

/* nki_parts.c: makes records of their own of the parts of a core's tiles that no instruction names
 * together; the list names them. Before nki_split(), which finds when they are in use. */
vtrn_status nki_parts(nki_session *s, vtrn_space space, int core);

/* nki_split.c: makes records of their own of the parts of a core's tiles, each from an instruction
 * that overwrites the tile to the last before the next; the list names them. */
vtrn_status nki_split(nki_session *s, vtrn_space space, int core);

/* nki_spill.c: a core's tiles that do not fit in `budget` bytes a partition are saved to the
 * next memory and reloaded; each part of such a tile's life is a record of its own. *out_fits:
 * false where even so an instruction's tiles have no room; the list may be half changed then. */
vtrn_status nki_spill(nki_session *s, vtrn_space space, int core, uint64_t budget, bool *out_fits);
/* Of spills the source is a number of these: the group's, twice, + 1 for reloads. */
enum { NKI_SPILL_SOURCE = 1 << 30 };
/* The line of the kernel that an instruction is of: of a spill, where its tile is first used. */
uint32_t nki_source_of(const nki_session *s, const nki_issued *issued);

/* nki_session.c: a tensor in HBM for as many bytes as `like` has, without memory here. */
vtrn_status nki_scratch_add(nki_session *s, const nki_storage *like, nki_record **out);

/* nki_delay.c: reorders the list, so that a core's tiles are filled when they are first used. */
vtrn_status nki_delay(nki_session *s, vtrn_space space, int core);

/* nki_demand.c: reorders the list, so that instructions stand right before what needs their
 * results; loads of HBM only with delays_loads. */
vtrn_status nki_demand(nki_session *s, bool delays_loads);

/* nki_race.c: around what an instruction does. *out_before: bytes that the other program knows and
 * this instruction writes, or NULL; the caller frees them. */
vtrn_status nki_race_begin(nki_session *s, const vtrn_instr *instr, const nki_view *const *view,
                           void **out_before);
vtrn_status nki_race_end(nki_session *s, const vtrn_instr *instr, const nki_view *const *view,
                         const void *before);
/* A DMA within one tensor of HBM that reads what it writes is counted as a race. */
vtrn_status nki_race_with_itself(nki_session *s, const vtrn_instr *instr,
                                 const nki_view *const *view);
void nki_sharing_free(struct nki_sharing *sharing); /* NULL is fine */

/* nki_map.c */
vtrn_status nki_map_mark(nki_map *map, const nki_view *view);
/* Bytes of the view that have the property; *first: number of the first element that has it not,
 * in row-major order. */
uint64_t nki_map_count(const nki_map *map, const nki_view *view, uint64_t *first);
uint64_t nki_view_elements(const nki_view *view);
/* Element i in row-major order, as a view. */
nki_view nki_element_of(const nki_view *view, uint64_t i);
/* UNDEFINED when the view names elements beyond its tensor. */
vtrn_status nki_view_check(const nki_view *view);
static inline nki_record *nki_record_of(const nki_view *view) {
    return (nki_record *)view->storage;
}

/* nki_pool.c */
vtrn_status nki_pool_init(nki_pool *pool, uint64_t size);
bool nki_pool_take(nki_pool *pool, uint64_t size, int64_t *out_addr);
vtrn_status nki_pool_give(nki_pool *pool, int64_t addr, uint64_t size);

/* nki_operand.c: the operand that names the view, its address relative to the storage's. n_inner:
 * dimensions that are not merged with those outside of them; *merged_inner: as how many they come
 * out. */
vtrn_status nki_operand(const nki_view *view, int n_inner, int *merged_inner, vtrn_ap *out);
/* Both sides of a dma_copy. */
vtrn_status nki_dma_operands(const nki_view *dst, const nki_view *src, vtrn_ap *to, vtrn_ap *from);
/* Gives elements that nothing has written NaN, integers 4, and marks them; counts them. */
vtrn_status nki_view_fill(const nki_view *view, uint64_t *n_filled);
/* "sbuf[128, 512] bf16" */
void nki_view_print(const nki_view *view, char *text, size_t size);

/* nki_names.c: the operand as the kernel's call names it. */
const char *nki_operand_name(const vtrn_instr *instr, int i);
/* The error with operands named so, and not by number. Consumes the status; OK stays OK. */
vtrn_status nki_name_operands(const vtrn_instr *instr, vtrn_status status);

/* nki_finish.c: what one core does, in blocks between which it meets the other; program_destroy().
 * is_rank: the kernel's one core, which meets other ranks, without what the exchanges with them do.
 */
vtrn_status nki_core_program(nki_session *s, const nki_finish_options *options, int core,
                             bool is_rank, vtrn_program **out);

/* nki_place.c: whether the instruction, which reads `old` for the last time, writes `made` element
 * by element from the same places if `made` is by *addr bytes and *partition partitions behind
 * `old`. */
bool nki_takes_over(const nki_issued *issued, const nki_record *old, const nki_record *made,
                    int64_t *addr, int *partition);
vtrn_status nki_place(nki_session *s, const nki_finish_options *options, uint64_t *sbuf_bytes,
                      uint64_t *psum_bytes);

#endif
