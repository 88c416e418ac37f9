/* PSUM banks and their owners. */
#include "compiler/emit/psum.h"

/* A kernel's banks follow those of the one before, which may still be in use when it starts. */
void psum_begin(emitter *e) {
    e->psum_first = (e->psum_first + e->n_psum_taken) % e->chip->n_psum_banks;
    e->n_psum_taken = 0;
}

vtrn_status psum_take(emitter *e, int n_banks, psum_banks *out) {
    if (n_banks > e->chip->n_psum_banks - e->n_psum_taken)
        return VTRN_ERROR(VTRN_INTERNAL,
                          "PSUM: a kernel takes %d banks when %d of %s's %d are taken; this is a "
                          "bug of the compiler, please report the program",
                          n_banks, e->n_psum_taken, e->chip->name, e->chip->n_psum_banks);
    *out = (psum_banks){.first = e->n_psum_taken, .n = n_banks};
    e->n_psum_taken += n_banks;
    return NULL;
}

tile psum_tile(emitter *e, const psum_banks *banks, int i) {
    uint32_t bank = (uint32_t)((e->psum_first + banks->first + i) % e->chip->n_psum_banks);
    if (e->psum_peak_banks <= bank)
        e->psum_peak_banks = bank + 1;
    return (tile){.space = VTRN_SPACE_PSUM,
                  .dtype = VTRN_DTYPE_FP32,
                  .addr = bank * e->chip->psum_bank_bytes};
}

vtrn_status psum_next(emitter *e, psum_banks *banks, int n_tiles, tile *out) {
    if (n_tiles > banks->n)
        return VTRN_ERROR(VTRN_INTERNAL,
                          "PSUM: %d tiles are in use together in %d banks; this is a bug of the "
                          "compiler, please report the program",
                          n_tiles, banks->n);
    for (int i = 0; i < n_tiles; i++) {
        out[i] = psum_tile(e, banks, banks->next);
        banks->next = (banks->next + 1) % banks->n;
    }
    return NULL;
}
