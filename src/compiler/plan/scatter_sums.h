/* Sums of updates at places that may meet, by matmuls of one-hot tiles. */
#ifndef VTRN_COMPILER_PLAN_SCATTER_SUMS_H
#define VTRN_COMPILER_PLAN_SCATTER_SUMS_H

#include "compiler/plan/sum_parts.h"
#include "compiler/plan/windows.h"

/* Adds row i of the array to window i of the dense table of n_elements. */
typedef struct kernel_scatter_add {
    address_spec at;
    int64_t n_elements;
    bool has_old;   /* else the table's elements are all 0, and not in memory */
    bool is_finite; /* no element of the array is infinite or NaN */
    bool is_int;
    int n_parts;              /* bytes of an integer, parts of a float */
    int shift;                /* bits of the low part of an address */
    int64_t low_size, n_high; /* the table as n_high rows of low_size */
    int64_t n_window;         /* elements of a window */
    view updates;             /* one factor */
    int64_t chunk_cols;       /* blocks of 128 updates whose addresses are held at a time */
    bool is_tight;            /* numbers of high parts are made for each 128 of them */
    int64_t n_numbers;        /* that are held all the time */
} kernel_scatter_add;

#endif
