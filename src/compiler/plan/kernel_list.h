/* The plan: what a program does, kernel after kernel, before any instruction exists. */
#ifndef VTRN_COMPILER_PLAN_KERNEL_LIST_H
#define VTRN_COMPILER_PLAN_KERNEL_LIST_H

#include "base/arena.h"
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

/* One loop nest over tiles. */
typedef struct kernel {
    uint8_t kind;      /* kernel_kind */
    uint32_t source;   /* of its instructions, unless it names one for each operation */
    uint32_t block_i;  /* of the plan */
    uint32_t access_i; /* first of its accesses in the plan */
    uint32_t n_accesses;
    uint64_t sbuf_bytes; /* of a partition, while it runs */
    uint32_t sbuf_addr;  /* where these begin: plan/place.h */
    void *spec;          /* kernel_<kind>, in the plan's arena */
} kernel;

typedef struct plan {
    arena home;
    kernel *kernels; /* in order */
    uint32_t n_kernels, cap_kernels;
    kernel_access *accesses;
    uint32_t n_accesses, cap_accesses;
} plan;

const char *kernel_name(kernel_kind kind);

/* Appends a kernel with a copy of its description; it has no accesses yet. The pointer is valid
 * until the next call. NULL: out of memory. */
kernel *plan_add(plan *p, kernel_kind kind, const void *spec, size_t spec_bytes);

/* The same for a kernel that has its description already, without its accesses. */
vtrn_status plan_append(plan *p, const kernel *k);

/* Accesses of the kernel added last. A map of NULL elements is legal and says nothing. */
vtrn_status plan_access(plan *p, const kernel_access *access);
vtrn_status plan_reads(plan *p, const view *map);
vtrn_status plan_writes(plan *p, const view *map);
/* The kernel touches places in the tensor that data decide. */
vtrn_status plan_reads_whole(plan *p, uint32_t slot);
vtrn_status plan_writes_whole(plan *p, uint32_t slot);

void plan_free(plan *p);

#endif
