/* The Vector engine's reshape banks: 32x32 transpose and the shuffle of 32 partitions. Both may
 * work in place: every thread reads what its rows need before any thread writes. Source:
 * docs/hardware.md, "Vector engine". */
#include "engine/lanes.h"

#include <string.h>

enum { BANK = 32, KEEP = 255, MOVE_CHUNK_BYTES = ENGINE_SCRATCH_BYTES / ENGINE_MAX_PARTITIONS };

static void meet(engine_core *core) {
    if (core->n_threads > 1 && core->team)
        team_barrier(core->team);
}

static vtrn_status check_types(const vtrn_instr *instr) {
    const vtrn_ap *d = &instr->ap[0], *s = &instr->ap[1];
    if (d->dtype != s->dtype || dtype_size(d->dtype) == 0 || dtype_size(d->dtype) > 8)
        return VTRN_ERROR(VTRN_UNDEFINED, "%s: from %s to %s; the types must be the same",
                          isa_op_info(instr->opcode)->mnemonic, dtype_name(s->dtype),
                          dtype_name(d->dtype));
    return NULL;
}

vtrn_status engine_op_TRANSPOSE32(engine_core *core, const vtrn_instr *instr,
                                  const uint64_t *slot_base, int thread_i) {
    const vtrn_ap *d = &instr->ap[0], *s = &instr->ap[1];
    VTRN_RETURN_IF_ERROR(check_types(instr));
    if (d->n_partitions > BANK || s->n_partitions > BANK ||
        isa_ap_free_size(s) != d->n_partitions || isa_ap_free_size(d) != s->n_partitions)
        return operand_shape_error(instr, 1, "a transpose of at most 32 by 32");
    size_t size = dtype_size(d->dtype), n_rows = s->n_partitions, n_cols = d->n_partitions;
    uint8_t tile[BANK * BANK * 8];
    for (size_t r = 0; r < n_rows; r++)
        engine_row_gather(s, engine_row(core, s, slot_base, (int)r), 0, n_cols,
                          tile + r * n_cols * size);
    meet(core);
    engine_rows rows = engine_rows_of(core, d, thread_i);
    while (engine_rows_next(&rows))
        for (int c = rows.first; c < rows.end; c++) {
            uint8_t row[BANK * 8];
            for (size_t r = 0; r < n_rows; r++)
                memcpy(row + r * size, tile + (r * n_cols + (size_t)c) * size, size);
            engine_row_scatter(d, engine_row(core, d, slot_base, c), 0, n_rows, row);
        }
    return NULL;
}

/* Source row of dst row r, or -1 when it keeps what it has. */
static int shuffle_source(const vtrn_instr *instr, int r) {
    int from = instr->shuffle[r % BANK];
    return from == KEEP ? -1 : r / BANK * BANK + from;
}

static vtrn_status check_shuffle(const vtrn_instr *instr) {
    const vtrn_ap *d = &instr->ap[0], *s = &instr->ap[1];
    VTRN_RETURN_IF_ERROR(check_types(instr));
    if (isa_ap_free_size(s) != isa_ap_free_size(d))
        return operand_shape_error(instr, 1, "both operands have as many elements a partition");
    for (int r = 0; r < d->n_partitions; r++)
        if (shuffle_source(instr, r) >= s->n_partitions ||
            (instr->shuffle[r % BANK] >= BANK && instr->shuffle[r % BANK] != KEEP))
            return VTRN_ERROR(VTRN_UNDEFINED,
                              "stream_shuffle: mask[%d] = %d; partitions 0 to %d of the quadrant, "
                              "or 255",
                              r % BANK, instr->shuffle[r % BANK],
                              (s->n_partitions < BANK ? s->n_partitions : BANK) - 1);
    return NULL;
}

vtrn_status engine_op_STREAM_SHUFFLE(engine_core *core, const vtrn_instr *instr,
                                     const uint64_t *slot_base, int thread_i) {
    const vtrn_ap *d = &instr->ap[0], *s = &instr->ap[1];
    VTRN_RETURN_IF_ERROR(check_shuffle(instr));
    uint8_t *scratch = engine_scratch(core, thread_i);
    size_t size = dtype_size(d->dtype);
    VTRN_CHECK(size, "elements have a size");
    uint64_t n = isa_ap_free_size(d), chunk = MOVE_CHUNK_BYTES / size;
    for (uint64_t from = 0; from < n; from += chunk) {
        uint64_t m = n - from < chunk ? n - from : chunk;
        engine_rows rows = engine_rows_of(core, d, thread_i);
        while (engine_rows_next(&rows))
            for (int r = rows.first; r < rows.end; r++)
                if (shuffle_source(instr, r) >= 0)
                    engine_row_gather(s, engine_row(core, s, slot_base, shuffle_source(instr, r)),
                                      from, m, scratch + (size_t)r * MOVE_CHUNK_BYTES);
        meet(core);
        rows = engine_rows_of(core, d, thread_i);
        while (engine_rows_next(&rows))
            for (int r = rows.first; r < rows.end; r++)
                if (shuffle_source(instr, r) >= 0)
                    engine_row_scatter(d, engine_row(core, d, slot_base, r), from, m,
                                       scratch + (size_t)r * MOVE_CHUNK_BYTES);
    }
    return NULL;
}
