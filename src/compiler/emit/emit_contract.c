/* Contractions on the PE array: operands into slots of SBUF, k on the partitions; sums into PSUM
 * banks; the sums out again. */
#include "compiler/emit/emit_contract.h"

#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/emit_transfer.h"
#include "compiler/emit/emit_unpack.h"
#include "compiler/plan/resident.h"

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t parts(int64_t n, int64_t of) {
    return (n + of - 1) / of;
}

/* --- slots --------------------------------------------------------------------------------------
 */

/* The slot that holds x of a pass, or -1. */
static int find_slot(const contract_ring *r, const contract_pass *p, int64_t x) {
    for (int i = 0; i < r->n; i++)
        if (r->slots[i].needed && r->slots[i].batch == p->batch && r->slots[i].x == x &&
            r->slots[i].k == p->k)
            return i;
    return -1;
}

static int64_t slot_x(const contract_ring *r, int64_t x) {
    return x / r->span * r->span;
}

/* The slot whose last use is longest ago, if that is before pass `running`, else -1. */
static int free_slot(const contract_ring *r, uint64_t running) {
    int best = -1;
    for (int i = 0; i < r->n; i++)
        if (r->slots[i].needed < running &&
            (best < 0 || r->slots[i].needed < r->slots[best].needed))
            best = i;
    return best;
}

static int64_t n_items(const contract_work *w, const contract_ring *r, const contract_slot *s) {
    int64_t size = contract_pe_size(w->c->chip);
    int64_t n_k = least(w->c->cut.chunk_k, w->c->n_k - s->k);
    return r->turns
               ? parts(least(r->span, r->n_x - s->x), size) * parts(n_k, w->c->cut.natural_cols)
               : parts(n_k, size);
}

/* Gives x of pass p a slot; false where all are needed by the running pass or those after it. */
static bool assign_slot(contract_work *w, contract_ring *r, const contract_pass *p, int64_t x) {
    if (r->n == 0)
        return true;
    int i = find_slot(r, p, x);
    if (i < 0) {
        i = free_slot(r, w->next.number);
        if (i < 0 || w->n_fills == CONTRACT_MAX_FILLS)
            return false;
        r->slots[i] = (contract_slot){.batch = p->batch, .x = x, .k = p->k};
        w->fills[w->n_fills++] = (contract_fill){
            .ring = r, .slot = i, .pass = p->number, .n_items = (int)n_items(w, r, &r->slots[i])};
    }
    if (r->slots[i].needed < p->number)
        r->slots[i].needed = p->number;
    return true;
}

/* Gives the next pass without one its slot of the moving operand. */
static bool assign_b(contract_work *w) {
    const contract_pass *p = &w->b_assigned;
    if (!assign_slot(w, &w->b, p, slot_x(&w->b, p->col)))
        return false;
    w->is_b_all_assigned = !contract_next_pass(w->c, &w->b_assigned);
    return true;
}

/* Gives the next pass its slots. */
static bool assign_pass(contract_work *w) {
    const contract_pass *p = &w->assigned;
    int64_t end =
        least(p->row + w->c->cut.n_together * w->c->tile_rows, contract_group_end(w->c, p));
    for (int64_t x = slot_x(&w->a, p->row); x < end; x += w->a.span)
        if (!assign_slot(w, &w->a, p, x))
            return false;
    while (!w->is_b_all_assigned && w->b_assigned.number <= p->number)
        if (!assign_b(w))
            return false;
    w->is_all_assigned = !contract_next_pass(w->c, &w->assigned);
    return true;
}

/* Gives slots to later passes while there are any. What streams without being transposed needs no
 * buffer on its way: blocks of the moving operand may be loaded long before the rows that they are
 * multiplied with. */
static void assign_ahead(contract_work *w) {
    bool is_streamed = !w->b.turns && w->b.n * w->b.span < w->b.n_x;
    while (!w->is_all_assigned && assign_pass(w))
        continue;
    while (is_streamed && !w->is_b_all_assigned && assign_b(w))
        continue;
}

/* --- operands into slots -------------------------------------------------------------------------
 */

static tile sbuf_tile(const contract_work *w, uint32_t addr) {
    return (tile){.space = VTRN_SPACE_SBUF, .dtype = (uint8_t)w->c->compute, .addr = addr};
}

/* Row x of tile k of a slot. */
static tile slot_tile(const contract_work *w, const contract_ring *r, int slot, int64_t k_tile,
                      int64_t x) {
    return sbuf_tile(w, r->addr + (uint32_t)slot * r->slot_bytes +
                            (uint32_t)(k_tile * r->span + x) * w->c->element_bytes);
}

static bool is_filled(const contract_fill *f) {
    return (f->ring->turns ? f->n_turned : f->n_loaded) == f->n_items;
}

/* Part i of a slot that is transposed: x from its slot's first on, k from its chunk's. */
typedef struct natural_part {
    int64_t x, n_x, k, n_k;
} natural_part;

static natural_part natural_part_of(const contract_work *w, const contract_fill *f, int item) {
    const contract_slot *s = &f->ring->slots[f->slot];
    int64_t size = contract_pe_size(w->c->chip);
    int64_t n_k = least(w->c->cut.chunk_k, w->c->n_k - s->k), step = w->c->cut.natural_cols;
    int64_t k_parts = parts(n_k, step);
    natural_part p = {.x = item / k_parts * size, .k = item % k_parts * step};
    p.n_x = least(size, least(f->ring->span, f->ring->n_x - s->x) - p.x);
    p.n_k = least(step, n_k - p.k);
    return p;
}

static tile natural_tile(const contract_work *w, uint32_t i) {
    uint32_t n = (uint32_t)w->c->cut.n_natural;
    return sbuf_tile(w, w->natural_addr + (n ? i % n : 0) * w->c->cut.natural_bytes);
}

/* The part into the tile. Packed values go by way of the bytes from `bytes_addr` on, and are
 * unpacked from there. */
static vtrn_status load_part(contract_work *w, const view_part *part, const tile *t,
                             uint32_t bytes_addr) {
    const vtrn_dtype dtype = (vtrn_dtype)part->v->dtype;
    const int64_t per = dtype_per_byte(dtype);
    if (per == 1)
        return emit_load(w->e, part, t);
    const view bytes = view_of_bytes(part->v);
    VTRN_CHECK(part->c0 % per == 0 && part->n_cols % per == 0,
               "packed operands are cut between bytes");
    view_part packed = {&bytes,       part->n_outer,  part->r0,
                        part->n_rows, part->c0 / per, part->n_cols / per};
    unpacking u = {.dtype = dtype,
                   .rows = (uint32_t)part->n_rows,
                   .cols = (uint32_t)part->n_cols,
                   .packed = sbuf_tile(w, bytes_addr),
                   .dst = *t};
    u.packed.dtype = VTRN_DTYPE_UINT8;
    u.spare = u.packed;
    u.spare.addr += contract_packed_bytes((uint8_t)dtype, part->n_cols) / 2;
    VTRN_RETURN_IF_ERROR(emit_load(w->e, &packed, &u.packed));
    return emit_unpack(w->e, &u);
}

static vtrn_status load_item(contract_work *w, contract_fill *f) {
    const contract_ring *r = f->ring;
    const contract_slot *s = &r->slots[f->slot];
    int64_t size = contract_pe_size(w->c->chip);
    int item = f->n_loaded++;
    view v = contract_operand_view(r->o, s->batch, r->turns || r->turns_by_dma);
    if (r->turns) {
        natural_part p = natural_part_of(w, f, item);
        if (r->from)
            return NULL;
        tile t = natural_tile(w, w->n_natural_loaded++);
        view_part part = {&v, r->o->n_x, s->x + p.x, p.n_x, s->k + p.k, p.n_k};
        uint32_t numbers = sbuf_round((uint64_t)w->c->cut.natural_cols * w->c->element_bytes);
        return load_part(w, &part, &t, t.addr + numbers);
    }
    int64_t k = item * size, n_k = least(size, least(w->c->cut.chunk_k, w->c->n_k - s->k) - k);
    int64_t n_x = least(r->span, r->n_x - s->x);
    tile t = slot_tile(w, r, f->slot, item, 0);
    view_part down = {&v, r->o->n_k, s->k + k, n_k, s->x, n_x};
    view_part across = {&v, r->o->n_x, s->x, n_x, s->k + k, n_k};
    if (r->turns_by_dma)
        return emit_load_turned(w->e, &across, &t);
    /* the bytes of packed values are behind all tiles of the slot */
    int64_t k_tiles = parts(w->c->cut.chunk_k, size);
    uint32_t numbers = sbuf_round((uint64_t)(k_tiles * r->span) * w->c->element_bytes);
    uint32_t bytes = contract_packed_bytes(r->o->dtype, r->span);
    return load_part(w, &down, &t,
                     r->addr + (uint32_t)f->slot * r->slot_bytes + numbers +
                         (uint32_t)item * bytes);
}

/* The next load of the fill; false where it has none, or no buffer for it. */
static bool can_load(const contract_work *w, const contract_fill *f) {
    bool is_buffered = f->ring->turns && !f->ring->from;
    return f->n_loaded < f->n_items && (!is_buffered || w->n_natural_loaded - w->n_natural_turned <
                                                            (uint32_t)w->c->cut.n_natural);
}

/* Where the part that is transposed next was loaded. */
static vtrn_status find_natural(const contract_work *w, const contract_fill *f,
                                const natural_part *p, tile *t) {
    const contract_slot *s = &f->ring->slots[f->slot];
    *t = natural_tile(w, w->n_natural_turned);
    if (!f->ring->from)
        return NULL;
    view v = contract_operand_view(f->ring->o, s->batch, true);
    view_part part = {&v, f->ring->o->n_x, s->x + p->x, p->n_x, s->k + p->k, p->n_k};
    VTRN_CHECK(resident_holds(f->ring->from, &part, (uint8_t)w->c->compute, t),
               "placement takes only operands that a resident has");
    return NULL;
}

/* Transposes of n_x rows that one bank holds. */
static int64_t turns_in_bank(const contraction *c, int64_t n_x) {
    int64_t n = c->chip->psum_bank_bytes / (n_x * c->element_bytes);
    return n < 1 ? 1 : n;
}

/* As many transposes as a bank of PSUM holds, and the copy that takes them to their slot. */
static vtrn_status turn_bank(contract_work *w, contract_fill *f) {
    emitter *e = w->e;
    const contraction *c = w->c;
    int64_t size = contract_pe_size(c->chip);
    natural_part p = natural_part_of(w, f, f->n_turned);
    tile natural, psum;
    VTRN_RETURN_IF_ERROR(find_natural(w, f, &p, &natural));
    VTRN_RETURN_IF_ERROR(psum_next(e, &w->turns, 1, &psum));
    psum.dtype = natural.dtype;
    int64_t left = p.n_k - f->turned_cols, rows = least(left, size); /* of each transpose */
    int64_t n = least(turns_in_bank(c, p.n_x), rows < size ? 1 : left / size);
    for (int64_t i = 0; i < n; i++) {
        EMIT(transpose, e, PE_TRANSPOSE, TENSOR);
        transpose->ap[0] =
            tile_ap_cols(&psum, (uint32_t)rows, (uint32_t)(i * p.n_x), (uint32_t)p.n_x);
        transpose->ap[1] = tile_ap_cols(&natural, (uint32_t)p.n_x,
                                        (uint32_t)(f->turned_cols + i * size), (uint32_t)rows);
    }
    tile to = slot_tile(w, f->ring, f->slot, (p.k + f->turned_cols) / size, p.x);
    vtrn_ap dst = tile_ap(&to, (uint32_t)rows, (uint32_t)p.n_x);
    vtrn_ap src = tile_ap(&psum, (uint32_t)rows, (uint32_t)(n * p.n_x));
    if (n > 1 && p.n_x == f->ring->span) {
        dst.dim[0].num = (uint32_t)(n * p.n_x);
    } else if (n > 1) {
        dst.n_dims = 2;
        dst.dim[1] = dst.dim[0];
        dst.dim[0] = (vtrn_dim){(int32_t)f->ring->span, (uint32_t)n};
    }
    VTRN_RETURN_IF_ERROR(emit_scaled(e, &dst, &src, 1, NULL));
    f->turned_cols += n * rows;
    if (f->turned_cols < p.n_k)
        return NULL;
    f->turned_cols = 0;
    f->n_turned++;
    w->n_natural_turned += !f->ring->from;
    return NULL;
}

static void drop_filled(contract_work *w) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n_fills; i++)
        if (!is_filled(&w->fills[i]))
            w->fills[n++] = w->fills[i];
    w->n_fills = n;
}

/* Loads up to n items, as far as there are buffers. */
static vtrn_status load_items(contract_work *w, contract_fill *f, int n) {
    for (; n > 0 && can_load(w, f); n--)
        VTRN_RETURN_IF_ERROR(load_item(w, f));
    return NULL;
}

/* Loads what passes up to `most` need, in order, until one has no buffer. */
static vtrn_status load_until(contract_work *w, uint64_t most) {
    for (uint32_t i = 0; i < w->n_fills; i++) {
        contract_fill *f = &w->fills[i];
        if (f->pass > most)
            continue;
        VTRN_RETURN_IF_ERROR(load_items(w, f, f->n_items));
        if (f->n_loaded < f->n_items)
            return NULL;
    }
    return NULL;
}

/* Of what passes beyond `most` need, a share: other transfers have their turns between. */
static vtrn_status load_shares(contract_work *w, uint64_t most) {
    for (uint32_t i = 0; i < w->n_fills; i++) {
        contract_fill *f = &w->fills[i];
        int n = f->n_items - f->n_loaded;
        if (f->pass > most)
            n = (int)parts(n, (int64_t)(f->pass - most));
        VTRN_RETURN_IF_ERROR(load_items(w, f, n));
        if (f->ring->turns && f->n_loaded < f->n_items)
            return NULL; /* fills take the buffers in turn */
    }
    return NULL;
}

/* The first fill with something to transpose for a pass up to `most`, or NULL. */
static contract_fill *next_turn(contract_work *w, uint64_t most) {
    for (uint32_t i = 0; i < w->n_fills; i++) {
        contract_fill *f = &w->fills[i];
        if (f->ring->turns && f->n_turned < f->n_items)
            return f->pass <= most && f->n_turned < f->n_loaded ? f : NULL;
    }
    return NULL;
}

/* Banks that are to be transposed for passes up to `most`, with what is loaded. */
static int64_t n_turns(const contract_work *w, uint64_t most) {
    int64_t n = 0, size = contract_pe_size(w->c->chip);
    int64_t k_tiles = parts(w->c->cut.natural_cols, size);
    for (uint32_t i = 0; i < w->n_fills; i++) {
        const contract_fill *f = &w->fills[i];
        if (f->ring->turns && f->pass <= most)
            n += (f->n_loaded - f->n_turned) *
                 parts(k_tiles, turns_in_bank(w->c, least(f->ring->span, size)));
    }
    return n;
}

static bool has_fill(const contract_work *w, uint64_t pass) {
    for (uint32_t i = 0; i < w->n_fills; i++)
        if (w->fills[i].pass <= pass)
            return true;
    return false;
}

/* Everything that the pass needs. */
static vtrn_status fill_pass(contract_work *w, uint64_t pass) {
    drop_filled(w);
    while (has_fill(w, pass)) {
        VTRN_RETURN_IF_ERROR(load_until(w, pass));
        contract_fill *f = next_turn(w, pass);
        if (f)
            VTRN_RETURN_IF_ERROR(turn_bank(w, f));
        drop_filled(w);
        VTRN_CHECK(f || !has_fill(w, pass), "an operand of one slot has a buffer to load to");
    }
    return NULL;
}

/* --- products -----------------------------------------------------------------------------------
 */

/* Columns [x, x + n_x) of tile k_tile of a chunk. */
typedef struct chunk_part {
    int64_t k_tile, x, n_x;
} chunk_part;

/* A part of the operand's chunk that the pass reads. */
static vtrn_status operand_tile(const contract_work *w, const contract_ring *r,
                                const contract_pass *p, chunk_part part, tile *t) {
    if (r->n) {
        int64_t first = slot_x(r, part.x);
        *t = slot_tile(w, r, find_slot(r, p, first), part.k_tile, part.x - first);
        return NULL;
    }
    int64_t size = contract_pe_size(w->c->chip), k = p->k + part.k_tile * size;
    view v = contract_operand_view(r->o, p->batch, false);
    view_part in_view = {&v, r->o->n_k, k, least(size, w->c->n_k - k), part.x, part.n_x};
    VTRN_CHECK(resident_holds_rows(r->from, &in_view, (uint8_t)w->c->compute, t),
               "placement takes only operands that a resident has");
    return NULL;
}

/* One tile of weights and what streams through them. */
static vtrn_status multiply(contract_work *w, const contract_pass *p, int64_t tile_i,
                            int64_t k_tile) {
    const contraction *c = w->c;
    int64_t size = contract_pe_size(c->chip), k = p->k + k_tile * size;
    int64_t first = c->cut.n_sums ? p->k : 0,
            end = c->cut.n_sums ? p->k + contract_pass_k(c, p) : c->n_k;
    int64_t row = p->row + tile_i * c->tile_rows;
    uint32_t n_m = (uint32_t)contract_pass_rows(c, p, tile_i);
    uint32_t n_k = (uint32_t)least(size, c->n_k - k), n_n = (uint32_t)contract_pass_cols(c, p);
    tile a, b;
    VTRN_RETURN_IF_ERROR(operand_tile(w, &w->a, p, (chunk_part){k_tile, row, n_m}, &a));
    VTRN_RETURN_IF_ERROR(operand_tile(w, &w->b, p, (chunk_part){k_tile, p->col, n_n}, &b));
    EMIT(weights, w->e, LDWEIGHTS, TENSOR);
    weights->ap[1] = tile_ap(&a, n_k, n_m);
    for (uint32_t n = 0, bank = 0; n < n_n; n += (uint32_t)c->bank_cols, bank++) {
        uint32_t cols = (uint32_t)least(n_n - n, c->bank_cols);
        EMIT(matmul, w->e, MATMUL, TENSOR);
        matmul->ap[0] = tile_ap(&w->psum[tile_i][bank], n_m, cols);
        matmul->ap[1] = tile_ap_cols(&b, n_k, n, cols);
        matmul->flags =
            (k == first ? 0 : VTRN_FLAG_ACCUMULATE) | (k + size >= end ? VTRN_FLAG_LAST : 0);
    }
    return NULL;
}

/* The matmuls of the next pass; between them what later ones need is loaded and transposed. */
static vtrn_status run_pass(contract_work *w) {
    const contraction *c = w->c;
    contract_pass p = w->next;
    int64_t k_tiles = parts(contract_pass_k(c, &p), contract_pe_size(c->chip)),
            n_tiles = contract_pass_tiles(c, &p);
    while (!w->is_all_assigned && w->assigned.number <= p.number)
        VTRN_CHECK(assign_pass(w), "a pass has the slots that it needs");
    VTRN_RETURN_IF_ERROR(fill_pass(w, p.number));
    assign_ahead(w);
    VTRN_RETURN_IF_ERROR(load_until(w, p.number + w->load_ahead));
    int banks = psum_banks_for(c->chip, contract_pass_cols(c, &p));
    for (int64_t i = 0; i < n_tiles && (p.k == 0 || c->cut.n_sums); i++)
        VTRN_RETURN_IF_ERROR(psum_next(w->e, &w->sums, banks, w->psum[i]));
    uint64_t most = p.number + w->turn_ahead;
    int64_t n_groups = n_tiles * k_tiles, turns = n_turns(w, most), n_turned = 0;
    for (int64_t i = 0; i < n_groups; i++) {
        contract_fill *f = NULL;
        for (; n_turned < turns * (i + 1) / n_groups && (f = next_turn(w, most)); n_turned++)
            VTRN_RETURN_IF_ERROR(turn_bank(w, f));
        VTRN_RETURN_IF_ERROR(multiply(w, &p, i / k_tiles, i % k_tiles));
    }
    contract_next_pass(c, &w->next);
    drop_filled(w);
    return load_shares(w, w->next.number + w->load_ahead);
}

/* Sums out of their banks into columns of dst, from col on. */
static vtrn_status take_sums(contract_work *w, const contract_sums *s, const tile *dst,
                             uint32_t col) {
    for (uint32_t n = 0, bank = 0; n < s->n_cols; n += s->bank_cols, bank++) {
        uint32_t cols = (uint32_t)least(s->n_cols - n, s->bank_cols);
        vtrn_ap to = tile_ap_cols(dst, s->n_rows, col + n, cols);
        vtrn_ap from = tile_ap(&s->banks[bank], s->n_rows, cols);
        VTRN_RETURN_IF_ERROR(emit_scaled(w->e, &to, &from, 1, NULL));
    }
    return NULL;
}

/* --- beginning ----------------------------------------------------------------------------------
 */

static contract_ring ring_of(contract_work *w, bool is_a) {
    const contraction *c = w->c;
    const contract_cut *cut = &c->cut;
    contract_ring r = {.o = is_a ? &c->spec->a : &c->spec->b,
                       .from = is_a ? c->a_from : c->b_from,
                       .n_x = is_a ? c->n_m : c->n_n,
                       .span = is_a ? cut->a_span : cut->b_span,
                       .slot_bytes = is_a ? cut->a_bytes : cut->b_bytes,
                       .n = is_a ? cut->n_a : cut->n_b};
    r.turns_by_dma = contract_turns_by_dma(c, r.o);
    r.turns = contract_turns(c->chip, r.o) && !r.turns_by_dma;
    r.addr = emit_sbuf_alloc(w->e, (uint64_t)r.n * r.slot_bytes);
    return r;
}

/* How many passes before its use something of this latency is to begin. */
static uint64_t passes_in(const contraction *c, double latency_ns) {
    double n = latency_ns / (c->cut.pass_ns > 1 ? c->cut.pass_ns : 1);
    return n < CONTRACT_MAX_SLOTS ? 1 + (uint64_t)n : CONTRACT_MAX_SLOTS;
}

static vtrn_status begin(contract_work *w, contract_banks banks) {
    const contraction *c = w->c;
    const vtrn_chip *chip = c->chip;
    build_count_flops(w->e->build, 2ull * (uint64_t)(c->n_m * c->n_n * c->n_k * c->n_batch));
    w->a = ring_of(w, true);
    w->b = ring_of(w, false);
    w->natural_addr = emit_sbuf_alloc(w->e, (uint64_t)c->cut.n_natural * c->cut.natural_bytes);
    w->out_addr = emit_sbuf_alloc(w->e, (uint64_t)c->cut.n_out * c->cut.out_bytes);
    w->sums_addr = emit_sbuf_alloc(w->e, (uint64_t)c->cut.n_sums * c->cut.sums_bytes);
    w->next = w->assigned = w->b_assigned = contract_first_pass();
    double turn_ns = chip->cost.tensor_latency_ns + 2 * chip->cost.vector_latency_ns;
    double load_ns = 2 * (chip->dma.start_ns + chip->dma.complete_ns);
    w->turn_ahead = passes_in(c, turn_ns);
    w->load_ahead = passes_in(c, turn_ns + load_ns);
    VTRN_RETURN_IF_ERROR(psum_take(w->e, banks.sums, &w->sums));
    return psum_take(w->e, banks.turns, &w->turns);
}

vtrn_status contract_work_begin(emitter *e, const contraction *c, contract_banks banks,
                                contract_work *w) {
    *w = (contract_work){.e = e, .c = c};
    return begin(w, banks);
}

vtrn_status contract_work_sums(contract_work *w, const contract_part *part, int64_t done,
                               contract_sums *sums) {
    contract_pass p = w->next;
    VTRN_CHECK(p.batch * w->c->n_m + p.row == part->row && p.col == part->col + done && p.k == 0,
               "tiles are asked for in the order of the passes");
    *sums = (contract_sums){w->psum[0], (uint32_t)part->n_rows,
                            (uint32_t)contract_pass_cols(w->c, &p), (uint32_t)w->c->bank_cols};
    return run_pass(w);
}

vtrn_status contract_work_tile(contract_work *w, const contract_part *part, const tile *dst) {
    contract_sums s = {0};
    for (int64_t done = 0; done < part->n_cols; done += s.n_cols) {
        VTRN_RETURN_IF_ERROR(contract_work_sums(w, part, done, &s));
        VTRN_RETURN_IF_ERROR(take_sums(w, &s, dst, (uint32_t)done));
    }
    return NULL;
}

/* In strips: the sums of a tile of rows so far. */
static tile strip_sums(const contract_work *w, int64_t row) {
    const contract_cut *cut = &w->c->cut;
    tile t = sbuf_tile(w, w->sums_addr + (uint32_t)(row / w->c->tile_rows) * cut->sums_bytes);
    t.dtype = VTRN_DTYPE_FP32;
    return t;
}

/* The sums of a pass and those of the chunks of k before: in `to`, which is that of the chunks
 * before, or the result where the last chunk is added. */
static vtrn_status add_sums(contract_work *w, const contract_sums *s, const tile *before,
                            uint32_t col, const tile *to, uint32_t to_col) {
    for (uint32_t n = 0, bank = 0; n < s->n_cols; n += s->bank_cols, bank++) {
        uint32_t cols = (uint32_t)least(s->n_cols - n, s->bank_cols);
        vtrn_ap dst = tile_ap_cols(to, s->n_rows, to_col + n, cols);
        vtrn_ap a = tile_ap(&s->banks[bank], s->n_rows, cols);
        vtrn_ap b = tile_ap_cols(before, s->n_rows, col + n, cols);
        VTRN_RETURN_IF_ERROR(
            emit_tensor_tensor(w->e, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, &dst, &a, &b));
    }
    return NULL;
}

/* The results of a set of row tiles, all of whose k is summed up. */
static vtrn_status store_tiles(contract_work *w, const contract_pass *p) {
    const contraction *c = w->c;
    const contract_output *o = &c->spec->out;
    view out = contract_output_view(o, p->batch);
    int64_t n_n = contract_pass_cols(c, p);
    for (int64_t i = 0; i < contract_pass_tiles(c, p); i++) {
        int64_t row = p->row + i * c->tile_rows;
        uint32_t n_m = (uint32_t)contract_pass_rows(c, p, i);
        tile t =
            sbuf_tile(w, w->out_addr + w->flip_out++ % (uint32_t)c->cut.n_out * c->cut.out_bytes);
        t.dtype = o->dtype;
        contract_sums s = {w->psum[i], n_m, (uint32_t)n_n, (uint32_t)c->bank_cols};
        if (c->cut.n_sums) {
            tile before = strip_sums(w, row);
            VTRN_RETURN_IF_ERROR(add_sums(w, &s, &before, (uint32_t)p->col, &t, 0));
        } else {
            VTRN_RETURN_IF_ERROR(take_sums(w, &s, &t, 0));
        }
        view_part part = {&out, o->n_m, row, n_m, p->col, n_n};
        VTRN_RETURN_IF_ERROR(emit_store(w->e, &part, &t, false));
    }
    return NULL;
}

/* In strips: the sums of a chunk of k, to those of the chunks before. */
static vtrn_status keep_sums(contract_work *w, const contract_pass *p) {
    const contraction *c = w->c;
    for (int64_t i = 0; i < contract_pass_tiles(c, p); i++) {
        tile kept = strip_sums(w, p->row + i * c->tile_rows);
        contract_sums s = {w->psum[i], (uint32_t)contract_pass_rows(c, p, i),
                           (uint32_t)contract_pass_cols(c, p), (uint32_t)c->bank_cols};
        uint32_t col = (uint32_t)p->col;
        VTRN_RETURN_IF_ERROR(p->k == 0 ? take_sums(w, &s, &kept, col)
                                       : add_sums(w, &s, &kept, col, &kept, col));
    }
    return NULL;
}

vtrn_status emit_contract_kernel(emitter *e, const kernel *k) {
    const contraction *c = k->spec;
    contract_work *w = ARENA_NEW(&e->tmp, contract_work, 1);
    if (!w)
        return VTRN_OUT_OF_MEMORY(sizeof *w);
    VTRN_RETURN_IF_ERROR(contract_work_begin(e, c, c->banks, w));
    while (w->next.batch < c->n_batch) {
        contract_pass p = w->next;
        VTRN_RETURN_IF_ERROR(run_pass(w));
        if (p.k + contract_pass_k(c, &p) == c->n_k)
            VTRN_RETURN_IF_ERROR(store_tiles(w, &p));
        else if (c->cut.n_sums)
            VTRN_RETURN_IF_ERROR(keep_sums(w, &p));
    }
    return NULL;
}
