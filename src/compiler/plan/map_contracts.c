/* Contractions inside a map kernel: their banks, and in which order of rows and columns the kernel
 * takes their tiles. */
#include "compiler/plan/fusion_sums.h"
#include "compiler/plan/map_plan.h"
#include "compiler/plan/psum_banks.h"
#include "compiler/plan/tile.h"
#include "cost/cost.h"

enum {
    MAX_WHOLE_COLS = 1024, /* rows up to this long are made at once where nothing needs it */
    MIN_TURN_COLS = 256,
};

void map_share_banks(const map_plan *m, contract_banks share[FUSION_MAX_CONTRACTS]) {
    enum { MAX_TURNS = 2 /* one is transposed to while the other is emptied */ };
    int n_left = m->p->chip->n_psum_banks - map_least_banks(m);
    bool has_turns[FUSION_MAX_CONTRACTS];
    for (int i = 0; i < m->n_contracts; i++) {
        share[i] = contract_least_banks(m->p->chip, m->contracts[i].spec);
        has_turns[i] = share[i].turns > 0;
    }
    for (int before = n_left + 1; n_left > 0 && n_left < before;) {
        before = n_left;
        for (int i = 0; i < m->n_contracts; i++) {
            if (n_left > 0) {
                share[i].sums++;
                n_left--;
            }
            if (n_left > 0 && has_turns[i] && share[i].turns < MAX_TURNS) {
                share[i].turns++;
                n_left--;
            }
        }
    }
}

/* An order of tiles, and what the contractions take in it. */
typedef struct order {
    fusion_form form;
    int64_t group_rows, turn_cols; /* FUSION_COLUMN_BLOCKS */
    uint64_t limit_bytes;          /* for all contractions */
    double ns;
    bool fits;
} order;

static void apply(map_plan *m, order *o) {
    contract_banks share[FUSION_MAX_CONTRACTS];
    map_share_banks(m, share);
    m->form = o->form;
    m->group_rows = o->group_rows;
    m->turn_cols = o->turn_cols;
    o->ns = 0;
    uint64_t n_bytes = 0;
    for (int i = 0; i < m->n_contracts; i++) {
        contraction *c = &m->contracts[i];
        bool is_whole = o->form == FUSION_WHOLE;
        int64_t rows = is_whole || o->group_rows > c->n_m ? c->n_m : o->group_rows;
        contract_cut_tiles(c, share[i], rows, is_whole ? c->n_n : o->turn_cols,
                           o->limit_bytes / (uint64_t)m->n_contracts);
        o->ns += c->cut.ns;
        n_bytes += contract_bytes(c);
    }
    o->fits = n_bytes <= o->limit_bytes;
}

/* The best use of what the kernel's own tiles leave of SBUF, with those at their best size, then at
 * small as half of SBUF needs. */
static void try_order(map_plan *m, order o, order *best) {
    uint64_t limit = m->p->sbuf_limit;
    m->form = o.form;
    m->group_rows = o.group_rows;
    m->turn_cols = o.turn_cols;
    for (uint64_t own_limit = limit; own_limit >= limit / 2; own_limit -= limit / 2) {
        uint64_t own = map_own_bytes(m, own_limit);
        if (own >= limit)
            continue;
        o.limit_bytes = limit - own;
        apply(m, &o);
        if (o.fits && (!best->fits || o.ns < best->ns))
            *best = o;
        if (o.fits)
            return;
    }
}

/* Rows that may share a block of columns: those of one batch, where there are several. */
static int64_t max_group_rows(const map_plan *m) {
    int64_t rows = m->f->n / m->cols;
    for (int i = 0; i < m->n_contracts; i++)
        if (m->contracts[i].n_batch > 1 && m->contracts[i].n_m < rows)
            rows = m->contracts[i].n_m;
    return rows;
}

static void try_blocks(map_plan *m, order *best) {
    int64_t n_rows = m->f->n / m->cols, most = max_group_rows(m);
    bool has_wide_sums = fusion_has_wide_sums(m->f);
    int64_t cols = has_wide_sums ? psum_cols(m->p->chip) : FUSION_MAX_TILE_COLS;
    for (; cols >= MIN_TURN_COLS || (has_wide_sums && !best->fits && cols >= 16); cols /= 2) {
        if (cols >= m->cols)
            continue;
        order o = {.form = FUSION_COLUMN_BLOCKS, .turn_cols = cols, .group_rows = most};
        if (!has_wide_sums || most == n_rows)
            try_order(m, o, best);
        for (int64_t rows = fusion_row_step(m); rows < most && most == n_rows && !has_wide_sums;
             rows *= 2) {
            o.group_rows = rows;
            try_order(m, o, best);
        }
    }
}

/* ns between loads of a tile of the result, which are parts of its rows where these are long. */
static double load_back_ns(const contraction *c) {
    enum { COLS = 1024 /* of the tiles of a kernel that loads them: assumed */ };
    uint8_t dtype = c->spec->out.dtype;
    vtrn_ap part = {.dtype = dtype,
                    .n_dims = 1,
                    .n_partitions = (uint16_t)c->tile_rows,
                    .partition_step = c->n_n,
                    .dim = {{1, (uint32_t)(c->n_n < COLS ? c->n_n : COLS)}}};
    vtrn_instr dma = {.opcode = VTRN_OP_DMA_COPY, .engine = VTRN_ENGINE_SYNC, .ap = {part, part}};
    dma.ap[0].space = VTRN_SPACE_SBUF;
    dma.ap[1].space = VTRN_SPACE_HBM;
    transfer_cost load = cost_transfer(c->chip, &dma);
    return cost_transfer_interval_ns(c->chip, &load, 1) * (double)c->n_n / part.dim[0].num;
}

/* ns of a result on its way from a contraction's own kernel to this one, by way of HBM. */
static double round_trip_ns(const map_plan *m, const contraction *c) {
    double size = (double)dtype_size((vtrn_dtype)c->spec->out.dtype), rows = (double)c->tile_rows;
    transfer_cost store =
        cost_tile_transfer(c->chip, true, rows, (double)c->n_n * size, (double)c->n_n * size);
    double n_tiles = (double)m->f->n / ((double)m->cols * rows);
    double latency_ns = c->chip->dma.start_ns + c->chip->dma.complete_ns;
    return 2 * latency_ns +
           n_tiles * (cost_transfer_interval_ns(c->chip, &store, 1) + load_back_ns(c));
}

/* Whether a contraction is better a kernel of its own: with nothing beside it in SBUF, and free to
 * take k in chunks. */
static bool pays_alone(const map_plan *m) {
    const double GAIN = 1.45; /* less is not worth a kernel that waits for another: assumed */
    for (int i = 0; i < m->n_contracts; i++) {
        const contraction *c = &m->contracts[i];
        double n_products = (double)c->n_batch * (double)c->n_m * (double)c->n_n * (double)c->n_k;
        if (c->cut.ns <= GAIN * 2 * n_products / c->chip->peak_tensor_flops * 1e9)
            continue; /* no cut can be that much faster */
        contraction alone;
        contract_start(m->p, c->spec, &alone);
        contract_cut_kernel(&alone, m->p->sbuf_limit);
        if (GAIN * (alone.cut.ns + round_trip_ns(m, &alone)) < c->cut.ns)
            return true;
    }
    return false;
}

void map_start_contracts(map_plan *m) {
    m->n_contracts = 0;
    for (int i = 0; i < m->f->n_nodes; i++) {
        fusion_node *node = &m->f->nodes[i];
        if (!node->is_live || node->op != FUSION_CONTRACT)
            continue;
        node->contract = m->n_contracts;
        contract_start(m->p, node->spec, &m->contracts[m->n_contracts++]);
    }
}

bool map_layout_contracts(map_plan *m) {
    order best = {0};
    bool is_whole = fusion_has_row_reduction(m->f);
    if (!fusion_has_wide_sums(m->f)) {
        order o = {.form = FUSION_WHOLE, .turn_cols = m->cols, .group_rows = m->f->n / m->cols};
        if (is_whole || m->cols <= MAX_WHOLE_COLS)
            try_order(m, o, &best);
    }
    if (!is_whole && (!best.fits || m->cols > MAX_WHOLE_COLS))
        try_blocks(m, &best);
    if (!best.fits)
        best = (order){.form = FUSION_WHOLE, .turn_cols = m->cols, .group_rows = m->f->n / m->cols};
    apply(m, &best);
    return best.fits && !pays_alone(m);
}

bool map_limit(map_plan *m, uint64_t room_bytes) {
    uint64_t own = map_own_bytes(m, room_bytes);
    if (m->n_contracts == 0 || m->f->n_side || own >= room_bytes)
        return false;
    for (int i = 0; i < m->n_contracts; i++)
        if (!contract_limit(&m->contracts[i], (room_bytes - own) / (uint64_t)m->n_contracts))
            return false;
    return map_size(m) <= room_bytes;
}
