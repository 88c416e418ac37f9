/* Contractions of small batches, several side by side in a tile: plan/sides.h. */
#ifndef VTRN_COMPILER_EMIT_EMIT_SIDES_H
#define VTRN_COMPILER_EMIT_EMIT_SIDES_H

#include "compiler/emit/psum.h"
#include "compiler/plan/sides.h"

/* The buffers of an operand. */
typedef struct sides_ring {
    const sides_operand *o;
    sides_view view;
    const contract_operand *operand;
    const struct resident *from; /* where it is in SBUF before it is transposed, or NULL */
    uint32_t loaded_addr, turned_addr;
} sides_ring;

/* A contraction that is being emitted, tile by tile. */
typedef struct sides_work {
    emitter *e;
    const contraction *c;
    const map_sides *s;
    sides_ring a, b;
    int64_t n_loaded, n_turned; /* tiles whose operands are */
    psum_banks sums, turns;
} sides_work;

/* Columns [0, n_cols) of batches [batch, batch + n) of a view, side by side in a tile. */
vtrn_status emit_sides_load(emitter *e, const sides_view *v, int64_t batch, int64_t n,
                            const tile *t);
vtrn_status emit_sides_store(emitter *e, const sides_view *v, int64_t batch, int64_t n,
                             const tile *t);

/* Takes SBUF and PSUM of the kernel that is being emitted. */
vtrn_status sides_work_begin(emitter *e, const contraction *c, const map_sides *s,
                             contract_banks banks, sides_work *w);
/* The products of the tile whose first batch is `batch`, in one bank. Tiles are asked for in order,
 * and a tile's sums are read before the next ones are made. */
vtrn_status sides_work_sums(sides_work *w, int64_t batch, tile *bank);

#endif
