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
} vtrn_slot_kind;

typedef struct vtrn_slot {
    uint8_t kind;  /* vtrn_slot_kind */
    uint8_t dtype; /* vtrn_dtype, for display */
    uint16_t reserved;
    int32_t index;
    uint64_t size_bytes;
    uint64_t
        offset; /* CONSTANT: into data; SCRATCH: into the scratch allocation. Multiples of 64 */
} vtrn_slot;

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

/* A reference operation in HBM, or a call of the host. blob is the compiler's, opaque below it. */
typedef struct vtrn_custom {
    const char *name; /* "stablehlo.sort" */
    uint32_t n_inputs, n_outputs;
    const uint32_t *slots; /* inputs, then outputs */
    uint64_t blob_size;
    const void *blob;
    uint64_t flops; /* estimate, for the cost model */
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
    int32_t *output_alias; /* per output: argument whose memory it reuses, or -1 */
    uint64_t sbuf_peak_bytes, psum_peak_bytes; /* a partition */
} vtrn_program;

/* Of all blocks, each once. */
static inline uint64_t program_flops(const vtrn_program *p) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < p->n_blocks; i++)
        n += p->blocks[i].flops;
    return n;
}

void program_destroy(vtrn_program *program); /* NULL is fine */
/* A call of the host (callback), for which the program stops. */
bool program_is_callback(const vtrn_custom *custom);
/* An operation of the program that runs as its reference: neither a callback nor a check. One
 * without outputs is a check: the host's work, of which the chip knows nothing. */
bool program_is_reference_op(const vtrn_custom *custom);
uint32_t program_n_reference_ops(const vtrn_program *program);

#endif
