/* One NeuronCore's memories and registers: host memory that is touched only when a program does. */
#include "engine/core.h"

#include "engine/engine.h"
#include "engine/tensor_kernels.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE_BYTES = 2 << 20 };

static vtrn_status memory_create(const char *name, int n_partitions, size_t row_bytes,
                                 engine_memory *m) {
    size_t stride = engine_memory_stride(row_bytes);
    size_t map_bytes = stride * (size_t)n_partitions + HUGE_PAGE_BYTES;
    uint8_t *map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return VTRN_ERROR(VTRN_RESOURCE, "host memory: cannot reserve %zu bytes for the %s",
                          map_bytes, name);
    madvise(map, map_bytes, MADV_HUGEPAGE);
    size_t misalignment = (uintptr_t)map % HUGE_PAGE_BYTES;
    *m = (engine_memory){
        .base = map + (misalignment ? HUGE_PAGE_BYTES - misalignment : 0),
        .stride = stride,
        .row_bytes = row_bytes,
        .n_partitions = n_partitions,
        .map = map,
        .map_bytes = map_bytes,
    };
    return NULL;
}

static void memory_destroy(engine_memory *m) {
    if (m->map)
        munmap(m->map, m->map_bytes);
}

static engine_kept fresh; /* as engine_kept_init() gives it: seeding takes 10 times the copy */
static pthread_once_t fresh_once = PTHREAD_ONCE_INIT;

static void make_fresh(void) {
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        for (int p = 0; p < ENGINE_MAX_PARTITIONS; p++) {
            engine_generator *g = &fresh.generator[e][p];
            g->state = 0x9e3779b97f4a7c15u * (uint64_t)(1 + e * ENGINE_MAX_PARTITIONS + p);
            engine_seed_xorwow(g, e, p, 0);
        }
}

void engine_kept_init(engine_kept *kept) {
    pthread_once(&fresh_once, make_fresh);
    *kept = fresh;
}

static vtrn_status registers_create(int n_threads, engine_registers **out) {
    engine_registers *regs = calloc(1, sizeof *regs);
    if (!regs)
        return VTRN_OUT_OF_MEMORY(sizeof *regs);
    *out = regs;
    size_t weights_bytes = sizeof(float) * ENGINE_PE_ROWS / TENSOR_BLOCK_ROWS * TENSOR_PANEL_STRIDE;
    weights_bytes = (weights_bytes + ENGINE_PAGE_BYTES - 1) / ENGINE_PAGE_BYTES * ENGINE_PAGE_BYTES;
    int n_scratches = n_threads < ENGINE_LEAST_SCRATCHES ? ENGINE_LEAST_SCRATCHES : n_threads;
    size_t scratch_bytes = (size_t)n_scratches * ENGINE_SCRATCH_BYTES;
    regs->pe_weights = aligned_alloc(ENGINE_PAGE_BYTES, weights_bytes);
    regs->scratch = aligned_alloc(ENGINE_PAGE_BYTES, scratch_bytes);
    if (!regs->pe_weights || !regs->scratch)
        return VTRN_OUT_OF_MEMORY(weights_bytes + scratch_bytes);
    memset(regs->pe_weights, 0, weights_bytes);
    regs->pe_ones = calloc(ENGINE_PE_ROWS / TENSOR_BLOCK_ROWS, sizeof *regs->pe_ones);
    if (!regs->pe_ones)
        return VTRN_OUT_OF_MEMORY(ENGINE_PE_ROWS / TENSOR_BLOCK_ROWS * sizeof *regs->pe_ones);
    size_t mx_bytes = sizeof(float) * ENGINE_PE_ROWS / TENSOR_BLOCK_ROWS * TENSOR_MX_PANEL_STRIDE;
    mx_bytes = (mx_bytes + ENGINE_PAGE_BYTES - 1) / ENGINE_PAGE_BYTES * ENGINE_PAGE_BYTES;
    regs->pe_mx_weights = aligned_alloc(ENGINE_PAGE_BYTES, mx_bytes);
    if (!regs->pe_mx_weights)
        return VTRN_OUT_OF_MEMORY(mx_bytes);
    engine_kept_init(&regs->kept);
    return NULL;
}

static void registers_destroy(engine_registers *regs) {
    if (!regs)
        return;
    free(regs->pe_weights);
    free(regs->pe_ones);
    free(regs->pe_mx_weights);
    free(regs->scratch);
    free(regs);
}

vtrn_status engine_core_create(const vtrn_chip *chip, uint8_t *hbm, uint64_t hbm_bytes,
                               team *threads, engine_core *out) {
    *out = (engine_core){0};
    if (chip->n_partitions < 1 || chip->n_partitions > ENGINE_MAX_PARTITIONS)
        return VTRN_ERROR(VTRN_UNSUPPORTED, "%s: %d partitions; the engines work with 1 to %d",
                          chip->name, chip->n_partitions, ENGINE_MAX_PARTITIONS);
    if (team_size(threads) > ENGINE_MAX_THREADS)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "a core works with at most %d threads, not %d",
                          ENGINE_MAX_THREADS, team_size(threads));
    out->chip = chip;
    out->hbm = hbm;
    out->hbm_bytes = hbm_bytes;
    out->team = threads;
    out->n_threads = team_size(threads);
    out->owner_shift = ENGINE_OWNER_SHIFT;
    vtrn_status status =
        memory_create("SBUF", chip->n_partitions, chip->sbuf_partition_bytes, &out->sbuf);
    if (!status)
        status = memory_create("PSUM", chip->n_partitions, chip->psum_partition_bytes, &out->psum);
    if (!status)
        status = registers_create(out->n_threads, &out->regs);
    if (status)
        engine_core_destroy(out);
    return status;
}

void engine_core_use_small_pages(engine_core *core) {
    madvise(core->sbuf.map, core->sbuf.map_bytes, MADV_NOHUGEPAGE);
    madvise(core->psum.map, core->psum.map_bytes, MADV_NOHUGEPAGE);
}

vtrn_status engine_core_grow(engine_core *core, vtrn_space space, size_t row_bytes) {
    bool is_psum = space == VTRN_SPACE_PSUM;
    engine_memory *m = is_psum ? &core->psum : &core->sbuf, grown;
    VTRN_CHECK(row_bytes > m->row_bytes, "a memory grows");
    VTRN_RETURN_IF_ERROR(
        memory_create(is_psum ? "PSUM" : "SBUF", m->n_partitions, row_bytes, &grown));
    for (int i = 0; i < m->n_partitions; i++)
        memcpy(grown.base + (size_t)i * grown.stride, m->base + (size_t)i * m->stride,
               m->row_bytes);
    memory_destroy(m);
    *m = grown;
    return NULL;
}

void engine_core_destroy(engine_core *core) {
    memory_destroy(&core->sbuf);
    memory_destroy(&core->psum);
    registers_destroy(core->regs);
    *core = (engine_core){0};
}
