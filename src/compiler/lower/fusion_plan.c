/* Before a fusion is emitted: rows and columns, shapes of nodes, tile buffers. */
#include "compiler/lower/fusion_emit.h"
#include "compiler/lower/turn.h"
#include "compiler/plan/resident.h"

#include <string.h>

enum {
    MAX_KEPT = 8, /* stored tiles that keep their buffers */
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

/* Cuts a load's view and decides its shape. */
static vtrn_status shape_load(emitter *e, fusion_node *node) {
    node->shape = NODE_FULL;
    node->is_hoisted = false;
    if (e->is_flat) {
        if (view_is_repeated(node->source_view.f, node->source_view.n)) {
            node->shape = NODE_ROW;
            node->is_hoisted = true;
            node->at = node->source_view;
            node->at.n = node->n_outer = 1;
            node->at.f[0] = (view_factor){lower_partitions(e->l), 0};
        }
        return NULL;
    }
    if (node->is_reduced) {
        node->shape = NODE_ROW;
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
        bool is_col = view_is_repeated(node->at.f, node->n_outer) && e->cols != e->f->n;
        if (view_is_repeated(node->at.f + node->n_outer, node->at.n - node->n_outer)) {
            node->shape = NODE_ROW;
            node->at.n = node->n_outer;
        } else if (is_col && e->streams_cols) {
            node->at.n -= node->n_outer - 1;
            memmove(node->at.f + 1, node->at.f + node->n_outer,
                    (size_t)(node->at.n - 1) * sizeof *node->at.f);
            node->at.f[0] = (view_factor){e->f->n / e->cols, 0};
            node->n_outer = 1;
        } else if (is_col) {
            node->shape = NODE_COL;
            node->is_hoisted = true;
        }
    }
    if (node->shape == NODE_ROW && view_is_repeated(node->at.f, node->n_outer)) {
        node->is_hoisted = true;
        node->at.n = node->n_outer = 1;
        node->at.f[0] = (view_factor){lower_partitions(e->l), 0};
    }
    return NULL;
}

static void shape_op(emitter *e, fusion_node *node) {
    if (node->op == FUSION_CONTRACT) {
        node->shape = NODE_FULL;
        return;
    }
    if (node->op == GRAPH_REDUCE) {
        node->shape = NODE_ROW;
        return;
    }
    bool is_row = node->is_reduced || !node->is_stored;
    for (int k = 0; k < node->n_in && !node->is_reduced; k++)
        if (node->in[k].node >= 0 && e->f->nodes[node->in[k].node].shape != NODE_ROW)
            is_row = false;
    bool has_node = node->is_reduced;
    for (int k = 0; k < node->n_in; k++)
        has_node |= node->in[k].node >= 0;
    node->shape = is_row && has_node ? NODE_ROW : NODE_FULL;
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

static void find_last_uses(fusion *f) {
    for (int i = 0; i < f->n_nodes; i++)
        f->nodes[i].last_use = 0;
    for (int i = 0; i < f->n_nodes; i++)
        if (f->nodes[i].is_in_pass && !f->nodes[i].is_folded)
            mark_uses(f, i, &f->nodes[i]);
}

static vtrn_status shape_nodes(emitter *e) {
    fusion *f = e->f;
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        node->is_in_pass = node->is_live;
        if (!node->is_live)
            continue;
        if (node->op == FUSION_LOAD)
            VTRN_RETURN_IF_ERROR(shape_load(e, node));
        else
            shape_op(e, node);
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
    find_last_uses(f);
    for (int i = 0; i < f->n_nodes; i++)
        f->nodes[i].is_used = f->nodes[i].last_use > 0;
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
        n_stored += f->nodes[i].is_in_pass && f->nodes[i].is_stored && !f->nodes[i].stays_in_sbuf;
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_in_pass || node->shape != NODE_FULL || node->op == GRAPH_REDUCE ||
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
    for (int i = 0; i < env->n_consts && i < FUSION_MAX_CONSTS; i++)
        if (emit_const_is(&env->consts[i], value, dtype))
            return;
    if (env->n_consts < FUSION_MAX_CONSTS)
        env->consts[env->n_consts] = (emit_const){.value = value, .dtype = (uint8_t)dtype};
    if (env->n_consts <= FUSION_MAX_CONSTS)
        env->n_consts++; /* one more than there is room for: the kernel is cut in two */
}

/* Where each tile that is new in every iteration, or in every block of columns, is in its buffer.
 */
static void place_in_buffers(emitter *e) {
    uint32_t row_at = e->form == FUSION_PASSES ? 0 : e->size.row_base, col_at = 0;
    for (int i = 0; i < e->f->n_nodes; i++) {
        fusion_node *node = &e->f->nodes[i];
        if (node->is_live && node->shape == NODE_COL) {
            node->buffer_offset = col_at;
            col_at += e->size.slot_bytes;
        }
        if (!node->is_live || is_elsewhere(node))
            continue;
        if (node->shape == NODE_FULL) {
            node->buffer_offset = (uint32_t)node->slot * e->size.slot_bytes;
            continue;
        }
        node->buffer_offset = row_at;
        row_at += FUSION_ROW_TILE_BYTES;
    }
}

int64_t fusion_row_step(const emitter *e) {
    return e->f->row_step ? e->f->row_step : lower_partitions(e->l);
}

int64_t map_node_cols(const emitter *e, const fusion_node *node) {
    return node->shape == NODE_ROW ? 1 : e->cols;
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
    if (e->form != FUSION_WHOLE || !node->is_live || node->op != FUSION_LOAD || node->is_hoisted ||
        !e->cols || v.slot != r->slot || !is_side_by_side(e, node) ||
        (node->shape == NODE_ROW && fusion_row_is_widened(&row)) ||
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
    return e->form == FUSION_WHOLE && e->cols && node->is_live && node->is_stored &&
           !node->is_accumulated && !node->is_column && !node->is_hoisted &&
           is_side_by_side(e, node);
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

static int start_pass(fusion *f, int pass) {
    fusion_enter_pass(f, pass);
    find_last_uses(f);
    return assign_slots(f);
}

void map_start_pass(emitter *e, int pass) {
    start_pass(e->f, pass);
    place_in_buffers(e);
}

/* Tile buffers of an iteration, whatever its pass. */
static int count_slots(const emitter *e) {
    int n_slots = 0;
    if (e->form != FUSION_PASSES)
        return assign_slots(e->f);
    for (int pass = 0; pass < e->n_passes; pass++) {
        int n = start_pass(e->f, pass);
        n_slots = n > n_slots ? n : n_slots;
    }
    return n_slots;
}

/* What the kernel holds in its form. */
static fusion_demand demand_of(emitter *e) {
    const fusion *f = e->f;
    e->n_slots = count_slots(e);
    fusion_demand d = {.form = e->form,
                       .n_partitions = lower_partitions(e->l),
                       .is_flat = e->is_flat,
                       .has_whole_rows = f->n_contracts > 0,
                       .n = f->n,
                       .cols = e->cols,
                       .n_full = e->n_slots + count_temps(f),
                       .fixed_bytes = (uint64_t)e->env.n_consts * FUSION_ROW_TILE_BYTES,
                       .max_abreast = e->l->options.has_no_pipeline ? 1 : FUSION_MAX_ABREAST};
    for (int i = 0; i < f->n_nodes; i++) {
        const fusion_node *node = &f->nodes[i];
        if (!node->is_live)
            continue;
        d.has_whole_rows |= node->op == GRAPH_REDUCE;
        d.n_cols += node->shape == NODE_COL;
        d.n_sums += node->is_column;
        d.n_wide_sums += fusion_is_wide_sum(f, node);
        if (node->shape == NODE_ROW && node->is_hoisted)
            d.fixed_bytes += FUSION_ROW_TILE_BYTES;
        d.n_rows += node->shape == NODE_ROW && !is_elsewhere(node);
    }
    for (int i = 0; i < e->n_contracts; i++) {
        d.fixed_bytes += contract_bytes(&e->contracts[i]);
        while (d.max_abreast > contract_ahead(&e->contracts[i]))
            d.max_abreast /= 2;
    }
    d.max_cols = d.n_wide_sums ? psum_cols(e->l->chip) : 0;
    return d;
}

uint64_t map_size(emitter *e) {
    fusion_demand d = demand_of(e);
    e->size = fusion_tiles(&d, e->l->sbuf_limit);
    return e->size.n_bytes;
}

/* False when there are more constants than a kernel has room for. */
static bool find_consts(emitter *e) {
    for (int i = 0; i < e->f->n_nodes; i++) {
        const fusion_node *node = &e->f->nodes[i];
        if (!node->is_live)
            continue;
        if (node->op < FUSION_LOAD && node->op != GRAPH_REDUCE)
            elementwise_for_consts(e->f, node, add_const, &e->env);
    }
    /* fp32 and bf16 do not mix in a matmul: the ones of column sums have the operand's type */
    for (int i = 0; i < e->f->n_nodes; i++) {
        const fusion_node *node = &e->f->nodes[i];
        if (node->is_live && node->is_column)
            add_const(&e->env, 1, (vtrn_dtype)e->f->nodes[node->in[0].node].dtype);
    }
    return e->env.n_consts <= FUSION_MAX_CONSTS;
}

static bool has_row_reduction(const fusion *f) {
    for (int i = 0; i < f->n_nodes; i++)
        if (f->nodes[i].is_live && f->nodes[i].op == GRAPH_REDUCE && !f->nodes[i].is_column)
            return true;
    return false;
}

static bool has_wide_sum(const fusion *f) {
    for (int i = 0; i < f->n_nodes; i++)
        if (f->nodes[i].is_live && fusion_is_wide_sum(f, &f->nodes[i]))
            return true;
    return false;
}

/* Sizes the kernel in a form that cuts rows into blocks of columns. */
static vtrn_status size_blocks(emitter *e, fusion_form form, bool streams_cols) {
    e->form = form;
    e->streams_cols = streams_cols;
    VTRN_RETURN_IF_ERROR(shape_nodes(e));
    e->n_passes = form == FUSION_PASSES ? fusion_find_stages(e->f) : 1;
    map_size(e);
    return NULL;
}

/* The kernel in blocks of columns, of another cut unless a reduction has chosen it. Column operands
 * are held for several row blocks, where there are some and that leaves half of SBUF to the
 * tiles. */
static vtrn_status cut_columns(emitter *e) {
    fusion *f = e->f;
    fusion_form form = has_row_reduction(f) ? FUSION_PASSES : FUSION_COLUMN_BLOCKS;
    if (e->is_flat)
        e->cols = 0;
    else if (!f->cols)
        fusion_choose_cut(e);
    bool has_row_blocks = !e->is_flat && f->n / e->cols > fusion_row_step(e);
    if (has_row_blocks) {
        VTRN_RETURN_IF_ERROR(size_blocks(e, form, false));
        uint64_t held = e->size.n_bytes - (uint64_t)e->size.n_buffers * e->size.iter_bytes;
        if (e->size.n_bytes <= e->l->sbuf_limit && 2 * held <= e->l->sbuf_limit)
            return NULL;
    }
    return size_blocks(e, form, true);
}

/* Passes compute again what they need; beyond this, the way through HBM is shorter. */
static bool repeats_too_much(emitter *e) {
    enum { MAX_REPEATS = 3 /* of a node, on average: assumed */ };
    int n_once = 0;
    for (int i = 0; i < e->f->n_nodes; i++)
        n_once += e->f->nodes[i].is_live && e->f->nodes[i].shape == NODE_FULL;
    return e->form == FUSION_PASSES &&
           fusion_work_of_passes(e->f, e->n_passes) > MAX_REPEATS * (n_once + e->n_passes);
}

vtrn_status map_place_tiles(emitter *e) {
    lower *l = e->l;
    fusion *f = e->f;
    uint64_t row_bytes = (uint64_t)e->cols * 4;
    uint64_t col_bytes = e->form == FUSION_COLUMN_BLOCKS ? 0 : row_bytes;
    uint64_t sum_bytes = e->form == FUSION_WHOLE ? row_bytes : 0;
    uint64_t wide_bytes = e->size.slot_bytes;
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live)
            continue;
        node->t = (tile){.space = VTRN_SPACE_SBUF, .dtype = node->dtype};
        if (node->is_hoisted || node->is_column)
            node->t.addr = lower_sbuf_alloc(l, fusion_is_wide_sum(f, node) ? wide_bytes
                                               : node->is_column           ? sum_bytes
                                               : node->shape == NODE_COL   ? col_bytes
                                                                           : FUSION_ROW_TILE_BYTES);
    }
    VTRN_RETURN_IF_ERROR(place_contracts_and_sums(e));
    for (int i = 0; i < e->env.n_consts; i++) {
        emit_const *c = &e->env.consts[i];
        c->t = (tile){.space = VTRN_SPACE_SBUF, .dtype = c->dtype, .addr = lower_sbuf_alloc(l, 4)};
    }
    for (int b = 0; b < e->size.n_buffers; b++)
        e->iter_base[b] = lower_sbuf_alloc(l, e->size.iter_bytes);
    for (int b = 0; b < e->size.n_col_buffers; b++)
        e->col_base[b] = lower_sbuf_alloc(l, e->size.col_bytes);
    for (int b = 0; b < e->size.n_row_buffers; b++)
        e->row_base[b] = lower_sbuf_alloc(l, e->size.row_bytes);
    place_in_buffers(e);
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
static vtrn_status note_rows(emitter *e) {
    for (int i = 0; i < e->f->n_nodes; i++) {
        const fusion_node *node = &e->f->nodes[i];
        if (map_can_keep(e, node))
            VTRN_RETURN_IF_ERROR(
                lower_row_cols_set(e->l, node->store_view.slot, map_node_cols(e, node)));
    }
    return NULL;
}

vtrn_status map_layout(emitter *e, bool *fits) {
    mark_live(e->f);
    VTRN_RETURN_IF_ERROR(turn_loads(e));
    fusion_choose_cols(e);
    VTRN_RETURN_IF_ERROR(shape_nodes(e));
    *fits = find_consts(e);
    if (!*fits)
        return NULL;
    start_contracts(e);
    map_size(e);
    if (e->n_contracts == 0 && (e->size.n_bytes > e->l->sbuf_limit || has_wide_sum(e->f)))
        VTRN_RETURN_IF_ERROR(cut_columns(e));
    if (e->size.n_bytes > e->l->sbuf_limit && e->n_contracts > 0) {
        for (int i = 0; i < e->n_contracts; i++)
            contract_tighten(&e->contracts[i]);
        map_size(e);
    }
    *fits = e->size.n_bytes <= e->l->sbuf_limit && !repeats_too_much(e);
    return *fits ? note_rows(e) : NULL;
}
