/* Where the time of a step went, by the user's operation; and words for an instruction. */
#ifndef VTRN_PROFILE_PROFILE_OPS_H
#define VTRN_PROFILE_PROFILE_OPS_H

#include "profile/profile.h"

typedef struct profile_op {
    const char *op, *place;       /* the program's; instructions of one op and place are one row */
    double ns[VTRN_ENGINE_COUNT]; /* its instructions on each engine; no control, no DMA triggers */
    double dma_ns, wait_ns;       /* on the rings, summed; at the heads of queues */
    /* Sum of ns. Instructions of an engine overlap in its pipeline, so the rows' sum is more than
     * the time in which engines are active. */
    double engine_ns;
    uint64_t n_instrs, n_dmas; /* executed */
    uint64_t dma_bytes;        /* written by its DMAs */
} profile_op;

typedef struct profile_op_list {
    profile_op *ops;     /* most engine time first, then most DMA time */
    uint32_t *of_source; /* [n_sources] index into ops, UINT32_MAX for a source that did not run */
    size_t n;
} profile_op_list;

/* RESOURCE when the host is out of memory. */
vtrn_status profile_op_list_create(const vtrn_program *program, const timing_result *timing,
                                   profile_op_list *out);
void profile_op_list_free(profile_op_list *list);

/* "decoder/mlp" of the place "train.py:42 in decoder/mlp"; "" without a scope. */
const char *profile_scope(const char *place);
bool profile_is_dma_lane(const timing_interval *interval);
/* Counts in the active time of its lane: neither control nor the queueing of a DMA does. */
bool profile_is_work(const vtrn_instr *instr, const timing_interval *interval);
uint64_t profile_dma_bytes(const vtrn_instr *instr); /* written by one execution */

/* "matmul", "activate exp", "tensor_tensor add", "custom_op stablehlo.sort" */
void profile_instr_title(const vtrn_program *program, const vtrn_instr *instr, char *text,
                         size_t size);
/* "psum fp32[128,512] <- sbuf bf16[128,512]"; operands in order, partitions first */
void profile_instr_shapes(const vtrn_instr *instr, char *text, size_t size);
/* "Tensor"; "DMA Sync q3" for the ring that the instruction uses */
void profile_lane_name(const timing_interval *interval, const vtrn_instr *instr, char *text,
                       size_t size);

#endif
