/* The passes of a contraction: each product is taken once, with k in order, and a pass has slots
 * for its operands and banks for its sums. */
#include "compiler/plan/contract_passes.h"
#include "compiler/plan/psum_banks.h"
#include "compiler/plan/verify_contract.h"
#include "compiler/plan/verify_failed.h"

static vtrn_status check_sizes(const plan *p, const kernel *k, const contraction *c) {
    const contract_cut *cut = &c->cut;
    if (cut->group_rows <= 0 || cut->turn_cols <= 0 || cut->block_cols <= 0 || cut->chunk_k <= 0 ||
        cut->n_together <= 0 || cut->a_span <= 0 || cut->b_span <= 0)
        return verify_failed(p, k, "a contraction is cut into parts of nothing");
    int64_t rows = cut->n_together * c->tile_rows;
    int64_t a_slots = (rows + cut->a_span - 1) / cut->a_span;
    if ((cut->n_a && cut->n_a < a_slots) || cut->n_a > CONTRACT_MAX_SLOTS ||
        cut->n_b > CONTRACT_MAX_SLOTS || (!cut->n_a && !c->a_from) || (!cut->n_b && !c->b_from))
        return verify_failed(p, k, "%d and %d slots where a pass needs %lld and 1", cut->n_a,
                             cut->n_b, (long long)a_slots);
    int banks = psum_banks_for(c->chip, cut->block_cols);
    if (banks > CONTRACT_MAX_BLOCK_BANKS || cut->n_together * banks > c->banks.sums ||
        cut->n_together > CONTRACT_MAX_TOGETHER)
        return verify_failed(p, k, "%d tiles of %d banks in %d banks", cut->n_together, banks,
                             c->banks.sums);
    bool has_chunks = cut->chunk_k < c->n_k;
    if (has_chunks && cut->chunk_k % contract_pe_size(c->chip))
        return verify_failed(p, k, "chunks of %lld of k cut a tile of weights",
                             (long long)cut->chunk_k);
    bool is_all = cut->b_span >= c->n_n, has_turns = cut->turn_cols < c->n_n;
    if ((!is_all && cut->b_span % cut->block_cols) ||
        (!is_all && has_turns && cut->turn_cols % cut->b_span))
        return verify_failed(p, k, "slots of %lld columns cut a block of %lld, or a turn of %lld",
                             (long long)cut->b_span, (long long)cut->block_cols,
                             (long long)cut->turn_cols);
    int64_t tiles = (c->n_m + c->tile_rows - 1) / c->tile_rows;
    if (cut->n_sums && (c->n_batch > 1 || cut->group_rows < c->n_m || cut->turn_cols < c->n_n ||
                        cut->n_sums < tiles || cut->sums_bytes < (uint64_t)c->n_n * sizeof(float)))
        return verify_failed(p, k, "strips keep sums of %d tiles of %u bytes", cut->n_sums,
                             cut->sums_bytes);
    if (cut->group_rows < c->n_m && cut->group_rows % cut->a_span)
        return verify_failed(p, k, "groups of %lld rows cut a slot of %lld",
                             (long long)cut->group_rows, (long long)cut->a_span);
    return NULL;
}

vtrn_status verify_cut(const plan *p, const kernel *k, const contraction *c) {
    VTRN_RETURN_IF_ERROR(check_sizes(p, k, c));
    double n = 0;
    int64_t k_next = 0;
    contract_pass pass = contract_first_pass();
    if (c->n_batch == 0 || c->n_m == 0 || c->n_n == 0 || c->n_k == 0)
        return NULL;
    do {
        int64_t rows = 0;
        for (int64_t i = 0; i < contract_pass_tiles(c, &pass); i++)
            rows += contract_pass_rows(c, &pass, i);
        int64_t cols = contract_pass_cols(c, &pass), n_k = contract_pass_k(c, &pass);
        bool is_next = c->cut.n_sums ? pass.k >= k_next : pass.k == k_next;
        if (rows <= 0 || cols <= 0 || n_k <= 0 || pass.row + rows > c->n_m ||
            pass.col + cols > c->n_n || !is_next)
            return verify_failed(p, k, "a pass of %lld x %lld x %lld products at %lld, %lld, %lld",
                                 (long long)rows, (long long)cols, (long long)n_k,
                                 (long long)pass.row, (long long)pass.col, (long long)pass.k);
        bool is_last = pass.k + n_k == c->n_k;
        k_next = c->cut.n_sums ? pass.k : is_last ? 0 : pass.k + n_k;
        n += (double)rows * (double)cols * (double)n_k;
    } while (contract_next_pass(c, &pass));
    double wanted = (double)c->n_batch * (double)c->n_m * (double)c->n_n * (double)c->n_k;
    if (n < wanted || n > wanted)
        return verify_failed(p, k, "its passes take %.0f products of %.0f", n, wanted);
    return NULL;
}

static vtrn_status check_operand(const plan *p, const kernel *k, const contraction *c,
                                 const sides_operand *o, int64_t n) {
    int64_t loaded_cols = n * (o->turns ? c->n_k : o->n_x), used_cols = n * o->n_x;
    if (o->n_x > contract_pe_size(c->chip) || o->n_loaded < SIDES_AHEAD + !o->turns ||
        (o->turns && o->n_turned < SIDES_TURNED) ||
        o->loaded_bytes < (uint64_t)loaded_cols * c->element_bytes ||
        o->turned_bytes < (uint64_t)used_cols * c->element_bytes ||
        (o->turns && used_cols * c->element_bytes > c->chip->psum_bank_bytes))
        return verify_failed(p, k,
                             "an operand of %lld batches of %lld has %d buffers of %u bytes, and "
                             "%d of %u",
                             (long long)n, (long long)o->n_x, o->n_loaded, o->loaded_bytes,
                             o->n_turned, o->turned_bytes);
    return NULL;
}

vtrn_status verify_sides(const plan *p, const kernel *k, const contraction *c, const map_sides *s) {
    if (s->n < 1 || s->n > c->n_batch || s->n * c->n_n > psum_cols(c->chip) ||
        c->n_k > contract_pe_size(c->chip) || s->a.n_x != c->n_m || s->b.n_x != c->n_n)
        return verify_failed(p, k, "%lld of %lld batches of %lld x %lld x %lld are side by side",
                             (long long)s->n, (long long)c->n_batch, (long long)c->n_m,
                             (long long)c->n_n, (long long)c->n_k);
    VTRN_RETURN_IF_ERROR(check_operand(p, k, c, &s->a, s->n));
    return check_operand(p, k, c, &s->b, s->n);
}
