/* Which sums over its rows a fusion can make, and in which PSUM banks. */
#include "compiler/plan/fusion_sums.h"

#include "compiler/plan/contract.h"

enum { MIN_WIDE_SUM_ROWS = 24 /* below, rows added up one by one are cheaper: timing model */ };

bool fusion_is_wide_sum(const fusion *f, const fusion_node *node) {
    return node->is_column && !node->is_total && f->cols > FUSION_MAX_WHOLE_SUM_COLS;
}

int fusion_sum_banks(const vtrn_chip *chip, const fusion *f, const fusion_node *sum) {
    bool is_one = sum->is_total || fusion_is_wide_sum(f, sum);
    return psum_banks_for(chip, is_one ? 1 : f->cols);
}

bool fusion_has_wide_sums(const fusion *f) {
    for (int i = 0; i < f->n_nodes; i++)
        if (fusion_is_wide_sum(f, &f->nodes[i]))
            return true;
    return false;
}

static bool has_row_reductions(const fusion *f) {
    for (int i = 0; i < f->n_nodes; i++)
        if (f->nodes[i].op == GRAPH_REDUCE && !f->nodes[i].is_column)
            return true;
    return false;
}

/* PSUM banks of a fusion. */
typedef struct bank_demand {
    int sums;      /* of its column sums */
    int contracts; /* of its contractions, at least */
} bank_demand;

static bank_demand demand_of(const vtrn_chip *chip, const fusion *f) {
    bank_demand demand = {0};
    for (int i = 0; i < f->n_nodes; i++) {
        const fusion_node *node = &f->nodes[i];
        if (node->is_column)
            demand.sums += fusion_sum_banks(chip, f, node);
        if (node->op == FUSION_CONTRACT) {
            contract_banks least = contract_least_banks(chip, node->spec);
            demand.contracts += least.sums + least.turns;
        }
    }
    return demand;
}

/* Whether the chip has the banks. Column sums hold theirs through the whole kernel and may have
 * half of them. */
static bool has_banks(const vtrn_chip *chip, bank_demand demand) {
    int n = chip->n_psum_banks;
    return demand.sums <= n / 2 && demand.sums + demand.contracts <= n;
}

/* Whether wide sums are cheaper than rows added up one by one: they cost the latency of a tile for
 * each block of columns, and those for each row; by the timing model. */
static bool wide_sum_pays(const vtrn_chip *chip, int64_t n_rows, int64_t cols) {
    return n_rows >= MIN_WIDE_SUM_ROWS && 3 * n_rows >= 2 * psum_banks_for(chip, cols);
}

/* Whether a fusion can sum up n_rows rows of `cols` too. */
bool fusion_can_sum(const vtrn_chip *chip, const fusion *f, int64_t n_rows, int64_t cols) {
    bank_demand demand = {0};
    if (f && f->conv)
        return false;
    bool is_wide = cols > FUSION_MAX_WHOLE_SUM_COLS;
    if (is_wide && (!wide_sum_pays(chip, n_rows, cols) || (f && has_row_reductions(f))))
        return false;
    if (f)
        demand = demand_of(chip, f);
    demand.sums += psum_banks_for(chip, is_wide ? 1 : cols);
    return has_banks(chip, demand);
}

static bool has_reductions(const fusion *f) {
    for (int i = 0; i < f->n_nodes; i++)
        if (f->nodes[i].op == GRAPH_REDUCE)
            return true;
    return false;
}

/* Whether one fusion can do what two do. */
bool fusion_can_merge(const vtrn_chip *chip, const fusion *a, const fusion *b) {
    bank_demand of_a = demand_of(chip, a), of_b = demand_of(chip, b);
    if ((fusion_has_wide_sums(a) && has_row_reductions(b)) ||
        (fusion_has_wide_sums(b) && has_row_reductions(a)))
        return false;
    if (a->conv || b->conv)
        return !(a->conv && b->conv) && a->n_contracts + b->n_contracts == 0 &&
               !has_reductions(a) && !has_reductions(b);
    return a->n_contracts + b->n_contracts <= FUSION_MAX_CONTRACTS &&
           has_banks(chip, (bank_demand){of_a.sums + of_b.sums, of_a.contracts + of_b.contracts});
}

/* Columns of a fusion that sums up n rows of `cols`. Few would leave the engines little to do in
 * each row of a tile: neighbouring rows become one, as many as a PSUM bank has room for and leave
 * rows for all partitions, and the sums of its parts are added up at the end. */
int64_t fusion_sum_cols(const vtrn_chip *chip, int64_t n, int64_t cols) {
    enum { FEW_COLS = 128 };
    int64_t bank_cols = psum_cols(chip);
    if (cols >= FEW_COLS || cols == 0)
        return cols;
    for (int64_t k = bank_cols / cols; k > 1; k--)
        if (n % k == 0 && n / k >= tile_max_rows(chip))
            return cols * k;
    return cols;
}
