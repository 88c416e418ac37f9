/* Code for a fusion: choice of rows and columns, tile buffers, the loop over tiles. */
#include "compiler/lower/fusion.h"

#include "compiler/lower/contract.h"

#include <string.h>

enum {
    BUFFER_BYTES = 8 << 10, /* of a partition, for the tiles of one iteration: assumed, so that two
                               iterations stay in the host's L2 */
    MAX_KEPT = 8,           /* stored tiles that keep their buffers */
    MAX_ABREAST = 2,        /* tiles whose operations alternate: one's latency is another's work */
    MAX_BUFFERS = 2 * MAX_ABREAST, /* some tiles compute while the next load */
    MIN_TILE_COLS = 64,
    MAX_TILE_COLS = 2048,
    ROW_TILE_BYTES = 64,
};

_Static_assert((int)MAX_ABREAST <= (int)CONTRACT_MAX_AHEAD,
               "a contraction keeps up with the fusion");

typedef struct segment {
    int64_t offset, rows, cols; /* elements; in flat mode a stretch of the linear index */
} segment;

typedef struct emitter {
    lower *l;
    fusion *f;
    emit_env env;
    int64_t cols; /* of a row */
    int64_t tile_cols;
    bool is_flat;
    int n_slots, n_rows_tiles;
    uint32_t iter_bytes;
    int n_abreast, n_buffers;
    uint32_t iter_base[MAX_BUFFERS];
    uint32_t row_base; /* within an iteration, after the FULL slots */
    tile ones;
    bool has_sums;
    contraction contracts[FUSION_MAX_CONTRACTS];
    int n_contracts;
} emitter;

/* fp32 columns of a PSUM bank */
static int64_t psum_cols(const lower *l) {
    return l->chip->psum_bank_bytes / 4;
}

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
            double cost = cols_cost(f, inner);
            if (!e->cols || cost < best) {
                best = cost;
                e->cols = inner;
            }
        }
    }
    if (!e->is_flat && !e->cols)
        e->cols = 1;
    if (e->is_flat)
        e->cols = f->n;
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

/* Integers of 32 bits have no reduction that is exact: halves are combined on GpSimd. */
static bool is_tree_reduce(const fusion *f, const fusion_node *node) {
    uint8_t t = f->nodes[node->in[0].node].dtype;
    return !node->is_column && (t == VTRN_DTYPE_INT32 || t == VTRN_DTYPE_UINT32);
}

/* Tile buffers for FULL nodes: a buffer is free again after its node's last use. What is stored
 * keeps its buffer in this iteration, as the next operation would wait for the transfer. */
static int assign_slots(fusion *f, int *n_temps) {
    int busy_until[FUSION_MAX_NODES];
    int n = 0, n_stored = 0;
    for (int i = 0; i < f->n_nodes; i++)
        n_stored += f->nodes[i].is_live && f->nodes[i].is_stored;
    *n_temps = 0;
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live || node->is_folded)
            continue;
        if (node->op == GRAPH_REDUCE) {
            *n_temps += *n_temps == 0 && is_tree_reduce(f, node);
            continue;
        }
        if (node->op < FUSION_LOAD) {
            int temps = elementwise_n_temps(f, node);
            *n_temps = temps > *n_temps ? temps : *n_temps;
        }
        if (node->klass != NODE_FULL || node->is_hoisted)
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

static void add_const(void *ctx, double value, vtrn_dtype dtype) {
    emit_env *env = ctx;
    for (int i = 0; i < env->n_consts; i++)
        if (emit_const_is(&env->consts[i], value, dtype))
            return;
    if (env->n_consts < FUSION_MAX_CONSTS)
        env->consts[env->n_consts++] = (emit_const){.value = value, .dtype = (uint8_t)dtype};
}

static vtrn_status fill(lower *l, const tile *t, uint32_t cols, double value) {
    LOWER_EMIT(set, l, MEMSET, VECTOR);
    set->ap[0] = tile_ap(t, 128, cols);
    if (t->dtype == VTRN_DTYPE_INT32 || t->dtype == VTRN_DTYPE_UINT32)
        set->imm[0].bits = (uint32_t)(int64_t)value;
    else
        set->imm[0].f = (float)value;
    return NULL;
}

/* Where each tile that is new in every iteration lies in the iteration's buffers. */
static void place_in_buffers(emitter *e) {
    uint32_t slot_bytes = lower_sbuf_round((uint64_t)e->tile_cols * 4), row_at = e->row_base;
    for (int i = 0; i < e->f->n_nodes; i++) {
        fusion_node *node = &e->f->nodes[i];
        if (!node->is_live || node->is_hoisted || node->is_folded || node->is_column)
            continue;
        if (node->klass == NODE_FULL) {
            node->buffer_offset = (uint32_t)node->slot * slot_bytes;
            continue;
        }
        node->buffer_offset = row_at;
        row_at += ROW_TILE_BYTES;
    }
}

/* SBUF for everything; sizes the columns of a tile. */
static vtrn_status plan_memory(emitter *e) {
    lower *l = e->l;
    fusion *f = e->f;
    int n_temps, n_rows = 0, n_hoisted_rows = 0;
    e->n_slots = assign_slots(f, &n_temps);
    int n_full = e->n_slots + n_temps;
    uint64_t col_bytes = 0;
    bool has_reduce = false;
    for (int i = 0; i < f->n_nodes; i++) {
        const fusion_node *node = &f->nodes[i];
        if (!node->is_live)
            continue;
        if (node->op < FUSION_LOAD && node->op != GRAPH_REDUCE)
            elementwise_for_consts(f, node, add_const, &e->env);
        e->has_sums |= node->is_column;
        has_reduce |= node->op == GRAPH_REDUCE && !node->is_column;
        if (node->klass == NODE_COL)
            col_bytes += lower_sbuf_round((uint64_t)e->cols * 4);
        else if (node->klass == NODE_ROW && !node->is_column)
            *(node->is_hoisted ? &n_hoisted_rows : &n_rows) += 1;
        if (node->is_column)
            col_bytes += lower_sbuf_round((uint64_t)e->cols * 4);
    }
    int64_t want = n_full ? BUFFER_BYTES / (4 * n_full) : MAX_TILE_COLS;
    want = want / MIN_TILE_COLS * MIN_TILE_COLS;
    want = want < MIN_TILE_COLS ? MIN_TILE_COLS : want > MAX_TILE_COLS ? MAX_TILE_COLS : want;
    if (e->is_flat) {
        /* spread over all partitions before making rows long */
        int64_t spread = ((f->n + 127) / 128 + 15) / 16 * 16;
        spread = spread < MIN_TILE_COLS ? MIN_TILE_COLS : spread;
        e->tile_cols = spread < want ? spread : want;
    } else {
        e->tile_cols =
            e->cols < want || has_reduce || e->has_sums || f->n_contracts ? e->cols : want;
    }
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live || node->op != FUSION_CONTRACT)
            continue;
        /* two PSUM banks sum and one or two transpose for each contraction; the upper half is for
         * column sums */
        uint64_t n_bytes;
        int share = l->chip->n_psum_banks / 2 / (f->n_contracts > 1 ? 2 : 1);
        node->contract = e->n_contracts;
        contract_start(l, node->spec, e->n_contracts * share, share == 2 ? 1 : 2, share / 2,
                       &e->contracts[e->n_contracts], &n_bytes);
        e->n_contracts++;
        col_bytes += n_bytes;
    }
    uint64_t persistent =
        col_bytes + (uint64_t)(n_hoisted_rows + e->env.n_consts + 1) * ROW_TILE_BYTES;
    e->row_base = lower_sbuf_round((uint64_t)e->tile_cols * 4) * (uint32_t)n_full;
    e->iter_bytes = e->row_base + (uint32_t)n_rows * ROW_TILE_BYTES;
    e->n_abreast = MAX_ABREAST;
    while (e->n_abreast > 1 && e->iter_bytes * (uint32_t)e->n_abreast > BUFFER_BYTES)
        e->n_abreast /= 2;
    e->n_buffers = 2 * e->n_abreast;
    if (persistent + (uint64_t)e->iter_bytes * (uint32_t)e->n_buffers > l->sbuf_limit)
        e->n_buffers = e->n_abreast = 1; /* a long reduction: no overlap rather than no result */
    VTRN_RETURN_IF_ERROR(
        lower_sbuf_begin(l, persistent + (uint64_t)e->iter_bytes * (uint32_t)e->n_buffers));
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
    for (int i = 0; i < e->n_contracts; i++)
        contract_place(&e->contracts[i]);
    for (int i = 0; i < e->env.n_consts; i++) {
        emit_const *c = &e->env.consts[i];
        c->t = (tile){.space = VTRN_SPACE_SBUF, .dtype = c->dtype, .addr = lower_sbuf_alloc(l, 4)};
    }
    e->ones = (tile){.space = VTRN_SPACE_SBUF, .addr = lower_sbuf_alloc(l, 4)};
    for (int b = 0; b < e->n_buffers; b++)
        e->iter_base[b] = lower_sbuf_alloc(l, e->iter_bytes);
    place_in_buffers(e);
    return NULL;
}

/* After a row's tile was written: its copy in fp32, when an op may take it as a scalar. */
static vtrn_status widen_row(lower *l, const fusion_node *node, uint32_t rows) {
    if (node->klass != NODE_ROW || node->last_use == 0 || !fusion_row_is_widened(&node->t))
        return NULL;
    tile wide = fusion_wide_row(&node->t);
    LOWER_EMIT(copy, l, TENSOR_COPY, VECTOR);
    copy->ap[0] = tile_ap(&wide, rows, 1);
    copy->ap[1] = tile_ap(&node->t, rows, 1);
    return NULL;
}

/* What does not change from tile to tile. */
static vtrn_status emit_hoisted(emitter *e) {
    lower *l = e->l;
    fusion *f = e->f;
    int64_t rows = e->is_flat ? 128 : f->n / e->cols;
    rows = rows < 128 ? rows : 128;
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live || !node->is_hoisted)
            continue;
        l->source = node->source;
        if (node->klass == NODE_COL) {
            view v = node->at;
            int n_cols = v.n - node->n_outer;
            memmove(v.f + 1, v.f + node->n_outer, (size_t)n_cols * sizeof *v.f);
            v.f[0] = (view_factor){rows, 0};
            v.n = n_cols + 1;
            VTRN_RETURN_IF_ERROR(lower_load(l, &v, 1, 0, rows, 0, e->cols, &node->t));
        } else {
            VTRN_RETURN_IF_ERROR(lower_load(l, &node->at, node->n_outer, 0, rows, 0, 1, &node->t));
            VTRN_RETURN_IF_ERROR(widen_row(l, node, (uint32_t)rows));
        }
    }
    int n_banks_up = l->chip->n_psum_banks / 2; /* the lower half is the contractions' */
    for (int i = 0; i < e->env.n_consts; i++)
        VTRN_RETURN_IF_ERROR(fill(l, &e->env.consts[i].t, 1, e->env.consts[i].value));
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live || !node->is_column)
            continue;
        /* fp32 and bf16 do not mix in a matmul: ones take the operand's type */
        e->ones.dtype = f->nodes[node->in[0].node].dtype;
        int64_t cols = f->nodes[node->in[0].node].klass == NODE_ROW ? 1 : e->cols;
        for (int64_t c = 0, b = 0; c < cols; c += psum_cols(l))
            node->psum[b++] = lower_psum_bank(l, n_banks_up++);
    }
    if (e->has_sums)
        VTRN_RETURN_IF_ERROR(fill(l, &e->ones, 1, 1));
    return NULL;
}

/* A share of a column sum: ones^T @ tile, accumulated in PSUM over the row tiles. */
static vtrn_status emit_column_sum(emitter *e, fusion_node *node, bool is_first, bool is_last) {
    lower *l = e->l;
    const fusion_node *from = &e->f->nodes[node->in[0].node];
    int64_t cols = from->klass == NODE_ROW ? 1 : e->cols;
    tile ones = e->ones;
    ones.dtype = from->dtype;
    LOWER_EMIT(weights, l, LDWEIGHTS, TENSOR);
    weights->ap[1] = tile_ap(&ones, e->env.rows, 1);
    for (int64_t c = 0, b = 0; c < cols; c += psum_cols(l), b++) {
        uint32_t n = (uint32_t)(cols - c < psum_cols(l) ? cols - c : psum_cols(l));
        LOWER_EMIT(sum, l, MATMUL, TENSOR);
        sum->ap[0] = tile_ap(&node->psum[b], 1, n);
        sum->ap[1] = tile_ap_cols(&from->t, e->env.rows, (uint32_t)c, n);
        sum->flags = (is_first ? 0 : VTRN_FLAG_ACCUMULATE) | (is_last ? VTRN_FLAG_LAST : 0);
    }
    return NULL;
}

static vtrn_status finish_column_sum(emitter *e, fusion_node *node) {
    lower *l = e->l;
    int64_t cols = e->f->nodes[node->in[0].node].klass == NODE_ROW ? 1 : e->cols;
    l->source = node->source;
    for (int64_t c = 0, b = 0; c < cols; c += psum_cols(l), b++) {
        uint32_t n = (uint32_t)(cols - c < psum_cols(l) ? cols - c : psum_cols(l));
        LOWER_EMIT(copy, l, TENSOR_COPY, VECTOR);
        copy->ap[0] = tile_ap_cols(&node->t, 1, (uint32_t)c, n);
        copy->ap[1] = tile_ap(&node->psum[b], 1, n);
    }
    return lower_store(l, &node->at, 0, 0, 1, 0, cols, &node->t, false);
}

static vtrn_alu reduce_alu(const fusion_node *node, bool is_int) {
    switch ((graph_reducer)node->reducer) {
    case GRAPH_REDUCER_MULTIPLY:
        return VTRN_ALU_MULTIPLY;
    case GRAPH_REDUCER_MAXIMUM:
        return VTRN_ALU_MAX;
    case GRAPH_REDUCER_OR:
        return is_int ? VTRN_ALU_BITWISE_OR : VTRN_ALU_MAX;
    case GRAPH_REDUCER_MINIMUM:
        return VTRN_ALU_MIN;
    case GRAPH_REDUCER_AND:
        return is_int ? VTRN_ALU_BITWISE_AND : VTRN_ALU_MIN;
    case GRAPH_REDUCER_XOR:
        return VTRN_ALU_BITWISE_XOR;
    default:
        return VTRN_ALU_ADD;
    }
}

/* Columns [from, from + n) of a node, which may be one value a row. */
static vtrn_ap columns(const emitter *e, const fusion_node *node, uint32_t from, uint32_t n) {
    if (node->klass != NODE_ROW)
        return tile_ap_cols(&node->t, e->env.rows,
                            node->klass == NODE_COL ? e->env.col0 + from : from, n);
    vtrn_ap ap = tile_ap(&node->t, e->env.rows, n);
    ap.dim[0].step = 0;
    return ap;
}

static vtrn_status emit_tree_reduce(emitter *e, const fusion_node *node) {
    const fusion_node *from = &e->f->nodes[node->in[0].node];
    vtrn_alu op = reduce_alu(node, true);
    tile partial = e->env.temps[0];
    partial.dtype = from->dtype;
    for (uint32_t n = e->env.cols, is_first = 1; is_first || n > 1; is_first = 0) {
        uint32_t half = n / 2, kept = n - half; /* an odd middle column stays as it is */
        vtrn_ap low =
            is_first ? columns(e, from, 0, half) : tile_ap_cols(&partial, e->env.rows, 0, half);
        vtrn_ap high = is_first ? columns(e, from, kept, half)
                                : tile_ap_cols(&partial, e->env.rows, kept, half);
        if (half) {
            vtrn_instr *instr =
                lower_append(e->l, VTRN_OP_TENSOR_TENSOR,
                             isa_alu_class(op) == 'B' ? VTRN_ENGINE_VECTOR : VTRN_ENGINE_GPSIMD);
            if (!instr)
                return VTRN_OUT_OF_MEMORY(sizeof *instr);
            instr->op0 = (uint8_t)op;
            instr->ap[0] = kept == 1 ? tile_ap(&node->t, e->env.rows, 1)
                                     : tile_ap_cols(&partial, e->env.rows, 0, half);
            instr->ap[1] = low;
            instr->ap[2] = high;
        }
        if (kept > half && (is_first || !half)) {
            LOWER_EMIT(copy, e->l, TENSOR_COPY, VECTOR);
            copy->ap[0] = half ? tile_ap_cols(&partial, e->env.rows, half, 1)
                               : tile_ap(&node->t, e->env.rows, 1);
            copy->ap[1] =
                is_first ? columns(e, from, half, 1) : tile_ap_cols(&partial, e->env.rows, half, 1);
        }
        n = kept;
    }
    return NULL;
}

static vtrn_status emit_row_reduce(emitter *e, const fusion_node *node) {
    const fusion_node *from = &e->f->nodes[node->in[0].node];
    if (is_tree_reduce(e->f, node))
        return emit_tree_reduce(e, node);
    LOWER_EMIT(reduce, e->l, TENSOR_REDUCE, VECTOR);
    reduce->op0 = (uint8_t)reduce_alu(node, false);
    reduce->arg[0] = 1;
    reduce->ap[0] = tile_ap(&node->t, e->env.rows, 1);
    reduce->ap[1] = columns(e, from, 0, e->env.cols);
    return NULL;
}

/* Cuts the dense and the constant views of a flat fusion for one segment. */
static void cut_flat(fusion *f, const segment *s) {
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live || node->is_hoisted || !(node->is_stored || node->op == FUSION_LOAD))
            continue;
        const view *v = node->is_stored ? &node->store_view : &node->source_view;
        node->at =
            (view){.slot = v->slot, .dtype = v->dtype, .offset = v->offset + s->offset, .n = 2};
        node->at.f[0] = (view_factor){s->rows, s->cols};
        node->at.f[1] = (view_factor){s->cols, 1};
        node->n_outer = 1;
    }
}

static vtrn_status emit_node(emitter *e, fusion_node *node, int64_t r, int64_t c, bool is_last) {
    lower *l = e->l;
    uint32_t rows = e->env.rows, cols = e->env.cols;
    int64_t n_cols = node->klass == NODE_ROW ? 1 : cols;
    int64_t c0 = node->klass == NODE_ROW ? 0 : c;
    l->source = node->source;
    if (node->op == FUSION_LOAD) {
        VTRN_RETURN_IF_ERROR(
            lower_load(l, &node->at, node->n_outer, r, rows, c0, n_cols, &node->t));
        return widen_row(l, node, rows);
    }
    if (node->op == FUSION_CONTRACT) {
        VTRN_RETURN_IF_ERROR(contract_tile(&e->contracts[node->contract], rows, &node->t));
        return node->is_stored
                   ? lower_store(l, &node->at, node->n_outer, r, rows, 0, cols, &node->t, false)
                   : NULL;
    }
    if (node->is_column)
        return emit_column_sum(e, node, r == 0, is_last);
    if (node->op == GRAPH_REDUCE)
        VTRN_RETURN_IF_ERROR(emit_row_reduce(e, node));
    else
        VTRN_RETURN_IF_ERROR(elementwise_emit(&e->env, node));
    VTRN_RETURN_IF_ERROR(widen_row(l, node, rows));
    if (node->is_stored)
        return lower_store(l, &node->at, node->n_outer, r, rows, c0, n_cols, &node->t,
                           node->is_accumulated);
    return NULL;
}

/* A tile of the iteration space and the buffers it is computed in. */
typedef struct tile_turn {
    int64_t r, c;
    uint32_t rows, cols, base;
    bool is_last;
} tile_turn;

/* Points the tile of a node, and those of its operands, to the buffers at base. */
static void point_to(emitter *e, fusion_node *node, uint32_t base) {
    if (!node->is_hoisted && !node->is_folded && !node->is_column)
        node->t.addr = base + node->buffer_offset;
    for (int k = 0; k < node->n_in; k++) {
        if (node->in[k].node < 0)
            continue;
        fusion_node *in = &e->f->nodes[node->in[k].node];
        if (in->is_folded)
            point_to(e, in, base);
        else if (!in->is_hoisted && !in->is_column)
            in->t.addr = base + in->buffer_offset;
    }
}

/* Tiles abreast: each operation on all of them before the next one. */
static vtrn_status emit_turns(emitter *e, const tile_turn *turns, int n) {
    lower *l = e->l;
    fusion *f = e->f;
    uint32_t slot_bytes = lower_sbuf_round((uint64_t)e->tile_cols * 4);
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live || node->is_hoisted || node->is_folded)
            continue;
        for (int t = 0; t < n && node->op == FUSION_CONTRACT; t++) {
            l->source = node->source;
            VTRN_RETURN_IF_ERROR(
                contract_load(&e->contracts[node->contract], turns[t].r, turns[t].rows));
        }
        for (int t = 0; t < n; t++) {
            const tile_turn *turn = &turns[t];
            e->env.rows = turn->rows;
            e->env.cols = turn->cols;
            e->env.col0 = (uint32_t)turn->c;
            for (int k = 0; k < ELEMENTWISE_MAX_TEMPS; k++)
                e->env.temps[k] =
                    (tile){.space = VTRN_SPACE_SBUF,
                           .addr = turn->base + (uint32_t)(e->n_slots + k) * slot_bytes};
            point_to(e, node, turn->base);
            VTRN_RETURN_IF_ERROR(emit_node(e, node, turn->r, turn->c, turn->is_last));
        }
    }
    return NULL;
}

static vtrn_status emit_segment(emitter *e, const segment *s, int *iteration) {
    int64_t step = e->f->row_step ? e->f->row_step : 128;
    tile_turn turns[MAX_ABREAST];
    int n = 0;
    for (int64_t r = 0; r < s->rows; r += step)
        for (int64_t c = 0; c < s->cols; c += e->tile_cols) {
            turns[n++] = (tile_turn){
                .r = r,
                .c = c,
                .rows = (uint32_t)(s->rows - r < step ? s->rows - r : step),
                .cols = (uint32_t)(s->cols - c < e->tile_cols ? s->cols - c : e->tile_cols),
                .base = e->iter_base[(*iteration)++ % e->n_buffers],
                .is_last = r + step >= s->rows};
            if (n < e->n_abreast)
                continue;
            VTRN_RETURN_IF_ERROR(emit_turns(e, turns, n));
            n = 0;
        }
    return emit_turns(e, turns, n);
}

vtrn_status fusion_emit(lower *l, fusion *f) {
    mark_live(f);
    bool is_live = false;
    for (int i = 0; i < f->n_nodes; i++)
        is_live |= f->nodes[i].is_live;
    if (!is_live)
        return NULL;
    emitter e = {.l = l, .f = f, .env = {.l = l, .f = f}};
    choose_cols(&e);
    VTRN_RETURN_IF_ERROR(classify(&e));
    VTRN_RETURN_IF_ERROR(plan_memory(&e));
    VTRN_RETURN_IF_ERROR(emit_hoisted(&e));
    int iteration = 0;
    if (e.is_flat) {
        int64_t rows = f->n / e.tile_cols, tail = f->n % e.tile_cols;
        segment whole = {0, rows, e.tile_cols}, rest = {rows * e.tile_cols, 1, tail};
        cut_flat(f, &whole);
        VTRN_RETURN_IF_ERROR(emit_segment(&e, &whole, &iteration));
        if (tail) {
            cut_flat(f, &rest);
            VTRN_RETURN_IF_ERROR(emit_segment(&e, &rest, &iteration));
        }
        return NULL;
    }
    segment all = {0, f->n / e.cols, e.cols};
    VTRN_RETURN_IF_ERROR(emit_segment(&e, &all, &iteration));
    for (int i = 0; i < f->n_nodes; i++)
        if (f->nodes[i].is_live && f->nodes[i].is_column)
            VTRN_RETURN_IF_ERROR(finish_column_sum(&e, &f->nodes[i]));
    return NULL;
}
