/* Gathers of the GpSimd engine. Each of its eight cores works on 16 partitions of its own.
 * Source: nki.isa.nc_n_gather, local_gather, nonzero_with_count. */
#include "engine/lanes.h"

#include <string.h>

enum { CORE_PARTITIONS = 16, MAX_ELEMENT_BYTES = 8 };

static vtrn_status same_type(const vtrn_instr *instr) {
    if (instr->ap[0].dtype != instr->ap[1].dtype)
        return VTRN_ERROR(VTRN_UNDEFINED, "%s: %s from %s: it moves bits and does not cast",
                          isa_ops[instr->opcode].mnemonic, dtype_name(instr->ap[0].dtype),
                          dtype_name(instr->ap[1].dtype));
    return NULL;
}

static vtrn_status beyond(const vtrn_instr *instr, int row, uint64_t index, uint64_t n) {
    return VTRN_ERROR(VTRN_UNDEFINED,
                      "%s: index %llu for partition %d; a partition of the data has %llu elements",
                      isa_ops[instr->opcode].mnemonic, (unsigned long long)index, row,
                      (unsigned long long)n);
}

static uint64_t number_at(const vtrn_ap *ap, const uint8_t *row, uint64_t i) {
    uint64_t value = 0; /* unsigned integers of 16 or 32 bits, least byte first */
    engine_row_gather(ap, row, i, 1, &value);
    return value;
}

vtrn_status engine_op_N_GATHER(engine_core *core, const vtrn_instr *instr,
                               const uint64_t *slot_base, int thread_i) {
    const vtrn_ap *dst = &instr->ap[0], *data = &instr->ap[1], *index = &instr->ap[2];
    VTRN_RETURN_IF_ERROR(same_type(instr));
    uint64_t n = isa_ap_free_size(dst), n_data = isa_ap_free_size(data);
    if (dst->n_partitions != data->n_partitions || dst->n_partitions != index->n_partitions)
        return operand_shape_error(instr, 1, "all operands have the same partitions");
    if (isa_ap_free_size(index) != n || dtype_size(index->dtype) > 4)
        return operand_shape_error(instr, 2, "an index for each result");
    engine_rows rows = engine_rows_of(core, dst, thread_i);
    while (engine_rows_next(&rows))
        for (int r = rows.first; r < rows.end; r++) {
            const uint8_t *from = engine_row(core, data, slot_base, r);
            const uint8_t *numbers = engine_row(core, index, slot_base, r);
            uint8_t *to = engine_row(core, dst, slot_base, r);
            for (uint64_t i = 0; i < n; i++) {
                uint64_t k = number_at(index, numbers, i);
                uint8_t element[MAX_ELEMENT_BYTES];
                if (k >= n_data)
                    return beyond(instr, r, k, n_data);
                engine_row_gather(data, from, k, 1, element);
                engine_row_scatter(dst, to, i, 1, element);
            }
        }
    return NULL;
}

/* Index i of a core is in the core's partition i % 16, element i / 16. */
vtrn_status engine_op_LOCAL_GATHER(engine_core *core, const vtrn_instr *instr,
                                   const uint64_t *slot_base, int thread_i) {
    const vtrn_ap *dst = &instr->ap[0], *data = &instr->ap[1], *index = &instr->ap[2];
    VTRN_RETURN_IF_ERROR(same_type(instr));
    uint64_t run = (uint64_t)instr->arg[0], n_valid = (uint64_t)instr->arg[1];
    uint64_t n_data = isa_ap_free_size(data);
    if (instr->arg[0] < 1 || instr->arg[1] < 0 ||
        n_valid > isa_ap_free_size(index) * CORE_PARTITIONS ||
        isa_ap_free_size(dst) != n_valid * run)
        return operand_shape_error(instr, 0, "a partition has arg1 runs of arg0 elements");
    if (dst->n_partitions != data->n_partitions || dst->n_partitions != index->n_partitions ||
        dst->n_partitions % CORE_PARTITIONS || dtype_size(index->dtype) > 4)
        return operand_shape_error(instr, 2, "16 partitions a core, the same of all operands");
    engine_rows rows = engine_rows_of(core, dst, thread_i);
    while (engine_rows_next(&rows))
        for (int r = rows.first; r < rows.end; r++) {
            const uint8_t *from = engine_row(core, data, slot_base, r);
            uint8_t *to = engine_row(core, dst, slot_base, r);
            int first = r / CORE_PARTITIONS * CORE_PARTITIONS;
            for (uint64_t i = 0; i < n_valid; i++) {
                int at = first + (int)(i % CORE_PARTITIONS);
                uint64_t k =
                    number_at(index, engine_row(core, index, slot_base, at), i / CORE_PARTITIONS);
                if (k + run > n_data)
                    return beyond(instr, r, k, n_data);
                for (uint64_t j = 0; j < run; j++) {
                    uint8_t element[MAX_ELEMENT_BYTES];
                    engine_row_gather(data, from, k + j, 1, element);
                    engine_row_scatter(dst, to, i * run + j, 1, element);
                }
            }
        }
    return NULL;
}

/* The first partition of each core: places of what is not 0, then padding, then their number. */
static void find_nonzero(const vtrn_instr *instr, const uint8_t *from, uint8_t *to) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    uint64_t n = isa_ap_free_size(src);
    int32_t n_found = 0;
    for (uint64_t i = 0; i < n; i++) {
        float x;
        uint8_t tmp[MAX_ELEMENT_BYTES];
        engine_row_load_fp32(src, from, i, 1, &x, tmp);
        if (x == 0) /* NaN is not 0; no int32 but 0 becomes 0 */
            continue;
        int32_t place = (int32_t)((uint32_t)i + (uint32_t)instr->arg[0]);
        engine_row_scatter(dst, to, (uint64_t)n_found++, 1, &place);
    }
    for (uint64_t i = (uint64_t)n_found; i < n; i++)
        engine_row_scatter(dst, to, i, 1, &instr->arg[1]);
    engine_row_scatter(dst, to, n, 1, &n_found);
}

vtrn_status engine_op_NONZERO_WITH_COUNT(engine_core *core, const vtrn_instr *instr,
                                         const uint64_t *slot_base, int thread_i) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    if (dst->n_partitions != src->n_partitions ||
        isa_ap_free_size(dst) != isa_ap_free_size(src) + 1 || dst->dtype != VTRN_DTYPE_INT32)
        return operand_shape_error(instr, 0, "int32, one element more than ap1");
    engine_rows rows = engine_rows_of(core, dst, thread_i);
    while (engine_rows_next(&rows))
        for (int r = rows.first; r < rows.end; r++)
            if (r % CORE_PARTITIONS == 0)
                find_nonzero(instr, engine_row(core, src, slot_base, r),
                             engine_row(core, dst, slot_base, r));
    return NULL;
}
