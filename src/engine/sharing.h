/* How threads that divide instructions by partitions meet in memory: what an operand does to its
 * partitions, and whether two accesses to HBM race.
 *
 * A partition of SBUF or PSUM is only written by its owner, so two pairs of accesses can race: a
 * write and a later crossing read, a crossing read and a later write. HBM is shared by rows: two
 * accesses, one a write, race unless their addresses are disjoint or they split the same addresses
 * in the same way. */
#ifndef VTRN_ENGINE_SHARING_H
#define VTRN_ENGINE_SHARING_H

#include "engine/engine.h"

/* What an operand does to memory that has partitions. */
typedef enum share_kind {
    SHARE_OWNER_READ,
    SHARE_CROSSING_READ,
    SHARE_OWNER_WRITE,
    SHARE_KINDS
} share_kind;

share_kind share_kind_of(const vtrn_instr *instr, int ap_i);

/* Groups of ENGINE_OWNER_ROWS partitions that include some of the n from `partition` on, a bit
 * each. */
uint32_t share_groups_of(int partition, int n);

/* Bytes base + k*pitch + [0, len) for all k >= 0 below `end`; len > pitch when rows overlap. */
typedef struct share_hbm {
    int64_t base, end, pitch, len;
    uint32_t split;  /* equal values: equal rows go to equal threads; SHARE_ANY_SPLIT equals none */
    uint32_t n_rows; /* that are split: those of the side in SBUF, which a row here may serve
                        several of */
    bool is_write;
    const vtrn_ap *shape; /* the instruction's operand; NULL with SHARE_ANY_SPLIT: of several */
} share_hbm;

enum { SHARE_ANY_SPLIT = 0 };

/* The access of operand ap_i, in HBM. offset: where its tensor begins, bytes. */
share_hbm share_hbm_of(const vtrn_instr *instr, int ap_i, int64_t offset);
/* Two accesses to the same memory. */
bool share_hbm_races(const share_hbm *x, const share_hbm *y);

#endif
