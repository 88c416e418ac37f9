/* An epoch of a kernel's instructions, which nki_queue.h explains: what its files share. */
#ifndef VTRN_NKI_NKI_EPOCH_H
#define VTRN_NKI_NKI_EPOCH_H

#include "engine/sharing.h"
#include "isa/access.h"
#include "nki/nki_queue.h"

enum {
    NKI_EPOCH_INSTRS = 64,
    NKI_EPOCH_SHARES = ENGINE_MAX_PARTITIONS / ENGINE_OWNER_ROWS,
};

/* What an instruction does to bytes [lo, hi) of groups of partitions. */
typedef struct nki_tile_use {
    int64_t lo, hi;
    uint32_t groups;
    uint8_t space, kind; /* share_kind */
} nki_tile_use;

typedef struct nki_hbm_use {
    uint64_t base;
    share_hbm access;
} nki_hbm_use;

typedef struct nki_epoch {
    uint64_t number;
    uint32_t n;
    vtrn_instr instr[NKI_EPOCH_INSTRS]; /* whose slots are indices of base */
    /* By slot: where the operand's addresses count from, and its tensor begins. Copies that are
     * left out have slots, too. */
    uint64_t base[NKI_EPOCH_INSTRS * (VTRN_MAX_AP + 1)];
    uint64_t tensor[NKI_EPOCH_INSTRS * (VTRN_MAX_AP + 1)];
    uint32_t n_bases;
    bool is_left_out[NKI_EPOCH_INSTRS];
    nki_released dead[NKI_EPOCH_INSTRS]; /* tiles that nothing reads when the epoch is over */
    uint32_t n_dead;
    struct {
        uint32_t n;
        nki_tile_use of[NKI_EPOCH_INSTRS * VTRN_MAX_AP];
    } tiles[SHARE_KINDS]; /* by share_kind */
    nki_hbm_use hbm[NKI_EPOCH_INSTRS * VTRN_MAX_AP];
    uint32_t n_hbm;
    access_states states;         /* of engines */
    bool crosses_weights;         /* reads columns of the PE array that other partitions write */
    int n_partitions;             /* of its widest operand */
    uint64_t n_elements, n_bytes; /* of operands: the largest of each instruction, and all */
    engine_core core;             /* as its shares see it */
    struct {
        uint32_t instr_i;
        vtrn_status status;
    } failure[NKI_EPOCH_SHARES];
} nki_epoch;

/* nki_forward.c: lets instructions read rows where a load of the epoch takes them from, and write
 * them where a store takes them to, and leaves out the copies whose tiles nothing else reads. */
void nki_forward(nki_epoch *e);

#endif
