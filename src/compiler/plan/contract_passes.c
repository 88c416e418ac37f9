/* The passes of a contraction in the order in which they run. */
#include "compiler/plan/contract_passes.h"

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

contract_pass contract_first_pass(void) {
    return (contract_pass){.number = 1};
}

int64_t contract_group_end(const contraction *c, const contract_pass *p) {
    return least(p->group + c->cut.group_rows, c->n_m);
}

static int64_t turn_end(const contraction *c, const contract_pass *p) {
    return least(p->turn + c->cut.turn_cols, c->n_n);
}

/* The same in strips, which have one group and one turn. */
static bool next_in_strips(const contraction *c, contract_pass *p) {
    const contract_cut *cut = &c->cut;
    p->col += cut->block_cols;
    if (p->col < c->n_n)
        return true;
    p->col = 0;
    p->row += cut->n_together * c->tile_rows;
    if (p->row < c->n_m)
        return true;
    p->row = 0;
    p->k += cut->chunk_k;
    if (p->k < c->n_k)
        return true;
    p->k = 0;
    p->batch++;
    return p->batch < c->n_batch;
}

bool contract_next_pass(const contraction *c, contract_pass *p) {
    const contract_cut *cut = &c->cut;
    p->number++;
    if (cut->n_sums)
        return next_in_strips(c, p);
    p->k += cut->chunk_k;
    if (p->k < c->n_k)
        return true;
    p->k = 0;
    p->col += cut->block_cols;
    if (p->col < turn_end(c, p))
        return true;
    p->col = p->turn;
    p->row += cut->n_together * c->tile_rows;
    if (p->row < contract_group_end(c, p))
        return true;
    p->row = p->group;
    p->turn += cut->turn_cols;
    p->col = p->turn;
    if (p->turn < c->n_n)
        return true;
    p->turn = p->col = 0;
    p->group += cut->group_rows;
    p->row = p->group;
    if (p->group < c->n_m)
        return true;
    p->group = p->row = 0;
    p->batch++;
    return p->batch < c->n_batch;
}

int64_t contract_pass_tiles(const contraction *c, const contract_pass *p) {
    int64_t left = contract_group_end(c, p) - p->row;
    return least(c->cut.n_together, (left + c->tile_rows - 1) / c->tile_rows);
}

int64_t contract_pass_rows(const contraction *c, const contract_pass *p, int64_t tile_i) {
    return least(c->tile_rows, contract_group_end(c, p) - p->row - tile_i * c->tile_rows);
}

int64_t contract_pass_cols(const contraction *c, const contract_pass *p) {
    return least(c->cut.block_cols, turn_end(c, p) - p->col);
}

int64_t contract_pass_k(const contraction *c, const contract_pass *p) {
    return least(c->cut.chunk_k, c->n_k - p->k);
}
