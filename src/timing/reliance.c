/* Reliance on assumed constants, by replays with ten percent more of them. */
#include "timing/reliance.h"

#include <math.h>
#include <string.h>

enum { MAX_INSTRS = 20000 /* of a program that is replayed for each constant */ };

static const double more = 1.1, least_change = 1e-4;

static bool is_assumed(const vtrn_chip *chip, int key) {
    double *value = chip_key_real((vtrn_chip *)chip, key);
    return value && *value != 0 && chip->basis[key] == CHIP_ASSUMED;
}

static vtrn_status change_of(const vtrn_chip *chip, const vtrn_program *program,
                             const uint32_t *block_trace, uint32_t n_block_trace, double total_ns,
                             double *change) {
    timing_result result;
    VTRN_RETURN_IF_ERROR(timing_replay(chip, program, block_trace, n_block_trace, false, &result));
    *change = total_ns > 0 ? result.summary.total_ns / total_ns - 1 : 0;
    timing_result_free(&result);
    return NULL;
}

/* Keeps the largest changes, in order. */
static void keep(timing_reliances *out, int key, double change) {
    int at = out->n;
    if (fabs(change) < least_change)
        return;
    while (at > 0 && fabs(out->of[at - 1].change) < fabs(change))
        at--;
    if (at == TIMING_MAX_RELIANCES)
        return;
    int n_moved = (out->n < TIMING_MAX_RELIANCES ? out->n : TIMING_MAX_RELIANCES - 1) - at;
    memmove(out->of + at + 1, out->of + at, (size_t)n_moved * sizeof out->of[0]);
    out->of[at] = (timing_reliance){key, change};
    out->n = at + 1 + n_moved;
}

vtrn_status timing_rely(const vtrn_chip *chip, const vtrn_program *program,
                        const uint32_t *block_trace, uint32_t n_block_trace, double total_ns,
                        timing_reliances *out) {
    vtrn_chip all = *chip;
    memset(out, 0, sizeof *out);
    for (int key = 0; key < CHIP_N_KEYS; key++)
        if (is_assumed(chip, key)) {
            out->n_assumed++;
            *chip_key_real(&all, key) *= more;
        }
    if (!out->n_assumed)
        return NULL;
    VTRN_RETURN_IF_ERROR(
        change_of(&all, program, block_trace, n_block_trace, total_ns, &out->together));
    for (int key = 0; key < CHIP_N_KEYS && program->n_instrs <= MAX_INSTRS; key++) {
        vtrn_chip one = *chip;
        double change;
        if (!is_assumed(chip, key))
            continue;
        *chip_key_real(&one, key) *= more;
        VTRN_RETURN_IF_ERROR(
            change_of(&one, program, block_trace, n_block_trace, total_ns, &change));
        keep(out, key, change);
    }
    return NULL;
}
