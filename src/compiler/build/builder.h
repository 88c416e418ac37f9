/* A program in the making: instructions in program order and the tables that they name.
 *
 * A builder is filled with slots, sources, custom ops and blocks of instructions, whose engines and
 * DMA rings are chosen and which have no semaphores; build_finish (finish.h) makes the program of
 * them. It knows nothing of graphs: whatever can list instructions can use it. */
#ifndef VTRN_COMPILER_BUILD_BUILDER_H
#define VTRN_COMPILER_BUILD_BUILDER_H

#include "chip/chip.h"
#include "isa/program.h"

/* A stretch of the list that becomes one block: [begin, end). */
typedef struct build_block {
    uint32_t begin, end;
    vtrn_block_end kind;
    uint32_t next[2];
    uint32_t cond_slot; /* of an int32 at its beginning */
    uint64_t flops;     /* useful ones */
    uint32_t n_targets;
    uint32_t *targets; /* outlive the builder's last use */
} build_block;

/* A tensor in HBM. A scratch tensor is live from the first to the last instruction that names it.
 */
typedef struct build_slot {
    vtrn_slot slot;
    uint32_t first, last; /* list indices, known in build_finish; first UINT32_MAX: none names it */
    bool is_in_place;     /* an output of which only parts are written: it begins as the argument
                             that it was donated */
} build_slot;

/* Zeroed but for chip and program, it is empty. */
typedef struct builder {
    const vtrn_chip *chip;
    /* The program in the making. The caller sets its names, generation, counts of arguments and
     * outputs, peaks, and output_alias: per output the argument that is offered to it, or -1. */
    vtrn_program *program;
    vtrn_instr *list;
    uint32_t n_list, cap_list;
    build_block *blocks;
    uint32_t n_blocks, cap_blocks;
    uint32_t block_i; /* whose instructions are appended now */
    build_slot *slots;
    uint32_t n_slots, cap_slots;
    vtrn_source *sources; /* strings are the caller's until build_finish */
    uint32_t n_sources, cap_sources;
    uint32_t source;      /* of the instructions that are appended next */
    vtrn_custom *customs; /* names, slots and blobs are in the program's arena */
    uint32_t n_customs, cap_customs;
    uint8_t *data; /* of constants */
    uint64_t n_data, cap_data;
    /* Of the machine that is to run ranks, for the times of collectives; NULL: not known. */
    const struct collective_topology *topology;
    bool keeps_order; /* build_finish leaves the list in the order in which it was appended */
    /* Ready transfers of a queue keep their order, and no arithmetic goes to GpSimd, as in kernels
     * that the vendor compiled (docs/hardware.md, "Dynamic DMA"). */
    bool is_plain;
} builder;

/* Appends an instruction of the source at hand, which raises no semaphore. The pointer is valid
 * until the next append; NULL: out of memory. */
vtrn_instr *build_append(builder *b, vtrn_opcode opcode, vtrn_engine engine);
/* The user's floating-point operations that the instructions of the block at hand stand for. */
void build_count_flops(builder *b, uint64_t n);
/* The n sequences at the end of the list, of which the i-th begins at begin[i], take turns
 * instruction by instruction from now on: while an engine waits for a result of one, it works on
 * another. None may write what another one reads or writes. */
vtrn_status build_alternate(builder *b, const uint32_t *begin, int n);

/* index: of the argument or output. CAPACITY when no core reaches that much memory. */
vtrn_status build_slot_add(builder *b, vtrn_slot_kind kind, vtrn_dtype dtype, uint64_t size_bytes,
                           int32_t index, uint32_t *out);
/* A constant: bytes are copied, and shared with an earlier one's that are equal. */
vtrn_status build_constant_add(builder *b, vtrn_dtype dtype, const void *bytes, uint64_t size,
                               uint32_t *out_slot);
/* 0, 1, 2, ... as an int32 constant of n elements. */
vtrn_status build_counting_add(builder *b, int64_t n, uint32_t *out_slot);
/* Where the next instructions come from; the strings are kept. */
vtrn_status build_source_set(builder *b, const char *op, const char *place);
/* *out: the number that a custom_op names in arg0. */
vtrn_status build_custom_add(builder *b, const vtrn_custom *custom, uint32_t *out);

/* A block begins where the list ends; the first is where execution starts. */
vtrn_status build_block_begin(builder *b, uint32_t *out_block);
/* It ends where the list ends, and goes on as vtrn_block says. */
void build_block_end(builder *b, uint32_t block_i, vtrn_block_end kind, uint32_t next0,
                     uint32_t next1, uint32_t cond_slot);

void build_free(builder *b); /* not the program */

#endif
