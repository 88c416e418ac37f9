#include "compiler/emit/emit_sides.h"

#include "compiler/emit/emit_transfer.h"
#include "compiler/plan/map_plan.h"
#include "compiler/plan/resident.h"

#include <string.h>

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* --- transfers ----------------------------------------------------------------------------------
 */

typedef struct sides_transfer {
    emitter *e;
    const sides_view *v;
    const tile *t;
    bool is_store;
} sides_transfer;

static vtrn_status on_batches(void *ctx, const view_box *batches) {
    const sides_transfer *x = ctx;
    const sides_view *s = x->v;
    view v = {.slot = s->slot, .dtype = s->dtype, .offset = s->offset + batches->offset};
    const view_factor *parts[] = {s->rows, batches->f, s->cols};
    const int n_parts[] = {s->n_row_factors, batches->n, s->n_col_factors};
    int64_t n_batches = 1;
    for (int i = 0; i < batches->n; i++)
        n_batches *= batches->f[i].size;
    VTRN_CHECK(n_parts[0] + n_parts[1] + n_parts[2] <= VIEW_MAX_FACTORS,
               "a view has no more factors in another order");
    for (int i = 0; i < 3; i++) {
        memcpy(v.f + v.n, parts[i], (size_t)n_parts[i] * sizeof *parts[i]);
        v.n += n_parts[i];
    }
    view_part part = {&v, s->n_row_factors, 0, s->n_rows, 0, n_batches * s->n_cols};
    tile t = *x->t;
    t.addr += (uint32_t)((uint64_t)(batches->start * s->n_cols) * dtype_size((vtrn_dtype)t.dtype));
    return x->is_store ? emit_store(x->e, &part, &t, false) : emit_load(x->e, &part, &t);
}

static vtrn_status move_batches(sides_transfer x, int64_t batch, int64_t n) {
    return view_for_boxes(x.v->batch, x.v->n_batch_factors, batch, batch + n, on_batches, &x);
}

vtrn_status emit_sides_load(emitter *e, const sides_view *v, int64_t batch, int64_t n,
                            const tile *t) {
    return move_batches((sides_transfer){e, v, t, false}, batch, n);
}

vtrn_status emit_sides_store(emitter *e, const sides_view *v, int64_t batch, int64_t n,
                             const tile *t) {
    return move_batches((sides_transfer){e, v, t, true}, batch, n);
}

/* --- operands -----------------------------------------------------------------------------------
 */

static int64_t batches_of(const sides_work *w, int64_t tile_i) {
    return least(w->s->n, w->c->n_batch - tile_i * w->s->n);
}

static tile tile_at(const sides_work *w, uint32_t addr) {
    return (tile){.space = VTRN_SPACE_SBUF, .dtype = (uint8_t)w->c->compute, .addr = addr};
}

static tile loaded_tile(const sides_work *w, const sides_ring *r, int64_t tile_i) {
    return tile_at(w, r->loaded_addr + (uint32_t)(tile_i % r->o->n_loaded) * r->o->loaded_bytes);
}

/* The operand of a tile as the matmuls read it. */
static tile operand_tile(const sides_work *w, const sides_ring *r, int64_t tile_i) {
    if (!r->o->turns)
        return loaded_tile(w, r, tile_i);
    return tile_at(w, r->turned_addr + (uint32_t)(tile_i % r->o->n_turned) * r->o->turned_bytes);
}

static vtrn_status load_tile(sides_work *w, const sides_ring *r, int64_t tile_i) {
    tile t = loaded_tile(w, r, tile_i);
    if (r->from)
        return NULL;
    return emit_sides_load(w->e, &r->view, tile_i * w->s->n, batches_of(w, tile_i), &t);
}

/* What is transposed of batch i of a tile. */
static vtrn_status find_batch(const sides_work *w, const sides_ring *r, int64_t tile_i, uint32_t i,
                              tile *t) {
    *t = loaded_tile(w, r, tile_i);
    t->addr += i * (uint32_t)w->c->n_k * w->c->element_bytes;
    if (!r->from)
        return NULL;
    view v = contract_operand_view(r->operand, tile_i * w->s->n + i, true);
    view_part part = {&v, r->operand->n_x, 0, r->o->n_x, 0, w->c->n_k};
    VTRN_CHECK(resident_holds(r->from, &part, (uint8_t)w->c->compute, t),
               "placement takes only operands that a resident has");
    return NULL;
}

/* The transposes of a tile's batches into a bank, and the copy that empties it. */
static vtrn_status turn_tile(sides_work *w, const sides_ring *r, int64_t tile_i) {
    if (!r->o->turns)
        return NULL;
    uint32_t n_k = (uint32_t)w->c->n_k, n_x = (uint32_t)r->o->n_x;
    uint32_t n = (uint32_t)batches_of(w, tile_i);
    tile from, to = operand_tile(w, r, tile_i), bank;
    VTRN_RETURN_IF_ERROR(psum_next(w->e, &w->turns, 1, &bank));
    bank.dtype = to.dtype;
    for (uint32_t i = 0; i < n; i++) {
        VTRN_RETURN_IF_ERROR(find_batch(w, r, tile_i, i, &from));
        EMIT(transpose, w->e, PE_TRANSPOSE, TENSOR);
        transpose->ap[0] = tile_ap_cols(&bank, n_k, i * n_x, n_x);
        transpose->ap[1] = tile_ap(&from, n_x, n_k);
    }
    vtrn_ap dst = tile_ap(&to, n_k, n * n_x), src = tile_ap(&bank, n_k, n * n_x);
    return emit_scaled(w->e, &dst, &src, 1, NULL);
}

/* Loads as far ahead as there are buffers, and transposes what the tile and the next one need. */
static vtrn_status prepare(sides_work *w, int64_t tile_i) {
    const int64_t n_tiles = (w->c->n_batch + w->s->n - 1) / w->s->n;
    for (; w->n_loaded < least(n_tiles, tile_i + SIDES_AHEAD); w->n_loaded++) {
        VTRN_RETURN_IF_ERROR(load_tile(w, &w->a, w->n_loaded));
        VTRN_RETURN_IF_ERROR(load_tile(w, &w->b, w->n_loaded));
    }
    for (; w->n_turned < least(n_tiles, tile_i + SIDES_TURNED); w->n_turned++) {
        VTRN_RETURN_IF_ERROR(turn_tile(w, &w->a, w->n_turned));
        VTRN_RETURN_IF_ERROR(turn_tile(w, &w->b, w->n_turned));
    }
    return NULL;
}

/* --- products -----------------------------------------------------------------------------------
 */

static sides_ring ring_of(emitter *e, const contract_operand *operand, const sides_operand *o,
                          const resident *from) {
    sides_ring r = {
        .o = o, .view = map_sides_operand(operand, o->turns), .operand = operand, .from = from};
    if (!from)
        r.loaded_addr = emit_sbuf_alloc(e, (uint64_t)o->n_loaded * o->loaded_bytes);
    r.turned_addr = emit_sbuf_alloc(e, (uint64_t)o->n_turned * o->turned_bytes);
    return r;
}

vtrn_status sides_work_begin(emitter *e, const contraction *c, const map_sides *s,
                             contract_banks banks, sides_work *w) {
    *w = (sides_work){.e = e, .c = c, .s = s};
    build_count_flops(e->build, 2ull * (uint64_t)(c->n_m * c->n_n * c->n_k * c->n_batch));
    w->a = ring_of(e, &c->spec->a, &s->a, c->a_from);
    w->b = ring_of(e, &c->spec->b, &s->b, c->b_from);
    VTRN_RETURN_IF_ERROR(psum_take(e, banks.sums, &w->sums));
    return psum_take(e, banks.turns, &w->turns);
}

vtrn_status sides_work_sums(sides_work *w, int64_t batch, tile *bank) {
    const contraction *c = w->c;
    int64_t tile_i = batch / w->s->n;
    VTRN_RETURN_IF_ERROR(prepare(w, tile_i));
    VTRN_RETURN_IF_ERROR(psum_next(w->e, &w->sums, 1, bank));
    tile a = operand_tile(w, &w->a, tile_i), b = operand_tile(w, &w->b, tile_i);
    uint32_t n_k = (uint32_t)c->n_k, n_m = (uint32_t)c->n_m, n_n = (uint32_t)c->n_n;
    for (uint32_t i = 0; i < (uint32_t)batches_of(w, tile_i); i++) {
        EMIT(weights, w->e, LDWEIGHTS, TENSOR);
        weights->ap[1] = tile_ap_cols(&a, n_k, i * n_m, n_m);
        EMIT(matmul, w->e, MATMUL, TENSOR);
        matmul->ap[0] = tile_ap_cols(bank, n_m, i * n_n, n_n);
        matmul->ap[1] = tile_ap_cols(&b, n_k, i * n_n, n_n);
        matmul->flags = VTRN_FLAG_LAST;
    }
    return NULL;
}
