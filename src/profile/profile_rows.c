/* The intervals of a step as rows of slices that do not overlap. */
#include "profile/profile_rows.h"

#include <stdlib.h>

int profile_compare_lanes(const void *a, const void *b) {
    const timing_interval *x = *(timing_interval *const *)a, *y = *(timing_interval *const *)b;
    if (x->lane != y->lane)
        return x->lane < y->lane ? -1 : 1;
    if (x->start_ns != y->start_ns)
        return x->start_ns < y->start_ns ? -1 : 1;
    if (x->end_ns != y->end_ns)
        return x->end_ns < y->end_ns ? -1 : 1;
    return (x > y) - (x < y);
}

const timing_interval **profile_sort_lanes(const timing_result *timing) {
    size_t n = timing->n_intervals;
    const timing_interval **order = malloc((n + 1) * sizeof *order);
    for (size_t i = 0; order && i < n; i++)
        order[i] = &timing->intervals[i];
    if (order)
        qsort(order, n, sizeof *order, profile_compare_lanes);
    return order;
}

int profile_free_row(const profile_rows *rows, uint64_t start_ns) {
    int first = 0;
    for (int i = 0; i < rows->n; i++) {
        if (rows->end_ns[i] <= start_ns)
            return i;
        if (rows->end_ns[i] < rows->end_ns[first])
            first = i;
    }
    return rows->n < PROFILE_MAX_ROWS ? rows->n : first;
}
