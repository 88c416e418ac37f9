/* In which order a map kernel takes its tiles. */
#include "compiler/lower/fusion_emit.h"

int64_t fusion_turn_cols(const emitter *e) {
    return e->cols ? e->cols : e->size.tile_cols;
}

/* The next turn of a flat fusion; false behind the last one. They take blocks of 128 rows side by
 * side while there are any, then the rows that are left, then what does not fill a row. */
static bool next_flat_turn(const emitter *e, tile_turn *turn) {
    int64_t row_cols = fusion_turn_cols(e), n_rows = e->f->n / row_cols;
    int64_t tail = e->f->n % row_cols;
    int64_t r = turn->r + (int64_t)turn->rows * turn->n_blocks, left = n_rows - r;
    if (left < 0 || (left == 0 && tail == 0))
        return false;
    int64_t blocks = left / lower_partitions(e->l) < e->size.n_blocks
                         ? left / lower_partitions(e->l)
                         : e->size.n_blocks;
    turn->r = r;
    turn->rows = (uint32_t)(blocks ? lower_partitions(e->l) : left ? left : 1);
    turn->n_blocks = (uint32_t)(blocks ? blocks : 1);
    turn->cols = (uint32_t)(left ? row_cols : tail) * turn->n_blocks;
    turn->is_last = left == 0 || (left == (int64_t)turn->rows * turn->n_blocks && tail == 0);
    return true;
}

/* To the next tile, in the order of each form. A turn of no rows is before the first tile. */
static void next_in_rows(const emitter *e, tile_turn *turn) {
    turn->c += turn->cols;
    if (turn->rows && turn->c < e->cols)
        return;
    turn->r += turn->rows;
    turn->c = 0;
}

static void next_in_column_block(const emitter *e, tile_turn *turn) {
    turn->r += turn->rows;
    if (turn->r < e->f->n / e->cols)
        return;
    turn->r = 0;
    turn->c += turn->cols;
}

static void next_in_passes(const emitter *e, tile_turn *turn) {
    if (!turn->is_row_stage && turn->rows) {
        turn->c += turn->cols;
        if (turn->c < e->cols)
            return;
        turn->c = 0;
        turn->pass++;
    } else if (turn->rows && turn->pass < e->n_passes) {
        turn->is_row_stage = false;
        return;
    } else {
        turn->r += turn->rows;
        turn->pass = 0;
    }
    turn->is_row_stage = true;
}

bool fusion_next_turn(const emitter *e, tile_turn *turn) {
    if (e->is_flat)
        return next_flat_turn(e, turn);
    int64_t n_rows = e->f->n / e->cols, step = fusion_row_step(e);
    switch (e->form) {
    case FUSION_WHOLE:
        next_in_rows(e, turn);
        break;
    case FUSION_COLUMN_BLOCKS:
        next_in_column_block(e, turn);
        break;
    case FUSION_PASSES:
        next_in_passes(e, turn);
        break;
    }
    if (turn->r >= n_rows || turn->c >= e->cols)
        return false;
    int64_t rows = n_rows - turn->r, cols = e->cols - turn->c;
    cols = turn->is_row_stage ? 1 : cols;
    turn->rows = (uint32_t)(rows < step ? rows : step);
    turn->cols = (uint32_t)(cols < e->size.tile_cols ? cols : e->size.tile_cols);
    turn->n_blocks = 1;
    turn->is_last = turn->r + turn->rows >= n_rows;
    turn->is_row_end = turn->c + turn->cols >= e->cols;
    return true;
}
