/* Windows of a tensor in HBM at places that data decide. */
#ifndef VTRN_COMPILER_PLAN_WINDOWS_H
#define VTRN_COMPILER_PLAN_WINDOWS_H

#include "compiler/plan/kernel_list.h"

/* A component of the index vectors. */
typedef struct address_term {
    view index;            /* of n elements in one factor, an integer type */
    int64_t limit, stride; /* starts 0..limit; elements of the table a step */
} address_term;

typedef struct address_factor {
    int64_t size, table, array; /* strides in elements */
} address_factor;

/* n windows of a table against n rows of an array (the result of a gather, the updates of a
 * scatter). */
typedef struct address_spec {
    view table; /* slot, dtype and offset count */
    view array; /* the same; strides are those of `batch` and `window` */
    int64_t n;
    int n_batch; /* factors of n in the array */
    view_factor batch[GRAPH_MAX_RANK];
    int n_window;
    address_factor window[GRAPH_MAX_RANK + 1];
    int n_terms;
    address_term term[GRAPH_MAX_RANK];
    view base;          /* has_base: an int32 offset for each window, of n elements, constants */
    bool has_base;      /* windows in batching dimensions */
    int64_t base_limit; /* the largest of them */
    int64_t base_unit;  /* divides all of them */
    bool is_skipped; /* a window that is not wholly inside is left out; else starts are clamped */
} address_spec;

/* Windows read (array = table) or written (table = array, perhaps combined with what it holds). */
typedef struct kernel_windows {
    address_spec at;
    bool is_scatter;
    vtrn_alu combine;
    int64_t max_row_bytes;    /* of a partition, moved at a time */
    int64_t max_address_cols; /* of 128 addresses, computed at a time */
} kernel_windows;

/* The addresses of all windows as a list of int32; -1 where one is skipped. */
typedef struct kernel_addresses {
    address_spec at;
    view list;
    int64_t cols; /* of 128 addresses, computed at a time */
} kernel_addresses;
/* What one indirect DMA moves of a window, and what is left for the loop around it. */
typedef struct window_cut {
    address_factor outer[GRAPH_MAX_RANK + 2], inner[GRAPH_MAX_RANK + 2];
    int n_outer, n_inner;
    int64_t n_rows, cols; /* products */
} window_cut;
/* A single window spreads its rows over the partitions; many windows take one each. */
window_cut windows_cut(const vtrn_chip *chip, const address_spec *s, int64_t max_row_bytes);
/* Offset in the table of combination number i of n factors. */
int64_t windows_offset(const address_factor *f, int n, int64_t i);
/* The largest address of a window. */
int64_t windows_reach(const address_spec *s);

/* Sizes of what moves windows that are cut so. */
typedef struct window_tiles {
    int64_t chunk;        /* columns moved at a time */
    int64_t address_cols; /* of 128 addresses */
    int n_row_tiles;      /* in SBUF: two to move by turns, and two more to combine with */
    uint32_t row_bytes;   /* of each */
    uint64_t n_bytes;     /* of a partition, in all */
} window_tiles;
window_tiles windows_size(const vtrn_chip *chip, const kernel_windows *k, const window_cut *c);
/* SBUF of a partition that computing 128 * cols addresses takes. */
uint64_t windows_address_bytes(int64_t cols);
/* Tells the plan that the kernel recorded last reads what the addresses are computed from. */
vtrn_status windows_accesses(plan *p, const address_spec *s);

#endif
