#include "compiler/plan/contract_memo.h"

static bool is_same_side(const contract_side *a, const contract_side *b) {
    return a->n_x == b->n_x && a->turns == b->turns && a->turns_by_dma == b->turns_by_dma &&
           a->is_resident == b->is_resident && a->run == b->run && a->pitch == b->pitch &&
           a->dtype == b->dtype;
}

static bool is_same(const contract_question *x, const contract_question *y) {
    const contract_shape *a = &x->shape, *b = &y->shape;
    return x->group_rows == y->group_rows && x->turn_cols == y->turn_cols &&
           x->limit_bytes == y->limit_bytes && a->n_batch == b->n_batch && a->n_k == b->n_k &&
           is_same_side(&a->a, &b->a) && is_same_side(&a->b, &b->b) && a->dtype == b->dtype &&
           a->out_dtype == b->out_dtype && a->tile_rows == b->tile_rows &&
           a->sum_banks == b->sum_banks && a->is_stored == b->is_stored &&
           a->keeps_whole_k == b->keeps_whole_k;
}

/* Where the answer is, if anywhere; what was there before is forgotten. */
static uint64_t place_of(const contract_question *q) {
    const contract_shape *s = &q->shape;
    const uint64_t numbers[] = {(uint64_t)s->n_batch,    (uint64_t)s->n_k,
                                (uint64_t)s->a.n_x,      (uint64_t)s->b.n_x,
                                (uint64_t)q->group_rows, (uint64_t)q->turn_cols,
                                q->limit_bytes,          s->a.is_resident + 2u * s->b.is_resident};
    uint64_t hash = 0;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        hash = (hash ^ numbers[i]) * 0x9e3779b97f4a7c15u;
    return (hash >> 32) % CONTRACT_CUTS_REMEMBERED;
}

contract_cut contract_memo_choose(contract_memo *memo, const vtrn_chip *chip,
                                  const contract_question *q) {
    const uint64_t i = place_of(q);
    if (memo->entries[i].question.shape.n_batch == 0 || !is_same(&memo->entries[i].question, q)) {
        memo->entries[i].question = *q;
        memo->entries[i].cut =
            contract_choose_cut(chip, &q->shape, q->group_rows, q->turn_cols, q->limit_bytes);
    }
    return memo->entries[i].cut;
}
