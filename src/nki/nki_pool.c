/* Stretches of a partition that are free: first fit, neighbours merged. */
#include "base/array.h"
#include "nki/nki_session.h"

#include <stdlib.h>
#include <string.h>

enum { POOL_ALIGN_BYTES = 64 };

static uint64_t rounded(uint64_t size) {
    return (size + POOL_ALIGN_BYTES - 1) / POOL_ALIGN_BYTES * POOL_ALIGN_BYTES;
}

static vtrn_status insert(nki_pool *pool, uint32_t i, nki_gap gap) {
    if (!array_grow((void **)&pool->gaps, pool->n, &pool->cap, sizeof *pool->gaps))
        return VTRN_OUT_OF_MEMORY(sizeof *pool->gaps);
    memmove(pool->gaps + i + 1, pool->gaps + i, (pool->n - i) * sizeof *pool->gaps);
    pool->gaps[i] = gap;
    pool->n++;
    return NULL;
}

static void drop(nki_pool *pool, uint32_t i) {
    pool->n--;
    memmove(pool->gaps + i, pool->gaps + i + 1, (pool->n - i) * sizeof *pool->gaps);
}

vtrn_status nki_pool_init(nki_pool *pool, uint64_t size) {
    return insert(pool, 0, (nki_gap){0, size});
}

bool nki_pool_take(nki_pool *pool, uint64_t size, int64_t *out_addr) {
    size = rounded(size);
    for (uint32_t i = 0; i < pool->n; i++) {
        nki_gap *gap = &pool->gaps[i];
        if (gap->size < size)
            continue;
        *out_addr = gap->addr;
        gap->addr += (int64_t)size;
        gap->size -= size;
        if (gap->size == 0)
            drop(pool, i);
        return true;
    }
    return false;
}

vtrn_status nki_pool_give(nki_pool *pool, int64_t addr, uint64_t size) {
    size = rounded(size);
    uint32_t i = 0;
    while (i < pool->n && pool->gaps[i].addr < addr)
        i++;
    bool joins_before = i > 0 && pool->gaps[i - 1].addr + (int64_t)pool->gaps[i - 1].size == addr;
    bool joins_after = i < pool->n && addr + (int64_t)size == pool->gaps[i].addr;
    if (joins_before) {
        pool->gaps[i - 1].size += size;
        if (joins_after) {
            pool->gaps[i - 1].size += pool->gaps[i].size;
            drop(pool, i);
        }
        return NULL;
    }
    if (joins_after) {
        pool->gaps[i].addr = addr;
        pool->gaps[i].size += size;
        return NULL;
    }
    return insert(pool, i, (nki_gap){addr, size});
}
