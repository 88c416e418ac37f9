/* One NeuronCore's state: memories and engine registers. No time here. */
#ifndef VTRN_ENGINE_CORE_H
#define VTRN_ENGINE_CORE_H

#include "base/status.h"
#include "base/team.h"
#include "chip/chip.h"
#include "isa/program.h"

/* Memories. Partitions of SBUF and PSUM lie `stride` bytes apart on the host; the stride is padded
 * so that the same offset of neighbouring partitions does not fall into the same cache set. */
typedef struct engine_memory {
    uint8_t *base;
    size_t stride;    /* host bytes between partitions */
    size_t row_bytes; /* usable bytes of a partition */
    int n_partitions;
    void *map; /* the whole mapping, for its release */
    size_t map_bytes;
} engine_memory;

enum {
    ENGINE_MAX_THREADS = 64,
    ENGINE_PAGE_BYTES = 4096,
    /* An odd number of cache lines: the same offset of 64 neighbouring partitions falls into 64
     * different sets of a first-level cache (64 sets), and spreads over those of the second. */
    ENGINE_SKEW_BYTES = 5 * 64,
};

/* engine_memory.stride of a memory with so many bytes a partition. */
static inline size_t engine_memory_stride(size_t row_bytes) {
    size_t n_pages = (row_bytes + ENGINE_PAGE_BYTES - 1) / ENGINE_PAGE_BYTES;
    return n_pages * ENGINE_PAGE_BYTES + ENGINE_SKEW_BYTES;
}

typedef struct engine_core {
    const vtrn_chip *chip;
    engine_memory sbuf, psum;
    uint8_t *hbm; /* host address of HBM offset 0 of this core's address space */
    uint64_t hbm_bytes;
    struct engine_registers *regs; /* PE weights, reduce_regs, generators: per-thread where split */
    team *team;
    int n_threads;
    int owner_shift; /* 2^shift partitions in a row have one owner; at least ENGINE_OWNER_SHIFT */
} engine_core;

/* hbm: reserved address space shared by the cores of a device, zero pages until touched. */
vtrn_status engine_core_create(const vtrn_chip *chip, uint8_t *hbm, uint64_t hbm_bytes,
                               team *threads, engine_core *out);
/* Before the memories are touched: the host keeps small pages for them, as far as they are written.
 */
void engine_core_use_small_pages(engine_core *core);
/* Gives the partitions of SBUF or PSUM room for row_bytes, more than they have; what is in them
 * stays, at the same offsets. RESOURCE: the host has no memory, and nothing has changed. */
vtrn_status engine_core_grow(engine_core *core, vtrn_space space, size_t row_bytes);
void engine_core_destroy(engine_core *core);

#endif
