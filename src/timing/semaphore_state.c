/* Semaphore histories: sorted by time, with running sums. */
#include "timing/semaphore_state.h"

#include <math.h>
#include <string.h>

void semaphores_reset(semaphores *s, const timing_block *block) {
    s->block = block;
    memset(s->count, 0, sizeof s->count);
}

void semaphores_post(semaphores *s, int semaphore, double t_ns, uint32_t by) {
    semaphore_update *history = s->updates + s->block->first_update[semaphore];
    uint32_t n = s->count[semaphore]++, i = n;
    for (; i > 0 && history[i - 1].t_ns > t_ns; i--)
        history[i] = history[i - 1];
    history[i] = (semaphore_update){t_ns, by, 0};
    for (; i <= n; i++) {
        uint64_t sum = (i ? (uint64_t)history[i - 1].sum : 0) + history[i].by;
        history[i].sum = sum > UINT32_MAX ? UINT32_MAX : (uint32_t)sum;
    }
}

double semaphores_reach(const semaphores *s, int semaphore, uint32_t value) {
    const semaphore_update *history = s->updates + s->block->first_update[semaphore];
    uint32_t lo = 0, hi = s->count[semaphore];
    if (value == 0)
        return -INFINITY;
    if (!hi || history[hi - 1].sum < value)
        return INFINITY;
    if (hi == 1 || history[hi - 2].sum < value) /* most often the last update is awaited */
        return history[hi - 1].t_ns;
    while (lo < hi) {
        uint32_t middle = lo + (hi - lo) / 2;
        if (history[middle].sum >= value)
            hi = middle;
        else
            lo = middle + 1;
    }
    return history[lo].t_ns;
}
