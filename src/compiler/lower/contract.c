/* Contractions: dot_general and convolution as tiled matmuls.
 *
 *     out[batch][m][n] = sum over k of a[batch][k][m] * b[batch][k][n]
 *
 * a is stationary, b moving. Each index is a list of factors with a stride in each operand, so a
 * convolution is a contraction whose operand view revisits its elements (im2col without a copy). */
#include "compiler/lower/contract.h"

#include "compiler/emit/emit_kernels.h"
#include "compiler/plan/resident.h"

#include <string.h>

enum {
    MAX_GROUP_BANKS = 2,    /* PSUM banks that one sweep over k accumulates into, at most */
    CACHE_BYTES = 64 << 10, /* of a partition, for the moving operand: assumed */
    NATURAL_COLS = 1024,    /* k loaded at a time for transposing */
    LEAST_GROUP_COLS = 16,
    SMALL_BYTES = 2 << 10, /* of a partition: operand tiles up to this get more than two buffers */
    TURN_COST = 64,        /* descriptors of a DMA engine that a transpose is worth: assumed */
};

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Rows and columns of a full tile of weights. */
static int64_t pe_size(const lower *l) {
    const vtrn_chip *chip = l->chip;
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
static int64_t run_of(const lower *l, const view_factor *f, int n) {
    int64_t run = 1;
    for (int i = n - 1; i >= 0; i--) {
        if (f[i].size == 1)
            continue;
        if (f[i].stride != run)
            break;
        run *= f[i].size;
    }
    return least(run, pe_size(l));
}

/* Descriptors of the DMA engine that has most to do when [rows, cols] in runs are loaded. */
static int64_t n_descriptors(const lower *l, int64_t rows, int64_t cols, int64_t run) {
    int per_engine = l->chip->dma.partitions_per_engine;
    cols = least(cols, pe_size(l));
    return (rows < per_engine ? rows : per_engine) * ((cols + run - 1) / run);
}

/* Scattered with k on the partitions, and less so as it lies: then it is loaded as it lies and
 * transposed on the PE array. */
static bool wants_transpose(const lower *l, const contract_operand *o) {
    int64_t n_x = size_of(o->x, o->n_x), n_k = size_of(o->k, o->n_k);
    return n_k > 1 && n_descriptors(l, n_k, n_x, run_of(l, o->x, o->n_x)) >
                          n_descriptors(l, n_x, n_k, run_of(l, o->k, o->n_k)) + TURN_COST;
}

static view view_of(const contract_operand *o, int64_t batch, bool is_natural) {
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

/* Whether the resident has each tile of the operand as it would be loaded. */
static bool operand_takes(const contraction *c, const contract_operand *o, const resident *r) {
    bool is_natural = wants_transpose(c->l, o);
    int64_t n_x = size_of(o->x, o->n_x);
    int64_t n_rows = is_natural ? n_x : c->n_k, n_cols = is_natural ? c->n_k : n_x;
    if (o->slot != r->slot)
        return false;
    for (int64_t batch = 0; batch < c->n_batch; batch++) {
        view v = view_of(o, batch, is_natural);
        for (int64_t row = 0; row < n_rows; row += pe_size(c->l)) {
            int64_t rows = n_rows - row < pe_size(c->l) ? n_rows - row : pe_size(c->l);
            view_part part = {&v, is_natural ? o->n_x : o->n_k, row, rows, 0, n_cols};
            if (!resident_holds(r, &part, (uint8_t)c->compute, NULL))
                return false;
        }
    }
    return true;
}

/* A tile of an operand: loaded into *t, or where `from` keeps it. */
static vtrn_status fetch(contraction *c, const view_part *p, const resident *from, tile *t) {
    if (!from)
        return lower_load(c->l, p->v, p->n_outer, p->r0, p->n_rows, p->c0, p->n_cols, t);
    VTRN_CHECK(resident_holds(from, p, (uint8_t)c->compute, t),
               "placement takes only operands that a resident has");
    return NULL;
}

static vtrn_status load_natural(contraction *c, const contract_operand *o, const resident *from,
                                int64_t batch, int64_t k0, int64_t n_k, int64_t x0, int64_t n_x,
                                const contract_tiles *dst) {
    lower *l = c->l;
    view v = view_of(o, batch, true);
    for (int64_t x = 0; x < n_x; x += pe_size(c->l))
        for (int64_t kc = 0; kc < n_k; kc += c->natural_cols) {
            uint32_t rows = (uint32_t)(n_x - x < pe_size(c->l) ? n_x - x : pe_size(c->l));
            int64_t cols = n_k - kc < c->natural_cols ? n_k - kc : c->natural_cols;
            tile natural = c->natural[c->flip_natural++ % c->n_a];
            view_part part = {&v, o->n_x, x0 + x, rows, k0 + kc, cols};
            VTRN_RETURN_IF_ERROR(fetch(c, &part, from, &natural));
            for (int64_t k = 0; k < cols; k += pe_size(c->l)) {
                uint32_t n = (uint32_t)(cols - k < pe_size(c->l) ? cols - k : pe_size(c->l));
                tile psum;
                VTRN_RETURN_IF_ERROR(psum_next(l, &c->turns, 1, &psum));
                psum.dtype = natural.dtype;
                vtrn_ap turned = tile_ap(&psum, n, rows);
                LOWER_EMIT(transpose, l, PE_TRANSPOSE, TENSOR);
                transpose->ap[0] = turned;
                transpose->ap[1] = tile_ap_cols(&natural, rows, (uint32_t)k, n);
                vtrn_ap to = tile_ap_cols(&dst->k[(kc + k) / pe_size(c->l)], n, (uint32_t)x, rows);
                VTRN_RETURN_IF_ERROR(lower_emit_scaled(l, &to, &turned, 1, NULL));
            }
        }
    return NULL;
}

/* [k0, k0 + n_k) x [x0, x0 + n_x) of an operand. */
static vtrn_status load_operand(contraction *c, const contract_operand *o, int64_t batch,
                                int64_t k0, int64_t n_k, int64_t x0, int64_t n_x,
                                contract_tiles *dst) {
    const resident *from = o == &c->spec->a ? c->a_from : c->b_from;
    if (wants_transpose(c->l, o))
        return load_natural(c, o, from, batch, k0, n_k, x0, n_x, dst);
    view v = view_of(o, batch, false);
    for (int64_t k = 0; k < n_k; k += pe_size(c->l)) {
        int64_t rows = n_k - k < pe_size(c->l) ? n_k - k : pe_size(c->l);
        view_part part = {&v, o->n_k, k0 + k, rows, x0, n_x};
        VTRN_RETURN_IF_ERROR(fetch(c, &part, from, &dst->k[k / pe_size(c->l)]));
    }
    return NULL;
}

/* One k chunk into the PSUM banks of a group. */
static vtrn_status multiply(contraction *c, const contract_tiles *a, const contract_tiles *b,
                            const tile *psum, uint32_t n_m, int64_t n_n, int64_t n_k, bool is_first,
                            bool is_last) {
    lower *l = c->l;
    for (int64_t k = 0; k < n_k; k += pe_size(c->l)) {
        uint32_t rows = (uint32_t)(n_k - k < pe_size(c->l) ? n_k - k : pe_size(c->l));
        int64_t k_tile = k / pe_size(c->l);
        LOWER_EMIT(weights, l, LDWEIGHTS, TENSOR);
        weights->ap[1] = tile_ap(&a->k[k_tile], rows, n_m);
        for (int64_t n = 0, bank = 0; n < n_n; n += c->bank_cols, bank++) {
            uint32_t cols = (uint32_t)(n_n - n < c->bank_cols ? n_n - n : c->bank_cols);
            bool ends = is_last && k + pe_size(c->l) >= n_k;
            LOWER_EMIT(matmul, l, MATMUL, TENSOR);
            matmul->ap[0] = tile_ap(&psum[bank], n_m, cols);
            matmul->ap[1] = tile_ap_cols(&b->k[k_tile], rows, (uint32_t)n, cols);
            matmul->flags =
                (is_first && k == 0 ? 0 : VTRN_FLAG_ACCUMULATE) | (ends ? VTRN_FLAG_LAST : 0);
        }
    }
    return NULL;
}

static vtrn_status store_group(contraction *c, int64_t batch, const tile *psum, int64_t m0,
                               uint32_t n_m, int64_t n0, int64_t n_n) {
    const contract_output *o = &c->spec->out;
    tile out = c->out[c->flip_out++ % 2];
    for (int64_t n = 0, bank = 0; n < n_n; n += c->bank_cols, bank++) {
        uint32_t cols = (uint32_t)(n_n - n < c->bank_cols ? n_n - n : c->bank_cols);
        vtrn_ap to = tile_ap_cols(&out, n_m, (uint32_t)n, cols);
        vtrn_ap from = tile_ap(&psum[bank], n_m, cols);
        VTRN_RETURN_IF_ERROR(lower_emit_scaled(c->l, &to, &from, 1, NULL));
    }
    view v = {.slot = o->slot,
              .dtype = o->dtype,
              .offset = o->offset + offset_of(o->batch, o->n_batch, batch),
              .n = o->n_m + o->n_n};
    memcpy(v.f, o->m, (size_t)o->n_m * sizeof *o->m);
    memcpy(v.f + o->n_m, o->n, (size_t)o->n_n * sizeof *o->n);
    return lower_store(c->l, &v, o->n_m, m0, n_m, n0, n_n, &out, false);
}

static vtrn_status sweep(contraction *c, int64_t batch, int64_t n0, int64_t n_n) {
    const contract_spec *s = c->spec;
    bool is_cached = c->n_k <= c->chunk_k;
    contract_tiles *b = &c->b[0];
    if (is_cached) {
        b = &c->b[c->flip_b++ % c->n_b];
        VTRN_RETURN_IF_ERROR(load_operand(c, &s->b, batch, 0, c->n_k, n0, n_n, b));
    }
    for (int64_t m0 = 0; m0 < c->n_m; m0 += pe_size(c->l)) {
        uint32_t n_m = (uint32_t)(c->n_m - m0 < pe_size(c->l) ? c->n_m - m0 : pe_size(c->l));
        tile psum[MAX_GROUP_BANKS];
        bool is_started = false;
        for (int64_t k0 = 0; k0 < c->n_k; k0 += c->chunk_k) {
            int64_t n_k = c->n_k - k0 < c->chunk_k ? c->n_k - k0 : c->chunk_k;
            contract_tiles *a = &c->a[c->flip_a++ % c->n_a];
            VTRN_RETURN_IF_ERROR(load_operand(c, &s->a, batch, k0, n_k, m0, n_m, a));
            if (!is_cached) {
                b = &c->b[c->flip_b++ % c->n_b];
                VTRN_RETURN_IF_ERROR(load_operand(c, &s->b, batch, k0, n_k, n0, n_n, b));
            }
            if (!is_started)
                VTRN_RETURN_IF_ERROR(
                    psum_next(c->l, &c->sums, psum_banks_for(c->l->chip, n_n), psum));
            is_started = true;
            VTRN_RETURN_IF_ERROR(
                multiply(c, a, b, psum, n_m, n_n, n_k, k0 == 0, k0 + n_k == c->n_k));
        }
        VTRN_RETURN_IF_ERROR(store_group(c, batch, psum, m0, n_m, n0, n_n));
    }
    return NULL;
}

/* All banks of the chip, for a contraction that is a kernel of its own. */
static contract_banks banks_of_kernel(const vtrn_chip *chip) {
    int turns = chip->n_psum_banks / 2;
    return (contract_banks){.sums = chip->n_psum_banks - turns, .turns = turns};
}

static void size_up(contraction *c) {
    const contract_spec *s = c->spec;
    c->element_bytes = (uint32_t)dtype_size(c->compute);
    c->bank_cols = psum_cols(c->l->chip);
    c->chunk_k = least(c->n_k, c->max_chunk_k);
    int64_t k_tiles = (c->chunk_k + pe_size(c->l) - 1) / pe_size(c->l);
    int64_t banks = banks_of_kernel(c->l->chip).sums;
    banks = banks < MAX_GROUP_BANKS ? banks : MAX_GROUP_BANKS;
    while (banks > 1 && k_tiles * banks * c->bank_cols * c->element_bytes > CACHE_BYTES)
        banks--;
    c->group_cols = least(least(banks * c->bank_cols, c->n_n), c->max_group_cols);
    c->a_bytes = lower_sbuf_round((uint64_t)(k_tiles * pe_size(c->l) * c->element_bytes));
    c->b_bytes = lower_sbuf_round((uint64_t)(k_tiles * c->group_cols * c->element_bytes));
    bool a_turns = wants_transpose(c->l, &s->a), b_turns = wants_transpose(c->l, &s->b);
    if (c->a_from && !a_turns)
        c->a_bytes = 0;
    if (c->b_from && !b_turns)
        c->b_bytes = 0;
    bool has_natural = (a_turns && !c->a_from) || (b_turns && !c->b_from);
    c->natural_cols = least(c->n_k, c->is_tight ? pe_size(c->l) : NATURAL_COLS);
    c->natural_bytes =
        has_natural ? lower_sbuf_round((uint64_t)(c->natural_cols * c->element_bytes)) : 0;
    c->out_bytes = lower_sbuf_round((uint64_t)c->group_cols * dtype_size(s->out.dtype));
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
             (c->b_bytes >= c->a_bytes || c->chunk_k <= pe_size(c->l)))
        c->max_group_cols = c->group_cols / 2;
    else if (c->chunk_k > pe_size(c->l))
        c->max_chunk_k = (c->chunk_k / 2 + pe_size(c->l) - 1) / pe_size(c->l) * pe_size(c->l);
    else
        return false;
    size_up(c);
    return true;
}

void contract_fit(contraction *c, uint64_t limit_bytes) {
    while (contract_kernel_bytes(c) > limit_bytes && shrink(c))
        continue;
}

static contraction describe(lower *l, const contract_spec *spec) {
    return (contraction){.l = l,
                         .spec = spec,
                         .compute = spec->compute,
                         .n_m = size_of(spec->a.x, spec->a.n_x),
                         .n_n = size_of(spec->b.x, spec->b.n_x),
                         .n_k = size_of(spec->a.k, spec->a.n_k),
                         .n_batch = size_of(spec->a.batch, spec->a.n_batch),
                         .max_group_cols = INT64_MAX,
                         .max_chunk_k = CONTRACT_MAX_K_TILES * pe_size(l),
                         .loaded_batch = -1};
}

static tile place_one(const contraction *c, uint32_t n_bytes) {
    return (tile){.space = VTRN_SPACE_SBUF,
                  .dtype = (uint8_t)c->compute,
                  .addr = lower_sbuf_alloc(c->l, n_bytes)};
}

static void place_tiles(const contraction *c, uint32_t n_bytes, int64_t pitch,
                        contract_tiles *out) {
    tile at = place_one(c, n_bytes);
    for (int k = 0; k < CONTRACT_MAX_K_TILES; k++) {
        out->k[k] = at;
        out->k[k].addr += (uint32_t)(k * pitch) * c->element_bytes;
    }
}

static vtrn_status place(contraction *c, contract_banks banks, bool has_out) {
    for (int i = 0; i < c->n_a; i++) {
        place_tiles(c, c->a_bytes, pe_size(c->l), &c->a[i]);
        c->natural[i] = place_one(c, c->natural_bytes);
    }
    for (int i = 0; i < c->n_b; i++)
        place_tiles(c, c->b_bytes, c->group_cols, &c->b[i]);
    for (int i = 0; i < 2; i++) {
        c->out[i] = place_one(c, has_out ? c->out_bytes : 0);
        c->out[i].dtype = c->spec->out.dtype;
    }
    VTRN_RETURN_IF_ERROR(psum_take(c->l, banks.sums, &c->sums));
    return psum_take(c->l, banks.turns, &c->turns);
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

vtrn_status contract_accesses(lower *l, const contract_spec *spec) {
    const contract_operand *in[] = {&spec->a, &spec->b};
    for (int i = 0; i < 2; i++) {
        view v = {.slot = in[i]->slot, .dtype = in[i]->dtype, .offset = in[i]->offset};
        add_factors(&v, in[i]->batch, in[i]->n_batch);
        add_factors(&v, in[i]->k, in[i]->n_k);
        add_factors(&v, in[i]->x, in[i]->n_x);
        VTRN_RETURN_IF_ERROR(plan_reads(&l->plan, &v));
    }
    return NULL;
}

vtrn_status contract_record(lower *l, const contract_spec *spec) {
    const contract_output *o = &spec->out;
    view out = {.slot = o->slot, .dtype = o->dtype, .offset = o->offset};
    add_factors(&out, o->batch, o->n_batch);
    add_factors(&out, o->m, o->n_m);
    add_factors(&out, o->n, o->n_n);
    VTRN_RETURN_IF_ERROR(lower_kernel(l, KERNEL_CONTRACT, spec, sizeof *spec, 0));
    VTRN_RETURN_IF_ERROR(contract_accesses(l, spec));
    return plan_writes(&l->plan, &out);
}

uint64_t contract_kernel_bytes(const contraction *c) {
    return contract_bytes(c) + 2ull * c->out_bytes;
}

vtrn_status emit_contract_kernel(lower *l, const kernel *k) {
    contraction c = *(const contraction *)k->spec;
    VTRN_RETURN_IF_ERROR(place(&c, banks_of_kernel(l->chip), true));
    l->program->flops += 2ull * (uint64_t)(c.n_m * c.n_n * c.n_k * c.n_batch);
    for (int64_t batch = 0; batch < c.n_batch; batch++)
        for (int64_t n0 = 0; n0 < c.n_n; n0 += c.group_cols) {
            int64_t n_n = c.n_n - n0 < c.group_cols ? c.n_n - n0 : c.group_cols;
            VTRN_RETURN_IF_ERROR(sweep(&c, batch, n0, n_n));
        }
    return NULL;
}

bool contract_is_tileable(const lower *l, const contract_spec *spec, int64_t *row_step) {
    contraction c = describe((lower *)(uintptr_t)l, spec);
    size_up(&c);
    *row_step = c.n_batch > 1 && c.n_m < pe_size(l) ? c.n_m : pe_size(l);
    bool is_aligned = c.n_batch == 1 || c.n_m <= pe_size(l) || c.n_m % pe_size(l) == 0;
    return is_aligned && c.n_k <= c.chunk_k && c.n_n <= c.group_cols;
}

contract_banks contract_least_banks(const lower *l, const contract_spec *spec) {
    bool has_turns = wants_transpose(l, &spec->a) || wants_transpose(l, &spec->b);
    return (contract_banks){.sums = psum_banks_for(l->chip, size_of(spec->b.x, spec->b.n_x)),
                            .turns = has_turns};
}

void contract_start(lower *l, const contract_spec *spec, contraction *c) {
    *c = describe(l, spec);
    size_up(c);
}

vtrn_status contract_place(contraction *c, contract_banks banks) {
    c->l->program->flops += 2ull * (uint64_t)(c->n_m * c->n_n * c->n_k * c->n_batch);
    return place(c, banks, false);
}

vtrn_status contract_load(contraction *c, int64_t row, uint32_t n_rows) {
    const contract_spec *s = c->spec;
    int64_t batch = row / c->n_m, m0 = row % c->n_m;
    if (batch != c->loaded_batch) {
        c->flip_b++;
        VTRN_RETURN_IF_ERROR(
            load_operand(c, &s->b, batch, 0, c->n_k, 0, c->n_n, &c->b[c->flip_b % c->n_b]));
        c->loaded_batch = batch;
    }
    int buffer = c->flip_a++ % c->n_a;
    c->b_of[buffer] = c->flip_b % c->n_b;
    return load_operand(c, &s->a, batch, 0, c->n_k, m0, n_rows, &c->a[buffer]);
}

vtrn_status contract_tile(contraction *c, uint32_t n_rows, const tile *dst) {
    int buffer = c->n_tiles++ % c->n_a;
    const contract_tiles *a = &c->a[buffer], *b = &c->b[c->b_of[buffer]];
    tile psum[MAX_GROUP_BANKS];
    VTRN_RETURN_IF_ERROR(psum_next(c->l, &c->sums, psum_banks_for(c->l->chip, c->n_n), psum));
    VTRN_RETURN_IF_ERROR(multiply(c, a, b, psum, n_rows, c->n_n, c->n_k, true, true));
    for (int64_t n = 0, bank = 0; n < c->n_n; n += c->bank_cols, bank++) {
        uint32_t cols = (uint32_t)(c->n_n - n < c->bank_cols ? c->n_n - n : c->bank_cols);
        vtrn_ap to = tile_ap_cols(dst, n_rows, (uint32_t)n, cols);
        vtrn_ap from = tile_ap(&psum[bank], n_rows, cols);
        VTRN_RETURN_IF_ERROR(lower_emit_scaled(c->l, &to, &from, 1, NULL));
    }
    return NULL;
}
