/* Tables of loops over a row that find values in it or sum it up, one a level (base/cpu.h). */
#ifndef VTRN_ENGINE_SEARCH_KERNELS_H
#define VTRN_ENGINE_SEARCH_KERNELS_H

#include "base/cpu.h"

#include <stddef.h>

enum { SEARCH_N = 8 /* values that an instruction finds */ };

typedef struct search_kernels {
    /* The first of row[from .. n) that equals value, or n. */
    size_t (*find_equal)(const float *row, size_t from, size_t n, float value);
    /* The largest of row[n], n >= SEARCH_N, descending. What is not greater than another stays
     * behind it, as NaN does. */
    void (*largest)(const float *row, size_t n, float best[SEARCH_N]);
    /* mean[p]: of the elements i with i % 2 == p, 0 where there are none; squares[p]: the sum of
     * their squared differences to it. Element i belongs to lane i % 16, and lanes l, l+8, l+4, l+2
     * are joined in this order. */
    void (*moments)(const float *x, size_t n, double mean[2], double squares[2]);
} search_kernels;

CPU_DECLARE_TABLES(search_kernels, search_kernel_table)

#endif
