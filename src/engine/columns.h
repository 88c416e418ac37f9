/* Products whose columns several threads divide, in a block that otherwise one thread does.
 *
 * A product of one row belongs to one thread, as its row has one owner; where it reads weights from
 * HBM, one core waits for memory and the others have nothing to do. A stretch is a run of
 * consecutive steps of such a block that load weights and multiply, and nothing else. For a stretch
 * each thread does a part of the columns of every product, with a stationary tile of its own, and
 * the first one goes on when all parts are done. Products that write the same columns are divided
 * in the same way. A column's sum is made as ever, so bits do not
 * depend on the number of parts.
 *
 * A thread that waits for the next stretch asks the caches for what it will read: memory is what
 * such a program waits for, and the first thread's steps between stretches leave it idle.
 *
 * A part is taken once: by its own thread, or by the first one when its own part is done. So the
 * first thread does not wait for one that has no core and has not begun. */
#ifndef VTRN_ENGINE_COLUMNS_H
#define VTRN_ENGINE_COLUMNS_H

#include "engine/plan.h"

enum { COLUMNS_MAX_PARTS = 8 };

/* Finds the stretches of a block whose steps are complete, in memory of `kept`, and adds the bytes
 * that their products read from HBM. */
vtrn_status columns_find(const vtrn_program *program, engine_block_plan *block, arena *kept,
                         uint64_t *n_bytes);

/* What the threads of one execution share. */
typedef struct columns_work {
    engine_core *core; /* as one thread sees it who does everything */
    const engine_run *run;
    int n_parts;
    uint32_t n_posted; /* the first thread's count */
    bool has_waited;   /* for long: another thread began a part and lost its core */
    /* The stretch that is to be done; those who have taken a part may read it. */
    const engine_block_plan *block;
    const engine_stretch *stretch;
    _Alignas(64) _Atomic uint32_t posted; /* number of the stretch, from 1 */
    _Atomic bool is_over;
    _Alignas(64) _Atomic uint32_t n_done; /* parts of it that others have done */
    struct {
        _Alignas(64) _Atomic uint32_t taken; /* number of the last stretch whose part was taken */
    } part[COLUMNS_MAX_PARTS];
} columns_work;

void columns_begin(columns_work *w, engine_core *alone, const engine_run *run, int n_threads);

/* The first thread calls it: does the stretch, with the threads that are in columns_help(). */
void columns_run(columns_work *w, const engine_block_plan *block, const engine_stretch *stretch);

/* The first thread is through with the program. */
void columns_end(columns_work *w);

/* What the other threads do meanwhile; returns after columns_end(). */
void columns_help(columns_work *w, int thread_i);

#endif
