/* A program: instruction streams for the engines of one NeuronCore, and the tensors they name. */
#ifndef VTRN_ISA_PROGRAM_H
#define VTRN_ISA_PROGRAM_H

#include "base/arena.h"
#include "isa/isa.h"

/* An HBM tensor. All of a program's HBM operands name slots; addresses are bound at execution. */
typedef enum vtrn_slot_kind {
    VTRN_SLOT_ARGUMENT, /* index: argument number; read only unless an output aliases it */
    VTRN_SLOT_OUTPUT,   /* index: output number */
    VTRN_SLOT_CONSTANT, /* bytes in the program; bound once at load */
    VTRN_SLOT_SCRATCH,  /* offset in one scratch allocation a load */
    VTRN_SLOT_RANK,     /* index: vtrn_rank_word. A uint32 that differs between cores; read only */
} vtrn_slot_kind;

/* What a core that runs a program together with others is, of a grid of replicas by partitions. Its
 * rank is replica * n_partitions + partition. */
typedef enum vtrn_rank_word {
    VTRN_RANK_PARTITION,
    VTRN_RANK_REPLICA,
    VTRN_RANK_WORDS
} vtrn_rank_word;

typedef struct vtrn_slot {
    uint8_t kind;  /* vtrn_slot_kind */
    uint8_t dtype; /* vtrn_dtype, for display */
    bool stays; /* ARGUMENT: its loads read what an earlier call left on the chip: no bytes move */
    int32_t index;
    uint64_t size_bytes;
    uint64_t
        offset; /* CONSTANT: into data; SCRATCH: into the scratch allocation. Multiples of 64 */
} vtrn_slot;

/* Whether the slot's place is named by index, and not by an offset. */
static inline bool program_slot_has_index(const vtrn_slot *s) {
    return s->kind == VTRN_SLOT_ARGUMENT || s->kind == VTRN_SLOT_OUTPUT ||
           s->kind == VTRN_SLOT_RANK;
}

/* Where an instruction comes from: shown in profiles and errors. */
typedef struct vtrn_source {
    const char *op;    /* "stablehlo.add", "fusion(12)" ... */
    const char *place; /* "model.py:42" or "" */
} vtrn_source;

/* What ends a block. All engines meet there: semaphores are cleared, one branch is taken by all. */
typedef enum vtrn_block_end {
    VTRN_END_STOP,
    VTRN_END_JUMP,   /* to next[0] */
    VTRN_END_BRANCH, /* to next[1] if the int32 in HBM at (slot, addr) is not 0, else to next[0] */
    VTRN_END_SWITCH, /* to targets[clamp(int32, n_targets-1)]: out of range takes the last */
} vtrn_block_end;

typedef struct vtrn_block {
    uint32_t first[VTRN_ENGINE_COUNT]; /* stream of each engine: instrs[first .. first+count) */
    uint32_t count[VTRN_ENGINE_COUNT];
    uint8_t end; /* vtrn_block_end */
    uint8_t reserved[3];
    uint32_t next[2];
    uint32_t cond_slot;
    int64_t cond_addr;
    uint32_t n_targets;
    const uint32_t *targets;
    uint64_t flops; /* useful: matmuls' 2*M*N*K as the user wrote them, for MFU */
} vtrn_block;

typedef enum vtrn_collective_kind {
#define COLLECTIVE(e, name) VTRN_COLLECTIVE_##e,
#include "isa/collective_kinds.def"
#undef COLLECTIVE
    VTRN_COLLECTIVE_KINDS
} vtrn_collective_kind;

typedef enum vtrn_reducer {
#define REDUCER(e, name) VTRN_REDUCER_##e,
#include "isa/reducers.def"
#undef REDUCER
    VTRN_REDUCERS
} vtrn_reducer;

/* How one tensor is exchanged, in elements. The part of it that goes from the member at place s of
 * a group to the one at place t is n[0] * n[1] runs of `run` elements. Run (i, j) begins at
 *   t*from_place + i*from_step[0] + j*from_step[1]   of the sender's operand, and at
 *   s*to_place + i*to_step[0] + j*to_step[1]         of the receiver's result.
 * What is reduced has to_place 0: the parts of all senders meet at the same place. */
typedef struct vtrn_exchange {
    uint8_t dtype; /* vtrn_dtype */
    uint64_t n[2], run;
    uint64_t from_place, from_step[2], to_place, to_step[2];
} vtrn_exchange;

/* A collective, of which the custom op that has it lists the operands, then the results. Every rank
 * is in one group at most. */
typedef struct vtrn_collective {
    uint8_t kind;    /* vtrn_collective_kind */
    uint8_t reducer; /* vtrn_reducer, of ALL_REDUCE and REDUCE_SCATTER; CUSTOM: of the blob */
    uint32_t n_groups, group_size;
    /* Ranks, [n_groups][group_size]; -1 fills short groups up. PERMUTE: pairs of a source and a
     * target; each rank is one of each at most. BROADCAST: the first sends. */
    const int32_t *groups;
    const vtrn_exchange *exchanges; /* by operand; all parts of a rank's result are written */
} vtrn_collective;

/* A reference operation in HBM, a call of the host, or what a collective instruction exchanges.
 * blob is the compiler's, opaque below it. */
typedef struct vtrn_custom {
    const char *name; /* "stablehlo.sort" */
    uint32_t n_inputs, n_outputs;
    const uint32_t *slots; /* inputs, then outputs */
    uint64_t blob_size;
    const void *blob;
    uint64_t flops;                    /* estimate, for the cost model */
    const vtrn_collective *collective; /* NULL: none */
} vtrn_custom;

/* Name of a custom op that calls the host. */
#define VTRN_CALLBACK_NAME "vtrn_host_callback"

typedef struct vtrn_program {
    arena arena; /* owns everything below */
    const char *name;
    uint8_t gen;      /* NeuronCore generation it was made for */
    const char *chip; /* name of the chips file */
    uint32_t n_slots, n_blocks, n_instrs, n_sources, n_customs;
    vtrn_slot *slots;
    vtrn_block *blocks; /* execution starts at block 0 */
    vtrn_instr *instrs;
    vtrn_source *sources;
    vtrn_custom *customs;
    uint64_t data_size, scratch_size; /* bytes */
    const uint8_t *data;              /* constants */
    uint32_t n_arguments, n_outputs;
    uint32_t n_replicas, n_partitions; /* ranks that run it together; 0 is 1 */
    int32_t *output_alias;             /* per output: argument whose memory it reuses, or -1 */
    uint64_t sbuf_peak_bytes, psum_peak_bytes; /* a partition */
} vtrn_program;

/* Of all blocks, each once. */
static inline uint64_t program_flops(const vtrn_program *p) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < p->n_blocks; i++)
        n += p->blocks[i].flops;
    return n;
}

void program_destroy(vtrn_program *program);     /* NULL is fine */
const char *collective_kind_name(unsigned kind); /* "all_reduce" */
const char *reducer_name(unsigned reducer);      /* "add" */
/* Whether cores reduce elements of the type by themselves; else the reducer is CUSTOM. */
bool collective_reduces(vtrn_dtype t, unsigned reducer);
/* Ranks that run the program together. */
static inline uint64_t program_n_ranks(const vtrn_program *p) {
    return (p->n_replicas ? p->n_replicas : 1) * (uint64_t)(p->n_partitions ? p->n_partitions : 1);
}
/* Whether they wait for each other. */
bool program_has_collectives(const vtrn_program *program);

/* The same for programs that execute and exchange the same, in every process; what they are called
 * and where they come from is left out, and which functions of the host they call: each process
 * numbers its own. */
uint64_t program_fingerprint(const vtrn_program *program);

/* A call of the host (callback), for which the program stops. */
bool program_is_callback(const vtrn_custom *custom);
/* An operation of the program that runs as its reference: neither a callback nor a check. One
 * without outputs is a check: the host's work, of which the chip knows nothing. */
bool program_is_reference_op(const vtrn_custom *custom);
uint32_t program_n_reference_ops(const vtrn_program *program);

#endif
