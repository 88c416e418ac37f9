/* How a contraction is cut, by what its loads, matmuls and copies take. */
#include "compiler/plan/contract_cut.h"

#include "base/dtype.h"
#include "cost/cost.h"

#include <math.h>

enum {
    ALIGN = 64, /* bytes: of every tile in SBUF */
    LEAST_BLOCK_COLS = 16,
    MAX_SPAN = 8,    /* row tiles in a slot */
    MAX_BUFFERS = 8, /* of operands that stream, so that transfers overlap */
    MANY_BUFFERS = 16,
    MAX_OUT = 8,
};

/* Of the time that weights take to load behind a matmul, the share that it costs all the same:
 * assumed. */
static const double SEEN_SHARE = 0.25;

/* Where one tile of rows passes, what streams through it is most of what is moved, as weights are,
 * and is loaded while kernels before still compute: of the time that the first part takes to come,
 * the share that it costs. Assumed. */
static const double EARLY_SHARE = 0.05;

/* What single steps take on the chip, for a shape. */
typedef struct rates {
    const vtrn_chip *chip;
    const contract_shape *s;
    int64_t pe, bank_cols, k_size; /* k_size: bytes of an element in SBUF */
    double turn_ns, weights_ns;    /* a tile: transposed, loaded as weights */
    double turn_latency_ns;        /* from the start of a transpose to its use */
    double bank_ns;                /* a bank-wide matmul */
    double copy_start_ns, copy_col_ns, least_copy_ns;
    double copies_abreast;     /* engines that empty PSUM at the same time */
    double add_ns;             /* a bank of PSUM added to sums in SBUF; known to strips only */
    struct slot_memo *memo[2]; /* [SLOTS_REMEMBERED], of the stationary and the moving operand */
} rates;

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t parts(int64_t n, int64_t of) {
    return (n + of - 1) / of;
}

static uint32_t rounded(int64_t n_bytes) {
    return (uint32_t)((n_bytes + ALIGN - 1) / ALIGN * ALIGN);
}

int64_t contract_pe_size(const vtrn_chip *chip) {
    return least(chip->n_partitions, least(chip->tensor_max_k, chip->tensor_max_m));
}

uint32_t contract_packed_bytes(uint8_t dtype, int64_t n) {
    int64_t per = dtype_per_byte((vtrn_dtype)dtype);
    return per == 1 ? 0 : 2 * rounded(parts(n, per));
}

uint64_t contract_cut_bytes(const contract_cut *cut) {
    return (uint64_t)cut->n_a * cut->a_bytes + (uint64_t)cut->n_b * cut->b_bytes +
           (uint64_t)cut->n_natural * cut->natural_bytes + (uint64_t)cut->n_out * cut->out_bytes +
           (uint64_t)cut->n_sums * cut->sums_bytes;
}

/* --- rates --------------------------------------------------------------------------------------
 */

static vtrn_ap ap_of(vtrn_space space, uint8_t dtype, int64_t rows, int64_t cols) {
    return (vtrn_ap){.space = (uint8_t)space,
                     .dtype = dtype,
                     .n_dims = 1,
                     .n_partitions = (uint16_t)rows,
                     .partition_step = 1,
                     .dim = {{1, (uint32_t)cols}}};
}

static instr_cost instr_of(const rates *r, vtrn_opcode opcode, vtrn_engine engine, vtrn_ap to,
                           vtrn_ap from) {
    vtrn_instr instr = {.opcode = (uint8_t)opcode, .engine = (uint8_t)engine, .ap = {to, from}};
    return cost_instr(r->chip, &instr);
}

static double instr_ns(const rates *r, vtrn_opcode opcode, vtrn_engine engine, vtrn_ap to,
                       vtrn_ap from) {
    return instr_of(r, opcode, engine, to, from).ii_ns;
}

static rates rates_of(const vtrn_chip *chip, const contract_shape *s) {
    rates r = {.chip = chip, .s = s, .pe = contract_pe_size(chip)};
    r.bank_cols = least(chip->psum_bank_bytes / (int64_t)sizeof(float), chip->tensor_max_n);
    r.k_size = (int64_t)dtype_size((vtrn_dtype)s->dtype);
    int64_t k = least(s->n_k, r.pe);
    vtrn_ap sums = ap_of(VTRN_SPACE_PSUM, VTRN_DTYPE_FP32, s->tile_rows, r.bank_cols);
    vtrn_ap moving = ap_of(VTRN_SPACE_SBUF, s->dtype, k, r.bank_cols);
    vtrn_ap tile = ap_of(VTRN_SPACE_SBUF, s->dtype, k, s->tile_rows);
    vtrn_ap turned = ap_of(VTRN_SPACE_PSUM, s->dtype, r.pe, k);
    r.bank_ns = instr_ns(&r, VTRN_OP_MATMUL, VTRN_ENGINE_TENSOR, sums, moving);
    r.weights_ns =
        instr_ns(&r, VTRN_OP_LDWEIGHTS, VTRN_ENGINE_TENSOR, ap_of(VTRN_SPACE_NONE, 0, 0, 0), tile);
    instr_cost turn = instr_of(&r, VTRN_OP_PE_TRANSPOSE, VTRN_ENGINE_TENSOR, turned,
                               ap_of(VTRN_SPACE_SBUF, s->dtype, k, r.pe));
    instr_cost copy = instr_of(&r, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_VECTOR, tile, turned);
    r.turn_ns = turn.ii_ns;
    r.turn_latency_ns = turn.latency_ns + copy.latency_ns +
                        2 * (chip->cost.semaphore_post_ns + chip->cost.semaphore_wake_ns);
    vtrn_ap out = ap_of(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, s->tile_rows, r.bank_cols);
    double full_ns = instr_ns(&r, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_VECTOR, out, sums);
    int64_t half_cols = r.bank_cols / 2;
    out.dim[0].num = sums.dim[0].num = (uint32_t)half_cols;
    double half_ns = instr_ns(&r, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_VECTOR, out, sums);
    r.copy_col_ns = (full_ns - half_ns) / (double)(r.bank_cols - half_cols);
    r.copy_start_ns = fmax(0, full_ns - r.copy_col_ns * (double)r.bank_cols);
    out.dim[0].num = sums.dim[0].num = 1;
    r.least_copy_ns = instr_ns(&r, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_VECTOR, out, sums);
    r.copies_abreast = chip->cost.vector_scalar_share_psum ? 1 : 2;
    return r;
}

/* A bank of PSUM added to sums in SBUF. */
static double add_bank_ns(const rates *r) {
    vtrn_ap kept = ap_of(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, r->s->tile_rows, r->bank_cols);
    vtrn_ap bank = ap_of(VTRN_SPACE_PSUM, VTRN_DTYPE_FP32, r->s->tile_rows, r->bank_cols);
    vtrn_instr add = {.opcode = VTRN_OP_TENSOR_TENSOR,
                      .engine = VTRN_ENGINE_VECTOR,
                      .op0 = VTRN_ALU_ADD,
                      .ap = {kept, bank, kept}};
    return cost_instr(r->chip, &add).ii_ns;
}

static double matmul_ns(const rates *r, int64_t cols) {
    double least_ns = r->bank_ns / (double)r->bank_cols *
                      fmin(r->chip->cost.tensor_min_ii_cycles, (double)r->s->tile_rows);
    return fmax(r->bank_ns * (double)cols / (double)r->bank_cols, least_ns);
}

/* Of a bank, or of a part of one, to SBUF. */
static double copy_ns(const rates *r, int64_t cols) {
    return fmax(r->copy_start_ns + r->copy_col_ns * (double)cols, r->least_copy_ns);
}

/* ns between the starts of many stores of [rows, cols]. */
static double store_ns(const rates *r, int64_t rows, int64_t cols) {
    double row_bytes = (double)cols * (double)dtype_size((vtrn_dtype)r->s->out_dtype);
    transfer_cost cost = cost_tile_transfer(r->chip, true, (double)rows, row_bytes, row_bytes);
    return cost_transfer_interval_ns(r->chip, &cost, 1);
}

/* The same of loads; with turns_by_dma, rows and columns are those in HBM. */
static double load_ns(const rates *r, const contract_side *side, int64_t rows, int64_t cols) {
    const int64_t per = dtype_per_byte((vtrn_dtype)side->dtype);
    const uint8_t dtype = per > 1 ? VTRN_DTYPE_UINT8 : side->dtype;
    cols = parts(cols, per);
    int64_t run = least(parts(side->run, per), cols);
    vtrn_instr dma = {.opcode = VTRN_OP_DMA_COPY, .engine = VTRN_ENGINE_SYNC};
    dma.ap[0] = ap_of(VTRN_SPACE_SBUF, per > 1 ? dtype : r->s->dtype, rows, cols);
    dma.ap[1] = ap_of(VTRN_SPACE_HBM, dtype, rows, run);
    dma.ap[1].partition_step = parts(side->pitch, per);
    if (run < cols) { /* runs that are apart */
        dma.ap[1].n_dims = 2;
        dma.ap[1].dim[0] = (vtrn_dim){(int32_t)(2 * run), (uint32_t)parts(cols, run)};
        dma.ap[1].dim[1] = (vtrn_dim){1, (uint32_t)run};
    }
    if (side->turns_by_dma) {
        dma.opcode = VTRN_OP_DMA_TRANSPOSE;
        dma.ap[0] = ap_of(VTRN_SPACE_SBUF, side->dtype, cols, rows);
    }
    transfer_cost cost = cost_transfer(r->chip, &dma);
    return cost_transfer_interval_ns(r->chip, &cost, 1);
}

/* Vector and Scalar, to make numbers of [rows, cols] packed values; 0 of types that are not. */
static double unpack_ns(const rates *r, const contract_side *side, int64_t rows, int64_t cols) {
    const int64_t per = dtype_per_byte((vtrn_dtype)side->dtype);
    if (per == 1)
        return 0;
    vtrn_ap words = ap_of(VTRN_SPACE_SBUF, VTRN_DTYPE_UINT32, rows, parts(cols, 4 * per));
    vtrn_ap bytes = ap_of(VTRN_SPACE_SBUF, VTRN_DTYPE_UINT8, rows, parts(cols, per));
    vtrn_ap to = ap_of(VTRN_SPACE_SBUF, r->s->dtype, rows, parts(cols, per));
    return (double)per * (instr_ns(r, VTRN_OP_TENSOR_SCALAR, VTRN_ENGINE_VECTOR, words, words) +
                          instr_ns(r, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_VECTOR, to, bytes));
}

/* --- a slot --------------------------------------------------------------------------------------
 */

typedef struct slot_cost {
    double load_ns, turn_ns, copy_ns; /* DMA, PE array, engines that empty PSUM */
    double latency_ns;                /* from the trigger to the first matmul */
    double buffer_ns;                 /* that a buffer for transposing is in use, for all loads */
} slot_cost;

/* A slot's costs, of which a search meets few and asks for each many times. */
typedef struct slot_memo {
    int64_t span, chunk_k, natural_cols; /* span 0: nothing is here */
    slot_cost cost;
} slot_memo;

enum { SLOTS_REMEMBERED = 64 };

static slot_cost weigh_slot(const rates *r, const contract_side *side, const contract_cut *cut,
                            int64_t span) {
    slot_cost c = {0};
    const vtrn_chip *chip = r->chip;
    int64_t k_tiles = parts(cut->chunk_k, r->pe), x_tiles = parts(span, r->pe);
    int64_t x_rows = least(span, r->pe);
    if (side->turns) {
        int64_t loads = x_tiles * parts(cut->chunk_k, cut->natural_cols);
        double one_ns = load_ns(r, side, x_rows, cut->natural_cols);
        c.load_ns = side->is_resident ? 0 : (double)loads * one_ns;
        if (!side->is_resident)
            c.buffer_ns = (double)loads * (one_ns + chip->dma.start_ns + chip->dma.complete_ns);
        c.turn_ns = (double)(x_tiles * k_tiles) * r->turn_ns;
        int64_t per_bank = r->chip->psum_bank_bytes / (x_rows * r->k_size);
        double copies = (double)(x_tiles * parts(k_tiles, per_bank < 1 ? 1 : per_bank));
        c.copy_ns = (double)loads * unpack_ns(r, side, x_rows, cut->natural_cols);
        c.copy_ns += copies * r->copy_start_ns + (double)(span * k_tiles) * r->copy_col_ns;
    } else if (!side->is_resident) {
        int64_t k = least(cut->chunk_k, r->pe);
        double one_ns = side->turns_by_dma ? load_ns(r, side, span, k) : load_ns(r, side, k, span);
        c.load_ns = (double)k_tiles * one_ns;
        c.copy_ns = (double)k_tiles * unpack_ns(r, side, k, span);
    }
    c.latency_ns = c.load_ns + c.turn_ns + c.copy_ns + (side->turns ? r->turn_latency_ns : 0);
    c.buffer_ns += side->is_resident || !side->turns ? 0 : c.turn_ns + c.copy_ns;
    if (!side->is_resident)
        c.latency_ns += chip->dma.start_ns + chip->dma.complete_ns;
    return c;
}

static slot_cost slot_cost_of(const rates *r, const contract_side *side, const contract_cut *cut,
                              int64_t span) {
    const int64_t natural_cols = side->turns ? cut->natural_cols : 0;
    const uint64_t mixed =
        (uint64_t)span * 31 + (uint64_t)cut->chunk_k * 7 + (uint64_t)natural_cols;
    slot_memo *m =
        &r->memo[side == &r->s->b][(mixed * 0x9e3779b97f4a7c15u >> 32) % SLOTS_REMEMBERED];
    if (m->span != span || m->chunk_k != cut->chunk_k || m->natural_cols != natural_cols)
        *m = (slot_memo){span, cut->chunk_k, natural_cols, weigh_slot(r, side, cut, span)};
    return m->cost;
}

/* --- a cut ---------------------------------------------------------------------------------------
 */

/* How often slots are filled. */
typedef struct fills {
    double a, b;
    bool a_stays, b_stays; /* through the columns of a group; through all groups */
} fills;

static fills fills_of(const contract_shape *s, const contract_cut *cut) {
    int64_t n_m = s->a.n_x, n_n = s->b.n_x;
    int64_t rows = least(cut->group_rows, n_m), cols = least(cut->turn_cols, n_n);
    int64_t chunks = parts(s->n_k, cut->chunk_k), blocks = parts(n_n, cut->block_cols);
    int64_t b_slots = parts(n_n, cut->b_span);
    int64_t groups = parts(n_m, rows), turns = parts(n_n, cols);
    int64_t tiles = parts(n_m, s->tile_rows);
    double a = (double)(parts(n_m, cut->a_span) * chunks), b = (double)(b_slots * chunks);
    fills f = {.a_stays =
                   chunks == 1 && (cut->n_a == 0 || turns == 1 || cut->n_a * cut->a_span >= rows),
               .b_stays = chunks == 1 && (cut->n_b == 0 || cut->n_b >= b_slots)};
    if (chunks > 1) {
        /* the blocks in a slot are in turn, each with all chunks */
        int64_t n_blocks = cut->n_b >= chunks ? 1 : parts(least(cut->b_span, n_n), cut->block_cols);
        f.a = a * (double)blocks;
        f.b = b * (double)(n_blocks * parts(tiles, cut->n_together));
    } else {
        f.a = f.a_stays ? a : a * (double)turns;
        bool holds_turn = cut->n_b * cut->b_span >= cols;
        f.b = f.b_stays ? b : b * (double)(holds_turn ? groups : tiles);
    }
    f.a *= (double)s->n_batch;
    f.b *= (double)s->n_batch;
    return f;
}

/* From the start of one fill to the start of the next, n_ahead of which are on their way at a time.
 */
static double fill_ns(const rates *r, const slot_cost *c, int n_ahead, int n_natural) {
    double ns = fmax(c->load_ns, c->copy_ns / r->copies_abreast);
    if (n_natural)
        ns = fmax(ns, c->buffer_ns / n_natural);
    return fmax(ns, c->latency_ns / n_ahead);
}

/* What fills take beyond the matmuls beside them: work_ns each. n_ahead 0: the slot is in use until
 * its next fill begins. */
static double stall_ns(const rates *r, const slot_cost *c, double n_fills, int n_ahead,
                       const contract_cut *cut, double work_ns) {
    if (n_ahead <= 0)
        return n_fills * c->latency_ns;
    return n_fills * fmax(0, fill_ns(r, c, n_ahead, cut->n_natural) - work_ns);
}

/* Matmuls of n columns with all k, for a tile of rows. */
static double columns_ns(const rates *r, int64_t n, int64_t block_cols) {
    int64_t blocks = parts(n, block_cols), k_tiles = parts(r->s->n_k, r->pe);
    int64_t bank = least(block_cols, r->bank_cols), rest = n % bank, n_full = n / bank;
    double stream_ns = (double)n_full * matmul_ns(r, bank) + (rest ? matmul_ns(r, rest) : 0);
    double weights_ns = (double)blocks * r->weights_ns;
    return (double)k_tiles * (fmax(stream_ns, weights_ns) + SEEN_SHARE * weights_ns);
}

/* Of engines that work beside each other: about the longest, and more where they are equally busy,
 * for then each waits for the others now and then. The fourth power is assumed. */
static double together_ns(double a, double b, double c) {
    return sqrt(sqrt(a * a * a * a + b * b * b * b + c * c * c * c));
}

/* What the buffers for transposing and for results do not change. */
typedef struct cut_work {
    fills f;
    double row_ns, copies_ns;    /* matmuls of a tile of rows; emptying all banks */
    double a_work_ns, b_work_ns; /* matmuls beside one fill */
    int a_needed, b_needed;      /* slots in use at a time */
    int a_ahead, b_ahead;
    double store_ns, out_ns; /* one store; that its buffer is in use */
} cut_work;

static cut_work work_of(const rates *r, const contract_cut *cut) {
    const contract_shape *s = r->s;
    int64_t n_m = s->a.n_x, n_n = s->b.n_x, chunks = parts(s->n_k, cut->chunk_k);
    double n_tiles = (double)(s->n_batch * parts(n_m, s->tile_rows));
    int64_t bank = least(cut->block_cols, r->bank_cols), full_banks = n_n / bank;
    cut_work w = {.f = fills_of(s, cut), .row_ns = columns_ns(r, n_n, cut->block_cols)};
    w.copies_ns = n_tiles * ((double)full_banks * copy_ns(r, bank) +
                             (n_n % bank ? copy_ns(r, n_n % bank) : 0));
    int64_t group_rows = least(cut->group_rows, n_m), turn_cols = least(cut->turn_cols, n_n);
    int together = (int)parts(cut->n_together * s->tile_rows, cut->a_span);
    bool a_holds = chunks == 1 && turn_cols < n_n && w.f.a_stays;
    w.a_needed = a_holds ? (int)parts(group_rows, cut->a_span) : together;
    w.b_needed = 1;
    double tiles_of_slot = (double)least(cut->a_span, n_m) / (double)least(s->tile_rows, n_m);
    if (chunks > 1) {
        double tile_ns = w.row_ns / (double)(parts(n_n, cut->block_cols) * chunks);
        w.a_work_ns = tiles_of_slot * tile_ns;
        w.b_work_ns = cut->n_together * tile_ns;
    } else {
        w.a_work_ns = tiles_of_slot * columns_ns(r, turn_cols, cut->block_cols);
        bool holds_turn = cut->n_b * cut->b_span >= turn_cols;
        double rows = holds_turn ? (double)parts(group_rows, s->tile_rows) : 1;
        w.b_needed = holds_turn ? (int)parts(turn_cols, cut->b_span) : 1;
        w.b_work_ns = rows * columns_ns(r, least(cut->b_span, n_n), cut->block_cols);
    }
    if (s->is_stored) {
        w.store_ns = store_ns(r, s->tile_rows, cut->block_cols);
        w.out_ns =
            w.store_ns + copy_ns(r, bank) + r->chip->dma.store_start_ns + r->chip->dma.complete_ns;
    }
    w.a_ahead = cut->n_a - w.a_needed + (a_holds && w.f.a <= w.a_needed);
    w.b_ahead = w.f.b_stays ? cut->n_b : cut->n_b - w.b_needed;
    return w;
}

/* The same in strips: each part is loaded once, and each chunk leaves PSUM. */
static cut_work strips_work_of(const rates *r, const contract_cut *cut) {
    const contract_shape *s = r->s;
    double tiles = (double)parts(s->a.n_x, s->tile_rows),
           chunks = (double)parts(s->n_k, cut->chunk_k);
    cut_work w = {.f = {.a = tiles * chunks, .b = chunks},
                  .row_ns = columns_ns(r, s->b.n_x, cut->block_cols),
                  .a_needed = 1,
                  .b_needed = 1,
                  .a_ahead = cut->n_a - 1,
                  .b_ahead = cut->n_b - 1};
    w.copies_ns =
        r->copies_abreast * tiles * chunks * (double)parts(s->b.n_x, r->bank_cols) * r->add_ns;
    w.a_work_ns = w.row_ns / chunks;
    w.b_work_ns = tiles * w.a_work_ns;
    w.store_ns = store_ns(r, s->tile_rows, cut->block_cols);
    w.out_ns = w.store_ns + r->add_ns + r->chip->dma.store_start_ns + r->chip->dma.complete_ns;
    return w;
}

/* What no buffers make faster: matmuls, and emptying PSUM beside them. */
static double least_ns(const rates *r, const cut_work *w) {
    double n_tiles = (double)(r->s->n_batch * parts(r->s->a.n_x, r->s->tile_rows));
    return together_ns(n_tiles * w->row_ns, 0, w->copies_ns / r->copies_abreast);
}

static void weigh(const rates *r, const cut_work *w, contract_cut *cut) {
    const contract_shape *s = r->s;
    const fills f = w->f;
    double n_tiles = (double)(s->n_batch * parts(s->a.n_x, s->tile_rows));
    double n_blocks = (double)parts(s->b.n_x, cut->block_cols);
    slot_cost a = slot_cost_of(r, &s->a, cut, least(cut->a_span, s->a.n_x));
    slot_cost b = slot_cost_of(r, &s->b, cut, least(cut->b_span, s->b.n_x));
    double moved_ns = f.a * a.load_ns + f.b * b.load_ns;
    a.latency_ns += b.load_ns * fmin(1, f.b / f.a); /* they share the rings */
    b.latency_ns += a.load_ns * fmin(1, f.a / f.b);
    double pe_ns = n_tiles * w->row_ns + (f.a * a.turn_ns + f.b * b.turn_ns);
    double copies_ns = w->copies_ns + (f.a * a.copy_ns + f.b * b.copy_ns);
    if (s->is_stored) {
        double n_stores = n_tiles * n_blocks;
        moved_ns = fmax(moved_ns + n_stores * w->store_ns, n_stores * w->out_ns / cut->n_out);
    }
    double stalls_ns = 0;
    if (cut->n_a && f.a > w->a_needed)
        stalls_ns += stall_ns(r, &a, f.a, w->a_ahead, cut, w->a_work_ns);
    if (cut->n_b && f.b > 1)
        stalls_ns += stall_ns(r, &b, f.b, w->b_ahead, cut, w->b_work_ns);
    double ns = together_ns(pe_ns + stalls_ns, moved_ns, copies_ns / r->copies_abreast);
    bool is_one_tile = s->a.n_x <= s->tile_rows && s->n_batch == 1;
    cut->ns = ns + a.latency_ns + b.latency_ns * (is_one_tile ? EARLY_SHARE : 1);
    double n_sets = (double)(s->n_batch * parts(parts(s->a.n_x, s->tile_rows), cut->n_together));
    cut->pass_ns = ns / (n_sets * n_blocks * (double)parts(s->n_k, cut->chunk_k));
}

static void size_up(const rates *r, contract_cut *cut) {
    const contract_shape *s = r->s;
    int64_t k_tiles = parts(cut->chunk_k, r->pe);
    bool has_natural = (s->a.turns && !s->a.is_resident) || (s->b.turns && !s->b.is_resident);
    cut->a_bytes = rounded(k_tiles * cut->a_span * r->k_size);
    cut->b_bytes = rounded(k_tiles * cut->b_span * r->k_size);
    cut->natural_bytes = rounded(cut->natural_cols * r->k_size);
    if (!s->a.turns)
        cut->a_bytes += (uint32_t)k_tiles * contract_packed_bytes(s->a.dtype, cut->a_span);
    if (!s->b.turns)
        cut->b_bytes += (uint32_t)k_tiles * contract_packed_bytes(s->b.dtype, cut->b_span);
    const uint32_t of_a = s->a.turns ? contract_packed_bytes(s->a.dtype, cut->natural_cols) : 0;
    const uint32_t of_b = s->b.turns ? contract_packed_bytes(s->b.dtype, cut->natural_cols) : 0;
    cut->natural_bytes += of_a > of_b ? of_a : of_b;
    cut->out_bytes = rounded(cut->block_cols * (int64_t)dtype_size((vtrn_dtype)s->out_dtype));
    cut->sums_bytes = cut->n_sums ? rounded(s->b.n_x * (int64_t)sizeof(float)) : 0;
    if (!has_natural)
        cut->n_natural = 0;
    if (!s->is_stored)
        cut->n_out = 0;
}

/* --- the search ----------------------------------------------------------------------------------
 */

typedef struct search {
    rates r;
    uint64_t limit_bytes;
    contract_cut best;
    uint64_t best_bytes;
    double best_score;
    bool has_best;
    slot_memo memo[2][SLOTS_REMEMBERED];
} search;

/* Keeps the cut if it is the best that fits, or the least one so far where none does. */
static void try_cut(search *q, const cut_work *work, contract_cut cut) {
    enum { ROOM_SHARE = 20 /* SBUF as a whole is worth 1/20 of the time: other kernels use it */ };
    size_up(&q->r, &cut);
    uint64_t n_bytes = contract_cut_bytes(&cut);
    bool fits = n_bytes <= q->limit_bytes, best_fits = q->best_bytes <= q->limit_bytes;
    if (q->has_best && !fits && (best_fits || n_bytes >= q->best_bytes))
        return;
    weigh(&q->r, work, &cut);
    double score =
        cut.ns * (1 + (double)n_bytes / (double)q->r.chip->sbuf_partition_bytes / ROOM_SHARE);
    if (q->has_best && fits && best_fits && score >= q->best_score)
        return;
    q->best = cut;
    q->best_bytes = n_bytes;
    q->best_score = score;
    q->has_best = true;
}

/* Of what streams: many, where each of many batches has small parts of its own. */
static int most_buffers(const contract_shape *s) {
    enum { SMALL = 64 /* rows or columns: assumed */ };
    bool is_small = s->n_batch > MAX_BUFFERS && s->a.n_x <= SMALL && s->b.n_x <= SMALL;
    return is_small ? MANY_BUFFERS : MAX_BUFFERS;
}

/* With buffers as SBUF has room for them. */
static void try_buffers(search *q, contract_cut cut) {
    const contract_shape *s = q->r.s;
    int64_t pe = q->r.pe, wide = q->r.chip->dma.max_descriptor_bytes / q->r.k_size / pe * pe;
    wide = wide > pe ? wide : pe;
    const struct {
        int64_t natural_cols;
        int n_natural, n_out;
    } tried[] = {{wide, most_buffers(s) > MAX_BUFFERS ? MANY_BUFFERS : 4, MAX_OUT},
                 {cut.chunk_k, 2, 2},
                 {wide, 2, 2},
                 {pe, 2, 2},
                 {pe, 1, 1}};
    const bool turns = s->a.turns || s->b.turns;
    if (s->a.is_resident && !s->a.turns)
        cut.n_a = 0;
    if (s->b.is_resident && !s->b.turns)
        cut.n_b = 0;
    const cut_work work = cut.n_sums ? strips_work_of(&q->r, &cut) : work_of(&q->r, &cut);
    if (q->has_best && q->best_bytes <= q->limit_bytes && least_ns(&q->r, &work) >= q->best_score)
        return;
    for (int i = 0; i < 5; i++) {
        if (i > 0 && !turns && tried[i].n_out == tried[i - 1].n_out)
            continue; /* only buffers for transposing would differ */
        cut.natural_cols = least(tried[i].natural_cols, cut.chunk_k);
        cut.n_natural = tried[i].n_natural;
        cut.n_out = tried[i].n_out;
        try_cut(q, &work, cut);
        if (!s->is_stored && !turns)
            return;
    }
}

static int more_buffers(const contract_shape *s, int n) {
    return 2 * n == MAX_BUFFERS ? most_buffers(s) : 2 * n;
}

static void try_b_slots(search *q, contract_cut cut) {
    const contract_shape *s = q->r.s;
    int64_t slots = parts(s->b.n_x, cut.b_span);
    bool is_whole = cut.chunk_k >= s->n_k;
    for (int n = 1; n <= most_buffers(s); n = more_buffers(s, n)) {
        cut.n_b = n;
        try_buffers(q, cut);
        if (is_whole && s->n_batch == 1 && n >= slots)
            return;
    }
    if (is_whole && slots > MAX_BUFFERS && slots <= CONTRACT_MAX_SLOTS) {
        cut.n_b = (int)slots;
        try_buffers(q, cut);
    }
}

/* A slot has a block of columns, those of a turn, or all. */
static void try_b(search *q, contract_cut cut) {
    const contract_shape *s = q->r.s;
    cut.b_span = cut.block_cols;
    try_b_slots(q, cut);
    if (cut.turn_cols > cut.block_cols && cut.turn_cols < s->b.n_x) {
        cut.b_span = cut.turn_cols;
        try_b_slots(q, cut);
    }
    if (s->b.n_x > cut.block_cols) {
        cut.b_span = s->b.n_x;
        try_b_slots(q, cut);
    }
}

static void try_a(search *q, contract_cut cut) {
    const contract_shape *s = q->r.s;
    int64_t group_slots = parts(least(cut.group_rows, s->a.n_x), cut.a_span);
    int64_t needed = parts(cut.n_together * s->tile_rows, cut.a_span);
    for (int n = 1; n <= most_buffers(s); n = more_buffers(s, n)) {
        cut.n_a = (int)(n * needed);
        if (cut.n_a <= CONTRACT_MAX_SLOTS)
            try_b(q, cut);
    }
    bool is_held = cut.chunk_k >= s->n_k && cut.turn_cols < s->b.n_x;
    bool is_all = s->n_batch == 1 && group_slots * cut.a_span >= s->a.n_x;
    for (int64_t more = 0; is_held && more <= 2; more++) {
        cut.n_a = (int)(group_slots + more);
        if (group_slots + more <= CONTRACT_MAX_SLOTS)
            try_b(q, cut);
        if (is_all)
            break;
    }
}

static void try_spans(search *q, contract_cut cut) {
    const contract_shape *s = q->r.s;
    for (int64_t tiles = 1; tiles <= MAX_SPAN; tiles *= 2) {
        cut.a_span = tiles * s->tile_rows;
        bool divides = cut.group_rows % cut.a_span == 0 || cut.group_rows >= s->a.n_x;
        if (tiles > 1 && (s->a.turns || cut.a_span >= 2 * s->a.n_x || !divides))
            break;
        try_a(q, cut);
    }
}

/* Groups of rows that share a block of columns before the next one. */
static void try_groups(search *q, contract_cut cut, int64_t group_rows) {
    const contract_shape *s = q->r.s;
    if (group_rows) {
        cut.group_rows = group_rows;
        try_spans(q, cut);
        return;
    }
    for (int64_t rows = s->tile_rows; rows < s->a.n_x && s->n_batch == 1; rows *= 2) {
        cut.group_rows = rows;
        if (cut.turn_cols < s->b.n_x)
            try_spans(q, cut);
    }
    cut.group_rows = s->a.n_x;
    try_spans(q, cut);
}

/* k in chunks: tiles of several rows together share what is loaded. */
static void try_chunks(search *q, contract_cut cut, int64_t group_rows) {
    const contract_shape *s = q->r.s;
    int banks = (int)parts(cut.block_cols, q->r.bank_cols);
    cut.group_rows = group_rows ? group_rows : s->a.n_x;
    for (int n = 1; n <= CONTRACT_MAX_TOGETHER && n * banks <= s->sum_banks; n *= 2) {
        if (n > 1 && (n / 2) * s->tile_rows >= s->a.n_x)
            break;
        cut.n_together = n;
        for (int64_t k = q->r.pe; k < s->n_k && k <= 16 * q->r.pe; k *= 2) {
            cut.chunk_k = k;
            cut.a_span = s->a.turns ? s->tile_rows : n * s->tile_rows;
            try_a(q, cut);
        }
    }
}

/* Whole rows of the moving operand, a chunk of k at a time, where PSUM has no room for the sums of
 * all columns. */
static void try_strips(search *q) {
    const contract_shape *s = q->r.s;
    int64_t tiles = parts(s->a.n_x, s->tile_rows), banks = s->sum_banks < 2 ? 1 : s->sum_banks / 2;
    banks = least(banks, CONTRACT_MAX_BLOCK_BANKS);
    if (!s->is_stored || s->n_batch > 1 || s->b.turns || s->b.turns_by_dma || s->b.is_resident ||
        tiles * parts(s->b.n_x, q->r.bank_cols) <= s->sum_banks)
        return;
    contract_cut cut = {.group_rows = s->a.n_x,
                        .turn_cols = s->b.n_x,
                        .block_cols = least(banks * q->r.bank_cols, s->b.n_x),
                        .n_together = 1,
                        .a_span = s->tile_rows,
                        .b_span = s->b.n_x,
                        .n_sums = (int)tiles};
    q->r.add_ns = add_bank_ns(&q->r);
    const double adds_ns = (double)(tiles * parts(s->b.n_x, q->r.bank_cols)) * q->r.add_ns;
    for (cut.chunk_k = q->r.pe; cut.chunk_k < s->n_k; cut.chunk_k *= 2) {
        if (adds_ns * (double)parts(s->n_k, cut.chunk_k) >= q->best.ns)
            continue; /* no cut of this chunk can be faster than the best */
        for (cut.n_b = 2; cut.n_b <= MAX_BUFFERS / 2; cut.n_b++) {
            cut.n_a = (int)least(cut.n_b * tiles, MAX_BUFFERS);
            try_buffers(q, cut);
        }
        if ((uint64_t)(cut.chunk_k / q->r.pe * s->b.n_x * q->r.k_size) > q->limit_bytes)
            break;
    }
}

contract_cut contract_choose_cut(const vtrn_chip *chip, const contract_shape *shape,
                                 int64_t group_rows, int64_t turn_cols, uint64_t limit_bytes) {
    search q = {.r = rates_of(chip, shape), .limit_bytes = limit_bytes};
    q.r.memo[0] = q.memo[0];
    q.r.memo[1] = q.memo[1];
    /* where there is one tile of rows, no other sums wait for banks while these are emptied */
    bool is_one_tile = shape->a.n_x <= shape->tile_rows && shape->n_batch == 1;
    int most_banks = is_one_tile || shape->sum_banks < 2 ? shape->sum_banks : shape->sum_banks / 2;
    most_banks = most_banks < CONTRACT_MAX_BLOCK_BANKS ? most_banks : CONTRACT_MAX_BLOCK_BANKS;
    int64_t most = least(most_banks * q.r.bank_cols, shape->b.n_x);
    if (turn_cols)
        most = least(most, turn_cols);
    /* blocks divide a turn that is not all; else they are a power of 2 of a bank, or all */
    bool has_turns = turn_cols && turn_cols < shape->b.n_x;
    int64_t first = has_turns ? turn_cols : q.r.bank_cols;
    while (first < most)
        first *= 2;
    /* what is transposed from a resident has its rows in tiles of the PE array's size */
    bool is_aligned = shape->b.turns && shape->b.is_resident;
    for (int64_t cols = first;; cols /= 2) {
        bool is_wide = has_turns ? cols > most : cols / 2 >= most;
        bool is_last =
            has_turns ? cols % 2 || cols / 2 < LEAST_BLOCK_COLS : cols / 2 < LEAST_BLOCK_COLS;
        if (is_aligned && q.has_best && cols % q.r.pe)
            break;
        contract_cut cut = {.block_cols = least(cols, most), .n_together = 1};
        cut.turn_cols = turn_cols ? turn_cols : cut.block_cols;
        cut.chunk_k = shape->n_k;
        if (!is_wide || is_last)
            try_groups(&q, cut, group_rows);
        if ((!is_wide || is_last) && !shape->keeps_whole_k)
            try_chunks(&q, cut, group_rows);
        if (is_last)
            break;
    }
    if (!shape->keeps_whole_k)
        try_strips(&q);
    return q.best;
}
