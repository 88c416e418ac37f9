/* Contractions on the PE array: operands into SBUF, k on the partitions; sums into PSUM banks; the
 * sums out again. */
#include "compiler/emit/emit_contract.h"

#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/emit_transfer.h"
#include "compiler/plan/resident.h"

/* --- operands -----------------------------------------------------------------------------------
 */

/* [k0, k0 + n_k) x [x0, x0 + n_x) of a batch of an operand. */
typedef struct operand_part {
    const contract_operand *o;
    const resident *from; /* where it already is, or NULL */
    int64_t batch, k0, n_k, x0, n_x;
} operand_part;

/* A tile of an operand: loaded into *t, or where `from` keeps it. */
static vtrn_status fetch(contract_work *w, const view_part *part, const resident *from, tile *t) {
    if (!from)
        return emit_load(w->e, part, t);
    VTRN_CHECK(resident_holds(from, part, (uint8_t)w->c->compute, t),
               "placement takes only operands that a resident has");
    return NULL;
}

/* Columns [k, k + n) of a tile as it lies, transposed into `to`. */
static vtrn_status turn(contract_work *w, const tile *natural, uint32_t rows, int64_t k,
                        const vtrn_ap *to) {
    tile psum;
    VTRN_RETURN_IF_ERROR(psum_next(w->e, &w->turns, 1, &psum));
    psum.dtype = natural->dtype;
    uint32_t n = to->n_partitions;
    vtrn_ap turned = tile_ap(&psum, n, rows);
    EMIT(transpose, w->e, PE_TRANSPOSE, TENSOR);
    transpose->ap[0] = turned;
    transpose->ap[1] = tile_ap_cols(natural, rows, (uint32_t)k, n);
    return emit_scaled(w->e, to, &turned, 1, NULL);
}

static vtrn_status load_natural(contract_work *w, const operand_part *p,
                                const contract_tiles *dst) {
    const contraction *c = w->c;
    int64_t size = contract_pe_size(c->chip);
    view v = contract_operand_view(p->o, p->batch, true);
    for (int64_t x = 0; x < p->n_x; x += size)
        for (int64_t kc = 0; kc < p->n_k; kc += c->natural_cols) {
            uint32_t rows = (uint32_t)(p->n_x - x < size ? p->n_x - x : size);
            int64_t cols = p->n_k - kc < c->natural_cols ? p->n_k - kc : c->natural_cols;
            tile natural = w->natural[w->flip_natural++ % c->n_a];
            view_part part = {&v, p->o->n_x, p->x0 + x, rows, p->k0 + kc, cols};
            VTRN_RETURN_IF_ERROR(fetch(w, &part, p->from, &natural));
            for (int64_t k = 0; k < cols; k += size) {
                uint32_t n = (uint32_t)(cols - k < size ? cols - k : size);
                vtrn_ap to = tile_ap_cols(&dst->k[(kc + k) / size], n, (uint32_t)x, rows);
                VTRN_RETURN_IF_ERROR(turn(w, &natural, rows, k, &to));
            }
        }
    return NULL;
}

static vtrn_status load_operand(contract_work *w, operand_part p, contract_tiles *dst) {
    int64_t size = contract_pe_size(w->c->chip);
    p.from = p.o == &w->c->spec->a ? w->c->a_from : w->c->b_from;
    if (contract_turns(w->c->chip, p.o))
        return load_natural(w, &p, dst);
    view v = contract_operand_view(p.o, p.batch, false);
    for (int64_t k = 0; k < p.n_k; k += size) {
        int64_t rows = p.n_k - k < size ? p.n_k - k : size;
        view_part part = {&v, p.o->n_k, p.k0 + k, rows, p.x0, p.n_x};
        VTRN_RETURN_IF_ERROR(fetch(w, &part, p.from, &dst->k[k / size]));
    }
    return NULL;
}

/* --- products -----------------------------------------------------------------------------------
 */

/* A chunk of k into the PSUM banks of a group. */
typedef struct product {
    const contract_tiles *a, *b;
    const tile *psum;
    uint32_t n_m;
    int64_t n_n, n_k;
    bool is_first, is_last; /* chunk of its sums */
} product;

static vtrn_status multiply(contract_work *w, const product *p) {
    int64_t size = contract_pe_size(w->c->chip), bank_cols = w->c->bank_cols;
    for (int64_t k = 0; k < p->n_k; k += size) {
        uint32_t rows = (uint32_t)(p->n_k - k < size ? p->n_k - k : size);
        int64_t k_tile = k / size;
        EMIT(weights, w->e, LDWEIGHTS, TENSOR);
        weights->ap[1] = tile_ap(&p->a->k[k_tile], rows, p->n_m);
        for (int64_t n = 0, bank = 0; n < p->n_n; n += bank_cols, bank++) {
            uint32_t cols = (uint32_t)(p->n_n - n < bank_cols ? p->n_n - n : bank_cols);
            bool ends = p->is_last && k + size >= p->n_k;
            EMIT(matmul, w->e, MATMUL, TENSOR);
            matmul->ap[0] = tile_ap(&p->psum[bank], p->n_m, cols);
            matmul->ap[1] = tile_ap_cols(&p->b->k[k_tile], rows, (uint32_t)n, cols);
            matmul->flags =
                (p->is_first && k == 0 ? 0 : VTRN_FLAG_ACCUMULATE) | (ends ? VTRN_FLAG_LAST : 0);
        }
    }
    return NULL;
}

/* n_n columns of sums out of their banks. */
static vtrn_status take_sums(contract_work *w, const tile *psum, uint32_t n_m, int64_t n_n,
                             const tile *dst) {
    int64_t bank_cols = w->c->bank_cols;
    for (int64_t n = 0, bank = 0; n < n_n; n += bank_cols, bank++) {
        uint32_t cols = (uint32_t)(n_n - n < bank_cols ? n_n - n : bank_cols);
        vtrn_ap to = tile_ap_cols(dst, n_m, (uint32_t)n, cols);
        vtrn_ap from = tile_ap(&psum[bank], n_m, cols);
        VTRN_RETURN_IF_ERROR(emit_scaled(w->e, &to, &from, 1, NULL));
    }
    return NULL;
}

/* --- a kernel of its own ------------------------------------------------------------------------
 */

/* Columns [n0, n0 + n_n) of a batch, all rows. */
static vtrn_status sweep(contract_work *w, int64_t batch, int64_t n0, int64_t n_n) {
    const contraction *c = w->c;
    const contract_spec *s = c->spec;
    int64_t size = contract_pe_size(c->chip);
    bool is_cached = c->n_k <= c->chunk_k;
    contract_tiles *b = &w->b[0];
    if (is_cached) {
        b = &w->b[w->flip_b++ % c->n_b];
        VTRN_RETURN_IF_ERROR(
            load_operand(w, (operand_part){&s->b, NULL, batch, 0, c->n_k, n0, n_n}, b));
    }
    view out = contract_output_view(&s->out, batch);
    for (int64_t m0 = 0; m0 < c->n_m; m0 += size) {
        uint32_t n_m = (uint32_t)(c->n_m - m0 < size ? c->n_m - m0 : size);
        tile psum[CONTRACT_MAX_GROUP_BANKS];
        bool is_started = false;
        for (int64_t k0 = 0; k0 < c->n_k; k0 += c->chunk_k) {
            int64_t n_k = c->n_k - k0 < c->chunk_k ? c->n_k - k0 : c->chunk_k;
            contract_tiles *a = &w->a[w->flip_a++ % c->n_a];
            VTRN_RETURN_IF_ERROR(
                load_operand(w, (operand_part){&s->a, NULL, batch, k0, n_k, m0, n_m}, a));
            if (!is_cached) {
                b = &w->b[w->flip_b++ % c->n_b];
                VTRN_RETURN_IF_ERROR(
                    load_operand(w, (operand_part){&s->b, NULL, batch, k0, n_k, n0, n_n}, b));
            }
            if (!is_started)
                VTRN_RETURN_IF_ERROR(psum_next(w->e, &w->sums, psum_banks_for(c->chip, n_n), psum));
            is_started = true;
            product p = {a, b, psum, n_m, n_n, n_k, k0 == 0, k0 + n_k == c->n_k};
            VTRN_RETURN_IF_ERROR(multiply(w, &p));
        }
        tile t = w->out[w->flip_out++ % 2];
        VTRN_RETURN_IF_ERROR(take_sums(w, psum, n_m, n_n, &t));
        VTRN_RETURN_IF_ERROR(
            emit_store(w->e, &(view_part){&out, s->out.n_m, m0, n_m, n0, n_n}, &t, false));
    }
    return NULL;
}

static tile place_one(const contract_work *w, uint32_t n_bytes) {
    return (tile){.space = VTRN_SPACE_SBUF,
                  .dtype = (uint8_t)w->c->compute,
                  .addr = emit_sbuf_alloc(w->e, n_bytes)};
}

static void place_tiles(const contract_work *w, uint32_t n_bytes, int64_t pitch,
                        contract_tiles *out) {
    tile at = place_one(w, n_bytes);
    for (int k = 0; k < CONTRACT_MAX_K_TILES; k++) {
        out->k[k] = at;
        out->k[k].addr += (uint32_t)(k * pitch) * w->c->element_bytes;
    }
}

static vtrn_status begin(contract_work *w, contract_banks banks, bool has_out) {
    const contraction *c = w->c;
    w->e->build->program->flops += 2ull * (uint64_t)(c->n_m * c->n_n * c->n_k * c->n_batch);
    for (int i = 0; i < c->n_a; i++) {
        place_tiles(w, c->a_bytes, contract_pe_size(c->chip), &w->a[i]);
        w->natural[i] = place_one(w, c->natural_bytes);
    }
    for (int i = 0; i < c->n_b; i++)
        place_tiles(w, c->b_bytes, c->group_cols, &w->b[i]);
    for (int i = 0; i < 2; i++) {
        w->out[i] = place_one(w, has_out ? c->out_bytes : 0);
        w->out[i].dtype = c->spec->out.dtype;
    }
    VTRN_RETURN_IF_ERROR(psum_take(w->e, banks.sums, &w->sums));
    return psum_take(w->e, banks.turns, &w->turns);
}

vtrn_status emit_contract_kernel(emitter *e, const kernel *k) {
    const contraction *c = k->spec;
    contract_work w = {.e = e, .c = c};
    VTRN_RETURN_IF_ERROR(begin(&w, contract_kernel_banks(e->chip), true));
    for (int64_t batch = 0; batch < c->n_batch; batch++)
        for (int64_t n0 = 0; n0 < c->n_n; n0 += c->group_cols) {
            int64_t n_n = c->n_n - n0 < c->group_cols ? c->n_n - n0 : c->group_cols;
            VTRN_RETURN_IF_ERROR(sweep(&w, batch, n0, n_n));
        }
    return NULL;
}

/* --- a tile at a time ---------------------------------------------------------------------------
 */

vtrn_status contract_work_begin(emitter *e, const contraction *c, contract_banks banks,
                                contract_work *w) {
    *w = (contract_work){.e = e, .c = c, .loaded_batch = -1};
    return begin(w, banks, false);
}

vtrn_status contract_work_load(contract_work *w, int64_t row, uint32_t n_rows) {
    const contraction *c = w->c;
    const contract_spec *s = c->spec;
    int64_t batch = row / c->n_m, m0 = row % c->n_m;
    if (batch != w->loaded_batch) {
        w->flip_b++;
        VTRN_RETURN_IF_ERROR(load_operand(w,
                                          (operand_part){&s->b, NULL, batch, 0, c->n_k, 0, c->n_n},
                                          &w->b[w->flip_b % c->n_b]));
        w->loaded_batch = batch;
    }
    int buffer = w->flip_a++ % c->n_a;
    w->b_of[buffer] = w->flip_b % c->n_b;
    return load_operand(w, (operand_part){&s->a, NULL, batch, 0, c->n_k, m0, n_rows},
                        &w->a[buffer]);
}

vtrn_status contract_work_tile(contract_work *w, uint32_t n_rows, const tile *dst) {
    const contraction *c = w->c;
    int buffer = w->n_tiles++ % c->n_a;
    tile psum[CONTRACT_MAX_GROUP_BANKS];
    VTRN_RETURN_IF_ERROR(psum_next(w->e, &w->sums, psum_banks_for(c->chip, c->n_n), psum));
    product p = {&w->a[buffer], &w->b[w->b_of[buffer]], psum, n_rows, c->n_n, c->n_k, true, true};
    VTRN_RETURN_IF_ERROR(multiply(w, &p));
    return take_sums(w, psum, n_rows, c->n_n, dst);
}
