/* Contractions: dot_general and convolution as tiled matmuls.
 *
 *     out[batch][m][n] = sum over k of a[batch][k][m] * b[batch][k][n]
 *
 * a is stationary, b moving. Each index is a list of factors with a stride in each operand, so a
 * convolution is a contraction whose operand view revisits its elements (im2col without a copy). */
#include "compiler/plan/contract.h"

#include "compiler/plan/psum_banks.h"
#include "compiler/plan/resident.h"
#include "compiler/plan/tile.h"

#include <string.h>

enum {
    TURN_COST = 64, /* descriptors of a DMA engine that a transpose is worth: assumed */
};

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t size_of(const view_factor *f, int n) {
    int64_t size = 1;
    for (int i = 0; i < n; i++)
        size *= f[i].size;
    return size;
}

/* Offset in elements of linear index i over factors. */
static int64_t offset_of(const view_factor *f, int n, int64_t index) {
    int64_t offset = 0;
    for (int i = n - 1; i >= 0; i--) {
        offset += index % f[i].size * f[i].stride;
        index /= f[i].size;
    }
    return offset;
}

/* Elements that are adjacent in memory along an index, a tile's at most. */
static int64_t run_of(const vtrn_chip *chip, const view_factor *f, int n) {
    return least(view_run(f, n), contract_pe_size(chip));
}

/* Descriptors of the DMA engine that has most to do when [rows, cols] in runs are loaded. */
static int64_t n_descriptors(const vtrn_chip *chip, int64_t rows, int64_t cols, int64_t run) {
    int per_engine = chip->dma.partitions_per_engine;
    cols = least(cols, contract_pe_size(chip));
    return (rows < per_engine ? rows : per_engine) * ((cols + run - 1) / run);
}

/* A few rows, each of elements side by side: they come by few long transfers, or stay in SBUF from
 * the kernel that made them, where k on the partitions would take a transfer of single elements. */
static bool is_few_rows(const contract_operand *o, int64_t n_x, int64_t n_k) {
    enum { MAX_ROWS = 8, MIN_K = 32 /* assumed */ };
    return n_x <= MAX_ROWS && n_k >= MIN_K && view_run(o->k, o->n_k) >= n_k;
}

bool contract_turns(const vtrn_chip *chip, const contract_operand *o) {
    int64_t n_x = size_of(o->x, o->n_x), n_k = size_of(o->k, o->n_k);
    if (dtype_per_byte((vtrn_dtype)o->dtype) > 1) /* only values side by side are unpacked */
        return view_run(o->k, o->n_k) > 1;
    return is_few_rows(o, n_x, n_k) ||
           (n_k > 1 && n_descriptors(chip, n_k, n_x, run_of(chip, o->x, o->n_x)) >
                           n_descriptors(chip, n_x, n_k, run_of(chip, o->k, o->n_k)) + TURN_COST);
}

view contract_operand_view(const contract_operand *o, int64_t batch, bool is_natural) {
    view v = {.slot = o->slot,
              .dtype = o->dtype,
              .offset = o->offset + offset_of(o->batch, o->n_batch, batch),
              .n = o->n_k + o->n_x};
    const view_factor *outer = is_natural ? o->x : o->k, *inner = is_natural ? o->k : o->x;
    int n_outer = is_natural ? o->n_x : o->n_k;
    memcpy(v.f, outer, (size_t)n_outer * sizeof *outer);
    memcpy(v.f + n_outer, inner, (size_t)(v.n - n_outer) * sizeof *inner);
    return v;
}

view contract_output_view(const contract_output *o, int64_t batch) {
    view v = {.slot = o->slot,
              .dtype = o->dtype,
              .offset = o->offset + offset_of(o->batch, o->n_batch, batch),
              .n = o->n_m + o->n_n};
    memcpy(v.f, o->m, (size_t)o->n_m * sizeof *o->m);
    memcpy(v.f + o->n_m, o->n, (size_t)o->n_n * sizeof *o->n);
    return v;
}

/* Whether the resident has each tile of the operand as it would be loaded. has_rows: an operand
 * with k on the partitions may begin at a later one. */
static bool operand_takes(const contraction *c, const contract_operand *o, const resident *r,
                          bool has_rows) {
    bool is_natural = contract_turns(c->chip, o);
    int64_t n_x = size_of(o->x, o->n_x);
    int64_t n_rows = is_natural ? n_x : c->n_k, n_cols = is_natural ? c->n_k : n_x;
    if (o->slot != r->slot)
        return false;
    for (int64_t batch = 0; batch < c->n_batch; batch++) {
        view v = contract_operand_view(o, batch, is_natural);
        for (int64_t row = 0; row < n_rows; row += contract_pe_size(c->chip)) {
            int64_t rows =
                n_rows - row < contract_pe_size(c->chip) ? n_rows - row : contract_pe_size(c->chip);
            view_part part = {&v, is_natural ? o->n_x : o->n_k, row, rows, 0, n_cols};
            tile t;
            if (has_rows && !is_natural ? !resident_holds_rows(r, &part, (uint8_t)c->compute, &t)
                                        : !resident_holds(r, &part, (uint8_t)c->compute, &t))
                return false;
        }
    }
    return true;
}

/* --- cuts ---------------------------------------------------------------------------------------
 */

/* Whether all of an index is one stretch of even steps. */
static bool is_even(const view_factor *f, int n) {
    view v = {.n = n};
    memcpy(v.f, f, (size_t)n * sizeof *f);
    view_coalesce(&v);
    return v.n <= 1;
}

bool contract_turns_by_dma(const contraction *c, const contract_operand *o) {
    enum { ELEMENT_BYTES = 2 /* that the DMA engines transpose at nearly the speed of a copy */ };
    const resident *from = o == &c->spec->a ? c->a_from : c->b_from;
    return !from && c->chip->dma.transpose_factor > 0 && contract_turns(c->chip, o) &&
           o->dtype == (uint8_t)c->compute && dtype_size(c->compute) == ELEMENT_BYTES &&
           is_even(o->x, o->n_x) && is_even(o->k, o->n_k);
}

/* Elements from an index to the next. */
static int64_t step_of(const view_factor *f, int n) {
    for (int i = n - 1; i >= 0; i--)
        if (f[i].size > 1)
            return f[i].stride;
    return 0;
}

static contract_side side_of(const contraction *c, const contract_operand *o) {
    bool by_dma = contract_turns_by_dma(c, o), turns = contract_turns(c->chip, o) && !by_dma;
    const resident *from = o == &c->spec->a ? c->a_from : c->b_from;
    bool is_across = turns || by_dma; /* rows are those of x */
    return (contract_side){.n_x = size_of(o->x, o->n_x),
                           .turns = turns,
                           .is_resident = from != NULL,
                           .turns_by_dma = by_dma,
                           .run = is_across ? view_run(o->k, o->n_k) : view_run(o->x, o->n_x),
                           .pitch = is_across ? step_of(o->x, o->n_x) : step_of(o->k, o->n_k),
                           .dtype = o->dtype};
}

static void cut_for(contraction *c, uint64_t limit_bytes) {
    const contract_spec *s = c->spec;
    contract_question question = {.shape = {.n_batch = c->n_batch,
                                            .n_k = c->n_k,
                                            .a = side_of(c, &s->a),
                                            .b = side_of(c, &s->b),
                                            .dtype = (uint8_t)c->compute,
                                            .out_dtype = s->out.dtype,
                                            .tile_rows = c->tile_rows,
                                            .sum_banks = c->banks.sums,
                                            .is_stored = c->is_kernel,
                                            .keeps_whole_k = !c->is_kernel},
                                  .group_rows = c->group_rows,
                                  .turn_cols = c->turn_cols,
                                  .limit_bytes = limit_bytes};
    c->cut = contract_memo_choose(c->cuts, c->chip, &question);
    c->is_limited = limit_bytes < c->limit_bytes;
}

static void cut(contraction *c) {
    cut_for(c, c->limit_bytes);
}

contract_banks contract_least_banks(const vtrn_chip *chip, const contract_spec *spec) {
    bool has_turns = contract_turns(chip, &spec->a) || contract_turns(chip, &spec->b);
    return (contract_banks){.sums = 1, .turns = has_turns};
}

void contract_cut_kernel(contraction *c, uint64_t limit_bytes) {
    int n = c->chip->n_psum_banks, turns = contract_least_banks(c->chip, c->spec).turns;
    turns = n >= 4 ? 2 * turns : turns;
    c->is_kernel = true;
    c->banks = (contract_banks){.sums = n - turns, .turns = turns};
    c->limit_bytes = limit_bytes;
    cut(c);
}

void contract_cut_tiles(contraction *c, contract_banks banks, int64_t group_rows, int64_t turn_cols,
                        uint64_t limit_bytes) {
    c->banks = banks;
    c->group_rows = group_rows;
    c->turn_cols = turn_cols;
    c->limit_bytes = limit_bytes;
    cut(c);
}

void contract_start(const plan *p, const contract_spec *spec, contraction *c) {
    const vtrn_chip *chip = p->chip;
    int64_t size = contract_pe_size(chip);
    *c = (contraction){.chip = chip,
                       .cuts = p->cuts,
                       .spec = spec,
                       .compute = spec->compute,
                       .n_m = size_of(spec->a.x, spec->a.n_x),
                       .n_n = size_of(spec->b.x, spec->b.n_x),
                       .n_k = size_of(spec->a.k, spec->a.n_k),
                       .n_batch = size_of(spec->a.batch, spec->a.n_batch),
                       .element_bytes = (uint32_t)dtype_size(spec->compute),
                       .bank_cols = psum_cols(chip)};
    c->tile_rows = c->n_batch > 1 && c->n_m < size ? c->n_m : size;
}

bool contract_limit(contraction *c, uint64_t limit_bytes) {
    const double MAX_LOSS = 1.2; /* for which reads from SBUF make up: assumed */
    double ns = c->cut.ns;
    cut_for(c, limit_bytes < c->limit_bytes ? limit_bytes : c->limit_bytes);
    return contract_bytes(c) <= limit_bytes && c->cut.ns <= MAX_LOSS * ns;
}

uint64_t contract_bytes(const contraction *c) {
    return contract_cut_bytes(&c->cut);
}

/* Without a cut (sides.h): what is transposed, a batch at a time. */
static bool batches_take(const contraction *c, const contract_operand *o, const resident *r) {
    return r && contract_turns(c->chip, o) && operand_takes(c, o, r, false);
}

bool contract_takes(const contraction *c, const resident *r) {
    if (!c->limit_bytes)
        return batches_take(c, &c->spec->a, r) || batches_take(c, &c->spec->b, r);
    return operand_takes(c, &c->spec->a, r, true) || operand_takes(c, &c->spec->b, r, true);
}

/* Whether weights and what streams through them are on the same rows of the PE array. */
static bool are_on_same_rows(const contraction *c, const resident *a, const resident *b) {
    const contract_operand *in[] = {&c->spec->a, &c->spec->b};
    const resident *from[] = {a, b};
    if (!operand_takes(c, in[0], a, true) || !operand_takes(c, in[1], b, true) ||
        contract_turns(c->chip, in[0]) || contract_turns(c->chip, in[1]))
        return false;
    for (int64_t batch = 0; batch < c->n_batch; batch++) {
        view v[] = {contract_operand_view(in[0], batch, false),
                    contract_operand_view(in[1], batch, false)};
        for (int64_t k = 0; k < c->n_k; k += contract_pe_size(c->chip)) {
            int64_t rows = least(c->n_k - k, contract_pe_size(c->chip));
            tile t[2];
            for (int i = 0; i < 2; i++) {
                view_part part = {&v[i], in[i]->n_k, k, rows, 0, size_of(in[i]->x, in[i]->n_x)};
                if (!resident_holds_rows(from[i], &part, (uint8_t)c->compute, &t[i]))
                    return false;
            }
            if (t[0].partition != t[1].partition)
                return false;
        }
    }
    return true;
}

void contract_take(contraction *c, const resident *a, const resident *b) {
    if (!c->limit_bytes) {
        c->a_from = batches_take(c, &c->spec->a, a) ? a : NULL;
        c->b_from = batches_take(c, &c->spec->b, b) ? b : NULL;
        return;
    }
    bool has_rows = a && b && are_on_same_rows(c, a, b);
    const resident *a_from = a && operand_takes(c, &c->spec->a, a, has_rows) ? a : NULL;
    const resident *b_from = b && operand_takes(c, &c->spec->b, b, has_rows) ? b : NULL;
    bool is_same = !a_from == !c->a_from && !b_from == !c->b_from;
    c->a_from = a_from;
    c->b_from = b_from;
    if (!is_same || c->is_limited)
        cut(c);
}

static void add_factors(view *v, const view_factor *f, int n) {
    memcpy(v->f + v->n, f, (size_t)n * sizeof *f);
    v->n += n;
}

vtrn_status contract_accesses(plan *p, const contract_spec *spec) {
    const contract_operand *in[] = {&spec->a, &spec->b};
    for (int i = 0; i < 2; i++) {
        view v = {.slot = in[i]->slot, .dtype = in[i]->dtype, .offset = in[i]->offset};
        add_factors(&v, in[i]->batch, in[i]->n_batch);
        add_factors(&v, in[i]->k, in[i]->n_k);
        add_factors(&v, in[i]->x, in[i]->n_x);
        VTRN_CHECK(view_packs(&v), "packed operands have whole bytes in each row");
        v = view_of_bytes(&v);
        VTRN_RETURN_IF_ERROR(plan_reads(p, &v));
    }
    return NULL;
}

bool contract_write_at(contract_output *o, const view *at) {
    const int64_t dims[] = {size_of(o->batch, o->n_batch), size_of(o->m, o->n_m),
                            size_of(o->n, o->n_n)};
    view v = *at;
    int first[4];
    if (!view_split_dims(&v, dims, 3, first))
        return false;
    *o = (contract_output){.slot = v.slot, .dtype = v.dtype, .offset = v.offset};
    for (int i = 0; i < v.n; i++) {
        if (i < first[1])
            o->batch[o->n_batch++] = v.f[i];
        else if (i < first[2])
            o->m[o->n_m++] = v.f[i];
        else
            o->n[o->n_n++] = v.f[i];
    }
    return true;
}

vtrn_status contract_record(plan *p, const contract_spec *spec) {
    const contract_output *o = &spec->out;
    view out = {.slot = o->slot, .dtype = o->dtype, .offset = o->offset};
    add_factors(&out, o->batch, o->n_batch);
    add_factors(&out, o->m, o->n_m);
    add_factors(&out, o->n, o->n_n);
    VTRN_RETURN_IF_ERROR(plan_kernel(p, KERNEL_CONTRACT, spec, sizeof *spec, (kernel_demand){0}));
    VTRN_RETURN_IF_ERROR(contract_accesses(p, spec));
    return plan_writes(p, &out);
}

kernel_demand contract_kernel_demand(const contraction *c) {
    contract_banks least = contract_least_banks(c->chip, c->spec);
    int banks = psum_banks_for(c->chip, c->cut.block_cols) * c->cut.n_together;
    return (kernel_demand){.sbuf_bytes = contract_bytes(c), .psum_banks = banks + least.turns};
}

bool contract_is_tileable(const plan *p, const contract_spec *spec, int64_t *row_step,
                          int64_t *batch_rows) {
    enum { SHARE = 2 /* of SBUF is left to what uses the tiles */ };
    contraction c;
    contract_start(p, spec, &c);
    *row_step = c.tile_rows;
    *batch_rows = c.n_batch == 1 || c.n_m % c.tile_rows == 0 ? 0 : c.n_m;
    uint64_t limit_bytes = p->sbuf_limit / SHARE;
    contract_cut_tiles(&c, contract_least_banks(p->chip, spec), 0, 0, limit_bytes);
    return contract_bytes(&c) <= limit_bytes;
}
