/* What the engine files share: the table of op functions, who owns which partition, where rows lie.
 *
 * The contract of an op function. Every thread of the team calls it for every instruction, in plan
 * order, and does its own share:
 *   - the default share is the rows of ap[0] whose SBUF or PSUM partition the thread owns;
 *     instructions that are lane-local (operand row r lies in the partition of dst row r) then need
 *     no barrier between them, however many follow each other;
 *   - SBUF and PSUM are only ever written by the owner of the partition. Reads may cross:
 *     engine/barriers.c puts a barrier where a crossing read meets a write of another thread, and
 *     knows from access_crosses() which operands an op reads across partitions;
 *   - rows do not depend on each other's results through the split, so bits are the same for any
 *     number of threads.
 * Shapes were checked for memory safety by plan.c (every operand lies inside its memory); whatever
 * else an op relies on (equal element counts, legal dtypes) it checks itself, before writing.
 *
 * Kernels per instruction-set level: see base/cpu.h. */
#ifndef VTRN_ENGINE_ENGINE_H
#define VTRN_ENGINE_ENGINE_H

#include "engine/core.h"

/* slot_base: HBM byte address by slot, relative to core->hbm. */
typedef vtrn_status (*engine_fn)(engine_core *core, const vtrn_instr *instr,
                                 const uint64_t *slot_base, int thread_i);

/* One function a row of isa.def: engine_op_TENSOR_TENSOR and so on. EVENT_SEMAPHORE does nothing,
 * and CUSTOM_OP is an error there: exec.c calls the run's callback instead. */
#define OP(e, name, engines, roles, gen, cost, setup, doc)                                         \
    vtrn_status engine_op_##e(engine_core *core, const vtrn_instr *instr,                          \
                              const uint64_t *slot_base, int thread_i);
#include "isa/isa.def"
#undef OP
extern const engine_fn engine_table[VTRN_OP_COUNT];

enum {
    ENGINE_MAX_PARTITIONS = 128,
    ENGINE_OWNER_SHIFT = 4,
    ENGINE_OWNER_ROWS = 1 << ENGINE_OWNER_SHIFT, /* partitions that always have the same owner */
    ENGINE_SCRATCH_BYTES = 256 * 1024,           /* a thread: room for converted strips */
    /* of a core: parts of its partitions may be done one by one, as if each had a thread */
    ENGINE_LEAST_SCRATCHES = ENGINE_MAX_PARTITIONS / ENGINE_OWNER_ROWS,
    ENGINE_PE_ROWS = 128, /* most K and M of the PE array */
    ENGINE_COMING = 2,    /* instructions that a matmul may look at */
};

/* What engines keep of each partition; it belongs to the owner of the partition. */
/* Random numbers of a partition and engine. */
typedef struct engine_generator {
    uint64_t state; /* never 0 */
    /* of XORWOW generators x, y, z, w, v and the counter; GpSimd has one, Vector four that take
     * turns */
    uint32_t xorwow[4][6];
} engine_generator;

typedef struct engine_kept {
    /* Scalar engine: activate with accumulate adds here. Source: docs/hardware.md, "Scalar engine"
     */
    float reduce_regs[ENGINE_MAX_PARTITIONS];
    /* Vector engine: what its reducing instructions leave. Source: nki.isa, "Accumulator behavior"
     */
    float vector_regs[ENGINE_MAX_PARTITIONS];
    engine_generator generator[VTRN_ENGINE_COUNT][ENGINE_MAX_PARTITIONS];
} engine_kept;

/* Registers of the engines. */
typedef struct engine_registers {
    /* PE array: column m of the stationary tile, fp32, packed by tensor.c; column m is written by
     * engine_owner(core, m) */
    float *pe_weights;
    struct tensor_ones *pe_ones; /* of each panel of pe_weights, by its owner */
    float *pe_mx_weights;        /* the same of an MX tile, which has four times the rows */
    struct { /* K and M of the last ldweights, as each thread saw it: threads may run ahead */
        int n_rows, n_cols;
        bool is_mx;
        /* the instructions behind a matmul, for the caches' sake; NULL: nothing is known */
        const vtrn_instr *coming[ENGINE_COMING];
    } pe[ENGINE_MAX_THREADS];
    engine_kept kept;
    uint8_t *scratch; /* ENGINE_SCRATCH_BYTES a thread, 64-byte aligned, use engine_scratch() */
} engine_registers;

/* rng.c: the XORWOW generators of an engine's partition begin anew, by a seed. */
void engine_seed_xorwow(engine_generator *generator, int engine, int partition, uint32_t seed);
/* What a core that nothing ran on keeps. */
void engine_kept_init(engine_kept *kept);

/* Memory of thread_i's own for the duration of an op. */
static inline void *engine_scratch(const engine_core *core, int thread_i) {
    return core->regs->scratch + (size_t)thread_i * ENGINE_SCRATCH_BYTES;
}

static inline int engine_owner(const engine_core *core, int partition) {
    return (partition >> core->owner_shift) % core->n_threads;
}

/* Runs of consecutive rows that one thread owns:
 *
 *     engine_rows rows = engine_rows_of(core, &instr->ap[0], thread_i);
 *     while (engine_rows_next(&rows))
 *         for (int r = rows.first; r < rows.end; r++)
 *             ... engine_row(core, &instr->ap[0], slot_base, r) ...
 *
 * An op without a thread to spare (1 thread) gets all rows as one run. */
typedef struct engine_rows {
    int first, end; /* the current run; rows of the access pattern */
    int start, n;   /* partition of row 0, number of rows */
    int n_threads, thread_i, owner_shift;
} engine_rows;

/* Rows 0..n_rows-1, row r in partition start_partition + r. */
static inline engine_rows engine_rows_at(const engine_core *core, int start_partition, int n_rows,
                                         int thread_i) {
    return (engine_rows){
        0, 0, start_partition, n_rows, core->n_threads, thread_i, core->owner_shift};
}

/* ap: an SBUF or PSUM operand. */
static inline engine_rows engine_rows_of(const engine_core *core, const vtrn_ap *ap, int thread_i) {
    return engine_rows_at(core, ap->partition, ap->n_partitions, thread_i);
}

static inline bool engine_rows_next(engine_rows *rows) {
    int r = rows->end;
    if (rows->n_threads == 1) {
        rows->first = r;
        rows->end = rows->n;
        return r < rows->n;
    }
    while (r < rows->n) {
        int group = (rows->start + r) >> rows->owner_shift;
        int end = ((group + 1) << rows->owner_shift) - rows->start;
        end = end < rows->n ? end : rows->n;
        if (group % rows->n_threads == rows->thread_i) {
            rows->first = r;
            rows->end = end;
            return true;
        }
        r = end;
    }
    return false;
}

static inline const engine_memory *engine_memory_of(const engine_core *core, const vtrn_ap *ap) {
    return ap->space == VTRN_SPACE_PSUM ? &core->psum : &core->sbuf;
}

/* Host bytes from row r to row r+1 of the operand. */
static inline int64_t engine_row_stride(const engine_core *core, const vtrn_ap *ap) {
    if (ap->space == VTRN_SPACE_HBM)
        return ap->partition_step * (int64_t)dtype_size(ap->dtype);
    return ap->partition_step ? (int64_t)engine_memory_of(core, ap)->stride : 0;
}

/* Host address of element (0,0,0,0) of row r of an operand in SBUF or PSUM. */
static inline uint8_t *engine_chip_row(const engine_core *core, const vtrn_ap *ap, int r) {
    const engine_memory *m = engine_memory_of(core, ap);
    return m->base + (size_t)ap->partition * m->stride + ap->addr + r * engine_row_stride(core, ap);
}

/* The same in any space; slot_base is read for HBM only. */
static inline uint8_t *engine_row(const engine_core *core, const vtrn_ap *ap,
                                  const uint64_t *slot_base, int r) {
    if (ap->space == VTRN_SPACE_HBM) /* as numbers: a slot may lie outside of HBM's mapping */
        return (uint8_t *)((uintptr_t)core->hbm + slot_base[ap->slot] +
                           (uint64_t)(ap->addr + r * engine_row_stride(core, ap)));
    return engine_chip_row(core, ap, r);
}

/* Is a row one run of adjacent elements in order (after merging of dimensions)? */
bool engine_ap_is_dense(const vtrn_ap *ap);

/* Rows of operand ap_i and of dst are the same memory row by row, or never the same. */
bool engine_are_rows_apart(const vtrn_instr *instr, int ap_i);

/* Which operands ap[0] goes across, bit i for operand i: their later elements would be overwritten
 * before they are read, unless they are copied first. Operands in ap[0]'s very place are none of
 * them. */
unsigned engine_crossed(const vtrn_instr *instr);

/* Copies ap's free dimensions with unit dimensions dropped and mergeable neighbours merged; at
 * least one dimension comes out. Returns the number. */
int engine_ap_merge(const vtrn_ap *ap, vtrn_dim out[VTRN_MAX_FREE_DIMS]);

/* n elements of one row, from element `from` in row-major order of the dims, to or from a dense
 * buffer of the same dtype (no conversion). */
void engine_row_gather(const vtrn_ap *ap, const uint8_t *row, uint64_t from, uint64_t n, void *out);
void engine_row_scatter(const vtrn_ap *ap, uint8_t *row, uint64_t from, uint64_t n, const void *in);

/* The same with conversion to and from fp32. tmp: n * dtype_size bytes, unused when dense. */
void engine_row_load_fp32(const vtrn_ap *ap, const uint8_t *row, uint64_t from, uint64_t n,
                          float *out, void *tmp);
void engine_row_store_fp32(const vtrn_ap *ap, uint8_t *row, uint64_t from, uint64_t n,
                           const float *in, void *tmp);

/* ap[0][F, P] = transpose of ap[1][P, F], bit for bit, equal dtypes; ap[0] has F rows, ap[1] P.
 * Does rows [first, end) of ap[0], or of ap[1] with is_split_by_src. Operands do not overlap. */
void engine_transpose_rows(const engine_core *core, const vtrn_instr *instr,
                           const uint64_t *slot_base, bool is_split_by_src, int first, int end);

#endif
