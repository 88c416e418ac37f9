/* In which order a map kernel takes its tiles. */
#include "compiler/plan/map_plan.h"

int64_t fusion_turn_cols(const map_plan *m) {
    return m->cols ? m->cols : m->size.tile_cols;
}

/* The next turn of a flat fusion; false behind the last one. They take blocks of 128 rows side by
 * side while there are any, then the rows that are left, then what does not fill a row. */
static bool next_flat_turn(const map_plan *m, tile_turn *turn) {
    int64_t row_cols = fusion_turn_cols(m), n_rows = m->f->n / row_cols;
    int64_t tail = m->f->n % row_cols;
    int64_t r = turn->r + (int64_t)turn->rows * turn->n_blocks, left = n_rows - r;
    if (left < 0 || (left == 0 && tail == 0))
        return false;
    int64_t blocks = left / tile_max_rows(m->p->chip) < m->size.n_blocks
                         ? left / tile_max_rows(m->p->chip)
                         : m->size.n_blocks;
    turn->r = r;
    turn->rows = (uint32_t)(blocks ? tile_max_rows(m->p->chip) : left ? left : 1);
    turn->n_blocks = (uint32_t)(blocks ? blocks : 1);
    turn->cols = (uint32_t)(left ? row_cols : tail) * turn->n_blocks;
    turn->is_last = left == 0 || (left == (int64_t)turn->rows * turn->n_blocks && tail == 0);
    return true;
}

/* The next batches that are side by side. */
static bool next_batches(const map_plan *m, tile_turn *turn) {
    int64_t rows = fusion_row_step(m), n_rows = m->f->n / m->cols;
    turn->r += (int64_t)turn->rows * turn->n_blocks;
    int64_t left = (n_rows - turn->r) / rows;
    if (left <= 0)
        return false;
    turn->rows = (uint32_t)rows;
    turn->n_blocks = (uint32_t)(left < m->f->n_side ? left : m->f->n_side);
    turn->cols = (uint32_t)m->cols * turn->n_blocks;
    turn->is_last = left <= m->f->n_side;
    turn->is_row_end = true;
    return true;
}

/* To the next tile, in the order of each form. A turn of no rows is before the first tile. */
static void next_in_rows(const map_plan *m, tile_turn *turn) {
    turn->c += turn->cols;
    if (turn->rows && turn->c < m->cols)
        return;
    turn->r += turn->rows;
    turn->c = 0;
}

int64_t fusion_group_rows(const map_plan *m) {
    int64_t cols = fusion_turn_cols(m);
    return m->group_rows ? m->group_rows : (m->f->n + cols - 1) / cols;
}

static void next_in_column_block(const map_plan *m, tile_turn *turn) {
    int64_t group = turn->r / fusion_group_rows(m) * fusion_group_rows(m);
    int64_t end = group + fusion_group_rows(m), n_rows = m->f->n / m->cols;
    turn->r += turn->rows;
    if (turn->r < (end < n_rows ? end : n_rows))
        return;
    turn->r = group;
    turn->c += turn->cols;
    if (turn->c < m->cols)
        return;
    turn->c = 0;
    turn->r = end;
}

static void next_in_passes(const map_plan *m, tile_turn *turn) {
    if (!turn->is_row_stage && turn->rows) {
        turn->c += turn->cols;
        if (turn->c < m->cols)
            return;
        turn->c = 0;
        turn->pass++;
    } else if (turn->rows && turn->pass < m->n_passes) {
        turn->is_row_stage = false;
        return;
    } else {
        turn->r += turn->rows;
        turn->pass = 0;
    }
    turn->is_row_stage = true;
}

bool fusion_next_turn(const map_plan *m, tile_turn *turn) {
    if (m->is_flat)
        return next_flat_turn(m, turn);
    if (m->f->n_side)
        return next_batches(m, turn);
    int64_t n_rows = m->f->n / m->cols;
    switch (m->form) {
    case FUSION_WHOLE:
        next_in_rows(m, turn);
        break;
    case FUSION_COLUMN_BLOCKS:
        next_in_column_block(m, turn);
        break;
    case FUSION_PASSES:
        next_in_passes(m, turn);
        break;
    }
    if (turn->r >= n_rows || turn->c >= m->cols)
        return false;
    int64_t cols = turn->is_row_stage ? 1 : m->cols - turn->c;
    turn->rows = (uint32_t)fusion_tile_rows(m, turn->r);
    turn->cols = (uint32_t)(cols < m->size.tile_cols ? cols : m->size.tile_cols);
    if (m->f->conv)
        turn->cols = (uint32_t)conv_tile_cols(&m->conv, turn->c);
    turn->n_blocks = 1;
    turn->is_last = turn->r + turn->rows >= n_rows;
    turn->is_row_end = turn->c + turn->cols >= m->cols;
    return true;
}
