/* Which bytes of SBUF are read again. See live.h.
 *
 * A cell has the bytes that are read again in one of its rows, and the rows that are read again at
 * one of their bytes: what is read is among the bytes of these rows, not all of them. */
#include "engine/live.h"

#include "engine/cells.h"

#include <string.h>

struct live {
    const vtrn_program *program;
    uint32_t n_columns;
    uint64_t *bytes; /* [n_columns][CELL_GROUPS] a bit a byte; 0 where rows is */
    uint16_t *rows;  /* [n_columns][CELL_GROUPS] a bit a row */
};

live *live_create(arena *a, const vtrn_program *program, const vtrn_chip *chip) {
    live *l = ARENA_NEW(a, live, 1);
    if (!l)
        return NULL;
    l->program = program;
    l->n_columns = cell_columns(chip);
    l->bytes = ARENA_NEW(a, uint64_t, (size_t)l->n_columns * CELL_GROUPS);
    l->rows = ARENA_NEW(a, uint16_t, (size_t)l->n_columns * CELL_GROUPS);
    return l->bytes && l->rows ? l : NULL;
}

void live_begin(live *l, const uint16_t *kept_rows) {
    const size_t n_cells = (size_t)l->n_columns * CELL_GROUPS;
    if (!kept_rows) {
        memset(l->bytes, 0, n_cells * sizeof *l->bytes);
        memset(l->rows, 0, n_cells * sizeof *l->rows);
        return;
    }
    memcpy(l->rows, kept_rows, n_cells * sizeof *l->rows);
    for (size_t i = 0; i < n_cells; i++)
        l->bytes[i] = kept_rows[i] ? UINT64_MAX : 0;
}

static void add(live *l, const cell_area *at) {
    for (uint32_t column = at->first_column; column < at->end_column; column++)
        for (uint32_t group = at->first_group; group < at->end_group; group++) {
            const size_t i = cell_index(column, group);
            l->bytes[i] |= cell_bytes_of(at, column);
            l->rows[i] |= cell_rows_of(at, group);
        }
}

/* All bytes of the area are overwritten: they are not read again, seen from in front. */
static void take_away(live *l, const cell_area *at) {
    for (uint32_t column = at->first_column; column < at->end_column; column++)
        for (uint32_t group = at->first_group; group < at->end_group; group++) {
            const size_t i = cell_index(column, group);
            const uint64_t other_bytes = l->bytes[i] & ~cell_bytes_of(at, column);
            const uint16_t other_rows = (uint16_t)(l->rows[i] & ~cell_rows_of(at, group));
            if (other_bytes && other_rows)
                continue;
            l->bytes[i] = other_rows ? l->bytes[i] : other_bytes;
            l->rows[i] = other_bytes ? l->rows[i] : other_rows;
        }
}

void live_step_back(live *l, const vtrn_instr *instr) {
    isa_access a;
    cell_area part[CELL_MAX_RUNS];
    bool is_exact;
    access_walk walk = access_begin(instr, l->program->customs, l->program->n_customs);
    while (access_next(&walk, &a))
        if (a.space == VTRN_SPACE_SBUF && a.is_written && !a.is_read)
            for (int k = cell_areas_of(&a, part, &is_exact); is_exact && k-- > 0;)
                take_away(l, &part[k]);
    walk = access_begin(instr, l->program->customs, l->program->n_customs);
    while (access_next(&walk, &a))
        if (a.space == VTRN_SPACE_SBUF && a.is_read)
            for (int k = cell_areas_of(&a, part, &is_exact); k-- > 0;)
                add(l, &part[k]);
}

bool live_is_read(const live *l, const vtrn_ap *ap) {
    if (ap->space != VTRN_SPACE_SBUF)
        return true;
    const isa_access a = {.ap = ap, .space = ap->space, .n_rows = ap->n_partitions};
    const cell_area at = cell_area_of(&a);
    for (uint32_t column = at.first_column; column < at.end_column; column++)
        for (uint32_t group = at.first_group; group < at.end_group; group++) {
            const size_t i = cell_index(column, group);
            if (l->bytes[i] & cell_bytes_of(&at, column) && l->rows[i] & cell_rows_of(&at, group))
                return true;
        }
    return false;
}
