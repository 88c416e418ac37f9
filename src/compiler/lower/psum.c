/* PSUM banks and their owners. */
#include "compiler/lower/psum.h"

int64_t psum_cols(const vtrn_chip *chip) {
    int64_t cols = chip->psum_bank_bytes / (int64_t)sizeof(float);
    return cols < chip->tensor_max_n ? cols : chip->tensor_max_n;
}

int psum_banks_for(const vtrn_chip *chip, int64_t cols) {
    int64_t bank_cols = psum_cols(chip);
    return (int)((cols + bank_cols - 1) / bank_cols);
}

void psum_begin(lower *l) {
    l->n_psum_taken = 0;
}

vtrn_status psum_take(lower *l, int n_banks, psum_banks *out) {
    if (n_banks > l->chip->n_psum_banks - l->n_psum_taken)
        return VTRN_ERROR(VTRN_INTERNAL,
                          "PSUM: a kernel takes %d banks when %d of %s's %d are taken; this is a "
                          "bug of the compiler, please report the program",
                          n_banks, l->n_psum_taken, l->chip->name, l->chip->n_psum_banks);
    *out = (psum_banks){.first = l->n_psum_taken, .n = n_banks};
    l->n_psum_taken += n_banks;
    return NULL;
}

tile psum_tile(lower *l, const psum_banks *banks, int i) {
    uint32_t bank = (uint32_t)(banks->first + i);
    if (l->psum_peak_banks <= bank)
        l->psum_peak_banks = bank + 1;
    return (tile){.space = VTRN_SPACE_PSUM,
                  .dtype = VTRN_DTYPE_FP32,
                  .addr = bank * l->chip->psum_bank_bytes};
}

vtrn_status psum_next(lower *l, psum_banks *banks, int n_tiles, tile *out) {
    if (n_tiles > banks->n)
        return VTRN_ERROR(VTRN_INTERNAL,
                          "PSUM: %d tiles are in use together in %d banks; this is a bug of the "
                          "compiler, please report the program",
                          n_tiles, banks->n);
    for (int i = 0; i < n_tiles; i++) {
        out[i] = psum_tile(l, banks, banks->next);
        banks->next = (banks->next + 1) % banks->n;
    }
    return NULL;
}
