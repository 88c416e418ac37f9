/* The loop over the tiles of a map kernel, and what each result gets of it. */
#include "compiler/plan/verify_plan.h"

#include "compiler/lower/fusion_emit.h"

/* Where the next tile has to begin: flat kernels take rows in order; others blocks of columns of a
 * row block, or row blocks of a block of columns. */
static void advance(const emitter *e, const tile_turn *turn, int64_t cols, int64_t *r, int64_t *c) {
    if (e->is_flat) {
        *r += (int64_t)turn->rows * turn->n_blocks;
    } else if (e->form == FUSION_COLUMN_BLOCKS) {
        *r += turn->rows;
        *c += *r < e->f->n / cols ? 0 : turn->cols;
        *r = *r < e->f->n / cols ? *r : 0;
    } else {
        *c += turn->cols;
        *r += *c < cols ? 0 : turn->rows;
        *c = *c < cols ? *c : 0;
    }
}

/* Each pass over the columns of a row block begins with a stage for values of one a row. */
static void advance_in_passes(const emitter *e, const tile_turn *turn, int64_t *r, int64_t *c) {
    if (turn->is_row_stage) {
        *r += turn->pass == e->n_passes ? turn->rows : 0;
        return;
    }
    *c += turn->cols;
    *c = *c < e->cols ? *c : 0;
}

static vtrn_status check_turns(const lower *l, const kernel *k) {
    const emitter *e = k->spec;
    int64_t cols = fusion_turn_cols(e), n = 0, r = 0, c = 0;
    int64_t row_step = e->is_flat ? lower_partitions(e->l) : fusion_row_step(e);
    int64_t n_passes = e->form == FUSION_PASSES ? e->n_passes : 1;
    tile_turn turn = {.row_cols = (uint32_t)cols};
    while (fusion_next_turn(e, &turn)) {
        if (turn.r != r || turn.c != c || turn.rows == 0 || turn.rows > row_step ||
            turn.cols == 0 || turn.c + turn.cols / turn.n_blocks > cols)
            return verify_failed(l, k, "a tile of %u x %u elements at row %lld, column %lld",
                                 turn.rows, turn.cols, (long long)turn.r, (long long)turn.c);
        n += turn.is_row_stage ? 0 : (int64_t)turn.rows * turn.cols;
        if (e->form == FUSION_PASSES)
            advance_in_passes(e, &turn, &r, &c);
        else
            advance(e, &turn, cols, &r, &c);
    }
    if (n != e->f->n * n_passes)
        return verify_failed(l, k, "its tiles cover %lld elements of %lld in %lld passes",
                             (long long)n, (long long)e->f->n, (long long)n_passes);
    return NULL;
}

/* Elements of a result that the tiles give. */
static int64_t given_of(const emitter *e, const fusion_node *node) {
    int64_t n_rows = e->f->n / (e->cols ? e->cols : 1);
    if (node->is_column) { /* neighbouring rows of the result may make one of the kernel */
        int64_t n_sums = view_count(&node->store_view);
        return node->is_total ? 1 : e->cols % n_sums == 0 ? n_sums : e->cols;
    }
    return node->shape == NODE_ROW && !e->is_flat ? n_rows : e->f->n;
}

vtrn_status verify_map_tiles(const lower *l, const kernel *k) {
    const emitter *e = k->spec;
    VTRN_RETURN_IF_ERROR(check_turns(l, k));
    for (int i = 0; i < e->f->n_nodes; i++) {
        const fusion_node *node = &e->f->nodes[i];
        if (!node->is_live || !node->is_stored)
            continue;
        int64_t n = view_count(&node->store_view), given = given_of(e, node);
        if (n != given)
            return verify_failed(l, k, "%lld elements of tensor %u get %lld values", (long long)n,
                                 node->store_view.slot, (long long)given);
    }
    return NULL;
}
