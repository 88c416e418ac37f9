/* The intervals of a step as rows of slices that do not overlap. */
#ifndef VTRN_PROFILE_PROFILE_ROWS_H
#define VTRN_PROFILE_PROFILE_ROWS_H

#include "timing/timing.h"

enum { PROFILE_MAX_ROWS = 16 };

/* The rows of one lane: instructions of an engine overlap, slices of a row must not. */
typedef struct profile_rows {
    uint64_t end_ns[PROFILE_MAX_ROWS]; /* of each row's last slice */
    int lane, n;
} profile_rows;

/* For qsort() of pointers to intervals: by lane, then start, then end. */
int profile_compare_lanes(const void *a, const void *b);
/* The intervals in that order; n of them. NULL when memory is short. Free with free(). */
const timing_interval **profile_sort_lanes(const timing_result *timing);
/* The first row that is free at start_ns, else the one that is free first; n where a new row
 * begins. */
int profile_free_row(const profile_rows *rows, uint64_t start_ns);

#endif
