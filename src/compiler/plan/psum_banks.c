/* Columns and banks of PSUM. */
#include "compiler/plan/psum_banks.h"

int64_t psum_cols(const vtrn_chip *chip) {
    int64_t cols = chip->psum_bank_bytes / (int64_t)sizeof(float);
    return cols < chip->tensor_max_n ? cols : chip->tensor_max_n;
}

int psum_banks_for(const vtrn_chip *chip, int64_t cols) {
    int64_t bank_cols = psum_cols(chip);
    return (int)((cols + bank_cols - 1) / bank_cols);
}
