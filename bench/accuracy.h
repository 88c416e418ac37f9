/* What the parts of the accuracy benchmark share: a published measurement beside ours. */
#ifndef VTRN_BENCH_ACCURACY_H
#define VTRN_BENCH_ACCURACY_H

#include "base/status.h"

typedef struct accuracy_row {
    const char *group, *name, *chip, *source, *unit;
    const char *half; /* "fitted": a constant was chosen by it; "unseen" */
    double published, ours;
} accuracy_row;

/* A row a line, as JSON or as text. */
void accuracy_print(const accuracy_row *row);

/* Timelines in directory; see accuracy_trace.c. */
vtrn_status accuracy_traces(const char *directory);

/* Kernels of which the program and the time are published. */
vtrn_status accuracy_kernels(void);

#endif
