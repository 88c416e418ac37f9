/* Into rows of how many columns a fusion is cut, by the cost of its loads. */
#include "compiler/plan/fusion_cost.h"
#include "compiler/plan/map_plan.h"
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
static bool can_be_rows(const map_plan *m, int64_t cols, int64_t min_cols) {
    const fusion *f = m->f;
    return cols >= min_cols && f->n % cols == 0 && f->n / cols >= tile_max_rows(m->p->chip) &&
           resident_pitch(VTRN_DTYPE_FP32, cols) == cols * 4;
}

/* The rows in which an operand of a flat fusion was computed, or its results may be read; 0: none.
 */
static int64_t suitable_cols(const map_plan *m) {
    const fusion *f = m->f;
    bool leaves_something = false;
    for (int i = 0; i < f->n_nodes; i++) {
        const fusion_node *node = &f->nodes[i];
        if (!node->is_live)
            continue;
        int64_t cols = node->op == FUSION_LOAD ? plan_row_cols(m->p, node->source_view.slot) : 0;
        if (can_be_rows(m, cols, 1))
            return cols;
        leaves_something |=
            node->is_stored &&
            m->p->build->slots[node->store_view.slot].slot.kind == VTRN_SLOT_SCRATCH;
    }
    return leaves_something && can_be_rows(m, f->first_op_cols, MIN_BLOCK_BYTES / 4)
               ? f->first_op_cols
               : 0;
}

static void try_cols(map_plan *m, int64_t cols, double *best) {
    double cost = fusion_cols_ns(m->p->chip, m->f, cols);
    if (!m->cols || cost < *best) {
        *best = cost;
        m->cols = cols;
    }
}

/* How many rows of `cols` may become one: a divisor of `size`, which fills a tile and leaves rows
 * for all partitions. */
static int64_t row_share(const map_plan *m, int64_t cols, int64_t size) {
    const fusion *f = m->f;
    for (int64_t k = FUSION_MAX_TILE_COLS / cols; k > 1; k--)
        if (size % k == 0 && f->n / (cols * k) >= tile_max_rows(m->p->chip))
            return k;
    return 1;
}

/* The cheapest of the cuts behind each factor of a view, and of some neighbouring rows as one. */
static void try_factors(map_plan *m, const view *memory, double *best) {
    view v = *memory;
    view_coalesce(&v);
    int64_t inner = 1;
    for (int k = v.n - 1; k >= 0; k--) {
        inner *= v.f[k].size;
        if (inner > MAX_TRIED_COLS)
            break;
        try_cols(m, inner, best);
        if (k > 0)
            try_cols(m, inner * row_share(m, inner, v.f[k - 1].size), best);
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

void fusion_choose_cut(map_plan *m) {
    const fusion *f = m->f;
    double best = 0;
    m->is_flat = false;
    m->cols = 0;
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
                                     divisor_up_to(size, f->n / inner / tile_max_rows(m->p->chip))};
            for (int t = 0; t < 3; t++) {
                int64_t cols = inner * tried[t];
                double cost = fusion_cols_ns(m->p->chip, f, cols);
                if (m->cols && cost >= best)
                    continue;
                best = cost;
                m->cols = cols;
            }
        }
    }
    if (!m->cols)
        m->cols = 1;
}

/* Long rows that leave most partitions without work, as shorter ones where that is much cheaper. */
static void spread_rows(map_plan *m) {
    enum { MIN_GAIN = 4 /* times: assumed, below which the long rows' loads are better known */ };
    int64_t cols = m->cols;
    fusion_choose_cut(m);
    if (MIN_GAIN * fusion_cols_ns(m->p->chip, m->f, m->cols) >
        fusion_cols_ns(m->p->chip, m->f, cols))
        m->cols = cols;
}

/* --- the choice ----------------------------------------------------------------------------------
 */

/* Rows for a fusion that no reduction constrains: flat when every load is flat, else the cut that
 * makes loading cheapest. */
void fusion_choose_cols(map_plan *m) {
    fusion *f = m->f;
    m->cols = f->cols;
    if (m->cols)
        return;
    m->is_flat = true;
    double best = 0;
    for (int i = 0; i < f->n_nodes; i++) {
        const view *memory = fusion_memory_view(&f->nodes[i]);
        if (!memory || is_flat_view(memory))
            continue;
        m->is_flat = false;
        try_factors(m, memory, &best);
    }
    if (!m->is_flat && !m->cols)
        fusion_choose_cut(m);
    if (!m->is_flat && f->n / m->cols < tile_max_rows(m->p->chip))
        spread_rows(m);
    if (!m->is_flat)
        return;
    m->cols = suitable_cols(m);
    m->is_flat = m->cols <= MAX_BLOCK_COLS;
}
