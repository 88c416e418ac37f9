/* Which tensors lie in SBUF between kernels, and where. */
#include "compiler/lower/resident.h"

#include "compiler/lower/contract.h"

#include <string.h>

enum { MAX_RESIDENTS = 128 };

/* A row-major [rows, cols] tensor: row r on partition r % row_step, at addr + r / row_step * pitch,
 * its columns side by side. */
typedef struct resident {
    uint32_t slot;
    graph_value value; /* what the trial knows it by */
    uint8_t dtype;
    int64_t rows, cols, row_step;
    uint32_t addr, pitch, n_bytes; /* of a partition */
    bool is_open;                  /* its kernel is being emitted */
    uint32_t made_at;              /* length of the list when its kernel was complete */
    uint32_t next_use;             /* place of the operation that comes for it next */
} resident;

typedef struct resident_table {
    uint32_t n;
    uint32_t n_scanned;         /* instructions of the list whose writes the slots know of */
    resident at[MAX_RESIDENTS]; /* by address, highest first */
} resident_table;

uint32_t resident_pitch(uint8_t dtype, int64_t cols) {
    return lower_sbuf_round((uint64_t)cols * dtype_size((vtrn_dtype)dtype));
}

static void forget(resident_table *t, uint32_t index) {
    t->n--;
    memmove(&t->at[index], &t->at[index + 1], (t->n - index) * sizeof t->at[0]);
}

void resident_forget_all(lower *l) {
    if (l->residents)
        l->residents->n = 0;
}

/* Notes where the list writes each slot last. */
static void scan_writes(lower *l) {
    for (uint32_t *i = &l->residents->n_scanned; *i < l->n_list; ++*i) {
        const vtrn_instr *instr = &l->list[*i];
        if (instr->opcode == VTRN_OP_CUSTOM_OP) {
            const vtrn_custom *c = &l->customs[instr->arg[0]];
            for (uint32_t k = 0; k < c->n_outputs; k++)
                l->slots[c->slots[c->n_inputs + k]].written_at = *i + 1;
            continue;
        }
        for (int a = 0; a < VTRN_MAX_AP; a++)
            if (instr->ap[a].space == VTRN_SPACE_HBM && isa_ap_is_written(instr, a))
                l->slots[instr->ap[a].slot].written_at = *i + 1;
    }
}

/* The resident of a slot, unless something else wrote the slot since. */
static resident *of_slot(lower *l, uint32_t slot) {
    resident_table *t = l->residents;
    for (uint32_t i = 0; t && i < t->n; i++) {
        resident *r = &t->at[i];
        if (r->slot != slot || r->is_open)
            continue;
        scan_writes(l);
        if (l->slots[slot].written_at <= r->made_at)
            return r;
        forget(t, i);
        return NULL;
    }
    return NULL;
}

int64_t resident_cols(lower *l, uint32_t slot) {
    const resident *r = of_slot(l, slot);
    return r ? r->cols : 0;
}

/* Place of the next operation, `from` or later, that reads the slot; LOWER_NEVER: none does. */
static uint32_t next_use(const lower *l, uint32_t slot, uint32_t from) {
    for (const fusion *f = l->fusions; f; f = f->next)
        for (int i = 0; i < f->n_nodes; i++) {
            const fusion_node *node = &f->nodes[i];
            if ((node->op == FUSION_LOAD && node->source_view.slot == slot) ||
                (node->op == FUSION_CONTRACT &&
                 (node->spec->a.slot == slot || node->spec->b.slot == slot)))
                return from;
        }
    uint32_t next = LOWER_NEVER;
    for (uint32_t v = 0; v < l->g->n_values; v++) {
        const lower_value *value = &l->values[v];
        if (value->state != VALUE_VIEW || !value->uses || value->view.slot != slot)
            continue;
        uint32_t use = lower_next_use(l, v, from);
        next = use < next ? use : next;
    }
    return next;
}

/* Forgets the one that is wanted last; false when none can wait longer than until `next`. */
static bool forget_last(const lower *l, resident_table *t, uint32_t next) {
    uint32_t last = t->n;
    for (uint32_t i = 0; i < t->n; i++) {
        resident *r = &t->at[i];
        if (r->is_open)
            continue;
        if (r->next_use < l->place) /* it has served since */
            r->next_use = next_use(l, r->slot, l->place);
        if (r->next_use > next && (last == t->n || r->next_use > t->at[last].next_use))
            last = i;
    }
    if (last == t->n)
        return false;
    forget(t, last);
    return true;
}

/* The highest gap of n_bytes: where it begins, and which resident comes behind it in the table. */
static bool find_gap(const lower *l, const resident_table *t, uint32_t n_bytes, uint64_t floor,
                     uint32_t *index, uint32_t *addr) {
    uint32_t top = l->sbuf_limit / LOWER_SBUF_ALIGN * LOWER_SBUF_ALIGN;
    for (uint32_t i = 0; i <= t->n && t->n < MAX_RESIDENTS; i++) {
        uint32_t bottom = i < t->n ? t->at[i].addr + t->at[i].n_bytes : LOWER_SBUF_WINDOW;
        if (top >= bottom && top - bottom >= n_bytes && top - n_bytes >= floor) {
            *index = i;
            *addr = top - n_bytes;
            return true;
        }
        if (i < t->n)
            top = t->at[i].addr;
    }
    return false;
}

/* The same, after those that are wanted later than `next` made room; without, nobody goes. */
static bool find_room(lower *l, uint32_t n_bytes, uint64_t floor, uint32_t next, uint32_t *index,
                      uint32_t *addr) {
    resident_table *t = l->residents;
    if (find_gap(l, t, n_bytes, floor, index, addr))
        return true;
    resident_table saved = *t;
    while (!find_gap(l, t, n_bytes, floor, index, addr))
        if (!forget_last(l, t, next)) {
            *t = saved;
            return false;
        }
    return true;
}

bool resident_open(lower *l, const fusion_node *node, int64_t cols, int64_t row_step,
                   uint64_t floor) {
    if (!node->has_value || node->next_use == LOWER_NEVER ||
        (l->tried && l->tried[node->value] != LOWER_SERVED))
        return false;
    const view *v = &node->store_view;
    uint8_t dtype = node->dtype;
    const vtrn_slot *slot = &l->slots[v->slot].slot;
    int64_t n = view_count(v), rows = n / cols;
    uint64_t n_bytes = (uint64_t)((rows + row_step - 1) / row_step) * resident_pitch(dtype, cols);
    vtrn_dtype in_memory;
    fusion_tile_dtype((vtrn_dtype)v->dtype, &in_memory);
    if (slot->kind != VTRN_SLOT_SCRATCH || v->offset || !view_is_dense(v) || n % cols ||
        in_memory != dtype || (uint64_t)n * dtype_size(in_memory) != slot->size_bytes ||
        n_bytes + LOWER_SBUF_WINDOW > l->sbuf_limit)
        return false;
    if (!l->residents && !(l->residents = ARENA_NEW(&l->tmp, resident_table, 1)))
        return false;
    uint32_t index, addr;
    if (!find_room(l, (uint32_t)n_bytes, floor, node->next_use, &index, &addr))
        return false;
    resident_table *t = l->residents;
    memmove(&t->at[index + 1], &t->at[index], (t->n - index) * sizeof t->at[0]);
    t->n++;
    t->at[index] = (resident){.slot = v->slot,
                              .value = node->value,
                              .dtype = dtype,
                              .rows = rows,
                              .cols = cols,
                              .row_step = row_step,
                              .addr = addr,
                              .pitch = resident_pitch(dtype, cols),
                              .n_bytes = (uint32_t)n_bytes,
                              .next_use = node->next_use,
                              .is_open = true};
    if (l->trial)
        l->trial[node->value] = LOWER_IDLE;
    return true;
}

static tile tile_at(const resident *r, int64_t row, int64_t col) {
    return (tile){.space = VTRN_SPACE_SBUF,
                  .dtype = r->dtype,
                  .addr = r->addr + (uint32_t)(row / r->row_step) * r->pitch +
                          (uint32_t)((uint64_t)col * dtype_size((vtrn_dtype)r->dtype))};
}

tile resident_tile(const lower *l, uint32_t slot, int64_t r, int64_t c) {
    const resident_table *t = l->residents;
    uint32_t i = 0;
    while (t->at[i].slot != slot || !t->at[i].is_open)
        i++;
    return tile_at(&t->at[i], r, c);
}

void resident_close(lower *l) {
    resident_table *t = l->residents;
    for (uint32_t i = 0; t && i < t->n; i++)
        if (t->at[i].is_open) {
            t->at[i].is_open = false;
            t->at[i].made_at = l->n_list;
        }
}

void resident_abandon(lower *l) {
    resident_table *t = l->residents;
    for (uint32_t i = t ? t->n : 0; i-- > 0;)
        if (t->at[i].is_open)
            forget(t, i);
}

void resident_hold(lower *l, uint32_t slot) {
    resident *r = of_slot(l, slot);
    if (r)
        r->next_use = l->place;
}

/* A stretch of a view as one run: elements that lie stride apart, from offset on. */
typedef struct run {
    int64_t offset, stride;
    int n_boxes; /* 1 if it is one */
} run;

static vtrn_status on_box(void *ctx, const view_box *box) {
    run *r = ctx;
    r->n_boxes += box->n > 1 ? 2 : 1;
    r->offset = box->offset;
    r->stride = box->n ? box->f[0].stride : 0;
    return NULL;
}

static bool is_run(const view_factor *f, int n, int64_t begin, int64_t count, run *out) {
    *out = (run){0};
    vtrn_status none = view_for_boxes(f, n, begin, begin + count, on_box, out);
    return !none && out->n_boxes == 1;
}

bool resident_find(lower *l, const view *v, int n_outer, int64_t r0, int64_t n_rows, int64_t c0,
                   int64_t n_cols, uint8_t dtype, tile *out) {
    resident *r = of_slot(l, v->slot);
    run row, col;
    vtrn_dtype in_memory;
    fusion_tile_dtype((vtrn_dtype)v->dtype, &in_memory);
    if (!r || in_memory != dtype || dtype_size(in_memory) != dtype_size((vtrn_dtype)r->dtype) ||
        !is_run(v->f, n_outer, r0, n_rows, &row) ||
        !is_run(v->f + n_outer, v->n - n_outer, c0, n_cols, &col))
        return false;
    int64_t at = v->offset + row.offset + col.offset;
    int64_t first_row = at / r->cols, first_col = at % r->cols;
    bool is_there = at >= 0 && (n_rows == 1 || row.stride == r->cols) &&
                    (n_cols == 1 || col.stride == 1) && first_row % r->row_step == 0 &&
                    n_rows <= r->row_step && first_row + n_rows <= r->rows &&
                    first_col + n_cols <= r->cols;
    if (!is_there)
        return false;
    if (!out)
        return true;
    if (l->trial)
        l->trial[r->value] = LOWER_SERVED;
    *out = tile_at(r, first_row, first_col);
    out->dtype = dtype; /* a view may see the same bits as another type */
    return true;
}

void resident_release(lower *l) {
    resident_table *t = l->residents;
    for (uint32_t i = 0; t && i < t->n; i++)
        if (!t->at[i].is_open && t->at[i].next_use == l->place)
            t->at[i].next_use = next_use(l, t->at[i].slot, l->place + 1);
}

bool resident_allows(const lower *l, uint64_t n_bytes) {
    const resident_table *t = l->residents;
    for (uint32_t i = 0; t && i < t->n && n_bytes > LOWER_SBUF_WINDOW; i++)
        if (t->at[i].addr < n_bytes && (t->at[i].is_open || t->at[i].next_use == l->place))
            return false;
    return true;
}

uint32_t resident_bytes(const lower *l) {
    const resident_table *t = l->residents;
    uint32_t n_bytes = 0;
    for (uint32_t i = 0; t && i < t->n; i++)
        n_bytes += t->at[i].n_bytes;
    return n_bytes;
}

void resident_yield(lower *l, uint32_t end) {
    resident_table *t = l->residents;
    while (t && t->n && t->at[t->n - 1].addr < end)
        forget(t, t->n - 1);
}
