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

static vtrn_status check_turns(const lower *l, const kernel *k) {
    const emitter *e = k->spec;
    int64_t cols = fusion_turn_cols(e), n = 0, r = 0, c = 0;
    int64_t row_step = e->is_flat ? FUSION_PARTITIONS : fusion_row_step(e);
    tile_turn turn = {.row_cols = (uint32_t)cols};
    while (fusion_next_turn(e, &turn)) {
        if (turn.r != r || turn.c != c || turn.rows == 0 || turn.rows > row_step ||
            turn.cols == 0 || turn.c + turn.cols / turn.n_blocks > cols)
            return verify_failed(l, k, "a tile of %u x %u elements at row %lld, column %lld",
                                 turn.rows, turn.cols, (long long)turn.r, (long long)turn.c);
        n += (int64_t)turn.rows * turn.cols;
        advance(e, &turn, cols, &r, &c);
    }
    if (n != e->f->n)
        return verify_failed(l, k, "its tiles cover %lld elements of %lld", (long long)n,
                             (long long)e->f->n);
    return NULL;
}

/* Elements of a result that the tiles give. */
static int64_t given_of(const emitter *e, const fusion_node *node) {
    int64_t n_rows = e->f->n / (e->cols ? e->cols : 1);
    if (node->is_column) {
        const fusion_node *from = &e->f->nodes[node->in[0].node];
        int64_t n_sums = view_count(&node->store_view), n = from->klass == NODE_ROW ? 1 : e->cols;
        return n_sums < n && n % n_sums == 0 ? n_sums : n;
    }
    return node->klass == NODE_ROW && !e->is_flat ? n_rows : e->f->n;
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
