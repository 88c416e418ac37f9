/* The plan: what a program does, kernel after kernel, before any instruction exists. */
#ifndef VTRN_COMPILER_PLAN_KERNEL_LIST_H
#define VTRN_COMPILER_PLAN_KERNEL_LIST_H

#include "base/arena.h"
#include "compiler/build/builder.h"
#include "compiler/options.h"
#include "compiler/plan/view.h"

typedef enum kernel_kind {
#define KERNEL(kind, name, text) KERNEL_##kind,
#include "compiler/plan/kernels.def"
#undef KERNEL
    KERNEL_KIND_COUNT
} kernel_kind;

/* What a kernel reads or writes in HBM: the elements that a view names, or the whole tensor where
 * data decide which (dtype of the view is that of memory). */
typedef struct kernel_access {
    view map;
    bool is_written;
    bool is_accumulated; /* written: added to what the tensor holds */
    bool is_whole;       /* the map names the tensor only */
} kernel_access;

/* What a kernel takes of the on-chip memories while it runs. */
typedef struct kernel_demand {
    uint64_t sbuf_bytes; /* of a partition */
    int psum_banks;      /* at least: emission gives some kernels more, so that engines overlap */
} kernel_demand;

/* One loop nest over tiles. */
typedef struct kernel {
    uint8_t kind;      /* kernel_kind */
    uint32_t source;   /* of its instructions, unless it names one for each operation */
    uint32_t block_i;  /* of the program */
    uint32_t access_i; /* first of its accesses in the list */
    uint32_t n_accesses;
    kernel_demand demand;
    uint32_t sbuf_addr; /* where its part of SBUF begins: plan/place.h */
    void *spec;         /* kernel_<kind>, in the plan's arena */
} kernel;

typedef struct kernel_list {
    kernel *kernels; /* in order */
    uint32_t n_kernels, cap_kernels;
    kernel_access *accesses;
    uint32_t n_accesses, cap_accesses;
} kernel_list;

typedef struct plan {
    const vtrn_chip *chip;
    const compile_options *options;
    builder *build; /* tensors, sources and blocks that the kernels name */
    kernel_list list;
    arena home;          /* of what kernels are told */
    uint32_t block_i;    /* of the kernels that are being recorded */
    uint32_t sbuf_limit; /* bytes of a partition that kernels and residents may take */
    uint32_t sbuf_peak;  /* that they take at a time, at most: plan/place.h */
    int64_t *row_cols;   /* by slot: columns of the rows in which a map kernel computes it, or 0 */
    uint32_t n_row_cols;
    struct contract_memo *cuts; /* of contractions: plan/contract_memo.h */
} plan;

const char *kernel_name(kernel_kind kind);

/* Records a kernel of the source at hand, with a copy of its description. Its accesses follow. */
vtrn_status plan_kernel(plan *p, kernel_kind kind, const void *spec, size_t spec_bytes,
                        kernel_demand demand);

/* The same for a kernel that has its description already, without its accesses. */
vtrn_status plan_append(plan *p, const kernel *k);

/* Accesses of the kernel recorded last. A map of no elements is legal and says nothing. */
vtrn_status plan_access(plan *p, const kernel_access *access);
vtrn_status plan_reads(plan *p, const view *map);
vtrn_status plan_writes(plan *p, const view *map);
/* The kernel touches places in the tensor that data decide. */
vtrn_status plan_reads_whole(plan *p, uint32_t slot);
vtrn_status plan_writes_whole(plan *p, uint32_t slot);

/* Kernels of the next block are recorded. */
vtrn_status plan_block_begin(plan *p, uint32_t *out_block);

/* Columns of the rows in which a map kernel computes the tensor; 0: none does. */
int64_t plan_row_cols(const plan *p, uint32_t slot);
vtrn_status plan_row_cols_set(plan *p, uint32_t slot, int64_t cols);

void kernel_list_free(kernel_list *list);
void plan_free(plan *p);

#endif
