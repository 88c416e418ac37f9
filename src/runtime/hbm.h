/* The allocator of one HBM stack: best fit over an address range. It never touches the memory. */
#ifndef VTRN_RUNTIME_HBM_H
#define VTRN_RUNTIME_HBM_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

enum { HBM_ALIGN_BYTES = 64 };

typedef struct hbm_heap hbm_heap;
typedef struct hbm_block hbm_block; /* an allocated range; owned by the heap */

typedef struct hbm_stats {
    uint64_t capacity_bytes;
    uint64_t in_use_bytes, peak_bytes; /* rounded up to the alignment */
    uint64_t largest_free_bytes;       /* what the next allocation can get at most */
    uint64_t n_allocations;            /* live */
    uint64_t largest_alloc_bytes;      /* ever */
} hbm_stats;

/* Address range [base, base + size), in bytes; both are rounded inwards to the alignment. Not
 * thread-safe: the device locks. */
vtrn_status hbm_heap_create(uint64_t base, uint64_t size_bytes, hbm_heap **out);
void hbm_heap_destroy(hbm_heap *heap); /* NULL is fine; blocks that live die with it */

/* The smallest free block that fits, of equal ones the lowest. O(log n) in the number of free
 * blocks. size 0 takes one unit. CAPACITY names the request, the free bytes, the largest free block
 * and the capacity. */
vtrn_status hbm_alloc(hbm_heap *heap, uint64_t size_bytes, hbm_block **out);

/* Merges with free neighbours. *trim_addr, *trim_bytes: a range of free memory that the caller
 * should give back to the host (bytes 0: none), so that what a program no longer uses does not stay
 * resident. Small or soon reused blocks are kept. */
void hbm_free(hbm_heap *heap, hbm_block *block, uint64_t *trim_addr, uint64_t *trim_bytes);

uint64_t hbm_block_addr(const hbm_block *block);
uint64_t hbm_block_bytes(const hbm_block *block); /* rounded up */
void hbm_heap_stats(const hbm_heap *heap, hbm_stats *out);
void hbm_heap_reset_peak(hbm_heap *heap); /* the peak becomes what is in use now */

/* Walks all blocks in address order and checks every invariant of the heap: for tests. */
bool hbm_heap_is_sound(const hbm_heap *heap);

#endif
