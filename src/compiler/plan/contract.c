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
    CACHE_BYTES = 64 << 10, /* of a partition, for the moving operand: assumed */
    NATURAL_COLS = 1024,    /* k loaded at a time for transposing */
    LEAST_GROUP_COLS = 16,
    SMALL_BYTES = 2 << 10, /* of a partition: operand tiles up to this get more than two buffers */
    TURN_COST = 64,        /* descriptors of a DMA engine that a transpose is worth: assumed */
};

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

int64_t contract_pe_size(const vtrn_chip *chip) {
    return least(chip->n_partitions, least(chip->tensor_max_k, chip->tensor_max_m));
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

/* Elements of the stretches that lie side by side in memory along an index, a tile's at most. */
static int64_t run_of(const vtrn_chip *chip, const view_factor *f, int n) {
    int64_t run = 1;
    for (int i = n - 1; i >= 0; i--) {
        if (f[i].size == 1)
            continue;
        if (f[i].stride != run)
            break;
        run *= f[i].size;
    }
    return least(run, contract_pe_size(chip));
}

/* Descriptors of the DMA engine that has most to do when [rows, cols] in runs are loaded. */
static int64_t n_descriptors(const vtrn_chip *chip, int64_t rows, int64_t cols, int64_t run) {
    int per_engine = chip->dma.partitions_per_engine;
    cols = least(cols, contract_pe_size(chip));
    return (rows < per_engine ? rows : per_engine) * ((cols + run - 1) / run);
}

bool contract_turns(const vtrn_chip *chip, const contract_operand *o) {
    int64_t n_x = size_of(o->x, o->n_x), n_k = size_of(o->k, o->n_k);
    return n_k > 1 && n_descriptors(chip, n_k, n_x, run_of(chip, o->x, o->n_x)) >
                          n_descriptors(chip, n_x, n_k, run_of(chip, o->k, o->n_k)) + TURN_COST;
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

/* Whether the resident has each tile of the operand as it would be loaded. */
static bool operand_takes(const contraction *c, const contract_operand *o, const resident *r) {
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
            if (!resident_holds(r, &part, (uint8_t)c->compute, NULL))
                return false;
        }
    }
    return true;
}

contract_banks contract_kernel_banks(const vtrn_chip *chip) {
    int turns = chip->n_psum_banks / 2;
    return (contract_banks){.sums = chip->n_psum_banks - turns, .turns = turns};
}

static void size_up(contraction *c) {
    const contract_spec *s = c->spec;
    c->element_bytes = (uint32_t)dtype_size(c->compute);
    c->bank_cols = psum_cols(c->chip);
    c->chunk_k = least(c->n_k, c->max_chunk_k);
    int64_t k_tiles = (c->chunk_k + contract_pe_size(c->chip) - 1) / contract_pe_size(c->chip);
    int64_t banks = contract_kernel_banks(c->chip).sums;
    banks = banks < CONTRACT_MAX_GROUP_BANKS ? banks : CONTRACT_MAX_GROUP_BANKS;
    while (banks > 1 && k_tiles * banks * c->bank_cols * c->element_bytes > CACHE_BYTES)
        banks--;
    c->group_cols = least(least(banks * c->bank_cols, c->n_n), c->max_group_cols);
    c->a_bytes = sbuf_round((uint64_t)(k_tiles * contract_pe_size(c->chip) * c->element_bytes));
    c->b_bytes = sbuf_round((uint64_t)(k_tiles * c->group_cols * c->element_bytes));
    bool a_turns = contract_turns(c->chip, &s->a), b_turns = contract_turns(c->chip, &s->b);
    if (c->a_from && !a_turns)
        c->a_bytes = 0;
    if (c->b_from && !b_turns)
        c->b_bytes = 0;
    bool has_natural = (a_turns && !c->a_from) || (b_turns && !c->b_from);
    c->natural_cols = least(c->n_k, c->is_tight ? contract_pe_size(c->chip) : NATURAL_COLS);
    c->natural_bytes = has_natural ? sbuf_round((uint64_t)(c->natural_cols * c->element_bytes)) : 0;
    c->out_bytes = sbuf_round((uint64_t)c->group_cols * dtype_size(s->out.dtype));
    /* a transfer takes longer than one small tile's matmuls */
    c->n_a = c->a_bytes + c->natural_bytes <= SMALL_BYTES ? CONTRACT_MAX_BUFFERS : 2;
    c->n_b = c->n_batch > 1 && c->b_bytes <= SMALL_BYTES ? CONTRACT_MAX_BUFFERS : 2;
    if (c->is_tight)
        c->n_a = c->n_b = 1;
}

void contract_tighten(contraction *c) {
    c->is_tight = true;
    size_up(c);
}

/* One step from the parts that SBUF has room for by default to the least ones: single buffers, then
 * the larger operand's part. */
static bool shrink(contraction *c) {
    if (!c->is_tight)
        c->is_tight = true;
    else if (c->group_cols > LEAST_GROUP_COLS &&
             (c->b_bytes >= c->a_bytes || c->chunk_k <= contract_pe_size(c->chip)))
        c->max_group_cols = c->group_cols / 2;
    else if (c->chunk_k > contract_pe_size(c->chip))
        c->max_chunk_k = (c->chunk_k / 2 + contract_pe_size(c->chip) - 1) /
                         contract_pe_size(c->chip) * contract_pe_size(c->chip);
    else
        return false;
    size_up(c);
    return true;
}

static uint64_t kernel_bytes(const contraction *c) {
    return contract_bytes(c) + 2ull * c->out_bytes;
}

void contract_fit(contraction *c, uint64_t limit_bytes) {
    while (kernel_bytes(c) > limit_bytes && shrink(c))
        continue;
}

static contraction describe(const vtrn_chip *chip, const contract_spec *spec) {
    return (contraction){.chip = chip,
                         .spec = spec,
                         .compute = spec->compute,
                         .n_m = size_of(spec->a.x, spec->a.n_x),
                         .n_n = size_of(spec->b.x, spec->b.n_x),
                         .n_k = size_of(spec->a.k, spec->a.n_k),
                         .n_batch = size_of(spec->a.batch, spec->a.n_batch),
                         .max_group_cols = INT64_MAX,
                         .max_chunk_k = CONTRACT_MAX_K_TILES * contract_pe_size(chip)};
}

uint64_t contract_bytes(const contraction *c) {
    return (uint64_t)c->n_a * (c->a_bytes + c->natural_bytes) + (uint64_t)c->n_b * c->b_bytes;
}

bool contract_takes(const contraction *c, const resident *r) {
    return operand_takes(c, &c->spec->a, r) || operand_takes(c, &c->spec->b, r);
}

void contract_take(contraction *c, const resident *a, const resident *b) {
    c->a_from = a && operand_takes(c, &c->spec->a, a) ? a : NULL;
    c->b_from = b && operand_takes(c, &c->spec->b, b) ? b : NULL;
    size_up(c);
}

int contract_ahead(const contraction *c) {
    return c->n_batch > 1 && c->n_b < c->n_a ? c->n_b : c->n_a;
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
        VTRN_RETURN_IF_ERROR(plan_reads(p, &v));
    }
    return NULL;
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
    bool has_turns = contract_turns(c->chip, &c->spec->a) || contract_turns(c->chip, &c->spec->b);
    return (kernel_demand){.sbuf_bytes = kernel_bytes(c),
                           .psum_banks = psum_banks_for(c->chip, c->group_cols) + has_turns};
}

bool contract_is_tileable(const vtrn_chip *chip, const contract_spec *spec, int64_t *row_step) {
    contraction c = describe(chip, spec);
    size_up(&c);
    *row_step = c.n_batch > 1 && c.n_m < contract_pe_size(chip) ? c.n_m : contract_pe_size(chip);
    bool is_aligned =
        c.n_batch == 1 || c.n_m <= contract_pe_size(chip) || c.n_m % contract_pe_size(chip) == 0;
    return is_aligned && c.n_k <= c.chunk_k && c.n_n <= c.group_cols;
}

contract_banks contract_least_banks(const vtrn_chip *chip, const contract_spec *spec) {
    bool has_turns = contract_turns(chip, &spec->a) || contract_turns(chip, &spec->b);
    return (contract_banks){.sums = psum_banks_for(chip, size_of(spec->b.x, spec->b.n_x)),
                            .turns = has_turns};
}

void contract_start(const vtrn_chip *chip, const contract_spec *spec, contraction *c) {
    *c = describe(chip, spec);
    size_up(c);
}
