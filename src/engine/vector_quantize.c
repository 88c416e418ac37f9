/* Vector engine: MX quantisation. */
#include "engine/engine.h"

#include <math.h>
#include <string.h>

enum {
    VALUES = 4, /* of a packed element */
    GROUP = 8,  /* partitions with one scale */
    QUADRANT = 32,
    STRIP = 64, /* packed elements at a time */
    BIAS = 127, /* of a scale's exponent */
};

/* Exponent of the largest number of the type. Source: OCP Microscaling Formats, table 1 */
static int max_exponent(vtrn_dtype packed) {
    return packed == VTRN_DTYPE_FP8E5M2_X4 ? 15 : 8;
}

static float max_value(vtrn_dtype packed) {
    return packed == VTRN_DTYPE_FP8E5M2_X4 ? 57344.0f : 448.0f;
}

/* Scales of packed elements [from, from + n) of the 8 partitions from p on, as bytes: the exponent
 * of the largest magnitude less that of the type, at least 0; of numbers that are not finite 255
 * less that. Source: nki.isa.quantize_mx, "Scale calculation" */
static void find_scales(const engine_core *core, const vtrn_instr *instr, int p, uint64_t from,
                        size_t n, uint8_t *out) {
    const vtrn_ap *src = &instr->ap[1];
    int less = max_exponent((vtrn_dtype)instr->ap[0].dtype) - (instr->arg[0] ? 1 : 0);
    uint32_t largest[STRIP] = {0};
    for (int r = p; r < p + GROUP; r++) {
        float values[STRIP * VALUES];
        uint8_t tmp[STRIP * VALUES * sizeof(uint16_t)];
        engine_row_load_fp32(src, engine_chip_row(core, src, r), from * VALUES, n * VALUES, values,
                             tmp);
        for (size_t i = 0; i < n * VALUES; i++) {
            uint32_t bits;
            memcpy(&bits, &values[i], sizeof bits);
            uint32_t exponent = bits >> 23 & 0xff;
            largest[i / VALUES] = exponent > largest[i / VALUES] ? exponent : largest[i / VALUES];
        }
    }
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)(largest[i] > (uint32_t)less ? largest[i] - (uint32_t)less : 0);
}

static void quantize_row(const engine_core *core, const vtrn_instr *instr, int r, uint64_t from,
                         size_t n, const uint8_t *scales) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    float values[STRIP * VALUES], limit = max_value((vtrn_dtype)dst->dtype);
    uint8_t codes[STRIP * VALUES * sizeof(uint16_t)];
    engine_row_load_fp32(src, engine_chip_row(core, src, r), from * VALUES, n * VALUES, values,
                         codes);
    for (size_t i = 0; i < n; i++) {
        float factor = ldexpf(1.0f, BIAS - scales[i]);
        for (size_t v = i * VALUES; v < (i + 1) * VALUES; v++) {
            float x = values[v] * factor;                            /* a power of two */
            values[v] = x > limit ? limit : x < -limit ? -limit : x; /* NaN stays */
        }
    }
    dtype_store_fp32(dtype_of_packed((vtrn_dtype)dst->dtype), values, codes, n * VALUES);
    engine_row_scatter(dst, engine_chip_row(core, dst, r), from, n, codes);
}

static vtrn_status check(const vtrn_instr *instr) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1], *scales = &instr->ap[2];
    int last = dst->n_partitions - QUADRANT + QUADRANT / GROUP;
    bool is_packed = dst->dtype == VTRN_DTYPE_FP8E4M3FN_X4 || dst->dtype == VTRN_DTYPE_FP8E5M2_X4;
    if (is_packed && dst->n_partitions && dst->n_partitions % QUADRANT == 0 &&
        src->n_partitions == dst->n_partitions &&
        dtype_size((vtrn_dtype)src->dtype) == sizeof(uint16_t) &&
        isa_ap_free_size(src) == VALUES * isa_ap_free_size(dst) &&
        scales->dtype == VTRN_DTYPE_UINT8 && scales->n_partitions >= last &&
        isa_ap_free_size(scales) == isa_ap_free_size(dst))
        return NULL;
    return VTRN_ERROR(VTRN_UNDEFINED,
                      "quantize_mx: ap0 is packed fp8 in whole quadrants of 32 partitions, ap1 has "
                      "four 16-bit floats for each of its elements, ap2 4 partitions of uint8 in "
                      "each quadrant");
}

/* Rows of the result by their owner, and then partitions of scales by theirs: each may need rows of
 * the source that another thread owns. */
vtrn_status engine_op_QUANTIZE_MX(engine_core *core, const vtrn_instr *instr,
                                  const uint64_t *slot_base, int thread_i) {
    (void)slot_base;
    const vtrn_ap *dst = &instr->ap[0], *scales = &instr->ap[2];
    uint64_t n_cols = isa_ap_free_size(dst);
    uint8_t found[STRIP];
    VTRN_RETURN_IF_ERROR(check(instr));
    engine_rows rows = engine_rows_of(core, dst, thread_i);
    while (engine_rows_next(&rows))
        for (int r = rows.first; r < rows.end;) {
            int group = r / GROUP * GROUP;
            int end = group + GROUP < rows.end ? group + GROUP : rows.end;
            for (uint64_t from = 0; from < n_cols; from += STRIP) {
                size_t n = n_cols - from < STRIP ? (size_t)(n_cols - from) : STRIP;
                find_scales(core, instr, group, from, n, found);
                for (int row = r; row < end; row++)
                    quantize_row(core, instr, row, from, n, found);
            }
            r = end;
        }
    rows = engine_rows_of(core, scales, thread_i);
    while (engine_rows_next(&rows))
        for (int r = rows.first; r < rows.end; r++) {
            int p = r / QUADRANT * QUADRANT + r % QUADRANT * GROUP;
            if (r % QUADRANT >= QUADRANT / GROUP || p >= dst->n_partitions)
                continue;
            for (uint64_t from = 0; from < n_cols; from += STRIP) {
                size_t n = n_cols - from < STRIP ? (size_t)(n_cols - from) : STRIP;
                find_scales(core, instr, p, from, n, found);
                engine_row_scatter(scales, engine_chip_row(core, scales, r), from, n, found);
            }
        }
    return NULL;
}
