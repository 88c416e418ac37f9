/* Map kernels: the loop over tiles, unrolled. */
#include "compiler/emit/elementwise_parts.h"
#include "compiler/emit/emit_contract.h"
#include "compiler/emit/emit_conv.h"
#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/emit_sides.h"
#include "compiler/emit/emit_transfer.h"
#include "compiler/plan/fusion_fold.h"
#include "compiler/plan/fusion_sums.h"
#include "compiler/plan/map_plan.h"
#include "compiler/plan/resident.h"

#include <string.h>

/* A map kernel that is being emitted. */
typedef struct map_work {
    emitter *e;
    map_plan *m;
    fusion *f; /* of the plan */
    emit_env env;
    uint32_t iter_base[FUSION_MAX_BUFFERS];
    uint32_t col_base[2]; /* FUSION_COLUMN_BLOCKS: of the column operands' buffers */
    uint32_t row_base[2]; /* FUSION_PASSES: of the buffers of values of one a row */
    contract_work *contracts;
    sides_work sides; /* where batches are side by side: of the one contraction */
    conv_work conv;
    int64_t row_block; /* of the turn at hand */
} map_work;

static vtrn_status fill(emitter *e, const tile *t, uint32_t rows, double value) {
    EMIT(set, e, MEMSET, VECTOR);
    set->ap[0] = tile_ap(t, rows, 1);
    if (t->dtype == VTRN_DTYPE_INT32 || t->dtype == VTRN_DTYPE_UINT32)
        set->imm[0].bits = (uint32_t)(int64_t)value;
    else
        set->imm[0].f = (float)value;
    return NULL;
}

/* After a row's tile was written: its copy in fp32, when an op may take it as a scalar, and its
 * negative, when an activation takes it as a bias. */
static vtrn_status widen_row(emitter *e, const fusion_node *node, uint32_t rows) {
    if (node->is_only_negative)
        return NULL;
    if (node->has_negative) {
        tile negative = fusion_negative_row(&node->t);
        vtrn_ap to = tile_ap(&negative, rows, 1), from = tile_ap(&node->t, rows, 1);
        VTRN_RETURN_IF_ERROR(
            emit_scalars(e, VTRN_ENGINE_VECTOR, &to, &from, STEP(MULTIPLY, -1), STEP_NONE));
    }
    if (node->shape != NODE_ROW || !node->is_used || !fusion_row_is_widened(&node->t))
        return NULL;
    tile wide = fusion_wide_row(&node->t);
    EMIT(copy, e, TENSOR_COPY, VECTOR);
    copy->ap[0] = tile_ap(&wide, rows, 1);
    copy->ap[1] = tile_ap(&node->t, rows, 1);
    return NULL;
}

/* Columns [c, c + n) of a column operand, on as many partitions as a tile has rows. */
static vtrn_status load_columns(map_work *x, const fusion_node *node, int64_t rows, int64_t c,
                                int64_t n) {
    view v = node->at;
    int n_cols = v.n - node->n_outer;
    memmove(v.f + 1, v.f + node->n_outer, (size_t)n_cols * sizeof *v.f);
    v.f[0] = (view_factor){rows, 0};
    v.n = n_cols + 1;
    return emit_load(x->e, &(view_part){&v, 1, 0, rows, c, n}, &node->t);
}

/* PSUM for contractions and column sums. */
static vtrn_status place_contracts_and_sums(map_work *x) {
    contract_banks share[FUSION_MAX_CONTRACTS];
    map_share_banks(x->m, share);
    if (x->f->conv)
        return conv_work_begin(x->e, &x->m->conv, &x->conv);
    if (x->f->n_side)
        return sides_work_begin(x->e, x->m->contracts, &x->m->sides, share[0], &x->sides);
    x->contracts = ARENA_NEW(&x->e->tmp, contract_work, (size_t)x->m->n_contracts);
    if (!x->contracts && x->m->n_contracts)
        return VTRN_OUT_OF_MEMORY(sizeof *x->contracts);
    for (int i = 0; i < x->m->n_contracts; i++)
        VTRN_RETURN_IF_ERROR(
            contract_work_begin(x->e, &x->m->contracts[i], share[i], &x->contracts[i]));
    for (int i = 0; i < x->f->n_nodes; i++) {
        fusion_node *node = &x->f->nodes[i];
        if (node->is_live && node->is_column)
            VTRN_RETURN_IF_ERROR(
                psum_take(x->e, fusion_sum_banks(x->e->chip, x->f, node), &node->banks));
    }
    return NULL;
}

/* Addresses of tiles and banks in what placement gave to the kernel. */
static vtrn_status place_map_tiles(map_work *x) {
    emitter *e = x->e;
    fusion *f = x->f;
    map_plan *m = x->m;
    uint64_t row_bytes = (uint64_t)m->cols * 4;
    uint64_t col_bytes = m->form == FUSION_COLUMN_BLOCKS ? 0 : row_bytes;
    uint64_t sum_bytes = m->form == FUSION_WHOLE ? row_bytes : 0;
    uint64_t wide_bytes = m->size.slot_bytes;
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live)
            continue;
        node->t = (tile){.space = VTRN_SPACE_SBUF, .dtype = node->dtype};
        if (node->is_hoisted || node->is_column)
            node->t.addr = emit_sbuf_alloc(e, fusion_is_wide_sum(f, node) ? wide_bytes
                                              : node->is_column           ? sum_bytes
                                              : node->shape == NODE_COL   ? col_bytes
                                                                          : map_held_bytes(node));
        node->row_addr = node->t.addr;
    }
    VTRN_RETURN_IF_ERROR(place_contracts_and_sums(x));
    for (int i = 0; i < m->n_consts; i++) {
        fusion_const *c = &m->consts[i];
        c->t = (tile){.space = VTRN_SPACE_SBUF, .dtype = c->dtype, .addr = emit_sbuf_alloc(e, 4)};
    }
    for (int b = 0; b < m->size.n_buffers; b++)
        x->iter_base[b] = emit_sbuf_alloc(e, m->size.iter_bytes);
    for (int b = 0; b < m->size.n_col_buffers; b++)
        x->col_base[b] = emit_sbuf_alloc(e, m->size.col_bytes);
    for (int b = 0; b < m->size.n_row_buffers; b++)
        x->row_base[b] = emit_sbuf_alloc(e, m->size.row_bytes);
    map_place_in_buffers(m);
    return NULL;
}

/* Values of one a row that are loaded before the loop: the same for all row blocks, or a tile for
 * each. */
static vtrn_status load_rows_once(map_work *x, fusion_node *node, int64_t rows) {
    int64_t n_rows = node->n_row_blocks ? x->f->n / x->m->cols : rows;
    int64_t step = node->n_row_blocks ? fusion_row_step(x->m) : rows;
    for (int64_t r = 0; r < n_rows; r += step) {
        int64_t n = n_rows - r < step ? n_rows - r : step;
        node->t.addr = node->row_addr + (uint32_t)(r / step) * FUSION_ROW_TILE_BYTES;
        VTRN_RETURN_IF_ERROR(
            emit_load(x->e, &(view_part){&node->at, node->n_outer, r, n, 0, 1}, &node->t));
        VTRN_RETURN_IF_ERROR(widen_row(x->e, node, (uint32_t)n));
    }
    return NULL;
}

/* Batches [batch, batch + n) of a tile, from memory or to it. */
static vtrn_status move_sides(map_work *x, const fusion_node *node, int64_t batch, int64_t n) {
    view v;
    sides_view cut;
    int64_t n_cols = node->shape == NODE_ROW ? 1 : x->m->cols;
    VTRN_CHECK(map_sides_cut(x->m, &node->at, n_cols, &v, &cut),
               "batches are side by side where their tensors can be cut");
    return node->op == FUSION_LOAD ? emit_sides_load(x->e, &cut, batch, n, &node->t)
                                   : emit_sides_store(x->e, &cut, batch, n, &node->t);
}

/* What does not change from tile to tile. */
static vtrn_status emit_hoisted(map_work *x) {
    fusion *f = x->f;
    int64_t most = tile_max_rows(x->e->chip), rows = x->m->is_flat ? f->n : f->n / x->m->cols;
    rows = rows < most ? rows : most; /* of the largest tile */
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live || !node->is_hoisted)
            continue;
        x->e->build->source = node->source;
        if (node->is_of_batch) {
            VTRN_RETURN_IF_ERROR(move_sides(x, node, 0, 1));
        } else if (node->shape == NODE_COL && x->m->form != FUSION_COLUMN_BLOCKS) {
            VTRN_RETURN_IF_ERROR(load_columns(x, node, rows, 0, x->m->cols));
        } else if (node->shape == NODE_ROW) {
            VTRN_RETURN_IF_ERROR(load_rows_once(x, node, rows));
        }
    }
    for (int i = 0; i < x->m->n_consts; i++)
        VTRN_RETURN_IF_ERROR(fill(x->e, &x->m->consts[i].t, (uint32_t)rows, x->m->consts[i].value));
    return NULL;
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
static vtrn_ap columns(const map_work *x, const fusion_node *node, uint32_t from, uint32_t n) {
    if (node->shape != NODE_ROW)
        return tile_ap_cols(&node->t, x->env.rows,
                            node->shape == NODE_COL ? x->env.col0 + from : from, n);
    vtrn_ap ap = tile_ap(&node->t, x->env.rows, n);
    ap.dim[0].step = 0;
    return ap;
}

/* Columns from c on, `end` at most, whose sums are in one PSUM bank. A wide sum has one bank, for
 * the block of columns that begins at c. */
static uint32_t bank_part(const map_work *x, const fusion_node *node, int64_t c, int64_t end) {
    int64_t bank_cols = psum_cols(x->e->chip), bank_end = (c / bank_cols + 1) * bank_cols;
    return (uint32_t)((end < bank_end || fusion_is_wide_sum(x->f, node) ? end : bank_end) - c);
}

static vtrn_ap bank_ap(const map_work *x, const fusion_node *node, int64_t c, uint32_t n) {
    int64_t bank_cols = psum_cols(x->e->chip);
    int64_t at = fusion_is_wide_sum(x->f, node) ? c % x->m->size.tile_cols : c;
    tile bank = psum_tile(x->e, &node->banks, (int)(at / bank_cols));
    return tile_ap_cols(&bank, 1, (uint32_t)(at % bank_cols), n);
}

/* The one sum of what is constant along the rows, for each of n columns. */
static vtrn_ap constant_ap(const map_work *x, const fusion_node *node, int64_t n) {
    vtrn_ap ap = bank_ap(x, node, 0, 1);
    ap.dim[0] = (vtrn_dim){0, (uint32_t)n};
    return ap;
}

/* A share of a column sum: ones^T @ tile, accumulated in PSUM over the row tiles. */
static vtrn_status emit_column_sum(map_work *x, fusion_node *node, const tile_turn *turn) {
    const fusion_node *from = &x->f->nodes[node->in[0].node];
    const tile *ones = NULL;
    VTRN_RETURN_IF_ERROR(elementwise_const_tile(&x->env, 1, from->dtype, &ones));
    EMIT(weights, x->e, LDWEIGHTS, TENSOR);
    weights->ap[1] = tile_ap(ones, x->env.rows, 1);
    bool is_row = from->shape == NODE_ROW;
    int64_t begin = is_row ? 0 : turn->c, end = is_row ? 1 : turn->c + turn->cols;
    for (int64_t c = begin; c < end;) {
        uint32_t n = bank_part(x, node, c, end);
        EMIT(sum, x->e, MATMUL, TENSOR);
        sum->ap[0] = bank_ap(x, node, c, n);
        sum->ap[1] =
            is_row ? tile_ap(&from->t, x->env.rows, 1) : columns(x, from, (uint32_t)(c - begin), n);
        sum->flags =
            (turn->r == 0 ? 0 : VTRN_FLAG_ACCUMULATE) | (turn->is_last ? VTRN_FLAG_LAST : 0);
        c += n;
    }
    return NULL;
}

/* Columns [c, c + n) of a column sum: from PSUM to HBM, by way of a tile. What is constant along
 * the rows has one sum for all columns. */
static vtrn_status finish_column_part(map_work *x, const fusion_node *node, int64_t c, int64_t n,
                                      const tile *t) {
    bool is_constant = x->f->nodes[node->in[0].node].shape == NODE_ROW;
    int64_t n_sums = view_count(&node->at), n_parts = node->is_total ? 1 : x->m->cols / n_sums;
    if (n_parts > 1) { /* a row of the fusion is several of what was summed up */
        EMIT(fold, x->e, TENSOR_REDUCE, VECTOR);
        fold->op0 = VTRN_ALU_ADD;
        fold->arg[0] = 1;
        fold->ap[0] = tile_ap(t, 1, (uint32_t)n);
        fold->ap[1] = is_constant ? constant_ap(x, node, n) : bank_ap(x, node, c, (uint32_t)n);
        fold->ap[1].dim[fold->ap[1].n_dims++] =
            (vtrn_dim){is_constant ? 0 : (int32_t)n_sums, (uint32_t)n_parts};
        return emit_store(x->e, &(view_part){&node->at, 0, 0, 1, c, n}, t, false);
    }
    for (int64_t at = c; at < c + n;) {
        uint32_t part = is_constant ? (uint32_t)n : bank_part(x, node, at, c + n);
        EMIT(copy, x->e, TENSOR_COPY, VECTOR);
        copy->ap[0] = tile_ap_cols(t, 1, (uint32_t)(at - c), part);
        copy->ap[1] = is_constant ? constant_ap(x, node, n) : bank_ap(x, node, at, part);
        at += part;
    }
    return emit_store(x->e, &(view_part){&node->at, 0, 0, 1, c, n}, t, false);
}

/* The wide sums of a block of columns. */
static vtrn_status finish_column_block(map_work *x, const tile_turn *turn) {
    for (int i = 0; i < x->f->n_nodes; i++) {
        const fusion_node *node = &x->f->nodes[i];
        if (!node->is_live || !fusion_is_wide_sum(x->f, node))
            continue;
        x->e->build->source = node->source;
        VTRN_RETURN_IF_ERROR(finish_column_part(x, node, turn->c, turn->cols, &node->t));
    }
    return NULL;
}

static vtrn_status finish_column_sum(map_work *x, const fusion_node *node) {
    int64_t n_sums = view_count(&node->at), step = n_sums;
    tile t = node->t;
    x->e->build->source = node->source;
    if (x->m->form != FUSION_WHOLE) { /* the loop is over: its buffers are free */
        t.addr = x->iter_base[0];
        step = x->m->size.tile_cols;
    }
    for (int64_t c = 0; c < n_sums; c += step)
        VTRN_RETURN_IF_ERROR(
            finish_column_part(x, node, c, n_sums - c < step ? n_sums - c : step, &t));
    return NULL;
}

static vtrn_engine tree_engine(vtrn_alu op) {
    return isa_alu_class(op) == 'B' ? VTRN_ENGINE_VECTOR : VTRN_ENGINE_GPSIMD;
}

static vtrn_status emit_tree_reduce(map_work *x, const fusion_node *node, const tile *to) {
    const fusion_node *from = &x->f->nodes[node->in[0].node];
    vtrn_alu op = reduce_alu(node, true);
    tile partial = x->env.temps[0];
    partial.dtype = from->dtype;
    for (uint32_t n = x->env.cols, is_first = 1; is_first || n > 1; is_first = 0) {
        uint32_t half = n / 2, kept = n - half; /* an odd middle column stays as it is */
        vtrn_ap low =
            is_first ? columns(x, from, 0, half) : tile_ap_cols(&partial, x->env.rows, 0, half);
        vtrn_ap high = is_first ? columns(x, from, kept, half)
                                : tile_ap_cols(&partial, x->env.rows, kept, half);
        if (half) {
            vtrn_ap dst = kept == 1 ? tile_ap(to, x->env.rows, 1)
                                    : tile_ap_cols(&partial, x->env.rows, 0, half);
            VTRN_RETURN_IF_ERROR(emit_tensor_tensor(x->e, tree_engine(op), op, &dst, &low, &high));
        }
        if (kept > half && (is_first || !half)) {
            EMIT(copy, x->e, TENSOR_COPY, VECTOR);
            copy->ap[0] =
                half ? tile_ap_cols(&partial, x->env.rows, half, 1) : tile_ap(to, x->env.rows, 1);
            copy->ap[1] =
                is_first ? columns(x, from, half, 1) : tile_ap_cols(&partial, x->env.rows, half, 1);
        }
        n = kept;
    }
    return NULL;
}

/* Mean and variance of whole rows, by way of the statistics of parts. */
static vtrn_status emit_moments(map_work *x, const fusion_node *node) {
    const fusion_node *from = &x->f->nodes[node->in[0].node];
    uint32_t cols = x->env.cols, n_parts = (uint32_t)fold_moments_parts(cols);
    uint32_t part_cols = (cols + n_parts - 1) / n_parts;
    tile stats = fold_moments_takes_temp(x->f, node) ? x->env.temps[0] : node->t;
    if (stats.addr == node->t.addr)
        stats.addr += MOMENTS_STATS_AT;
    stats.dtype = VTRN_DTYPE_FP32;
    for (uint32_t i = 0; i < n_parts; i++) {
        uint32_t c = i * part_cols, n = cols - c < part_cols ? cols - c : part_cols;
        EMIT(part, x->e, BN_STATS, VECTOR);
        part->ap[0] = tile_ap_cols(&stats, x->env.rows, i * MOMENTS_STATS, MOMENTS_STATS);
        part->ap[1] = columns(x, from, c, n);
    }
    EMIT(whole, x->e, BN_AGGR, VECTOR);
    whole->ap[0] = tile_ap(&node->t, x->env.rows, 2);
    whole->ap[1] = tile_ap(&stats, x->env.rows, n_parts * MOMENTS_STATS);
    return NULL;
}

/* A mean or variance, out of the tile that has both. */
static vtrn_status take_moment(map_work *x, const fusion_node *node) {
    const fusion_node *moments = &x->f->nodes[node->moments];
    tile from = moments->t;
    if (node->in[0].node != node->moments)
        from = fusion_variance_row(&from);
    vtrn_ap src = tile_ap(&from, x->env.rows, 1), dst = tile_ap(&node->t, x->env.rows, 1);
    return emit_scaled(x->e, &dst, &src, 1, NULL);
}

/* Whether Scalar may add up the rows of a node, as it copies its tile onto itself. */
static bool may_sum_on_scalar(const map_work *x, const fusion_node *node) {
    const fusion_node *from = &x->f->nodes[node->in[0].node];
    return node->reducer == GRAPH_REDUCER_ADD && !node->is_only_negative && !x->f->n_side &&
           from->shape == NODE_FULL && from->op != FUSION_LOAD && !from->is_stored &&
           !from->is_hoisted && !from->taken && x->m->form == FUSION_WHOLE &&
           dtype_is_float((vtrn_dtype)from->dtype) && dtype_is_float((vtrn_dtype)node->dtype);
}

static vtrn_status emit_sum_on_scalar(map_work *x, const fusion_node *node, const tile *to) {
    const fusion_node *from = &x->f->nodes[node->in[0].node];
    EMIT(copy, x->e, ACTIVATE, SCALAR);
    copy->func = VTRN_ACT_COPY;
    copy->flags = VTRN_FLAG_ACCUMULATE | VTRN_FLAG_RESET;
    copy->ap[0] = copy->ap[1] = columns(x, from, 0, x->env.cols);
    copy->imm[0].f = 1;
    copy->imm[1].f = -0.0f; /* the one bias that keeps the sign of a zero */
    EMIT(read, x->e, ACT_READ_ACCUMULATOR, SCALAR);
    read->ap[0] = tile_ap(to, x->env.rows, 1);
    return NULL;
}

/* A value for each row of each batch. */
static void reduce_each_batch(const map_work *x, const fusion_node *from, vtrn_instr *reduce) {
    uint32_t n_cols = x->env.cols / x->env.n_side;
    bool is_row = from->shape == NODE_ROW, is_once = is_row && from->is_hoisted;
    reduce->ap[0].dim[0].num = x->env.n_side;
    reduce->ap[1].n_dims = 2;
    reduce->ap[1].dim[0] = (vtrn_dim){is_once ? 0 : is_row ? 1 : (int32_t)n_cols, x->env.n_side};
    reduce->ap[1].dim[1] = (vtrn_dim){is_row ? 0 : 1, n_cols};
}

/* The columns at hand into a tile of one value a row. */
static vtrn_status emit_reduce_to(map_work *x, const fusion_node *node, const tile *to) {
    const fusion_node *from = &x->f->nodes[node->in[0].node];
    if (fusion_is_tree_reduce(x->f, node))
        return emit_tree_reduce(x, node, to);
    if (may_sum_on_scalar(x, node) && emit_scalar_is_lighter(x->e))
        return emit_sum_on_scalar(x, node, to);
    EMIT(reduce, x->e, TENSOR_REDUCE, VECTOR);
    reduce->op0 = (uint8_t)reduce_alu(node, false);
    reduce->arg[0] = 1;
    reduce->flags = node->is_only_negative ? VTRN_FLAG_NEGATE : 0;
    reduce->ap[0] = tile_ap(to, x->env.rows, 1);
    reduce->ap[1] = columns(x, from, 0, x->env.cols);
    if (x->env.n_side)
        reduce_each_batch(x, from, reduce);
    return NULL;
}

/* Where a reduction adds up all blocks of columns. Floats narrower than fp32 add up in the fp32
 * tile beside the row's own. */
static tile sum_tile(const map_work *x, const fusion_node *node) {
    bool is_wide = x->m->form == FUSION_PASSES && fusion_row_is_widened(&node->t);
    return is_wide ? fusion_wide_row(&node->t) : node->t;
}

/* Where it puts a block's share: the first one's is the sum so far. */
static tile part_tile(const map_work *x, const fusion_node *node, const tile_turn *turn) {
    enum { PART_AT = 16 /* bytes behind the sum: room in a tile of one value a row */ };
    tile part = sum_tile(x, node);
    if (x->m->form == FUSION_PASSES && turn->c > 0)
        part.addr += PART_AT;
    return part;
}

/* Joins a block's share with those of the blocks before it. */
static vtrn_status join_part(map_work *x, const fusion_node *node, const tile_turn *turn) {
    tile sum = sum_tile(x, node), part = part_tile(x, node, turn);
    vtrn_ap to = tile_ap(&sum, x->env.rows, 1), more = tile_ap(&part, x->env.rows, 1);
    if (part.addr != sum.addr) {
        bool is_tree = fusion_is_tree_reduce(x->f, node);
        vtrn_alu op = reduce_alu(node, is_tree);
        VTRN_RETURN_IF_ERROR(emit_tensor_tensor(
            x->e, is_tree ? tree_engine(op) : VTRN_ENGINE_VECTOR, op, &to, &to, &more));
    }
    if (sum.addr == node->t.addr || !turn->is_row_end)
        return NULL;
    vtrn_ap rounded = tile_ap(&node->t, x->env.rows, 1);
    return emit_copy(x->e, &rounded, &to);
}

/* The sum of each row of an activation, which the engine has in a register. Tiles abreast may be
 * blocks of one row: the next one's share is added when this one has joined. */
static vtrn_status read_accumulator(map_work *x, const fusion_node *node, const tile_turn *turn) {
    const fusion_node *sum = node->sum < 0 ? NULL : &x->f->nodes[node->sum];
    if (!sum || !sum->is_in_pass)
        return NULL;
    tile part = part_tile(x, sum, turn);
    EMIT(read, x->e, ACT_READ_ACCUMULATOR, SCALAR);
    read->ap[0] = tile_ap(&part, x->env.rows, 1);
    return join_part(x, sum, turn);
}

/* A reduction's share of a block of columns, unless the instruction that made its terms added them
 * up. */
static vtrn_status emit_row_reduce(map_work *x, const fusion_node *node, const tile_turn *turn) {
    if (node->is_summed)
        return NULL;
    if (node->is_moments)
        return emit_moments(x, node);
    if (node->is_only_negative) {
        tile negative = fusion_negative_row(&node->t);
        return emit_reduce_to(x, node, &negative);
    }
    tile part = part_tile(x, node, turn);
    VTRN_RETURN_IF_ERROR(emit_reduce_to(x, node, &part));
    return join_part(x, node, turn);
}

/* The turn's part of a dense tensor, as rows of the tile and n_blocks x columns. */
static view turn_view(const view *v, const tile_turn *turn) {
    int64_t cols = turn->cols / turn->n_blocks;
    view part = {.slot = v->slot,
                 .dtype = v->dtype,
                 .offset = v->offset + turn->r * turn->row_cols,
                 .n = 3,
                 .f = {{turn->rows, cols}, {turn->n_blocks, turn->rows * cols}, {cols, 1}}};
    return part;
}

static vtrn_status load_node(map_work *x, const fusion_node *node, const tile_turn *turn) {
    if (x->f->n_side)
        return move_sides(x, node, turn->r / turn->rows, turn->n_blocks);
    if (!node->taken && x->m->is_flat) {
        view part = turn_view(&node->source_view, turn);
        VTRN_RETURN_IF_ERROR(
            emit_load(x->e, &(view_part){&part, 1, 0, turn->rows, 0, turn->cols}, &node->t));
    } else if (!node->taken) {
        bool is_row = node->shape == NODE_ROW;
        VTRN_RETURN_IF_ERROR(emit_load(x->e,
                                       &(view_part){&node->at, node->n_outer, turn->r, turn->rows,
                                                    is_row ? 0 : turn->c, is_row ? 1 : turn->cols},
                                       &node->t));
    }
    return widen_row(x->e, node, turn->rows);
}

static vtrn_status store_node(map_work *x, const fusion_node *node, const tile_turn *turn) {
    if (x->f->n_side)
        return move_sides(x, node, turn->r / turn->rows, turn->n_blocks);
    if (x->m->is_flat) {
        view part = turn_view(&node->store_view, turn);
        return emit_store(x->e, &(view_part){&part, 1, 0, turn->rows, 0, turn->cols}, &node->t,
                          node->is_accumulated);
    }
    bool is_row = node->shape == NODE_ROW;
    return emit_store(x->e,
                      &(view_part){&node->at, node->n_outer, turn->r, turn->rows,
                                   is_row ? 0 : turn->c, is_row ? 1 : turn->cols},
                      &node->t, node->is_accumulated);
}

/* The tile of a convolution becomes that of the node. */
static vtrn_status emit_exit(map_work *x, const fusion_node *node, const tile_turn *turn) {
    const conv_exit *exit = &x->m->exit;
    conv_part part = {turn->r, turn->c, turn->rows, turn->cols};
    conv_leave how = {.scale_imm = exit->scale_imm,
                      .is_relu = exit->is_relu,
                      .source = x->f->nodes[exit->sum].source};
    if (exit->scale >= 0)
        how.scale = elementwise_scalar_ap(&x->f->nodes[exit->scale].t, turn->rows);
    if (exit->bias >= 0)
        how.bias = elementwise_scalar_ap(&x->f->nodes[exit->bias].t, turn->rows);
    if (exit->other >= 0)
        how.other = tile_ap(&x->f->nodes[exit->other].t, turn->rows, turn->cols);
    return conv_work_tile(&x->conv, &part, &how, &node->t);
}

static vtrn_status emit_pooling(map_work *x, const fusion_node *node, const tile_turn *turn) {
    conv_part part = {turn->r, turn->c, turn->rows, turn->cols};
    return conv_work_pool(&x->conv, &part, &node->t);
}

/* The sums of all batches of a tile, for the node that reads them in PSUM or into their tile. */
static vtrn_status emit_sides(map_work *x, const fusion_node *node, int contract,
                              const tile_turn *turn) {
    fusion_node *product = &x->f->nodes[contract];
    tile bank;
    x->e->build->source = product->source;
    VTRN_RETURN_IF_ERROR(sides_work_sums(&x->sides, turn->r / turn->rows, &bank));
    x->e->build->source = node->source;
    if (node == product) {
        vtrn_ap to = tile_ap(&node->t, turn->rows, turn->cols);
        vtrn_ap from = tile_ap(&bank, turn->rows, turn->cols);
        return emit_scaled(x->e, &to, &from, 1, NULL);
    }
    product->t = bank;
    return elementwise_emit(&x->env, node);
}

/* A node that takes the sums of a contraction where they are, in PSUM, as they are made. */
static vtrn_status emit_on_sums(map_work *x, const fusion_node *node, int contract,
                                const tile_turn *turn) {
    fusion_node *product = &x->f->nodes[contract];
    contract_part part = {turn->r, turn->rows, turn->c, turn->cols};
    contract_sums sums = {0};
    for (uint32_t done = 0; done < turn->cols; done += sums.n_cols) {
        x->e->build->source = product->source;
        VTRN_RETURN_IF_ERROR(
            contract_work_sums(&x->contracts[product->contract], &part, done, &sums));
        x->e->build->source = node->source;
        for (uint32_t n = 0; n < sums.n_cols; n += sums.bank_cols) {
            uint32_t left = sums.n_cols - n;
            product->t = sums.banks[n / sums.bank_cols];
            x->env.first = done + n;
            x->env.cols = left < sums.bank_cols ? left : sums.bank_cols;
            VTRN_RETURN_IF_ERROR(elementwise_emit(&x->env, node));
        }
    }
    x->env.first = 0;
    x->env.cols = turn->cols;
    return NULL;
}

static vtrn_status emit_node(map_work *x, fusion_node *node, const tile_turn *turn) {
    if (node->op == FUSION_LOAD)
        return load_node(x, node, turn);
    if (node->is_column)
        return emit_column_sum(x, node, turn);
    if (node->op == FUSION_CONTRACT && x->f->n_side)
        return emit_sides(x, node, (int)(node - x->f->nodes), turn);
    if (node->op == FUSION_CONTRACT)
        return contract_work_tile(&x->contracts[node->contract],
                                  &(contract_part){turn->r, turn->rows, turn->c, turn->cols},
                                  &node->t);
    if (node->is_exit)
        return emit_exit(x, node, turn);
    if (node->op == FUSION_CONV)
        return emit_pooling(x, node, turn);
    if (node->op == GRAPH_REDUCE)
        return emit_row_reduce(x, node, turn);
    if (node->moments >= 0)
        return take_moment(x, node);
    int contract = fold_contract_of(x->f, node);
    if (contract >= 0 && x->f->n_side)
        return emit_sides(x, node, contract, turn);
    if (contract >= 0)
        return emit_on_sums(x, node, contract, turn);
    VTRN_RETURN_IF_ERROR(elementwise_emit(&x->env, node));
    return read_accumulator(x, node, turn);
}

/* What is done with a node's tile behind the node's own instructions. */
static vtrn_status finish_node(map_work *x, const fusion_node *node, const tile_turn *turn) {
    if (node->op == FUSION_LOAD || node->is_column)
        return NULL;
    if (x->m->form == FUSION_PASSES &&
        (node->op == GRAPH_REDUCE ? !turn->is_row_end : node->stage != turn->pass))
        return NULL; /* it is not complete, or was stored by an earlier pass */
    if (!x->f->n_side)
        VTRN_RETURN_IF_ERROR(widen_row(x->e, node, turn->rows));
    return node->is_stored ? store_node(x, node, turn) : NULL;
}

/* Address of the tile of a node in a turn. */
static vtrn_status place_node(map_work *x, fusion_node *node, const tile_turn *turn,
                              uint32_t *addr) {
    bool is_row = node->shape == NODE_ROW;
    int64_t c = is_row || x->m->is_flat ? 0 : turn->c;
    if (node->kept) {
        *addr = resident_tile(node->kept, turn->r, c).addr;
    } else if (node->taken) {
        view v = x->m->is_flat ? turn_view(&node->source_view, turn) : node->at;
        view_part part = {&v, node->n_outer, turn->r, turn->rows, c, is_row ? 1 : turn->cols};
        if (x->m->is_flat)
            part = (view_part){&v, 1, 0, turn->rows, 0, turn->row_cols};
        tile found;
        VTRN_CHECK(resident_holds(node->taken, &part, node->dtype, &found),
                   "placement takes only operands that a resident has");
        *addr = found.addr;
    } else {
        *addr = (is_row ? turn->row_base : turn->base) + node->buffer_offset;
    }
    return NULL;
}

/* Whether a turn makes the node. */
static bool is_in_turn(const map_work *x, const fusion_node *node, const tile_turn *turn) {
    if (!node->is_live || node->is_hoisted || node->is_folded)
        return false;
    if (!turn->is_row_stage)
        return node->is_in_pass;
    bool is_row = node->shape == NODE_ROW && node->op != GRAPH_REDUCE;
    return (is_row || fusion_sums_rows(x->f, node)) && node->stage == turn->pass;
}

static bool moves_with_turns(const fusion_node *node) {
    return node->is_live && !node->is_hoisted && !node->is_folded && !node->is_column;
}

/* Points the tile of a node, and those of its operands, to where they are in turn t. */
static void point_to(map_work *x, fusion_node *node, int t) {
    if (moves_with_turns(node))
        node->t.addr = node->turn_addr[t];
    if (node->sum >= 0)
        x->f->nodes[node->sum].t.addr = x->f->nodes[node->sum].turn_addr[t];
    if (node->moments >= 0)
        x->f->nodes[node->moments].t.addr = x->f->nodes[node->moments].turn_addr[t];
    for (int k = 0; k < node->n_in; k++) {
        if (node->in[k].node < 0)
            continue;
        fusion_node *in = &x->f->nodes[node->in[k].node];
        if (in->is_folded)
            point_to(x, in, t);
        else if (moves_with_turns(in))
            in->t.addr = in->turn_addr[t];
        else if (in->n_row_blocks)
            in->t.addr = in->row_addr + (uint32_t)x->row_block * FUSION_ROW_TILE_BYTES;
    }
}

/* Makes turn t the one that node is emitted for. */
static void enter_turn(map_work *x, fusion_node *node, const tile_turn *turns, int t) {
    const tile_turn *turn = &turns[t];
    x->e->build->source = node->source;
    x->row_block = turn->r / fusion_row_step(x->m);
    x->env.rows = turn->rows;
    x->env.cols = turn->cols;
    x->env.n_side = x->f->n_side ? turn->n_blocks : 0;
    x->env.col0 = x->m->form == FUSION_COLUMN_BLOCKS ? 0 : (uint32_t)turn->c;
    for (int k = 0; k < ELEMENTWISE_MAX_TEMPS; k++)
        x->env.temps[k] =
            (tile){.space = VTRN_SPACE_SBUF,
                   .addr = turn->base + (uint32_t)(x->m->n_slots + k) * x->m->size.slot_bytes};
    point_to(x, node, t);
}

/* An operation on all tiles abreast. The instructions of elementwise ones alternate: full tiles and
 * temporaries of different turns are different memory. */
static vtrn_status emit_abreast(map_work *x, fusion_node *node, const tile_turn *turns, int n) {
    bool is_alternating = node->shape == NODE_FULL && node->op < FUSION_LOAD &&
                          node->op != GRAPH_REDUCE && !node->is_exit &&
                          node->sum < 0 && /* one register for all */
                          fold_contract_of(x->f, node) < 0;
    uint32_t begin[FUSION_MAX_ABREAST];
    for (int t = 0; t < n; t++) {
        enter_turn(x, node, turns, t);
        begin[t] = x->e->build->n_list;
        VTRN_RETURN_IF_ERROR(emit_node(x, node, &turns[t]));
        if (!is_alternating)
            VTRN_RETURN_IF_ERROR(finish_node(x, node, &turns[t]));
    }
    if (!is_alternating)
        return NULL;
    VTRN_RETURN_IF_ERROR(emit_alternate(x->e, begin, n));
    for (int t = 0; t < n; t++) {
        enter_turn(x, node, turns, t);
        VTRN_RETURN_IF_ERROR(finish_node(x, node, &turns[t]));
    }
    return NULL;
}

/* Tiles abreast: each operation on all of them before the next one. */
static vtrn_status emit_turns(map_work *x, const tile_turn *turns, int n) {
    fusion *f = x->f;
    for (int t = 0; t < n; t++)
        for (int i = 0; i < f->n_nodes; i++)
            if (moves_with_turns(&f->nodes[i]))
                VTRN_RETURN_IF_ERROR(
                    place_node(x, &f->nodes[i], &turns[t], &f->nodes[i].turn_addr[t]));
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (n == 0 || !is_in_turn(x, node, &turns[0]))
            continue;
        VTRN_RETURN_IF_ERROR(emit_abreast(x, node, turns, n));
    }
    return NULL;
}

/* The column operands' parts in a block of columns. */
static vtrn_status load_column_block(map_work *x, const tile_turn *turn, int buffer) {
    for (int i = 0; i < x->f->n_nodes; i++) {
        fusion_node *node = &x->f->nodes[i];
        if (!node->is_live || node->shape != NODE_COL)
            continue;
        x->e->build->source = node->source;
        node->t.addr = x->col_base[buffer] + node->buffer_offset;
        VTRN_RETURN_IF_ERROR(load_columns(x, node, turn->rows, turn->c, turn->cols));
    }
    return NULL;
}

/* What is done before the first tile of a block of columns, or of a pass. */
static vtrn_status begin_turns(map_work *x, const tile_turn *before, const tile_turn *turn,
                               int *block) {
    if (x->m->form == FUSION_COLUMN_BLOCKS) {
        if (before->rows)
            VTRN_RETURN_IF_ERROR(finish_column_block(x, before));
        return load_column_block(x, turn, (*block)++ % x->m->size.n_col_buffers);
    }
    if (!turn->is_row_stage)
        map_start_pass(x->m, turn->pass);
    return NULL;
}

static vtrn_status emit_loop(map_work *x) {
    tile_turn turns[FUSION_MAX_ABREAST], turn = {.row_cols = (uint32_t)fusion_turn_cols(x->m)};
    tile_turn before = turn;
    int n = 0, iteration = 0, block = 0, row_block = 0;
    for (; fusion_next_turn(x->m, &turn); before = turn) {
        bool is_start = x->m->form == FUSION_COLUMN_BLOCKS ? turn.r % fusion_group_rows(x->m) == 0
                        : x->m->form == FUSION_PASSES      ? turn.c == 0
                                                           : false;
        if (is_start) {
            VTRN_RETURN_IF_ERROR(emit_turns(x, turns, n));
            VTRN_RETURN_IF_ERROR(begin_turns(x, &before, &turn, &block));
            n = 0;
        }
        row_block += turn.is_row_stage && turn.pass == 0;
        turn.base = x->iter_base[iteration++ % x->m->size.n_buffers];
        turn.row_base = x->m->form == FUSION_PASSES
                            ? x->row_base[row_block % x->m->size.n_row_buffers]
                            : turn.base;
        turns[n++] = turn;
        if (n < x->m->size.n_abreast)
            continue;
        VTRN_RETURN_IF_ERROR(emit_turns(x, turns, n));
        n = 0;
    }
    VTRN_RETURN_IF_ERROR(emit_turns(x, turns, n));
    return finish_column_block(x, &before);
}

vtrn_status emit_map_kernel(emitter *e, const kernel *k) {
    map_plan *m = k->spec;
    map_work x = {.e = e,
                  .m = m,
                  .f = m->f,
                  .env = {.e = e, .f = m->f, .consts = m->consts, .n_consts = m->n_consts}};
    VTRN_RETURN_IF_ERROR(place_map_tiles(&x));
    VTRN_RETURN_IF_ERROR(emit_hoisted(&x));
    if (m->f->conv)
        VTRN_RETURN_IF_ERROR(conv_work_load(&x.conv));
    VTRN_RETURN_IF_ERROR(emit_loop(&x));
    for (int i = 0; i < m->f->n_nodes; i++) {
        const fusion_node *node = &m->f->nodes[i];
        if (node->is_live && node->is_column && !fusion_is_wide_sum(m->f, node))
            VTRN_RETURN_IF_ERROR(finish_column_sum(&x, node));
    }
    return NULL;
}
