/* A kernel that executes while it is written: tensors, views of them, and instructions that run at
 * once and are kept. What the Python extension (nki/python/) is made of; nothing here knows Python.
 *
 * Tiles live in the SBUF and PSUM of a core of its own, which has more room than the chip: a tile
 * is freed when its holder releases it. Its address on the chip is decided when the list is
 * complete, since only then the last instruction that names each tile is known (nki_place.h). */
#ifndef VTRN_NKI_NKI_H
#define VTRN_NKI_NKI_H

#include "isa/isa.h"
#include "isa/program.h"
#include "vtrn.h"

enum {
    NKI_MAX_DIMS = 8,
    NKI_MAX_CORES = 2, /* that run one kernel and share HBM. Source: NKI, "Logical NeuronCores" */
};

typedef struct nki_session nki_session;

/* The memory of one tensor, whose views share it. */
typedef struct nki_storage {
    nki_session *session;
    uint32_t id;
    uint8_t space; /* vtrn_space */
    uint8_t dtype; /* as declared */
    uint32_t n_partitions;
    uint64_t row_bytes; /* of a partition; in HBM: of the tensor, which has one */
    uint64_t n_bytes;
    int64_t addr; /* in a partition of the session's memory, or in its HBM */
} nki_storage;

/* Elements of a storage: dim 0 outermost. Steps and the offset count elements of dtype; on chip a
 * partition counts row_bytes / size(dtype) of them. */
typedef struct nki_view {
    nki_storage *storage;
    uint8_t dtype; /* vtrn_dtype */
    uint8_t n_dims;
    int64_t offset;
    int64_t shape[NKI_MAX_DIMS], step[NKI_MAX_DIMS];
} nki_view;

/* An instruction to be issued. instr: opcode, engine, operations, flags, immediates, arguments; ap
 * only for operands that are patterns. view: the operands in memory, NULL where absent. */
typedef struct nki_call {
    vtrn_instr instr;
    const nki_view *view[VTRN_MAX_AP];
    const nki_view *scale[2]; /* matmul of MX tiles: of stationary and moving; else NULL */
    int n_inner;              /* tensor_reduce: innermost dimensions of view[1] that are reduced */
    uint32_t source;          /* number of the place in the kernel, the caller's */
    bool is_implied;          /* a copy for which the kernel has no call: nki_copies.c */
} nki_call;

typedef enum nki_storage_kind { NKI_LOCAL, NKI_ARGUMENT, NKI_CONSTANT } nki_storage_kind;

/* A tensor to be made. kind: HBM only; data: its bytes, NULL: undefined until written. An
 * argument's are the caller's to keep, as they are, until the tensor is released: they are read
 * there, and copied before the first instruction that writes to them. */
typedef struct nki_tensor_options {
    vtrn_space space;
    vtrn_dtype dtype;
    nki_storage_kind kind;
    int n_dims;
    const int64_t *shape;
    const void *data;
    bool is_placed; /* at byte `addr` of each partition, of the chip's memory */
    int64_t addr;
    const char *name; /* the kernel's own; NULL: none */
    uint32_t
        n_blocks; /* equal parts of a partition's row, each of which may lie elsewhere; 0: one */
    bool is_kept_there; /* a tile with a place of its own, which is not spilled */
} nki_tensor_options;

/* One kernel at a time on a device may be executing so. chip: NULL as vtrn_device_options. */
VTRN_API vtrn_status vtrn_nki_create(const char *chip, nki_session **out);
VTRN_API void vtrn_nki_destroy(nki_session *s); /* NULL is fine; storages die with it */

/* Tiles and instructions from now on are of that core, 0 to NKI_MAX_CORES - 1; at first 0. */
VTRN_API vtrn_status vtrn_nki_set_core(nki_session *s, int core);

/* Both cores wait for each other here (core -1): what follows in the list begins when each has done
 * what is before. Or a core waits for other ranks: -1 where it is the only one. */
VTRN_API vtrn_status vtrn_nki_meet(nki_session *s, int core);

/* Without values instructions are checked and kept, and not run: for the time of a program alone.
 * Reading a tensor is an error then. */
VTRN_API void vtrn_nki_compute_values(nki_session *s, bool computes);
/* Bytes of HBM that outlive the session; NULL is fine to release, by any thread. */
typedef struct nki_memory nki_memory;
VTRN_API void vtrn_nki_memory_release(nki_memory *memory);
/* The view's elements in place, adjacent and in order: no copy of a result is needed. *out
 * NULL: they are not adjacent, are the caller's own, are few, or nothing has written some of them.
 * A write to these bytes changes the tensor. */
VTRN_API vtrn_status vtrn_nki_keep(const nki_view *view, nki_memory **out, void **out_bytes);

/* Carries out what was issued and waits; whatever reads values does so by itself. */
VTRN_API vtrn_status vtrn_nki_settle(nki_session *s);
/* vtrn_execute() on the session's device, without values where the session computes none. */
VTRN_API vtrn_status vtrn_nki_execute(nki_session *s, vtrn_executable *executable,
                                      vtrn_buffer *const *inputs, int n_inputs,
                                      vtrn_buffer **outputs, int n_outputs);

/* A load of what an earlier one has brought is no part of the program, where SBUF has room to keep
 * it. */
VTRN_API void vtrn_nki_reuse_loads(nki_session *s);

/* Here a turn begins of a loop whose turns may run in any order, or the last of them ends. Where
 * vtrn_nki_reuse_loads() is in force, what is alike in several turns may become one instruction.
 * loop: a number that no other loop of the kernel has. */
VTRN_API vtrn_status vtrn_nki_mark_turn(nki_session *s, uint32_t loop);

typedef enum nki_fill { NKI_FILL_NONE, NKI_FILL_NAN, NKI_FILL_ZERO } nki_fill;

/* Elements that nothing has written, when an instruction reads them: an error (NONE), or filled
 * with NaN (integers with 4) or zeros, which is counted. Filled is how many were, first what the
 * error would have said of the first (NULL: none), source where. */
VTRN_API void vtrn_nki_fill_unwritten(nki_session *s, nki_fill fill);
VTRN_API uint64_t vtrn_nki_filled(const nki_session *s, const char **first, uint32_t *source);

/* Which program of a launch of two runs from now on: 0 or 1; -1, as at first: no such launch. What
 * both do to the same bytes of HBM is then followed between their meetings. */
VTRN_API void vtrn_nki_set_program(nki_session *s, int program);
/* How often the order of two accesses counted and nothing said it; first: of which bytes (NULL:
 * never), source: where the later and the earlier access are. */
VTRN_API uint64_t vtrn_nki_races(const nki_session *s, const char **first, uint32_t source[2]);

/* Of the session's chip. */
typedef struct nki_limits {
    const char *name;
    int gen, n_partitions;
    uint32_t sbuf_bytes, psum_bytes, psum_bank_bytes; /* a partition's; of SBUF what is usable */
    double barrier_ns; /* that a barrier of two cores takes once both are there */
} nki_limits;

VTRN_API nki_limits vtrn_nki_limits(const nki_session *s);

/* For the caller's own tables: names by number of instructions (0), ALU operations (1), activation
 * functions (2) and data types (3); NULL beyond the last. */
VTRN_API const char *vtrn_nki_name(int table, int i);
VTRN_API const vtrn_op_info *vtrn_nki_op_info(int opcode); /* NULL: no such opcode */
/* The operand as the kernel's call names it; of an instruction that vtrn_nki_op_info() has. */
VTRN_API const char *vtrn_nki_operand_name(int opcode, int i);

/* out: the whole tensor, dense. */
VTRN_API vtrn_status vtrn_nki_tensor(nki_session *s, const nki_tensor_options *options,
                                     nki_view *out);
/* No later call names the storage: its memory may be given to other tensors. */
VTRN_API void vtrn_nki_release(nki_storage *storage);

/* Checks the instruction against the chip's rules, runs it, keeps it. */
VTRN_API vtrn_status vtrn_nki_issue(nki_session *s, const nki_call *call);
/* dst = src by DMA, whatever shapes of equal element count they have. */
VTRN_API vtrn_status vtrn_nki_dma(nki_session *s, const nki_call *call);
/* dst (view[0]) = or += stationary (view[1])^T moving (view[2]). accumulate 0, 1, or -1: the first
 * matmul into an element of a PSUM tensor overwrites it, later ones add; or NKI_ADDS: so they do,
 * but where another instruction has written to dst, and not zeros, the first one adds as well. */
enum { NKI_ADDS = -2 };
VTRN_API vtrn_status vtrn_nki_matmul(nki_session *s, const nki_call *call, int accumulate);

/* How many instructions have written to it. */
VTRN_API uint32_t vtrn_nki_n_writes(const nki_storage *storage);
VTRN_API int64_t vtrn_nki_view_bytes(const nki_view *view);
/* Elements in row-major order, dense, and how many of them nothing has written. */
VTRN_API vtrn_status vtrn_nki_read(const nki_view *view, void *out, uint64_t *n_unwritten);
/* By element in row-major order, whether something has written it, or may have: which rows a
 * scatter writes is not known where there are no values. */
VTRN_API vtrn_status vtrn_nki_written(const nki_view *view, uint8_t *is_written,
                                      uint64_t *n_unwritten);
/* What nothing has written becomes 0, and counts as written: memory is used again and again. */
VTRN_API vtrn_status vtrn_nki_zero_unwritten(const nki_view *view);

/* Tiles of one line of the kernel that have been saved elsewhere and reloaded since their memory
 * has no room for all tiles that live together. Found by vtrn_nki_place() and what makes programs.
 */
typedef struct nki_spilled {
    const char *name; /* of the first tile, "" where the kernel gives none */
    vtrn_space space; /* SBUF, saved to HBM, or PSUM, saved to SBUF */
    uint32_t source;  /* where it is first used */
    uint32_t n_saves, n_reloads;
    uint64_t tile_bytes, save_bytes, reload_bytes; /* in all partitions; tile: the largest */
} nki_spilled;
VTRN_API const nki_spilled *vtrn_nki_spills(const nki_session *s, uint32_t *n);
/* Tiles that do not fit are an error, and not spilled. */
VTRN_API void vtrn_nki_refuse_spills(nki_session *s);

/* The program of all that was issued. outputs: storages that the kernel returns, each once.
 * sources: by number, for the program to name. */
typedef struct nki_finish_options {
    const char *name;
    nki_storage *const *outputs;
    uint32_t n_outputs;
    const vtrn_source *sources;
    uint32_t n_sources;
    int n_cores; /* of all ranks of the launch, and which one of this rank: vtrn_nki_walk_begin() */
    int core;
} nki_finish_options;

/* Gives every tile a place on the chip and checks that all fit: *sbuf_bytes, *psum_bytes of a
 * partition at the worst moment. CAPACITY names the tiles that live then. */
VTRN_API vtrn_status vtrn_nki_place(nki_session *s, const nki_finish_options *options,
                                    uint64_t *sbuf_bytes, uint64_t *psum_bytes);
/* The executable runs on the session's device with the kernel's arguments as inputs, those that it
 * writes returned behind the outputs. */
VTRN_API vtrn_status vtrn_nki_finish(nki_session *s, const nki_finish_options *options,
                                     vtrn_executable **out);
/* The list as it is, for a larger program to take in: a container (isa/container.h) whose blocks
 * follow each other, without semaphores; in a block engine after engine. The caller frees *out. An
 * argument that is written is an output too, behind those of the options if it is none of them. */
VTRN_API vtrn_status vtrn_nki_record(nki_session *s, const nki_finish_options *options, void **out,
                                     size_t *out_size);
/* What two cores that run at the same time take. Where they meet, each first ends what it has
 * begun.
 */
typedef struct nki_times {
    double latency_ns;                   /* of the later core */
    double active_ns[VTRN_ENGINE_COUNT]; /* mean of the cores */
    double dma_active_ns, wait_ns;       /* mean of the cores; wait: for each other */
    uint64_t flops, hbm_read_bytes, hbm_write_bytes, n_instrs;
    uint64_t spill_save_bytes, spill_reload_bytes;
    uint64_t sbuf_bytes, psum_bytes; /* of a partition of the fuller core */
    double peak_flops;               /* of one core, a second */
} nki_times;
VTRN_API vtrn_status vtrn_nki_time_cores(nki_session *s, const nki_finish_options *options,
                                         nki_times *out);
/* A core of a rank, from collective or barrier to the next: vtrn_nki_meet() said where. A new
 * walk stands at the first, or is over. Ranks share the HBM as far as its stack's cores go. */
typedef struct nki_walk nki_walk;
VTRN_API vtrn_status vtrn_nki_walk_begin(nki_session *s, const nki_finish_options *options,
                                         nki_walk **out);
/* arrival_ns: when the rank came to the collective at which the walk stands. */
VTRN_API bool vtrn_nki_walk_is_over(const nki_walk *walk, double *arrival_ns);
/* The rank waits for the others, then the collective runs; goes on to the next one. */
VTRN_API vtrn_status vtrn_nki_walk_meet(nki_walk *walk, double wait_ns, double run_ns);
/* Once, of the walks of a rank's cores, all over. */
VTRN_API void vtrn_nki_walk_take(nki_walk *const *walks, int n, nki_times *out);
VTRN_API void vtrn_nki_walk_drop(nki_walk *walk); /* NULL is fine */
/* What is issued from now on gives a rank what others sent, whose time is the collective's. */
VTRN_API void vtrn_nki_exchanging(nki_session *s, bool is_exchanging);

/* A collective between ranks, rank i being NeuronCore i of the instance. */
typedef struct nki_exchange {
    const char *instance; /* NULL: the smallest one of the chip that has n_ranks cores */
    const char *op;       /* as collective_op_name() */
    int n_ranks;          /* of the launch */
    int n_rank_cores;     /* NeuronCores of a rank */
    uint64_t bytes;       /* as in collective_request */
    const int *devices;   /* [n_groups][group_size]; -1 fills up */
    int n_groups, group_size;
    bool is_in_sbuf;
} nki_exchange;
typedef struct nki_exchange_time {
    double duration_ns;
    const char *algorithm; /* static */
    char instance[32];
} nki_exchange_time;
VTRN_API vtrn_status vtrn_nki_exchange_time(const nki_session *s, const nki_exchange *exchange,
                                            nki_exchange_time *out);
VTRN_API vtrn_device *vtrn_nki_device(nki_session *s);
VTRN_API uint32_t vtrn_nki_n_instrs(const nki_session *s);
VTRN_API uint32_t vtrn_nki_source(const nki_session *s, uint32_t instr_i); /* of an instruction */

#endif
