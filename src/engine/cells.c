/* Which cells operands touch, and what blocks leave to others there. */
#include "engine/cells.h"

#include <string.h>

cell_area cell_area_of(const isa_access *a) {
    cell_bytes b = {.row = a->ap->partition};
    isa_ap_rows_extent(a->ap, a->n_rows, &b.lo, &b.hi);
    b.end_row = b.row + (a->ap->partition_step ? (int)a->n_rows : 1);
    return (cell_area){
        .bytes = b,
        .first_column = (uint32_t)(b.lo / CELL_BYTES),
        .end_column = (uint32_t)((b.hi + CELL_BYTES - 1) / CELL_BYTES),
        .first_group = (uint32_t)(b.row / CELL_ROWS),
        .end_group = (uint32_t)((b.end_row + CELL_ROWS - 1) / CELL_ROWS),
    };
}

/* Bytes [lo, hi) of the area's rows. */
static cell_area narrowed(cell_area at, int64_t lo, int64_t hi) {
    at.bytes.lo = lo;
    at.bytes.hi = hi;
    at.first_column = (uint32_t)(lo / CELL_BYTES);
    at.end_column = (uint32_t)((hi + CELL_BYTES - 1) / CELL_BYTES);
    return at;
}

int cell_areas_of(const isa_access *a, cell_area out[CELL_MAX_RUNS], bool *is_exact) {
    const cell_area all = cell_area_of(a);
    *is_exact = !a->is_table && !a->is_kept;
    out[0] = all;
    if (!*is_exact || engine_ap_is_dense(a->ap))
        return 1;
    vtrn_dim dims[VTRN_MAX_FREE_DIMS];
    const int64_t size = (int64_t)dtype_size((vtrn_dtype)a->ap->dtype);
    int n_dims = engine_ap_merge(a->ap, dims), n_runs = 1;
    int64_t run_bytes = size;
    if (dims[n_dims - 1].step == 1)
        run_bytes *= dims[--n_dims].num;
    for (int d = 0; d < n_dims && n_runs <= CELL_MAX_RUNS; d++)
        n_runs *= dims[d].num < CELL_MAX_RUNS ? (int)dims[d].num : CELL_MAX_RUNS + 1;
    if (n_runs > CELL_MAX_RUNS) {
        *is_exact = false;
        return 1;
    }
    for (int i = 0; i < n_runs; i++) {
        int64_t lo = a->ap->addr;
        for (int d = n_dims - 1, rest = i; d >= 0; rest /= (int)dims[d--].num)
            lo += rest % (int64_t)dims[d].num * dims[d].step * size;
        out[i] = narrowed(all, lo, lo + run_bytes);
    }
    return n_runs;
}

/* What of SBUF a block has written: cells whole, of others the bytes. */
typedef struct written_bytes {
    uint16_t *whole; /* [n_columns][CELL_GROUPS] bit r: row r */
    uint64_t *part;  /* [n_columns][ENGINE_MAX_PARTITIONS] a bit a byte */
    bool *has_parts; /* by column: some are not 0 */
} written_bytes;

static void mark_written(const cell_area *at, written_bytes *w) {
    for (uint32_t column = at->first_column; column < at->end_column; column++) {
        const uint64_t bytes = cell_bytes_of(at, column);
        for (uint32_t group = at->first_group; bytes == UINT64_MAX && group < at->end_group;
             group++)
            w->whole[cell_index(column, group)] |= cell_rows_of(at, group);
        if (bytes == UINT64_MAX)
            continue;
        w->has_parts[column] = true;
        for (int row = at->bytes.row; row < at->bytes.end_row; row++)
            w->part[(size_t)column * ENGINE_MAX_PARTITIONS + (size_t)row] |= bytes;
    }
}

/* Of a group's rows that are not written whole, those of which not all bytes are that are read. */
static uint16_t unwritten(const written_bytes *w, uint32_t column, uint32_t group, uint16_t rows,
                          uint64_t bytes) {
    uint16_t out = 0;
    for (uint32_t r = 0; r < CELL_ROWS; r++) {
        const size_t row = group * CELL_ROWS + r;
        if (rows >> r & 1 && bytes & ~w->part[column * (size_t)ENGINE_MAX_PARTITIONS + row])
            out |= (uint16_t)(1u << r);
    }
    return out;
}

/* While kept rows are looked for. */
typedef struct kept_search {
    const vtrn_program *program;
    uint16_t *kept_rows;
    written_bytes written; /* by the block that is looked at */
} kept_search;

/* Adds to kept_rows what the area has of rows that the block has not written yet. */
static void note_kept(kept_search *s, const cell_area *at) {
    for (uint32_t column = at->first_column; column < at->end_column; column++)
        for (uint32_t group = at->first_group; group < at->end_group; group++) {
            const size_t i = cell_index(column, group);
            const uint16_t rows = (uint16_t)(cell_rows_of(at, group) & ~s->written.whole[i]);
            if (rows & ~s->kept_rows[i])
                s->kept_rows[i] |=
                    unwritten(&s->written, column, group, rows, cell_bytes_of(at, column));
        }
}

static void find_kept_of_block(kept_search *s, const engine_block_plan *block) {
    isa_access a;
    cell_area part[CELL_MAX_RUNS];
    bool is_exact;
    for (uint32_t i = 0; i < block->n_steps; i++) {
        const vtrn_instr *instr = &s->program->instrs[block->steps[i].instr];
        access_walk walk = access_begin(instr, s->program->customs, s->program->n_customs);
        while (access_next(&walk, &a))
            if (a.space == VTRN_SPACE_SBUF && a.is_read)
                for (int k = cell_areas_of(&a, part, &is_exact); k-- > 0;)
                    note_kept(s, &part[k]);
        walk = access_begin(instr, s->program->customs, s->program->n_customs);
        while (access_next(&walk, &a))
            if (a.space == VTRN_SPACE_SBUF && a.is_written)
                for (int k = cell_areas_of(&a, part, &is_exact); is_exact && k-- > 0;)
                    mark_written(&part[k], &s->written);
    }
}

vtrn_status cell_find_kept(arena *a, const vtrn_program *program, uint32_t n_columns,
                           const engine_block_plan *blocks, uint16_t *kept_rows) {
    const size_t n_cells = (size_t)n_columns * CELL_GROUPS;
    if (program->n_blocks < 2)
        return NULL;
    kept_search s = {.program = program};
    s.kept_rows = kept_rows;
    s.written = (written_bytes){.whole = ARENA_NEW(a, uint16_t, n_cells),
                                .part = ARENA_NEW(a, uint64_t, n_cells * CELL_ROWS),
                                .has_parts = ARENA_NEW(a, bool, n_columns)};
    written_bytes *w = &s.written;
    if (!w->whole || !w->part || !w->has_parts)
        return VTRN_OUT_OF_MEMORY(n_cells * CELL_ROWS * sizeof *w->part);
    for (uint32_t i = 0; i < program->n_blocks; i++) {
        memset(w->whole, 0, n_cells * sizeof *w->whole);
        for (uint32_t column = 0; column < n_columns; column++)
            if (w->has_parts[column])
                memset(w->part + (size_t)column * ENGINE_MAX_PARTITIONS, 0,
                       ENGINE_MAX_PARTITIONS * sizeof *w->part);
        memset(w->has_parts, 0, n_columns * sizeof *w->has_parts);
        find_kept_of_block(&s, &blocks[i]);
    }
    return NULL;
}
