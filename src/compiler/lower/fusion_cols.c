/* Into rows of how many columns a fusion is cut, by the cost of its loads. */
#include "compiler/lower/fusion_cost.h"
#include "compiler/lower/fusion_emit.h"
#include "compiler/plan/resident.h"

enum {
    MAX_BLOCK_COLS = 512,  /* longer rows are cut instead of lying side by side */
    MIN_BLOCK_BYTES = 256, /* shorter rows would make transfers slow */
    MAX_TRIED_COLS = 65535,
};

static bool is_flat_view(const view *v) {
    return view_is_dense(v) || view_is_repeated(v->f, v->n);
}

/* Whether a flat fusion can be cut into rows of cols, of which all partitions get some. */
static bool can_be_rows(const emitter *e, int64_t cols, int64_t min_cols) {
    const fusion *f = e->f;
    return cols >= min_cols && f->n % cols == 0 && f->n / cols >= lower_partitions(e->l) &&
           resident_pitch(VTRN_DTYPE_FP32, cols) == cols * 4;
}

/* The rows in which an operand of a flat fusion was computed, or its results may be read; 0: none.
 */
static int64_t suitable_cols(const emitter *e) {
    const fusion *f = e->f;
    bool leaves_something = false;
    for (int i = 0; i < f->n_nodes; i++) {
        const fusion_node *node = &f->nodes[i];
        if (!node->is_live)
            continue;
        int64_t cols = node->op == FUSION_LOAD ? lower_row_cols(e->l, node->source_view.slot) : 0;
        if (can_be_rows(e, cols, 1))
            return cols;
        leaves_something |= node->is_stored &&
                            e->l->build.slots[node->store_view.slot].slot.kind == VTRN_SLOT_SCRATCH;
    }
    return leaves_something && can_be_rows(e, f->first_op_cols, MIN_BLOCK_BYTES / 4)
               ? f->first_op_cols
               : 0;
}

static void try_cols(emitter *e, int64_t cols, double *best) {
    double cost = fusion_cols_ns(e->l->chip, e->f, cols);
    if (!e->cols || cost < *best) {
        *best = cost;
        e->cols = cols;
    }
}

/* How many rows of `cols` may become one: a divisor of `size`, which fills a tile and leaves rows
 * for all partitions. */
static int64_t row_share(const emitter *e, int64_t cols, int64_t size) {
    const fusion *f = e->f;
    for (int64_t k = FUSION_MAX_TILE_COLS / cols; k > 1; k--)
        if (size % k == 0 && f->n / (cols * k) >= lower_partitions(e->l))
            return k;
    return 1;
}

/* The cheapest of the cuts behind each factor of a view, and of some neighbouring rows as one. */
static void try_factors(emitter *e, const view *memory, double *best) {
    view v = *memory;
    view_coalesce(&v);
    int64_t inner = 1;
    for (int k = v.n - 1; k >= 0; k--) {
        inner *= v.f[k].size;
        if (inner > MAX_TRIED_COLS)
            break;
        try_cols(e, inner, best);
        if (k > 0)
            try_cols(e, inner * row_share(e, inner, v.f[k - 1].size), best);
    }
}

/* --- rows of any length --------------------------------------------------------------------------
 */

/* Largest divisor of n that is at most `most`; 1 where none is. */
static int64_t divisor_up_to(int64_t n, int64_t most) {
    int64_t best = 1;
    for (int64_t d = 1; d * d <= n; d++) {
        if (n % d)
            continue;
        best = d <= most && d > best ? d : best;
        best = n / d <= most && n / d > best ? n / d : best;
    }
    return best;
}

void fusion_choose_cut(emitter *e) {
    const fusion *f = e->f;
    double best = 0;
    e->is_flat = false;
    e->cols = 0;
    for (int i = 0; i < f->n_nodes; i++) {
        const view *memory = fusion_memory_view(&f->nodes[i]);
        view v = memory ? *memory : (view){0};
        view_coalesce(&v);
        int64_t inner = 1;
        for (int k = v.n - 1; k >= 0; inner *= v.f[k--].size) {
            int64_t size = v.f[k].size;
            if (inner <= 0) /* a tensor without elements */
                break;
            const int64_t tried[] = {size, divisor_up_to(size, FUSION_MAX_TILE_COLS / inner),
                                     divisor_up_to(size, f->n / inner / lower_partitions(e->l))};
            for (int t = 0; t < 3; t++) {
                int64_t cols = inner * tried[t];
                double cost = fusion_cols_ns(e->l->chip, f, cols);
                if (e->cols && cost >= best)
                    continue;
                best = cost;
                e->cols = cols;
            }
        }
    }
    if (!e->cols)
        e->cols = 1;
}

/* Long rows that leave most partitions without work, as shorter ones where that is much cheaper. */
static void spread_rows(emitter *e) {
    enum { MIN_GAIN = 4 /* times: assumed, below which the long rows' loads are better known */ };
    int64_t cols = e->cols;
    fusion_choose_cut(e);
    if (MIN_GAIN * fusion_cols_ns(e->l->chip, e->f, e->cols) >
        fusion_cols_ns(e->l->chip, e->f, cols))
        e->cols = cols;
}

/* --- the choice ----------------------------------------------------------------------------------
 */

/* Rows for a fusion that no reduction constrains: flat when every load is flat, else the cut that
 * makes loading cheapest. */
void fusion_choose_cols(emitter *e) {
    fusion *f = e->f;
    e->cols = f->cols;
    if (e->cols)
        return;
    e->is_flat = true;
    double best = 0;
    for (int i = 0; i < f->n_nodes; i++) {
        const view *memory = fusion_memory_view(&f->nodes[i]);
        if (!memory || is_flat_view(memory))
            continue;
        e->is_flat = false;
        try_factors(e, memory, &best);
    }
    if (!e->is_flat && !e->cols)
        fusion_choose_cut(e);
    if (!e->is_flat && f->n / e->cols < lower_partitions(e->l))
        spread_rows(e);
    if (!e->is_flat)
        return;
    e->cols = suitable_cols(e);
    e->is_flat = e->cols <= MAX_BLOCK_COLS;
}
