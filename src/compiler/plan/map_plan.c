/* What a map kernel looks like: rows and columns, shapes of nodes, tile buffers. */
#include "compiler/plan/map_plan.h"

#include "compiler/plan/copy.h"
#include "compiler/plan/fusion_fold.h"
#include "compiler/plan/fusion_sums.h"
#include "compiler/plan/resident.h"
#include "compiler/plan/turn.h"

#include <math.h>
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

static int row_blocks(const map_plan *m) {
    int64_t step = fusion_row_step(m);
    return (int)((m->f->n / m->cols + step - 1) / step);
}

uint32_t map_row_tile_bytes(const map_plan *m) {
    uint32_t n_bytes = sbuf_round((uint64_t)m->f->n_side * sizeof(float));
    return n_bytes > FUSION_ROW_TILE_BYTES ? n_bytes : FUSION_ROW_TILE_BYTES;
}

uint64_t map_held_bytes(const fusion_node *node) {
    uint64_t n = node->n_row_blocks ? (uint64_t)node->n_row_blocks : 1;
    return n * FUSION_ROW_TILE_BYTES;
}

/* Cuts a load's view and decides its shape. */
static vtrn_status shape_load(map_plan *m, fusion_node *node) {
    node->shape = NODE_FULL;
    node->is_hoisted = false;
    if (m->is_flat) {
        if (view_is_repeated(node->source_view.f, node->source_view.n)) {
            node->shape = NODE_ROW;
            node->is_hoisted = true;
            node->at = node->source_view;
            node->at.n = node->n_outer = 1;
            node->at.f[0] = (view_factor){tile_max_rows(m->p->chip), 0};
        }
        return NULL;
    }
    if (node->is_reduced) {
        node->shape = NODE_ROW;
        node->at = node->source_view;
        node->n_outer = node->at.n;
    } else {
        node->at = node->source_view;
        if (!view_split_at(&node->at, m->cols, &node->n_outer)) {
            VTRN_RETURN_IF_ERROR(plan_densify(m->p, &node->source_view));
            node->at = node->source_view;
            VTRN_CHECK(view_split_at(&node->at, m->cols, &node->n_outer),
                       "a dense view can be cut");
        }
        bool is_col = view_is_repeated(node->at.f, node->n_outer) && m->cols != m->f->n;
        if (view_is_repeated(node->at.f + node->n_outer, node->at.n - node->n_outer)) {
            node->shape = NODE_ROW;
            node->at.n = node->n_outer;
        } else if (is_col && m->streams_cols) {
            node->at.n -= node->n_outer - 1;
            memmove(node->at.f + 1, node->at.f + node->n_outer,
                    (size_t)(node->at.n - 1) * sizeof *node->at.f);
            node->at.f[0] = (view_factor){m->f->n / m->cols, 0};
            node->n_outer = 1;
        } else if (is_col) {
            node->shape = NODE_COL;
            node->is_hoisted = true;
        }
    }
    node->n_row_blocks = 0;
    node->is_of_batch = node->shape == NODE_FULL && map_sides_repeat(m, &node->at);
    if (node->is_of_batch) {
        node->shape = NODE_COL;
        node->is_hoisted = true;
        return NULL;
    }
    if (node->shape == NODE_ROW && view_is_repeated(node->at.f, node->n_outer)) {
        node->is_hoisted = true;
        node->at.n = node->n_outer = 1;
        node->at.f[0] = (view_factor){tile_max_rows(m->p->chip), 0};
    } else if (node->shape == NODE_ROW && m->f->conv) { /* each row block is met again and again */
        node->is_hoisted = true;
        node->n_row_blocks = row_blocks(m);
    }
    return NULL;
}

static void shape_op(map_plan *m, fusion_node *node) {
    if (node->op == FUSION_CONTRACT || node->op == FUSION_CONV) {
        node->shape = NODE_FULL;
        return;
    }
    if (node->op == GRAPH_REDUCE) {
        node->shape = NODE_ROW;
        return;
    }
    bool is_row = node->is_reduced || !node->is_stored;
    for (int k = 0; k < node->n_in && !node->is_reduced; k++)
        if (node->in[k].node >= 0 && m->f->nodes[node->in[k].node].shape != NODE_ROW)
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

/* A value whose tile is free behind node i, for a result of its shape and type. What is loaded
 * would wait for the store of a result in its tile before. */
static bool is_reusable(const fusion *f, int i, int k) {
    const fusion_node *node = &f->nodes[i];
    const fusion_node *in = node->in[k].node < 0 ? NULL : &f->nodes[node->in[k].node];
    return in && in->shape == NODE_FULL && in->dtype == node->dtype && in->last_use == i &&
           !in->is_stored && !in->is_hoisted && !(node->is_stored && in->op == FUSION_LOAD) &&
           node->in[0].node != node->in[k].node && node->in[1].node != node->in[2].node;
}

/* Choices that are made in the tile of one of the values: the other one is copied over it. */
static void find_reuses(fusion *f) {
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        node->reuses = 0;
        if (!node->is_live || node->op != GRAPH_SELECT || node->shape != NODE_FULL ||
            node->in[0].node < 0)
            continue;
        node->reuses = is_reusable(f, i, 2) ? 2 : is_reusable(f, i, 1) ? 1 : 0;
    }
}

static vtrn_status shape_nodes(map_plan *m) {
    fusion *f = m->f;
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        node->is_in_pass = node->is_live;
        if (!node->is_live)
            continue;
        if (node->op == FUSION_LOAD)
            VTRN_RETURN_IF_ERROR(shape_load(m, node));
        else
            shape_op(m, node);
        if (node->is_stored && !m->is_flat) {
            node->at = node->store_view;
            node->n_outer = node->at.n;
            if (!node->is_reduced)
                VTRN_CHECK(view_split_at(&node->at, m->cols, &node->n_outer),
                           "a result can be cut into rows");
            if (node->is_column)
                node->n_outer = 0;
        }
    }
    fusion_fold(f, m->form == FUSION_WHOLE, &m->exit);
    find_last_uses(f);
    find_reuses(f);
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
        const fusion_node *reused = node->reuses ? &f->nodes[node->in[node->reuses].node] : NULL;
        int slot = node->op == FUSION_LOAD ? n : 0;
        while (slot < n && busy_until[slot] >= i)
            slot++;
        if (reused && reused->is_in_pass && !is_elsewhere(reused))
            slot = reused->slot;
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
            temps = fusion_is_tree_reduce(f, node) || fold_moments_takes_temp(f, node);
        else if (node->op < FUSION_LOAD && !node->is_exit)
            temps = elementwise_n_temps(f, node);
        n = temps > n ? temps : n;
    }
    return n;
}

static void add_const(void *ctx, double value, vtrn_dtype dtype) {
    map_plan *m = ctx;
    for (int i = 0; i < m->n_consts && i < FUSION_MAX_CONSTS; i++)
        if (fusion_const_is(&m->consts[i], value, dtype))
            return;
    if (m->n_consts < FUSION_MAX_CONSTS)
        m->consts[m->n_consts] = (fusion_const){.value = value, .dtype = (uint8_t)dtype};
    if (m->n_consts <= FUSION_MAX_CONSTS)
        m->n_consts++; /* one more than there is room for: the kernel is cut in two */
}

void map_place_in_buffers(map_plan *m) {
    uint32_t row_at = m->form == FUSION_PASSES ? 0 : m->size.row_base, col_at = 0;
    for (int i = 0; i < m->f->n_nodes; i++) {
        fusion_node *node = &m->f->nodes[i];
        if (node->is_live && node->shape == NODE_COL) {
            node->buffer_offset = col_at;
            col_at += m->size.slot_bytes;
        }
        if (!node->is_live || is_elsewhere(node))
            continue;
        if (node->shape == NODE_FULL) {
            node->buffer_offset = (uint32_t)node->slot * m->size.slot_bytes;
            continue;
        }
        node->buffer_offset = row_at;
        row_at += map_row_tile_bytes(m);
    }
}

int64_t fusion_row_step(const map_plan *m) {
    return m->f->row_step ? m->f->row_step : tile_max_rows(m->p->chip);
}

int64_t fusion_tile_rows(const map_plan *m, int64_t r) {
    int64_t end = m->f->n / m->cols, step = fusion_row_step(m), batch = m->f->batch_rows;
    if (batch)
        end = (r / batch + 1) * batch;
    return end - r < step ? end - r : step;
}

int64_t map_node_cols(const map_plan *m, const fusion_node *node) {
    return node->shape == NODE_ROW ? 1 : m->cols;
}

/* Whether several rows a partition make one stretch of columns. */
static bool is_side_by_side(const map_plan *m, const fusion_node *node) {
    return !m->is_flat || resident_pitch(node->dtype, m->cols) ==
                              (uint64_t)m->cols * dtype_size((vtrn_dtype)node->dtype);
}

/* Whether the resident has each tile that the load reads. Rows with a copy in fp32 beside them
 * are loaded: the copy could overwrite a neighbour. */
bool map_load_takes(const map_plan *m, const fusion_node *node, const resident *r) {
    view v = m->is_flat ? node->source_view : node->at;
    int n_outer = node->n_outer;
    tile row = {.dtype = node->dtype};
    if (m->form == FUSION_PASSES || m->f->n_side || !node->is_live || node->op != FUSION_LOAD ||
        node->is_hoisted || !m->cols || v.slot != r->slot || !is_side_by_side(m, node) ||
        (node->shape == NODE_ROW && (fusion_row_is_widened(&row) || node->has_negative)) ||
        (m->is_flat && !view_split_at(&v, m->cols, &n_outer)))
        return false;
    for (int64_t at = 0, rows; at < m->f->n / m->cols; at += rows) {
        rows = fusion_tile_rows(m, at);
        view_part part = {&v, n_outer, at, rows, 0, map_node_cols(m, node)};
        if (!resident_holds(r, &part, node->dtype, NULL))
            return false;
    }
    return true;
}

bool map_takes(const map_plan *m, const resident *r) {
    for (int i = 0; i < m->f->n_nodes; i++)
        if (map_load_takes(m, &m->f->nodes[i], r))
            return true;
    for (int i = 0; i < m->n_contracts; i++)
        if (contract_takes(&m->contracts[i], r))
            return true;
    return m->f->conv && conv_takes(&m->conv, r);
}

bool map_can_keep(const map_plan *m, const fusion_node *node) {
    return m->form != FUSION_PASSES && m->cols && node->is_live && node->is_stored &&
           !node->is_accumulated && !node->is_column && !node->is_hoisted &&
           !(m->f->n_side && node->shape == NODE_ROW) && is_side_by_side(m, node);
}

/* PSUM banks of the kernel's sums over its rows. */
static int sum_banks(const map_plan *m) {
    int n = 0;
    for (int i = 0; i < m->f->n_nodes; i++)
        if (m->f->nodes[i].is_live && m->f->nodes[i].is_column)
            n += fusion_sum_banks(m->p->chip, m->f, &m->f->nodes[i]);
    return n;
}

int map_least_banks(const map_plan *m) {
    int n = sum_banks(m) + (m->f->conv && !m->f->conv->is_pooling);
    for (int i = 0; i < m->n_contracts; i++) {
        contract_banks least = contract_least_banks(m->p->chip, m->contracts[i].spec);
        n += least.sums + least.turns;
    }
    return n;
}

static int start_pass(fusion *f, int pass) {
    fusion_enter_pass(f, pass);
    find_last_uses(f);
    return assign_slots(f);
}

void map_start_pass(map_plan *m, int pass) {
    start_pass(m->f, pass);
    map_place_in_buffers(m);
}

/* Tile buffers of an iteration, whatever its pass. */
static int count_slots(const map_plan *m) {
    int n_slots = 0;
    if (m->form != FUSION_PASSES)
        return assign_slots(m->f);
    for (int pass = 0; pass < m->n_passes; pass++) {
        int n = start_pass(m->f, pass);
        n_slots = n > n_slots ? n : n_slots;
    }
    return n_slots;
}

/* Of an element of the widest full tile, where no temporary may be wider. */
static uint32_t widest_element(const fusion *f) {
    uint32_t widest = 1;
    for (int i = 0; i < f->n_nodes; i++) {
        const fusion_node *node = &f->nodes[i];
        uint32_t size = (uint32_t)dtype_size((vtrn_dtype)node->dtype);
        if (node->is_live && size > widest)
            widest = size;
    }
    return count_temps(f) ? 0 : widest;
}

/* What the kernel holds in its form. */
static fusion_demand demand_of(map_plan *m) {
    const fusion *f = m->f;
    m->n_slots = count_slots(m);
    fusion_demand d = {.form = m->form,
                       .n_partitions = tile_max_rows(m->p->chip),
                       .is_flat = m->is_flat,
                       .has_whole_rows = m->n_contracts > 0,
                       .n = f->n,
                       .cols = f->n_side ? f->n_side * m->cols : m->cols,
                       .row_tile_bytes = map_row_tile_bytes(m),
                       .is_one_tile = m->form == FUSION_WHOLE && !m->is_flat && !f->n_side &&
                                      m->cols && fusion_tile_rows(m, 0) == f->n / m->cols,
                       .element_bytes = widest_element(f),
                       .n_full = m->n_slots + count_temps(f),
                       .fixed_bytes = (uint64_t)m->n_consts * FUSION_ROW_TILE_BYTES,
                       .max_abreast = m->p->options->has_no_pipeline ? 1 : FUSION_MAX_ABREAST};
    for (int i = 0; i < f->n_nodes; i++) {
        const fusion_node *node = &f->nodes[i];
        if (!node->is_live)
            continue;
        d.has_whole_rows |= node->op == GRAPH_REDUCE;
        d.n_cols += node->shape == NODE_COL;
        d.n_sums += node->is_column;
        d.n_wide_sums += fusion_is_wide_sum(f, node);
        if (node->shape == NODE_ROW && node->is_hoisted)
            d.fixed_bytes += map_held_bytes(node);
        d.n_rows += node->shape == NODE_ROW && !is_elsewhere(node);
    }
    d.max_cols = d.n_wide_sums ? psum_cols(m->p->chip) : 0;
    if (m->n_contracts && m->form == FUSION_COLUMN_BLOCKS)
        d.turn_cols = m->turn_cols;
    if (f->conv) {
        d.fixed_bytes += conv_bytes(&m->conv);
        d.has_fixed_cols = true;
        d.max_cols = m->conv.tile.chunk * m->conv.tile.inner;
    }
    return d;
}

uint64_t map_own_bytes(map_plan *m, uint64_t limit_bytes) {
    fusion_demand d = demand_of(m);
    return fusion_tiles(&d, limit_bytes).n_bytes;
}

uint64_t map_size(map_plan *m) {
    fusion_demand d = demand_of(m);
    for (int i = 0; i < m->n_contracts; i++)
        d.fixed_bytes += m->f->n_side ? map_sides_bytes(m) : contract_bytes(&m->contracts[i]);
    m->size = fusion_tiles(&d, m->p->sbuf_limit);
    return m->size.n_bytes;
}

/* A number that an activation adds is in memory, unless it is -0, which adds nothing. */
static void add_bias(map_plan *m, const fusion_node *node) {
    vtrn_act func;
    if (node->folds < 0 || !elementwise_activation_of(m->f, node, &func))
        return;
    folded_activation a = fold_activation_of(m->f, node);
    if (a.bias.node < 0 && !(a.bias.imm == 0 && signbit(a.bias.imm)))
        add_const(m, a.bias.imm, VTRN_DTYPE_FP32);
}

/* The constants that instructions take from memory, in addition to those that are known. */
static void find_consts(map_plan *m) {
    for (int i = 0; i < m->f->n_nodes; i++) {
        const fusion_node *node = &m->f->nodes[i];
        if (!node->is_live)
            continue;
        if (node->op < FUSION_LOAD && node->op != GRAPH_REDUCE)
            elementwise_for_consts(m->f, node, add_const, m);
        add_bias(m, node);
    }
    /* fp32 and bf16 do not mix in a matmul: the ones of column sums have the operand's type */
    for (int i = 0; i < m->f->n_nodes; i++) {
        const fusion_node *node = &m->f->nodes[i];
        if (node->is_live && node->is_column)
            add_const(m, 1, (vtrn_dtype)m->f->nodes[node->in[0].node].dtype);
    }
}

bool fusion_has_row_reduction(const fusion *f) {
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
static vtrn_status size_blocks(map_plan *m, fusion_form form, bool streams_cols) {
    m->form = form;
    m->streams_cols = streams_cols;
    VTRN_RETURN_IF_ERROR(shape_nodes(m));
    find_consts(m);
    m->n_passes = form == FUSION_PASSES ? fusion_find_stages(m->f) : 1;
    map_size(m);
    return NULL;
}

/* The kernel in blocks of columns, of another cut unless a reduction has chosen it. Column operands
 * are held for several row blocks, where there are some and that leaves half of SBUF to the
 * tiles. */
static vtrn_status cut_columns(map_plan *m) {
    fusion *f = m->f;
    fusion_form form = fusion_has_row_reduction(f) ? FUSION_PASSES : FUSION_COLUMN_BLOCKS;
    if (m->is_flat)
        m->cols = 0;
    else if (!f->cols)
        fusion_choose_cut(m);
    bool has_row_blocks = !m->is_flat && f->n / m->cols > fusion_row_step(m);
    if (has_row_blocks) {
        VTRN_RETURN_IF_ERROR(size_blocks(m, form, false));
        uint64_t held = m->size.n_bytes - (uint64_t)m->size.n_buffers * m->size.iter_bytes;
        if (m->size.n_bytes <= m->p->sbuf_limit && 2 * held <= m->p->sbuf_limit)
            return NULL;
    }
    return size_blocks(m, form, true);
}

/* Tiles are those of the convolution, which is cut smaller until the kernel fits. */
static vtrn_status size_conv(map_plan *m) {
    m->form = FUSION_COLUMN_BLOCKS;
    m->streams_cols = false;
    m->n_passes = 1;
    VTRN_RETURN_IF_ERROR(shape_nodes(m));
    conv_start(m->p->chip, m->f->conv, &m->conv);
    while (map_size(m) > m->p->sbuf_limit && conv_shrink(&m->conv))
        continue;
    return NULL;
}

/* Passes compute again what they need; beyond this, the way through HBM is shorter. */
static bool repeats_too_much(map_plan *m) {
    enum { MAX_REPEATS = 3 /* of a node, on average: assumed */ };
    int n_once = 0;
    for (int i = 0; i < m->f->n_nodes; i++)
        n_once += m->f->nodes[i].is_live && m->f->nodes[i].shape == NODE_FULL;
    return m->form == FUSION_PASSES &&
           fusion_work_of_passes(m->f, m->n_passes) > MAX_REPEATS * (n_once + m->n_passes);
}

/* Loads that would move element by element are turned once, into memory. */
static vtrn_status turn_loads(map_plan *m) {
    for (int i = 0; i < m->f->n_nodes; i++) {
        fusion_node *node = &m->f->nodes[i];
        if (node->is_live && node->op == FUSION_LOAD && !node->is_reduced &&
            turn_helps(m->p, &node->source_view))
            VTRN_RETURN_IF_ERROR(plan_densify(m->p, &node->source_view));
    }
    return NULL;
}

/* The rows in which later kernels may find the results in SBUF. */
static vtrn_status note_rows(map_plan *m) {
    for (int i = 0; i < m->f->n_nodes; i++) {
        const fusion_node *node = &m->f->nodes[i];
        if (map_can_keep(m, node))
            VTRN_RETURN_IF_ERROR(
                plan_row_cols_set(m->p, node->store_view.slot, map_node_cols(m, node)));
    }
    return NULL;
}

static vtrn_status shape_anew(map_plan *m) {
    m->n_consts = 0;
    VTRN_RETURN_IF_ERROR(shape_nodes(m));
    find_consts(m);
    return NULL;
}

/* Batches side by side, where they are small and that fits. */
static vtrn_status layout_sides(map_plan *m) {
    if (!map_choose_sides(m))
        return NULL;
    VTRN_RETURN_IF_ERROR(shape_anew(m));
    if (m->n_consts <= FUSION_MAX_CONSTS && map_size(m) <= m->p->sbuf_limit)
        return NULL;
    m->f->n_side = 0;
    return shape_anew(m);
}

vtrn_status map_layout(map_plan *m, bool *fits) {
    mark_live(m->f);
    VTRN_RETURN_IF_ERROR(turn_loads(m));
    fusion_choose_cols(m);
    VTRN_RETURN_IF_ERROR(shape_nodes(m));
    find_consts(m);
    *fits = m->n_consts <= FUSION_MAX_CONSTS;
    if (!*fits)
        return NULL;
    if (m->f->conv) {
        VTRN_RETURN_IF_ERROR(size_conv(m));
        *fits = m->size.n_bytes <= m->p->sbuf_limit;
        return *fits ? note_rows(m) : NULL;
    }
    map_start_contracts(m);
    VTRN_RETURN_IF_ERROR(layout_sides(m));
    if (m->f->n_contracts && !m->f->n_side && !map_layout_contracts(m)) {
        *fits = false;
        return NULL;
    }
    map_size(m);
    if (m->n_contracts == 0 && (m->size.n_bytes > m->p->sbuf_limit || has_wide_sum(m->f)))
        VTRN_RETURN_IF_ERROR(cut_columns(m));
    *fits = m->size.n_bytes <= m->p->sbuf_limit && m->n_consts <= FUSION_MAX_CONSTS &&
            !repeats_too_much(m);
    return *fits ? note_rows(m) : NULL;
}
