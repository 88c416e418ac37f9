/* Which copies from HBM to SBUF are left out. See in_place.h for what holds of them.
 *
 * SBUF is a grid of cells; a cell knows which copy's bytes it holds, of those that may be left out.
 * A walk over the steps sees who reads and who overwrites them. */
#include "engine/in_place.h"

#include "engine/cells.h"

#include <string.h>

enum { MAX_HOLES = 4 };

/* CELL_BYTES of CELL_ROWS partitions: what of it is a tile's. */
typedef struct cell {
    uint32_t tile; /* 0: none */
    uint16_t rows; /* bit r: row r */
} cell;

/* What a copy brings. */
typedef struct tile {
    uint32_t step, n_cells; /* n_cells hold rows of it still */
    const vtrn_instr *copy;
    bool is_needed; /* in SBUF */
    bool is_read;   /* by the tensor engine, in place */
    uint8_t n_holes;
    cell_bytes hole[MAX_HOLES]; /* overwritten, in cells that hold other bytes of the row still */
} tile;

typedef struct reader {
    uint32_t step, tile;
    int ap_i;
} reader;

struct in_place {
    const vtrn_program *program;
    arena *memory;
    bool *is_constant; /* by slot: nothing writes it while the program runs */
    /* By slot: what is known of the block that is looked at. */
    struct {
        uint32_t written; /* number of the last block that writes it, from 1 */
        uint32_t known;   /* number of the block for which is_steady holds */
        bool is_steady;   /* the block writes none of its bytes */
    } * slot;
    uint32_t *written_slots, n_written_slots, block_number;
    uint32_t n_columns;
    cell *cells; /* [n_columns][CELL_GROUPS] */
    /* [n_columns][CELL_GROUPS], see cell_find_kept() */
    const uint16_t *kept_rows;
    tile *tiles; /* tile 0 does not exist */
    reader *readers;
    uint32_t n_tiles, n_readers, cap_tiles, cap_readers;
};

static void find_constants(in_place *p) {
    const vtrn_program *program = p->program;
    for (uint32_t i = 0; i < program->n_slots; i++) {
        const vtrn_slot *slot = &program->slots[i];
        p->is_constant[i] = slot->kind == VTRN_SLOT_ARGUMENT || slot->kind == VTRN_SLOT_CONSTANT;
        for (uint32_t o = 0; slot->kind == VTRN_SLOT_ARGUMENT && o < program->n_outputs; o++)
            if (program->output_alias && program->output_alias[o] == slot->index)
                p->is_constant[i] = false;
    }
    for (uint32_t i = 0; i < program->n_instrs; i++) {
        isa_access a;
        access_walk w = access_begin(&program->instrs[i], program->customs, program->n_customs);
        while (access_next(&w, &a))
            if (a.space == VTRN_SPACE_HBM && a.is_written)
                p->is_constant[a.slot] = false;
    }
}

in_place *in_place_create(arena *a, const vtrn_program *program, const vtrn_chip *chip,
                          const uint16_t *kept_rows) {
    in_place *p = ARENA_NEW(a, in_place, 1);
    if (!p)
        return NULL;
    p->program = program;
    p->memory = a;
    p->n_columns = cell_columns(chip);
    p->kept_rows = kept_rows;
    p->cells = ARENA_NEW(a, cell, (size_t)p->n_columns * CELL_GROUPS);
    p->is_constant = ARENA_NEW(a, bool, program->n_slots);
    p->slot = arena_alloc(a, program->n_slots + 1, sizeof *p->slot);
    p->written_slots = ARENA_NEW(a, uint32_t, program->n_slots);
    if (!p->cells || !p->is_constant || !p->slot || !p->written_slots)
        return NULL;
    find_constants(p);
    return p;
}

/* Notes which slots the block writes. */
static void find_written_slots(in_place *p, const engine_block_plan *block) {
    p->block_number++;
    p->n_written_slots = 0;
    for (uint32_t i = 0; i < block->n_steps; i++) {
        isa_access a;
        const vtrn_instr *instr = &p->program->instrs[block->steps[i].instr];
        access_walk w = access_begin(instr, p->program->customs, p->program->n_customs);
        while (access_next(&w, &a)) {
            if (a.space != VTRN_SPACE_HBM || !a.is_written ||
                p->slot[a.slot].written == p->block_number)
                continue;
            p->slot[a.slot].written = p->block_number;
            p->written_slots[p->n_written_slots++] = a.slot;
        }
    }
}

/* Whether the slot is scratch of which the block writes nothing: what an operation before a loop
 * left for its turns. Scratch tensors may share memory. */
static bool is_steady_scratch(const in_place *p, uint32_t slot_i) {
    const vtrn_slot *slot = &p->program->slots[slot_i];
    if (slot->kind != VTRN_SLOT_SCRATCH)
        return false;
    for (uint32_t i = 0; i < p->n_written_slots; i++) {
        const vtrn_slot *other = &p->program->slots[p->written_slots[i]];
        if (other->kind == VTRN_SLOT_SCRATCH && slot->offset < other->offset + other->size_bytes &&
            other->offset < slot->offset + slot->size_bytes)
            return false;
    }
    return true;
}

/* Whether the slot's bytes stay as they are while the block runs. */
static bool is_steady(in_place *p, uint32_t slot_i) {
    if (p->slot[slot_i].known != p->block_number) {
        p->slot[slot_i].known = p->block_number;
        p->slot[slot_i].is_steady = p->is_constant[slot_i] || is_steady_scratch(p, slot_i);
    }
    return p->slot[slot_i].is_steady;
}

static cell *cell_at(in_place *p, uint32_t column, uint32_t group) {
    return &p->cells[cell_index(column, group)];
}

static bool contains(const cell_bytes *outer, const cell_bytes *inner) {
    return outer->lo <= inner->lo && inner->hi <= outer->hi && outer->row <= inner->row &&
           inner->end_row <= outer->end_row;
}

static bool meets(const cell_bytes *a, const cell_bytes *b) {
    return a->lo < b->hi && b->lo < a->hi && a->row < b->end_row && b->row < a->end_row;
}

/* Whether all that is read was written behind the copy, by one instruction. */
static bool is_in_a_hole(const tile *t, const cell_bytes *bytes) {
    for (int i = 0; i < t->n_holes; i++)
        if (contains(&t->hole[i], bytes))
            return true;
    return false;
}

static void add_hole(tile *t, const cell_bytes *bytes) {
    if (is_in_a_hole(t, bytes))
        return;
    if (t->n_holes == MAX_HOLES)
        t->is_needed = true;
    else
        t->hole[t->n_holes++] = *bytes;
}

/* Whether the step brings whole cells that may be left out. */
static bool is_candidate(in_place *p, const engine_block_plan *block, uint32_t step_i) {
    const vtrn_instr *instr = &p->program->instrs[block->steps[step_i].instr];
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    if (instr->opcode != VTRN_OP_DMA_COPY || instr->flags || block->small[step_i] ||
        dst->space != VTRN_SPACE_SBUF || src->space != VTRN_SPACE_HBM || dst->dtype != src->dtype)
        return false;
    uint64_t n_bytes = isa_ap_free_size(dst) * dtype_size((vtrn_dtype)dst->dtype);
    return is_steady(p, src->slot) && dst->n_partitions == src->n_partitions &&
           isa_ap_free_size(src) == isa_ap_free_size(dst) && engine_ap_is_dense(dst) &&
           engine_ap_is_dense(src) && dst->addr % CELL_BYTES == 0 && n_bytes % CELL_BYTES == 0 &&
           dst->partition % CELL_ROWS == 0;
}

/* The tile of which the operand reads a part, as a tile of the tensor engine does; 0: none. */
static uint32_t tile_read_in_place(in_place *p, const vtrn_instr *instr, const isa_access *a,
                                   const cell_area *at) {
    bool is_tensor = instr->opcode == VTRN_OP_LDWEIGHTS || instr->opcode == VTRN_OP_MATMUL ||
                     instr->opcode == VTRN_OP_PE_TRANSPOSE;
    uint32_t id = cell_at(p, at->first_column, at->first_group)->tile;
    if (!is_tensor || a->ap_i != 1 || !id || a->ap->partition_step != 1)
        return 0;
    const tile *t = &p->tiles[id];
    const vtrn_ap *dst = &t->copy->ap[0];
    const cell_bytes all = {
        .lo = dst->addr,
        .hi = dst->addr + (int64_t)(isa_ap_free_size(dst) * dtype_size((vtrn_dtype)dst->dtype)),
        .row = dst->partition,
        .end_row = dst->partition + dst->n_partitions,
    };
    if (a->ap->dtype != dst->dtype || !contains(&all, &at->bytes))
        return 0;
    for (int i = 0; i < t->n_holes; i++)
        if (meets(&t->hole[i], &at->bytes))
            return 0;
    for (uint32_t column = at->first_column; column < at->end_column; column++)
        for (uint32_t group = at->first_group; group < at->end_group; group++) {
            const cell *c = cell_at(p, column, group);
            if (c->tile != id || cell_rows_of(at, group) & ~c->rows)
                return 0;
        }
    return id;
}

/* Bytes of the area are read from SBUF. */
static void need_tiles(in_place *p, const cell_area *at) {
    for (uint32_t column = at->first_column; column < at->end_column; column++)
        for (uint32_t group = at->first_group; group < at->end_group; group++) {
            const cell *c = cell_at(p, column, group);
            tile *t = &p->tiles[c->tile];
            if ((c->rows & cell_rows_of(at, group)) && !is_in_a_hole(t, &at->bytes))
                t->is_needed = true;
        }
}

static void note_read(in_place *p, uint32_t step_i, const vtrn_instr *instr, const isa_access *a) {
    cell_area at = cell_area_of(a);
    uint32_t id = tile_read_in_place(p, instr, a, &at);
    if (id) {
        p->tiles[id].is_read = true;
        p->readers[p->n_readers++] = (reader){step_i, id, a->ap_i};
        return;
    }
    cell_area part[CELL_MAX_RUNS];
    bool is_exact;
    for (int i = cell_areas_of(a, part, &is_exact); i-- > 0;)
        need_tiles(p, &part[i]);
}

/* id: the tile that is written, or 0. is_exact: all bytes of the area are. */
static void write_area(in_place *p, const cell_area *at, bool is_exact, uint32_t id) {
    for (uint32_t column = at->first_column; column < at->end_column; column++) {
        bool is_whole = is_exact && at->bytes.lo <= (int64_t)column * CELL_BYTES &&
                        at->bytes.hi >= (int64_t)(column + 1) * CELL_BYTES;
        for (uint32_t group = at->first_group; group < at->end_group; group++) {
            cell *c = cell_at(p, column, group);
            uint16_t rows = cell_rows_of(at, group);
            tile *old = &p->tiles[c->tile];
            if (!is_whole && (c->rows & rows)) {
                if (is_exact)
                    add_hole(old, &at->bytes);
                else
                    old->is_needed = true;
                continue;
            }
            c->rows &= (uint16_t)~rows;
            if (id && c->rows) /* a cell is of one tile */
                old->is_needed = true;
            if (id)
                c->rows = rows;
            if (!c->rows || id) {
                old->n_cells--;
                c->tile = id;
                p->tiles[id].n_cells++;
            }
        }
    }
}

static void note_write(in_place *p, const isa_access *a, uint32_t id) {
    cell_area part[CELL_MAX_RUNS];
    bool is_exact;
    for (int i = cell_areas_of(a, part, &is_exact); i-- > 0;)
        write_area(p, &part[i], is_exact, id);
}

static void walk_step(in_place *p, const engine_block_plan *block, uint32_t step_i) {
    const vtrn_instr *instr = &p->program->instrs[block->steps[step_i].instr];
    isa_access a;
    access_walk w = access_begin(instr, p->program->customs, p->program->n_customs);
    while (access_next(&w, &a))
        if (a.space == VTRN_SPACE_SBUF && a.is_read)
            note_read(p, step_i, instr, &a);
    uint32_t id = 0;
    if (is_candidate(p, block, step_i)) {
        id = p->n_tiles++;
        p->tiles[id] = (tile){.step = step_i, .copy = instr};
    }
    w = access_begin(instr, p->program->customs, p->program->n_customs);
    while (access_next(&w, &a))
        if (a.space == VTRN_SPACE_SBUF && a.is_written)
            note_write(p, &a, id);
}

/* The same instruction with its operand 1 in HBM, where the copy would have taken it from. */
static vtrn_instr reading_hbm(const vtrn_instr *instr, const vtrn_instr *copy) {
    vtrn_instr out = *instr;
    const vtrn_ap *dst = &copy->ap[0], *src = &copy->ap[1];
    vtrn_ap *ap = &out.ap[1];
    int64_t row_bytes = src->partition_step * (int64_t)dtype_size((vtrn_dtype)src->dtype);
    ap->addr += src->addr - dst->addr + (ap->partition - dst->partition) * row_bytes;
    ap->space = VTRN_SPACE_HBM;
    ap->slot = src->slot;
    ap->partition = 0;
    ap->partition_step = src->partition_step;
    return out;
}

/* Whether another block may read what the copy brings. */
static bool is_kept(const in_place *p, const tile *t) {
    isa_access a;
    access_walk w = access_begin(t->copy, p->program->customs, p->program->n_customs);
    while (access_next(&w, &a)) {
        if (!a.is_written || !a.ap)
            continue;
        const cell_area at = cell_area_of(&a);
        for (uint32_t column = at.first_column; column < at.end_column; column++)
            for (uint32_t group = at.first_group; group < at.end_group; group++)
                if (p->kept_rows[cell_index(column, group)] & cell_rows_of(&at, group))
                    return true;
    }
    return false;
}

/* A copy that no instruction reads is made: a caller may read SBUF after the program. */
static bool is_left_out(const in_place *p, const tile *t, bool is_last_block) {
    return t->is_read && !t->is_needed && (!t->n_cells || is_last_block || !is_kept(p, t));
}

static vtrn_status replace_readers(const in_place *p, engine_block_plan *block, arena *kept) {
    for (uint32_t i = 0; i < p->n_readers; i++) {
        const tile *t = &p->tiles[p->readers[i].tile];
        uint32_t step_i = p->readers[i].step;
        if (!block->steps[t->step].is_left_out)
            continue;
        vtrn_instr *instr = ARENA_NEW(kept, vtrn_instr, 1);
        if (!instr)
            return VTRN_OUT_OF_MEMORY(sizeof *instr);
        *instr = reading_hbm(&p->program->instrs[block->steps[step_i].instr], t->copy);
        block->in_place[step_i] = instr;
    }
    return NULL;
}

static vtrn_status make_room(in_place *p, uint32_t n_tiles, uint32_t n_readers) {
    if (n_tiles > p->cap_tiles) {
        p->tiles = ARENA_NEW(p->memory, tile, n_tiles);
        p->cap_tiles = n_tiles;
    }
    if (n_readers > p->cap_readers) {
        p->readers = ARENA_NEW(p->memory, reader, n_readers);
        p->cap_readers = n_readers;
    }
    return p->tiles && p->readers ? NULL : VTRN_OUT_OF_MEMORY(n_tiles * sizeof(tile));
}

vtrn_status in_place_find(in_place *p, const vtrn_block *ends, engine_block_plan *block,
                          arena *kept) {
    uint32_t n_candidates = 0;
    find_written_slots(p, block);
    for (uint32_t i = 0; i < block->n_steps; i++)
        n_candidates += is_candidate(p, block, i);
    if (!n_candidates)
        return NULL;
    VTRN_RETURN_IF_ERROR(make_room(p, n_candidates + 1, block->n_steps));
    memset(p->cells, 0, (size_t)p->n_columns * CELL_GROUPS * sizeof *p->cells);
    p->tiles[0] = (tile){0};
    p->n_tiles = 1;
    p->n_readers = 0;
    for (uint32_t i = 0; i < block->n_steps; i++)
        walk_step(p, block, i);
    for (uint32_t i = 1; i < p->n_tiles; i++)
        block->steps[p->tiles[i].step].is_left_out =
            is_left_out(p, &p->tiles[i], ends->end == VTRN_END_STOP);
    if (!p->n_readers)
        return NULL;
    block->in_place = ARENA_NEW(kept, const vtrn_instr *, block->n_steps);
    if (!block->in_place)
        return VTRN_OUT_OF_MEMORY(block->n_steps * sizeof *block->in_place);
    return replace_readers(p, block, kept);
}
