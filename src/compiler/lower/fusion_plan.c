/* Before a fusion is emitted: rows and columns, classes, tile buffers. */
#include "compiler/lower/fusion_emit.h"
#include "compiler/lower/turn.h"
#include "compiler/plan/resident.h"

#include <string.h>

enum {
    BUFFER_BYTES = 8 << 10, /* of a partition, for the tiles of one iteration: assumed, so that two
                               iterations stay in the host's L2 */
    ABREAST_BYTES = 16 << 10, /* for tiles abreast: assumed, tuned on the chars step */
    MAX_KEPT = 8,             /* stored tiles that keep their buffers */
    MIN_TILE_COLS = 64,
    MAX_TILE_COLS = 2048,
    MAX_BLOCK_COLS = 512,  /* longer rows are cut instead of lying side by side */
    MIN_BLOCK_BYTES = 256, /* shorter rows would make transfers slow */
    ROW_TILE_BYTES = 64,
};

static void mark_live(fusion *f) {
    for (int i = f->n_nodes - 1; i >= 0; i--) {
        fusion_node *node = &f->nodes[i];
        if (node->is_stored)
            node->is_live = true;
        if (!node->is_live)
            continue;
        for (int k = 0; k < node->n_in; k++)
            if (node->in[k].node >= 0)
                f->nodes[node->in[k].node].is_live = true;
    }
}

static bool all_zero(const view_factor *f, int n) {
    for (int i = 0; i < n; i++)
        if (f[i].size > 1 && f[i].stride)
            return false;
    return true;
}

static bool is_flat_view(const view *v) {
    return view_is_dense(v) || all_zero(v->f, v->n);
}

/* Where a node meets HBM; NULL: it does not. */
static const view *memory_view(const fusion_node *node) {
    if (!node->is_live)
        return NULL;
    return node->is_stored           ? &node->store_view
           : node->op == FUSION_LOAD ? &node->source_view
                                     : NULL;
}

/* Cost of loading v in rows of `cols`, in elements; negative: it cannot be cut there. */
static double load_cost(const view *v, int64_t n, int64_t cols) {
    view cut = *v;
    int n_outer;
    if (!view_split_at(&cut, cols, &n_outer))
        return -1;
    if (all_zero(cut.f, n_outer))
        return (double)cols;
    int64_t rows = n / cols;
    if (all_zero(cut.f + n_outer, cut.n - n_outer))
        return (double)rows * 4;
    view inner = cut;
    memmove(inner.f, cut.f + n_outer, (size_t)(cut.n - n_outer) * sizeof *inner.f);
    inner.n = cut.n - n_outer;
    view_coalesce(&inner);
    bool is_run = inner.n == 0 || inner.f[inner.n - 1].stride == 1;
    return (double)n * (is_run ? 1 : 3);
}

static double cols_cost(const fusion *f, int64_t cols) {
    double cost = 0;
    for (int i = 0; i < f->n_nodes; i++) {
        const view *v = memory_view(&f->nodes[i]);
        if (!v)
            continue;
        double c = load_cost(v, f->n, cols);
        /* a load that cannot be cut is copied first; a store cannot be helped */
        cost += c >= 0 ? c : (f->nodes[i].is_stored ? 1e6 : 10.0) * (double)f->n;
    }
    /* a tile costs its instructions' overhead, whatever it holds */
    int64_t rows = f->n / cols, tile_cols = cols < MAX_TILE_COLS ? cols : MAX_TILE_COLS;
    int64_t tiles = (rows + 127) / 128 * ((cols + tile_cols - 1) / tile_cols);
    return cost + (double)tiles * 128 * 64 * 2;
}

/* Whether a flat fusion can be cut into rows of cols, of which all partitions get some. */
static bool can_be_rows(const fusion *f, int64_t cols, int64_t min_cols) {
    return cols >= min_cols && f->n % cols == 0 && f->n / cols >= FUSION_PARTITIONS &&
           resident_pitch(VTRN_DTYPE_FP32, cols) == cols * 4;
}

/* The rows for a flat fusion that an operand was computed in, or that its results may be read in;
 * 0: none. */
static int64_t suitable_cols(const emitter *e) {
    const fusion *f = e->f;
    bool has_scratch = false;
    for (int i = 0; i < f->n_nodes; i++) {
        const fusion_node *node = &f->nodes[i];
        if (!node->is_live)
            continue;
        int64_t cols = node->op == FUSION_LOAD ? e->l->slots[node->source_view.slot].row_cols : 0;
        if (can_be_rows(f, cols, 1))
            return cols;
        has_scratch |=
            node->is_stored && e->l->slots[node->store_view.slot].slot.kind == VTRN_SLOT_SCRATCH;
    }
    return has_scratch && can_be_rows(f, f->like_cols, MIN_BLOCK_BYTES / 4) ? f->like_cols : 0;
}

static void try_cols(emitter *e, int64_t cols, double *best) {
    double cost = cols_cost(e->f, cols);
    if (!e->cols || cost < *best) {
        *best = cost;
        e->cols = cols;
    }
}

/* How many rows of `cols` may become one: a divisor of `size`, which fills a tile and leaves rows
 * for all partitions. */
static int64_t row_share(const fusion *f, int64_t cols, int64_t size) {
    for (int64_t k = MAX_TILE_COLS / cols; k > 1; k--)
        if (size % k == 0 && f->n / (cols * k) >= FUSION_PARTITIONS)
            return k;
    return 1;
}

/* Rows for a fusion that no reduction constrains: flat when every load is flat, else the cut that
 * makes loading cheapest. */
static void choose_cols(emitter *e) {
    fusion *f = e->f;
    e->cols = f->cols;
    if (e->cols)
        return;
    e->is_flat = true;
    double best = 0;
    for (int i = 0; i < f->n_nodes; i++) {
        const view *memory = memory_view(&f->nodes[i]);
        if (!memory || is_flat_view(memory))
            continue;
        e->is_flat = false;
        view v = *memory;
        view_coalesce(&v);
        int64_t inner = 1;
        for (int k = v.n - 1; k >= 0; k--) {
            inner *= v.f[k].size;
            if (inner > 65535)
                break;
            try_cols(e, inner, &best);
            if (k > 0)
                try_cols(e, inner * row_share(f, inner, v.f[k - 1].size), &best);
        }
    }
    if (!e->is_flat && !e->cols)
        e->cols = 1;
    if (!e->is_flat)
        return;
    e->cols = suitable_cols(e);
    e->is_flat = e->cols <= MAX_BLOCK_COLS;
}

/* A copy in row-major order of what cannot be cut into rows. */
static vtrn_status densify(lower *l, view *v) {
    graph_type t = {.dtype = v->dtype, .rank = 1, .dims = {view_count(v)}};
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(
        lower_slot_add(l, VTRN_SLOT_SCRATCH, v->dtype, graph_type_bytes(&t), 0, &slot));
    view dense = view_dense(slot, &t);
    VTRN_RETURN_IF_ERROR(lower_copy(l, v, &dense));
    *v = dense;
    return NULL;
}

/* Cuts a load's view and decides its class. */
static vtrn_status classify_load(emitter *e, fusion_node *node) {
    node->klass = NODE_FULL;
    if (e->is_flat) {
        if (all_zero(node->source_view.f, node->source_view.n)) {
            node->klass = NODE_ROW;
            node->is_hoisted = true;
            node->at = node->source_view;
            node->at.n = node->n_outer = 1;
            node->at.f[0] = (view_factor){128, 0};
        }
        return NULL;
    }
    if (node->is_reduced) {
        node->klass = NODE_ROW;
        node->at = node->source_view;
        node->n_outer = node->at.n;
    } else {
        node->at = node->source_view;
        if (!view_split_at(&node->at, e->cols, &node->n_outer)) {
            VTRN_RETURN_IF_ERROR(densify(e->l, &node->source_view));
            node->at = node->source_view;
            VTRN_CHECK(view_split_at(&node->at, e->cols, &node->n_outer),
                       "a dense view can be cut");
        }
        bool is_col = all_zero(node->at.f, node->n_outer) && e->cols != e->f->n;
        if (all_zero(node->at.f + node->n_outer, node->at.n - node->n_outer)) {
            node->klass = NODE_ROW;
            node->at.n = node->n_outer;
        } else if (is_col) {
            node->klass = NODE_COL;
            node->is_hoisted = true;
        }
    }
    if (node->klass == NODE_ROW && all_zero(node->at.f, node->n_outer)) {
        node->is_hoisted = true;
        node->at.n = node->n_outer = 1;
        node->at.f[0] = (view_factor){128, 0};
    }
    return NULL;
}

static void classify_op(emitter *e, fusion_node *node) {
    if (node->op == FUSION_CONTRACT) {
        node->klass = NODE_FULL;
        return;
    }
    if (node->op == GRAPH_REDUCE) {
        node->klass = NODE_ROW;
        return;
    }
    bool is_row = node->is_reduced || !node->is_stored;
    for (int k = 0; k < node->n_in && !node->is_reduced; k++)
        if (node->in[k].node >= 0 && e->f->nodes[node->in[k].node].klass != NODE_ROW)
            is_row = false;
    bool has_node = node->is_reduced;
    for (int k = 0; k < node->n_in; k++)
        has_node |= node->in[k].node >= 0;
    node->klass = is_row && has_node ? NODE_ROW : NODE_FULL;
}

/* Node i reads the operands of `node` (itself or what it folds). */
static void mark_uses(fusion *f, int i, const fusion_node *node) {
    for (int k = 0; k < node->n_in; k++) {
        if (node->in[k].node < 0)
            continue;
        fusion_node *in = &f->nodes[node->in[k].node];
        if (in->is_folded)
            mark_uses(f, i, in);
        else
            in->last_use = i;
    }
}

static vtrn_status classify(emitter *e) {
    fusion *f = e->f;
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live)
            continue;
        if (node->op == FUSION_LOAD)
            VTRN_RETURN_IF_ERROR(classify_load(e, node));
        else
            classify_op(e, node);
        if (node->is_stored && !e->is_flat) {
            node->at = node->store_view;
            node->n_outer = node->at.n;
            if (!node->is_reduced)
                VTRN_CHECK(view_split_at(&node->at, e->cols, &node->n_outer),
                           "a result can be cut into rows");
            if (node->is_column)
                node->n_outer = 0;
        }
    }
    elementwise_fold(f);
    for (int i = 0; i < f->n_nodes; i++)
        if (f->nodes[i].is_live && !f->nodes[i].is_folded)
            mark_uses(f, i, &f->nodes[i]);
    return NULL;
}

bool fusion_is_tree_reduce(const fusion *f, const fusion_node *node) {
    uint8_t t = f->nodes[node->in[0].node].dtype;
    return !node->is_column && (t == VTRN_DTYPE_INT32 || t == VTRN_DTYPE_UINT32);
}

/* A tile that has a place of its own, beside the buffers of the iteration. */
static bool is_elsewhere(const fusion_node *node) {
    return node->is_hoisted || node->is_folded || node->is_column || node->stays_in_sbuf ||
           node->taken;
}

/* Tile buffers for FULL nodes: a buffer is free again after its node's last use. What is stored
 * keeps its buffer in this iteration, as the next operation would wait for the transfer. */
static int assign_slots(fusion *f) {
    int busy_until[FUSION_MAX_NODES];
    int n = 0, n_stored = 0;
    for (int i = 0; i < f->n_nodes; i++)
        n_stored += f->nodes[i].is_live && f->nodes[i].is_stored && !f->nodes[i].stays_in_sbuf;
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live || node->klass != NODE_FULL || node->op == GRAPH_REDUCE ||
            is_elsewhere(node))
            continue;
        int slot = 0;
        while (slot < n && busy_until[slot] >= i)
            slot++;
        if (slot == n)
            n++;
        busy_until[slot] = node->last_use > i ? node->last_use : i;
        if (node->is_stored && n_stored <= MAX_KEPT)
            busy_until[slot] = f->n_nodes;
        node->slot = slot;
    }
    return n;
}

/* FULL temporaries that emitting the nodes takes. */
static int count_temps(const fusion *f) {
    int n = 0;
    for (int i = 0; i < f->n_nodes; i++) {
        const fusion_node *node = &f->nodes[i];
        int temps = 0;
        if (!node->is_live || node->is_folded)
            continue;
        if (node->op == GRAPH_REDUCE)
            temps = fusion_is_tree_reduce(f, node);
        else if (node->op < FUSION_LOAD)
            temps = elementwise_n_temps(f, node);
        n = temps > n ? temps : n;
    }
    return n;
}

static void add_const(void *ctx, double value, vtrn_dtype dtype) {
    emit_env *env = ctx;
    for (int i = 0; i < env->n_consts; i++)
        if (emit_const_is(&env->consts[i], value, dtype))
            return;
    if (env->n_consts < FUSION_MAX_CONSTS)
        env->consts[env->n_consts++] = (emit_const){.value = value, .dtype = (uint8_t)dtype};
}

/* Where each tile that is new in every iteration lies in the iteration's buffers. */
static void place_in_buffers(emitter *e) {
    uint32_t slot_bytes = lower_sbuf_round((uint64_t)e->tile_cols * 4), row_at = e->row_base;
    for (int i = 0; i < e->f->n_nodes; i++) {
        fusion_node *node = &e->f->nodes[i];
        if (!node->is_live || is_elsewhere(node))
            continue;
        if (node->klass == NODE_FULL) {
            node->buffer_offset = (uint32_t)node->slot * slot_bytes;
            continue;
        }
        node->buffer_offset = row_at;
        row_at += ROW_TILE_BYTES;
    }
}

int64_t fusion_row_step(const emitter *e) {
    return e->f->row_step ? e->f->row_step : FUSION_PARTITIONS;
}

int64_t map_node_cols(const emitter *e, const fusion_node *node) {
    return node->klass == NODE_ROW ? 1 : e->cols;
}

/* Whether several rows a partition make one stretch of columns. */
static bool is_side_by_side(const emitter *e, const fusion_node *node) {
    return !e->is_flat || resident_pitch(node->dtype, e->cols) ==
                              (uint64_t)e->cols * dtype_size((vtrn_dtype)node->dtype);
}

/* Whether the resident has each tile that the load asks for. Rows with a copy in fp32 beside them
 * are loaded: the copy could overwrite a neighbour. */
bool map_load_takes(const emitter *e, const fusion_node *node, const resident *r) {
    view v = e->is_flat ? node->source_view : node->at;
    int n_outer = node->n_outer;
    tile row = {.dtype = node->dtype};
    if (!node->is_live || node->op != FUSION_LOAD || node->is_hoisted || !e->cols ||
        v.slot != r->slot || !is_side_by_side(e, node) ||
        (node->klass == NODE_ROW && fusion_row_is_widened(&row)) ||
        (e->is_flat && !view_split_at(&v, e->cols, &n_outer)))
        return false;
    int64_t n_rows = e->f->n / e->cols, step = fusion_row_step(e);
    for (int64_t at = 0; at < n_rows; at += step) {
        view_part part = {
            &v, n_outer, at, n_rows - at < step ? n_rows - at : step, 0, map_node_cols(e, node)};
        if (!resident_holds(r, &part, node->dtype, NULL))
            return false;
    }
    return true;
}

bool map_takes(const emitter *e, const resident *r) {
    for (int i = 0; i < e->f->n_nodes; i++)
        if (map_load_takes(e, &e->f->nodes[i], r))
            return true;
    for (int i = 0; i < e->n_contracts; i++)
        if (contract_takes(&e->contracts[i], r))
            return true;
    return false;
}

bool map_can_keep(const emitter *e, const fusion_node *node) {
    return e->cols && node->is_live && node->is_stored && !node->is_accumulated &&
           !node->is_column && !node->is_hoisted && is_side_by_side(e, node);
}

static void start_contracts(emitter *e) {
    for (int i = 0; i < e->f->n_nodes; i++) {
        fusion_node *node = &e->f->nodes[i];
        if (!node->is_live || node->op != FUSION_CONTRACT)
            continue;
        node->contract = e->n_contracts;
        contract_start(e->l, node->spec, &e->contracts[e->n_contracts++]);
    }
}

/* Banks of each contraction. Those beyond the least let the PE array work on a tile while the one
 * before it is copied out of PSUM. */
static void share_banks(const emitter *e, contract_banks *share) {
    contract_banks least[FUSION_MAX_CONTRACTS];
    int n_left = e->l->chip->n_psum_banks;
    for (int i = 0; i < e->f->n_nodes; i++)
        if (e->f->nodes[i].is_live && e->f->nodes[i].is_column)
            n_left -= fusion_sum_banks(e->l, e->f, &e->f->nodes[i]);
    for (int i = 0; i < e->n_contracts; i++) {
        share[i] = least[i] = contract_least_banks(e->l, e->contracts[i].spec);
        n_left -= least[i].sums + least[i].turns;
    }
    for (int before = n_left + 1; n_left > 0 && n_left < before;) {
        before = n_left;
        for (int i = 0; i < e->n_contracts; i++) {
            if (n_left > 0 && share[i].sums < 2 * least[i].sums) {
                share[i].sums++;
                n_left--;
            }
            if (n_left > 0 && share[i].turns < 2 * least[i].turns) {
                share[i].turns++;
                n_left--;
            }
        }
    }
}

/* PSUM for contractions and column sums. */
static vtrn_status place_contracts_and_sums(emitter *e) {
    contract_banks share[FUSION_MAX_CONTRACTS];
    share_banks(e, share);
    for (int i = 0; i < e->n_contracts; i++)
        VTRN_RETURN_IF_ERROR(contract_place(&e->contracts[i], share[i]));
    for (int i = 0; i < e->f->n_nodes; i++) {
        fusion_node *node = &e->f->nodes[i];
        if (node->is_live && node->is_column)
            VTRN_RETURN_IF_ERROR(psum_take(e->l, fusion_sum_banks(e->l, e->f, node), &node->banks));
    }
    return NULL;
}

/* What lies beside the buffers of the iterations: bytes of a partition. */
static uint64_t persistent_bytes(const emitter *e) {
    uint64_t n_bytes = (uint64_t)(e->env.n_consts + 1) * ROW_TILE_BYTES;
    for (int i = 0; i < e->f->n_nodes; i++) {
        const fusion_node *node = &e->f->nodes[i];
        if (!node->is_live)
            continue;
        if (node->klass == NODE_COL || node->is_column)
            n_bytes += lower_sbuf_round((uint64_t)e->cols * 4);
        else if (node->klass == NODE_ROW && node->is_hoisted)
            n_bytes += ROW_TILE_BYTES;
    }
    for (int i = 0; i < e->n_contracts; i++)
        n_bytes += contract_bytes(&e->contracts[i]);
    return n_bytes;
}

static void size_tiles(emitter *e, int n_full) {
    const fusion *f = e->f;
    bool has_reduce = false;
    for (int i = 0; i < f->n_nodes; i++)
        has_reduce |= f->nodes[i].is_live && f->nodes[i].op == GRAPH_REDUCE;
    int64_t want = n_full ? BUFFER_BYTES / (4 * n_full) : MAX_TILE_COLS;
    want = want / MIN_TILE_COLS * MIN_TILE_COLS;
    want = want < MIN_TILE_COLS ? MIN_TILE_COLS : want > MAX_TILE_COLS ? MAX_TILE_COLS : want;
    e->n_blocks = 1;
    if (e->is_flat && e->cols) {
        e->n_blocks = want > e->cols ? want / e->cols : 1;
        e->tile_cols = e->n_blocks * e->cols;
    } else if (e->is_flat) {
        /* spread over all partitions before making rows long */
        int64_t spread = ((f->n + 127) / FUSION_PARTITIONS + 15) / 16 * 16;
        spread = spread < MIN_TILE_COLS ? MIN_TILE_COLS : spread;
        e->tile_cols = spread < want ? spread : want;
    } else {
        e->tile_cols = e->cols < want || has_reduce || f->n_contracts ? e->cols : want;
    }
}

uint64_t map_size(emitter *e) {
    e->n_slots = assign_slots(e->f);
    int n_full = e->n_slots + count_temps(e->f);
    uint32_t n_rows = 0;
    for (int i = 0; i < e->f->n_nodes; i++) {
        const fusion_node *node = &e->f->nodes[i];
        n_rows += node->is_live && node->klass == NODE_ROW && !is_elsewhere(node);
    }
    size_tiles(e, n_full);
    uint64_t persistent = persistent_bytes(e);
    e->row_base = lower_sbuf_round((uint64_t)e->tile_cols * 4) * (uint32_t)n_full;
    e->iter_bytes = e->row_base + n_rows * ROW_TILE_BYTES;
    e->n_abreast = FUSION_MAX_ABREAST;
    for (int i = 0; i < e->n_contracts; i++)
        while (e->n_abreast > contract_ahead(&e->contracts[i]))
            e->n_abreast /= 2;
    while (e->n_abreast > 1 && e->iter_bytes * (uint32_t)e->n_abreast > ABREAST_BYTES)
        e->n_abreast /= 2;
    e->n_buffers = 2 * e->n_abreast;
    if (persistent + (uint64_t)e->iter_bytes * (uint32_t)e->n_buffers > e->l->sbuf_limit)
        e->n_buffers = e->n_abreast = 1; /* a long reduction: no overlap rather than no result */
    return persistent + (uint64_t)e->iter_bytes * (uint32_t)e->n_buffers;
}

/* Immediates that must be in memory, contractions, sums. */
static void list_needs(emitter *e) {
    fusion *f = e->f;
    for (int i = 0; i < f->n_nodes; i++) {
        const fusion_node *node = &f->nodes[i];
        if (!node->is_live)
            continue;
        if (node->op < FUSION_LOAD && node->op != GRAPH_REDUCE)
            elementwise_for_consts(f, node, add_const, &e->env);
        e->has_sums |= node->is_column;
    }
    start_contracts(e);
}

vtrn_status map_place_tiles(emitter *e) {
    lower *l = e->l;
    fusion *f = e->f;
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live)
            continue;
        node->t = (tile){.space = VTRN_SPACE_SBUF, .dtype = node->dtype};
        if (node->is_hoisted || node->is_column)
            node->t.addr = lower_sbuf_alloc(l, node->klass == NODE_COL || node->is_column
                                                   ? (uint64_t)e->cols * 4
                                                   : ROW_TILE_BYTES);
    }
    VTRN_RETURN_IF_ERROR(place_contracts_and_sums(e));
    for (int i = 0; i < e->env.n_consts; i++) {
        emit_const *c = &e->env.consts[i];
        c->t = (tile){.space = VTRN_SPACE_SBUF, .dtype = c->dtype, .addr = lower_sbuf_alloc(l, 4)};
    }
    e->ones = (tile){.space = VTRN_SPACE_SBUF, .addr = lower_sbuf_alloc(l, 4)};
    for (int b = 0; b < e->n_buffers; b++)
        e->iter_base[b] = lower_sbuf_alloc(l, e->iter_bytes);
    place_in_buffers(e);
    if (e->is_flat && !e->cols)
        e->cols = e->tile_cols;
    return NULL;
}

/* Loads that would go element by element are turned once, into memory. */
static vtrn_status turn_loads(emitter *e) {
    for (int i = 0; i < e->f->n_nodes; i++) {
        fusion_node *node = &e->f->nodes[i];
        if (node->is_live && node->op == FUSION_LOAD && !node->is_reduced &&
            turn_helps(e->l, &node->source_view))
            VTRN_RETURN_IF_ERROR(densify(e->l, &node->source_view));
    }
    return NULL;
}

/* The rows in which later kernels may find the results in SBUF. */
static void note_rows(emitter *e) {
    for (int i = 0; i < e->f->n_nodes; i++) {
        const fusion_node *node = &e->f->nodes[i];
        if (map_can_keep(e, node))
            e->l->slots[node->store_view.slot].row_cols = map_node_cols(e, node);
    }
}

vtrn_status map_layout(emitter *e) {
    mark_live(e->f);
    VTRN_RETURN_IF_ERROR(turn_loads(e));
    choose_cols(e);
    VTRN_RETURN_IF_ERROR(classify(e));
    list_needs(e);
    note_rows(e);
    return NULL;
}
