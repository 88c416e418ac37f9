/* Whether batches of a contraction lie side by side in the tiles of a map kernel: sides.h. */
#include "compiler/plan/fusion_fold.h"
#include "compiler/plan/map_plan.h"
#include "compiler/plan/psum_banks.h"
#include "compiler/plan/resident.h"

static int64_t size_of(const view_factor *f, int n) {
    int64_t size = 1;
    for (int i = 0; i < n; i++)
        size *= f[i].size;
    return size;
}

bool map_sides_cut(const map_plan *m, const view *at, int64_t n_cols, view *v, sides_view *out) {
    const contraction *c = &m->contracts[0];
    const int64_t dims[] = {c->n_batch, c->n_m, n_cols};
    int first[4];
    *v = *at;
    if (!view_split_dims(v, dims, 3, first))
        return false;
    *out = (sides_view){.slot = v->slot,
                        .dtype = v->dtype,
                        .offset = v->offset,
                        .n_rows = c->n_m,
                        .n_cols = n_cols,
                        .n_batch_factors = first[1],
                        .n_row_factors = first[2] - first[1],
                        .n_col_factors = first[3] - first[2],
                        .batch = v->f,
                        .rows = v->f + first[1],
                        .cols = v->f + first[2]};
    return true;
}

bool map_sides_repeat(const map_plan *m, const view *at) {
    view v;
    sides_view cut;
    return m->f->n_side && map_sides_cut(m, at, m->cols, &v, &cut) &&
           view_is_repeated(cut.batch, cut.n_batch_factors);
}

sides_view map_sides_operand(const contract_operand *o, bool is_natural) {
    sides_view v = {.slot = o->slot,
                    .dtype = o->dtype,
                    .offset = o->offset,
                    .n_batch_factors = o->n_batch,
                    .n_row_factors = is_natural ? o->n_x : o->n_k,
                    .n_col_factors = is_natural ? o->n_k : o->n_x,
                    .batch = o->batch,
                    .rows = is_natural ? o->x : o->k,
                    .cols = is_natural ? o->k : o->x};
    v.n_rows = size_of(v.rows, v.n_row_factors);
    v.n_cols = size_of(v.cols, v.n_col_factors);
    return v;
}

/* A node that is emitted for several batches as for one: its operands are access patterns, and what
 * is one value a row has a column for each batch. */
static bool suits(const map_plan *m, const fusion_node *node) {
    view v;
    sides_view cut;
    int64_t n_cols = node->shape == NODE_ROW ? 1 : m->cols;
    bool is_moved = node->is_stored || (node->op == FUSION_LOAD && !node->is_hoisted);
    if (node->is_column || node->is_accumulated || node->n_row_blocks ||
        (is_moved && !map_sides_cut(m, &node->at, n_cols, &v, &cut)))
        return false;
    if (node->op == FUSION_LOAD || node->op == FUSION_CONTRACT)
        return true;
    if (node->op < FUSION_LOAD && node->op != GRAPH_REDUCE) {
        const int emitter = elementwise_op_of(m->f, node)->emitter;
        if (emitter == ELEMENTWISE_BY_SELECT)
            return dtype_is_float((vtrn_dtype)node->dtype);
        if (emitter == ELEMENTWISE_BY_COMPARE)
            return fold_reads_as_fp32(m->f, node);
    }
    return dtype_is_float((vtrn_dtype)node->dtype) && fold_reads_as_fp32(m->f, node);
}

/* Batches of a tile: their products fill a bank of PSUM, as do their transposes. Whole rows of
 * batches where there are that many, else a part of one: a transfer takes no others. */
static int64_t batches_of_tile(const contraction *c, const map_sides *s) {
    const vtrn_chip *chip = c->chip;
    int64_t most = psum_cols(chip) / c->n_n;
    const sides_operand *in[] = {&s->a, &s->b};
    for (int i = 0; i < 2; i++) {
        int64_t n = chip->psum_bank_bytes / (in[i]->n_x * c->element_bytes);
        most = in[i]->turns && n < most ? n : most;
    }
    most = most < c->n_batch ? most : c->n_batch;
    const contract_operand *o = &c->spec->a;
    int64_t inner = o->n_batch ? o->batch[o->n_batch - 1].size : 1;
    if (most >= inner)
        return most / inner * inner;
    while (inner % most)
        most--;
    return most;
}

static sides_operand operand_of(const contraction *c, const contract_operand *o, int64_t n_x) {
    bool turns = contract_turns(c->chip, o);
    return (sides_operand){.turns = turns,
                           .n_x = n_x,
                           .n_loaded = SIDES_AHEAD + !turns,
                           .n_turned = turns ? SIDES_TURNED : 0};
}

static void size_operand(const contraction *c, int64_t n, sides_operand *o) {
    o->turned_bytes = sbuf_round((uint64_t)(n * o->n_x) * c->element_bytes);
    o->loaded_bytes =
        o->turns ? sbuf_round((uint64_t)(n * c->n_k) * c->element_bytes) : o->turned_bytes;
}

bool map_choose_sides(map_plan *m) {
    /* Rows and columns of a batch: beyond, instructions do more than they cost, and one value a row
     * is better a scalar of its partition. Assumed. */
    enum { MOST_ROWS = 64, MOST_COLS = 64, LEAST_BATCHES = 4 };
    fusion *f = m->f;
    const contraction *c = &m->contracts[0];
    m->sides = (map_sides){0};
    if (m->n_contracts != 1 || m->is_flat || f->batch_rows || c->n_batch < LEAST_BATCHES ||
        c->n_m > MOST_ROWS || c->n_n > MOST_COLS || c->n_k > contract_pe_size(c->chip) ||
        m->cols != c->n_n || f->row_step != c->n_m || f->n != c->n_batch * c->n_m * c->n_n ||
        m->p->options->has_no_pipeline || dtype_per_byte((vtrn_dtype)c->spec->a.dtype) > 1 ||
        dtype_per_byte((vtrn_dtype)c->spec->b.dtype) > 1)
        return false;
    for (int i = 0; i < f->n_nodes; i++)
        if (f->nodes[i].is_live && !suits(m, &f->nodes[i]))
            return false;
    map_sides s = {.a = operand_of(c, &c->spec->a, c->n_m),
                   .b = operand_of(c, &c->spec->b, c->n_n)};
    s.n = batches_of_tile(c, &s);
    if (s.n < 2)
        return false;
    size_operand(c, s.n, &s.a);
    size_operand(c, s.n, &s.b);
    m->sides = s;
    m->form = FUSION_WHOLE;
    f->n_side = s.n;
    return true;
}

static uint64_t operand_bytes(const sides_operand *o, const resident *from) {
    uint64_t loaded = from ? 0 : (uint64_t)o->n_loaded * o->loaded_bytes;
    return loaded + (uint64_t)o->n_turned * o->turned_bytes;
}

uint64_t map_sides_bytes(const map_plan *m) {
    const contraction *c = &m->contracts[0];
    return operand_bytes(&m->sides.a, c->a_from) + operand_bytes(&m->sides.b, c->b_from);
}
