/* The loop over the tiles of a map kernel, and what each result gets of it. */
#include "compiler/plan/verify_plan.h"

#include "compiler/plan/map_plan.h"
#include "compiler/plan/verify_failed.h"

/* Where the next tile has to begin: flat kernels take rows in order; others blocks of columns of a
 * row block, or row blocks of a block of columns, in groups of rows. */
static void advance(const map_plan *m, const tile_turn *turn, int64_t cols, int64_t *r,
                    int64_t *c) {
    if (m->is_flat || m->f->n_side) {
        *r += (int64_t)turn->rows * turn->n_blocks;
    } else if (m->form == FUSION_COLUMN_BLOCKS) {
        int64_t n_rows = m->f->n / cols, group = *r / fusion_group_rows(m) * fusion_group_rows(m);
        int64_t end = group + fusion_group_rows(m);
        end = end < n_rows ? end : n_rows;
        *r += turn->rows;
        *c += *r < end ? 0 : turn->cols;
        *r = *r < end ? *r : *c < cols ? group : end;
        *c = *c < cols ? *c : 0;
    } else {
        *c += turn->cols;
        *r += *c < cols ? 0 : turn->rows;
        *c = *c < cols ? *c : 0;
    }
}

/* Each pass over the columns of a row block begins with a stage for values of one a row. */
static void advance_in_passes(const map_plan *m, const tile_turn *turn, int64_t *r, int64_t *c) {
    if (turn->is_row_stage) {
        *r += turn->pass == m->n_passes ? turn->rows : 0;
        return;
    }
    *c += turn->cols;
    *c = *c < m->cols ? *c : 0;
}

static vtrn_status check_turns(const plan *p, const kernel *k) {
    const map_plan *m = k->spec;
    int64_t cols = fusion_turn_cols(m), n = 0, r = 0, c = 0;
    int64_t row_step = m->is_flat ? tile_max_rows(m->p->chip) : fusion_row_step(m);
    int64_t n_passes = m->form == FUSION_PASSES ? m->n_passes : 1;
    tile_turn turn = {.row_cols = (uint32_t)cols};
    while (fusion_next_turn(m, &turn)) {
        if (turn.r != r || turn.c != c || turn.rows == 0 || turn.rows > row_step ||
            turn.cols == 0 || turn.c + turn.cols / turn.n_blocks > cols)
            return verify_failed(p, k, "a tile of %u x %u elements at row %lld, column %lld",
                                 turn.rows, turn.cols, (long long)turn.r, (long long)turn.c);
        n += turn.is_row_stage ? 0 : (int64_t)turn.rows * turn.cols;
        if (m->form == FUSION_PASSES)
            advance_in_passes(m, &turn, &r, &c);
        else
            advance(m, &turn, cols, &r, &c);
    }
    if (n != m->f->n * n_passes)
        return verify_failed(p, k, "its tiles cover %lld elements of %lld in %lld passes",
                             (long long)n, (long long)m->f->n, (long long)n_passes);
    return NULL;
}

/* Elements of a result that the tiles give. */
static int64_t given_of(const map_plan *m, const fusion_node *node) {
    int64_t n_rows = m->f->n / (m->cols ? m->cols : 1);
    if (node->is_column) { /* neighbouring rows of the result may make one of the kernel */
        int64_t n_sums = view_count(&node->store_view);
        return node->is_total ? 1 : m->cols % n_sums == 0 ? n_sums : m->cols;
    }
    return node->shape == NODE_ROW && !m->is_flat ? n_rows : m->f->n;
}

vtrn_status verify_map_tiles(const plan *p, const kernel *k) {
    const map_plan *m = k->spec;
    VTRN_RETURN_IF_ERROR(check_turns(p, k));
    for (int i = 0; i < m->f->n_nodes; i++) {
        const fusion_node *node = &m->f->nodes[i];
        if (!node->is_live || !node->is_stored)
            continue;
        int64_t n = view_count(&node->store_view), given = given_of(m, node);
        if (n != given)
            return verify_failed(p, k, "%lld elements of tensor %u get %lld values", (long long)n,
                                 node->store_view.slot, (long long)given);
    }
    return NULL;
}
