/* Instructions of a kernel that were checked and are carried out later, several together. */
#ifndef VTRN_NKI_NKI_QUEUE_H
#define VTRN_NKI_NKI_QUEUE_H

#include "engine/engine.h"

/* Instructions gather in an epoch as long as each partition's rows can pass through all of them
 * without those of other partitions: nothing reads across partitions what the epoch writes, or
 * writes what it has read across. Then threads of the team take groups of partitions through the
 * epoch, while the kernel continues and the next epoch gathers. So a group's rows are in the cache
 * from one instruction to the next, threads meet once an epoch, and bits are the same for any
 * number of threads, as no row's result depends on the split.
 *
 * An instruction's errors are told when it is issued: it is carried out once for no rows, which
 * does all checks. What can fail by its data, and what looks at memory otherwise, calls
 * nki_queue_drain() before. */
typedef struct nki_queue nki_queue;

/* Memory of HBM by slot relative to core->hbm, and what executes. */
typedef struct nki_work {
    const vtrn_instr *instr; /* addresses count from the start of the core's memories */
    const uint64_t *slot_base;
    /* By operand, NULL for none: a number for nki_queue_is_over(), 0 at first, that is set until
     * the instruction is carried out. */
    uint64_t *epoch_of[VTRN_MAX_AP];
} nki_work;

vtrn_status nki_queue_create(engine_core *core, nki_queue **out);
/* Nothing may be in it. */
void nki_queue_destroy(nki_queue *q);

/* The number of an operand of the load that was issued last, which has no epoch yet. */
#define NKI_NOT_PLACED UINT64_MAX
/* Gives that load one. */
vtrn_status nki_queue_place(nki_queue *q);

/* Carries out the instruction now or later. */
vtrn_status nki_queue_issue(nki_queue *q, const nki_work *work);
/* A tile in [addr, addr + n_bytes) of all partitions. */
typedef struct nki_released {
    int64_t addr;
    uint64_t n_bytes;
    uint8_t space; /* vtrn_space */
} nki_released;
/* Nothing will read the tile any more that instructions name, the last one in this epoch. */
void nki_queue_release(nki_queue *q, uint64_t number, const nki_released *tile);
/* Begins to carry out what has gathered, but for a load that was issued last. */
vtrn_status nki_queue_close(nki_queue *q);
/* Carries out all that was issued. The first error in the order of issue. */
vtrn_status nki_queue_drain(nki_queue *q);
/* Takes an error that its caller cannot tell; the next call tells it. Consumes it; OK is fine. */
void nki_queue_keep_error(nki_queue *q, vtrn_status status);
/* Whether all of an epoch was carried out: memory that only it named may be given away. */
bool nki_queue_is_over(const nki_queue *q, uint64_t number);

#endif
