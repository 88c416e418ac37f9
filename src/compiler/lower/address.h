/* Windows of a tensor in HBM at places that data decide: addresses computed on GpSimd, transfers by
 * indirect DMA. */
#ifndef VTRN_COMPILER_LOWER_ADDRESS_H
#define VTRN_COMPILER_LOWER_ADDRESS_H

#include "compiler/lower/lower.h"

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

/* The table of a value: its dims may lie anywhere, with one stride each. */
vtrn_status address_table(lower *l, graph_value v, view *table, int64_t *strides);

/* Adds a component; a start that is known becomes part of the table's offset. False through *is_ok
 * when the index type has no exact way to a 32-bit integer. */
vtrn_status address_add_term(lower *l, address_spec *s, graph_value indices, int64_t index_offset,
                             int64_t index_stride, int64_t limit, int64_t stride, bool *is_ok);

/* Whether every address fits a 32-bit index. */
bool address_fits(const address_spec *s);

/* Window i of the table -> row i of the array. */
vtrn_status address_gather(lower *l, address_spec *s);
/* Row i of the array -> window i of the table: replacing (VTRN_ALU_NONE), or combined with what the
 * table holds, which asks for windows that do not overlap. */
vtrn_status address_scatter(lower *l, address_spec *s, vtrn_alu combine);

/* Windows read (array = table) or written (table = array, perhaps combined with what it holds). */
typedef struct kernel_windows {
    address_spec at;
    bool is_scatter;
    vtrn_alu combine;
    int64_t max_row_bytes;    /* of a partition, moved at a time */
    int64_t max_address_cols; /* of 128 addresses, computed at a time */
} kernel_windows;

/* Elements of the longest stretch of which every window consists and each of which begins at a
 * multiple of it in the table; *n_outer: how many factors of the windows count the stretches. */
int64_t address_row_width(address_spec *s, int *n_outer);
/* Offset of window i in batching dimensions. */
int64_t address_base(const lower *l, const address_spec *s, int64_t i);
/* Makes windows of what the first n_outer factors of each window count, in their order. Addresses
 * are counted in units, which divide all strides of what is left of them. */
vtrn_status address_fold(lower *l, address_spec *s, int n_outer, int64_t unit);

/* The addresses of all windows as a list of int32; -1 where one is skipped. */
typedef struct kernel_addresses {
    address_spec at;
    view list;
} kernel_addresses;
/* Records the list, in scratch memory. */
vtrn_status address_list(lower *l, const address_spec *s, view *out);

/* Tells the plan that the kernel at hand reads what the addresses are computed from. */
vtrn_status address_accesses(lower *l, const address_spec *s);

/* Addresses of up to 128 * cols windows from the first, window w at [w % 128, w / 128]; -1 where
 * one is skipped. */
typedef struct address_tiles {
    tile sum, index, valid, mark;
} address_tiles;
uint64_t address_tiles_bytes(int64_t cols); /* SBUF of a partition */
void address_tiles_alloc(lower *l, int64_t cols, address_tiles *out);
vtrn_status address_compute(lower *l, const address_spec *s, const address_tiles *t, int64_t first,
                            int64_t n);

#endif
