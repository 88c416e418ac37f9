/* Windows of a tensor at places that data decide: which indices make their addresses, and which
 * pieces of them are windows of their own. */
#include "compiler/lower/address.h"

#include "compiler/lower/movement.h"

#include <string.h>

enum {
    ROW_BYTES = 16 << 10, /* of a partition, at a time */
    ADDRESS_COLS = 256,   /* addresses computed at a time: 128 of them each */
    LEAST_ADDRESS_COLS = SBUF_ALIGN / 4,
    MAX_FOLDED = 1 << 18, /* addresses that are listed one by one */
};

vtrn_status address_table(lower *l, graph_value v, view *table, int64_t *strides) {
    const graph_type *t = &l->g->types[v];
    bool is_reversed = false;
    VTRN_RETURN_IF_ERROR(lower_strided(l, v, table, strides));
    for (int d = 0; d < t->rank; d++)
        is_reversed = is_reversed || strides[d] < 0;
    if (!is_reversed)
        return NULL;
    VTRN_RETURN_IF_ERROR(lower_dense(l, v, table));
    VTRN_CHECK(view_dim_strides(table, t->dims, t->rank, strides), "a dense view has strides");
    return NULL;
}

vtrn_status address_add_term(lower *l, address_spec *s, const address_index *index, int64_t limit,
                             int64_t stride, bool *is_ok) {
    vtrn_dtype t = (vtrn_dtype)l->g->types[index->indices].dtype;
    double known;
    *is_ok = dtype_is_int(t) && dtype_size(t) <= 4 && s->n_terms < GRAPH_MAX_RANK;
    if (!*is_ok || (limit == 0 && !s->is_skipped))
        return NULL;
    if (!s->is_skipped && lower_splat_float(l, index->indices, &known)) {
        int64_t start = (int64_t)known;
        s->table.offset += (start < 0 ? 0 : start > limit ? limit : start) * stride;
        return NULL;
    }
    address_term *term = &s->term[s->n_terms++];
    *term = (address_term){.limit = limit, .stride = stride};
    VTRN_RETURN_IF_ERROR(lower_dense(l, index->indices, &term->index));
    term->index.offset += index->offset;
    term->index.n = 1;
    term->index.f[0] = (view_factor){s->n, index->stride};
    return NULL;
}

bool address_fits(const address_spec *s) {
    int64_t reach = windows_reach(s);
    for (int i = 0; i < s->n_window; i++)
        reach += (s->window[i].size - 1) * s->window[i].table;
    return reach < INT32_MAX;
}

static void drop_ones(address_spec *s) {
    int n = 0;
    for (int i = 0; i < s->n_window; i++) {
        address_factor *to = &s->window[n], *from = &s->window[i];
        if (from->size == 1)
            continue;
        address_factor *last = n ? &s->window[n - 1] : NULL;
        if (last && last->table == from->size * from->table &&
            last->array == from->size * from->array)
            *last = (address_factor){last->size * from->size, from->table, from->array};
        else
            *to = *from, n++;
    }
    s->n_window = n;
    if (n == 0)
        s->window[s->n_window++] = (address_factor){1, 1, 1};
}

/* Few windows in many pieces: each indirect DMA would use few partitions. Every piece of every
 * window becomes a window of its own. */
static bool should_fold(const lower *l, const address_spec *s, const window_cut *c) {
    return s->n > 1 && s->n <= tile_max_rows(l->chip) / 2 && c->n_rows > 1 && !s->has_base &&
           s->n * c->n_rows <= MAX_FOLDED && c->n_outer + s->n_batch <= GRAPH_MAX_RANK;
}

int64_t address_base(const lower *l, const address_spec *s, int64_t i) {
    int32_t offset = 0;
    if (s->has_base)
        memcpy(&offset,
               l->build->data + l->build->slots[s->base.slot].slot.offset + 4 * (uint64_t)i, 4);
    return offset;
}

/* The constant list of where each piece of each window begins. */
static vtrn_status fold_bases(lower *l, address_spec *s, int n_outer, int64_t pieces,
                              int64_t unit) {
    int64_t n = s->n * pieces;
    int32_t *offsets = ARENA_NEW(&l->tmp, int32_t, (size_t)n);
    if (!offsets)
        return VTRN_OUT_OF_MEMORY((size_t)n * 4);
    s->base_limit = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t offset =
            windows_offset(s->window, n_outer, i % pieces) + address_base(l, s, i / pieces);
        offsets[i] = (int32_t)(offset / unit);
        s->base_limit = offsets[i] > s->base_limit ? offsets[i] : s->base_limit;
    }
    s->has_base = true;
    s->base_unit = 1;
    s->base = (view){.dtype = VTRN_DTYPE_INT32, .n = 1, .f = {{n, 1}}};
    return build_constant_add(l->build, VTRN_DTYPE_INT32, offsets, (uint64_t)n * 4, &s->base.slot);
}

vtrn_status address_fold(lower *l, address_spec *s, int n_outer, int64_t unit) {
    int64_t pieces = 1;
    for (int i = 0; i < n_outer; i++)
        pieces *= s->window[i].size;
    if (pieces > 1 || s->has_base)
        VTRN_RETURN_IF_ERROR(fold_bases(l, s, n_outer, pieces, unit));
    for (int i = 0; i < s->n_terms; i++) {
        view *index = &s->term[i].index, again = *index;
        graph_type list = {.dtype = index->dtype, .rank = 1, .dims = {s->n * pieces}};
        s->term[i].stride /= unit;
        if (pieces == 1)
            continue;
        again.n = 2;
        again.f[0] = index->f[0];
        again.f[1] = (view_factor){pieces, 0};
        VTRN_RETURN_IF_ERROR(movement_densify(l, &again, &list));
        *index = again;
    }
    for (int i = 0; i < n_outer; i++)
        s->batch[s->n_batch++] = (view_factor){s->window[i].size, s->window[i].array};
    s->n_window -= n_outer;
    memmove(s->window, s->window + n_outer, (size_t)s->n_window * sizeof *s->window);
    s->n *= pieces;
    return NULL;
}

/* Whether all places where a window, or a piece of one that window factors before `inner` count,
 * can begin are multiples of `unit`. */
static bool begins_at(const address_spec *s, int inner, int64_t unit) {
    bool is_multiple = s->base_unit % unit == 0;
    for (int i = 0; i < s->n_terms; i++)
        is_multiple = is_multiple && (s->term[i].limit == 0 || s->term[i].stride % unit == 0);
    for (int i = 0; i < inner; i++)
        is_multiple = is_multiple && s->window[i].table % unit == 0;
    return is_multiple;
}

int64_t address_row_width(address_spec *s, int *n_outer) {
    drop_ones(s);
    int64_t width = 1;
    *n_outer = s->n_window;
    while (*n_outer > 0) {
        const address_factor *f = &s->window[*n_outer - 1];
        if ((f->size > 1 && f->table != width) || !begins_at(s, *n_outer - 1, width * f->size))
            break;
        width *= f->size;
        (*n_outer)--;
    }
    return width;
}

/* Columns of the tiles of a list of n addresses. */
static int64_t list_cols(const lower *l, int64_t n) {
    bool is_tight = windows_address_bytes(ADDRESS_COLS) > l->plan->sbuf_limit;
    int64_t cols = (n + tile_max_rows(l->chip) - 1) / tile_max_rows(l->chip);
    int64_t most = is_tight ? LEAST_ADDRESS_COLS : ADDRESS_COLS;
    return cols < most ? cols : most;
}

vtrn_status address_list(lower *l, const address_spec *s, view *out) {
    graph_type list = {.dtype = VTRN_DTYPE_INT32, .rank = 1, .dims = {s->n}};
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(build_slot_add(l->build, VTRN_SLOT_SCRATCH, VTRN_DTYPE_INT32,
                                        graph_type_bytes(&list), 0, &slot));
    *out = view_dense(slot, &list);
    kernel_addresses spec = {.at = *s, .list = *out, .cols = list_cols(l, s->n)};
    VTRN_RETURN_IF_ERROR(
        plan_kernel(l->plan, KERNEL_ADDRESSES, &spec, sizeof spec,
                    (kernel_demand){.sbuf_bytes = windows_address_bytes(spec.cols)}));
    VTRN_RETURN_IF_ERROR(windows_accesses(l->plan, s));
    return plan_writes(l->plan, out);
}

/* Rows and addresses at a time: as many as overlap well, or as few as SBUF has room for. */
static void size_parts(kernel_windows *k, uint64_t limit_bytes) {
    uint64_t n_tiles = k->combine == VTRN_ALU_NONE ? 2 : 4;
    k->max_row_bytes = ROW_BYTES;
    k->max_address_cols = ADDRESS_COLS;
    if (windows_address_bytes(ADDRESS_COLS) + n_tiles * ROW_BYTES <= limit_bytes)
        return;
    k->max_address_cols = LEAST_ADDRESS_COLS;
    uint64_t row_bytes = (limit_bytes - windows_address_bytes(LEAST_ADDRESS_COLS)) / n_tiles;
    row_bytes = row_bytes / SBUF_ALIGN * SBUF_ALIGN;
    k->max_row_bytes = row_bytes < ROW_BYTES ? (int64_t)row_bytes : ROW_BYTES;
}

static vtrn_status record(lower *l, address_spec *s, bool is_scatter, vtrn_alu combine) {
    kernel_windows spec = {.is_scatter = is_scatter, .combine = combine};
    size_parts(&spec, l->plan->sbuf_limit);
    drop_ones(s);
    window_cut c = windows_cut(l->chip, s, spec.max_row_bytes);
    if (should_fold(l, s, &c)) {
        VTRN_RETURN_IF_ERROR(address_fold(l, s, c.n_outer, 1));
        c = windows_cut(l->chip, s, spec.max_row_bytes);
    }
    spec.at = *s;
    kernel_demand demand = {.sbuf_bytes = windows_size(l->chip, &spec, &c).n_bytes};
    VTRN_RETURN_IF_ERROR(plan_kernel(l->plan, KERNEL_WINDOWS, &spec, sizeof spec, demand));
    VTRN_RETURN_IF_ERROR(windows_accesses(l->plan, s));
    if (!is_scatter) {
        VTRN_RETURN_IF_ERROR(plan_reads_whole(l->plan, s->table.slot));
        return plan_writes_whole(l->plan, s->array.slot);
    }
    VTRN_RETURN_IF_ERROR(plan_reads_whole(l->plan, s->array.slot));
    if (combine != VTRN_ALU_NONE)
        VTRN_RETURN_IF_ERROR(plan_reads_whole(l->plan, s->table.slot));
    return plan_writes_whole(l->plan, s->table.slot);
}

vtrn_status address_gather(lower *l, address_spec *s) {
    return record(l, s, false, VTRN_ALU_NONE);
}

vtrn_status address_scatter(lower *l, address_spec *s, vtrn_alu combine) {
    return record(l, s, true, combine);
}
