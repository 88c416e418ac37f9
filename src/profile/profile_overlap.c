#include "profile/profile_overlap.h"

#include "profile/profile_ops.h"

#include <stdlib.h>

typedef struct span {
    double start_ns, end_ns;
} span;

static int compare(const void *a, const void *b) {
    const span *x = a, *y = b;
    return (x->start_ns > y->start_ns) - (x->start_ns < y->start_ns);
}

/* Sorted, and those that meet as one. Returns how many are left. */
static size_t merge(span *spans, size_t n) {
    size_t out = 0;
    qsort(spans, n, sizeof *spans, compare);
    for (size_t i = 0; i < n; i++) {
        if (out && spans[i].start_ns <= spans[out - 1].end_ns) {
            if (spans[i].end_ns > spans[out - 1].end_ns)
                spans[out - 1].end_ns = spans[i].end_ns;
        } else {
            spans[out++] = spans[i];
        }
    }
    return out;
}

static double common_ns(const span *a, size_t n_a, const span *b, size_t n_b) {
    double ns = 0;
    for (size_t i = 0, k = 0; i < n_a && k < n_b;) {
        double start = a[i].start_ns > b[k].start_ns ? a[i].start_ns : b[k].start_ns;
        double end = a[i].end_ns < b[k].end_ns ? a[i].end_ns : b[k].end_ns;
        if (end > start)
            ns += end - start;
        if (a[i].end_ns < b[k].end_ns)
            i++;
        else
            k++;
    }
    return ns;
}

vtrn_status profile_exposed_ns(const vtrn_program *program, const timing_result *timing,
                               double *exposed_ns, double *hidden_ns) {
    span *all = malloc((timing->n_intervals + 1) * sizeof *all);
    size_t n_work = 0, n_cc = 0, n = timing->n_intervals;
    *exposed_ns = *hidden_ns = 0;
    if (!all)
        return VTRN_OUT_OF_MEMORY(n * sizeof *all);
    for (size_t i = 0; i < n; i++) { /* work from the front, collectives from the back */
        const timing_interval *v = &timing->intervals[i];
        if (v->instr >= program->n_instrs || profile_is_dma_lane(v))
            continue;
        const span s = {v->start_ns, v->end_ns};
        if (v->lane == VTRN_ENGINE_CC)
            all[n - ++n_cc] = s;
        else if (profile_is_work(&program->instrs[v->instr], v))
            all[n_work++] = s;
    }
    span *cc = all + (n - n_cc);
    n_work = merge(all, n_work);
    n_cc = merge(cc, n_cc);
    *hidden_ns = common_ns(all, n_work, cc, n_cc);
    for (size_t i = 0; i < n_cc; i++)
        *exposed_ns += cc[i].end_ns - cc[i].start_ns;
    *exposed_ns -= *hidden_ns;
    free(all);
    return NULL;
}
