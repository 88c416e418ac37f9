/* Finds chains of elementwise instructions, and runs them. See chain.h. */
#include "engine/chain.h"

#include "base/dtype_kernels.h"
#include "engine/chain_op.h"
#include "engine/engine.h"
#include "engine/pack.h"
#include "isa/access.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_OPEN = 32,                    /* chains that take instructions by turns */
    LEAST_OPS = 2,                    /* of a chain */
    MAX_OPS = 256,                    /* of a chain */
    LEAST_IN_PLACE = CHAIN_LEAST_ROW, /* elements of rows that are worked on where they lie */
    CACHE_BYTES = 32768,              /* for all registers */
    LEAST_ELEMENTS = 256,             /* of a register, where there are many */
    SINGLE_ROW = 512,                 /* elements: one row of fewer gains nothing */
    CALL_WORK = 130,                  /* a call of a kernel, in elements moved */
    LEAST_CALLED = 16,                /* elements: rows of fewer have no call of their own */
    MOVE_WORK = 100,                  /* a row moved, likewise */
    LINE_BYTES = 64,
    MOST_AHEAD = 2048, /* bytes of a row; further on the host sees it by itself */
    SKEW_BYTES = 320,  /* equal elements of two registers lie in different sets of a cache */
    REGISTER_BYTES = CHAIN_MAX_ELEMENTS * 4 + SKEW_BYTES,
    N_BUFFERS = VTRN_MAX_AP + 1,
};
_Static_assert((CHAIN_MAX_REGISTERS + N_BUFFERS) * REGISTER_BYTES <= ENGINE_SCRATCH_BYTES,
               "the registers fit the scratch");

/* Bytes [lo, hi) of partitions [row, end_row). */
typedef struct rectangle {
    uint8_t space;
    int row, end_row;
    int64_t lo, hi;
} rectangle;

/* How the elements of a row lie. */
typedef enum place_kind {
    PLACE_ROWS,     /* a tensor */
    PLACE_NUMBER,   /* one element a row, of which the register has n_rows */
    PLACE_REPEATED, /* one element a row, of which the register has as many as of a tensor */
} place_kind;

/* Where the elements of a register lie. */
typedef struct chain_place {
    vtrn_ap ap;
    place_kind kind;
    bool is_loaded; /* before the instructions: the first of them that uses it reads it */
    bool is_stored; /* behind them: some write it, and what they write may be read again */
    packing pack;   /* of block_rows rows; in place: of a part of a row */
    rectangle bytes;
    int64_t step;  /* in place: bytes from element to element; of a number 0 */
    bool is_there; /* in place: the register is its memory */
} chain_place;

struct chain {
    uint32_t n_ops, n_places, n_accesses;
    bool is_in_place;
    int partition, n_rows; /* of every result */
    uint32_t row_n;        /* elements a row */
    uint32_t block_rows;   /* rows that go through together; 1 in place */
    uint32_t part_n;       /* in place: elements of a row that do */
    const chain_op *ops;
    chain_place place[]; /* by register */
};

/* --- at run time --- */

static void begin(const chain *c, const engine_core *core, int thread_i, chain_frame *f) {
    const dtype_kernels *kernels = CPU_TABLE(dtype_kernel_table);
    uint8_t *scratch = engine_scratch(core, thread_i);
    for (int i = 0; i < VTRN_MAX_AP; i++)
        f->buffer[i] = (float *)(scratch + (size_t)i * REGISTER_BYTES);
    f->between = (float *)(scratch + (size_t)VTRN_MAX_AP * REGISTER_BYTES);
    for (uint32_t i = 0; i < c->n_places; i++)
        f->reg[i] = scratch + (N_BUFFERS + i) * (size_t)REGISTER_BYTES;
    f->load = kernels->load;
    f->store = kernels->store;
}

static void run_ops(const chain *c, const chain_frame *f) {
    for (const chain_op *op = c->ops, *end = op + c->n_ops; op < end; op++)
        op->run(op, f);
}

/* Elements of n_rows rows of the operand, as the register has them. False: they cannot be packed.
 */
static bool pack_rows(const chain_place *p, int64_t partition_bytes, uint32_t n_rows,
                      uint32_t row_n, packing *out) {
    vtrn_ap ap = p->ap;
    ap.n_partitions = (uint16_t)n_rows;
    if (p->kind == PLACE_REPEATED)
        *out = pack_of_scalars(&ap, partition_bytes, row_n);
    return p->kind == PLACE_REPEATED || pack_of(&ap, partition_bytes, out);
}

/* Gathers or scatters the registers that need it for rows [row, row + n_rows). */
static void move_rows(const chain *c, const engine_core *core, const chain_frame *f, int row,
                      bool is_store) {
    for (uint32_t i = 0; i < c->n_places; i++) {
        const chain_place *p = &c->place[i];
        packing tail;
        if (!(is_store ? p->is_stored : p->is_loaded))
            continue;
        const packing *pack = &p->pack;
        if (f->n_rows != c->block_rows) {
            pack_rows(p, engine_row_stride(core, &p->ap), (uint32_t)f->n_rows, c->row_n, &tail);
            pack = &tail;
        }
        uint8_t *at = engine_chip_row(core, &p->ap, row);
        if (is_store)
            pack_scatter(pack, at, f->reg[i]);
        else
            pack_gather(pack, at, f->reg[i]);
    }
}

/* Asks the caches for what the next rows [row, end) have in memory. Rows are a partition apart, too
 * far for the host to see the next one coming. */
static void ask_ahead(const chain *c, const engine_core *core, int row, int end) {
    for (uint32_t i = 0; i < c->n_places; i++) {
        const chain_place *p = &c->place[i];
        const int64_t n_bytes = p->bytes.hi - p->bytes.lo;
        const int64_t most = n_bytes < MOST_AHEAD ? n_bytes : MOST_AHEAD;
        if (!p->is_loaded && !p->is_stored)
            continue;
        for (int r = row; r < end; r++) {
            const uint8_t *at = engine_chip_row(core, &p->ap, r) - p->ap.addr + p->bytes.lo;
            for (int64_t k = 0; k < most; k += LINE_BYTES)
                __builtin_prefetch(at + k, 1, 3);
        }
    }
}

static void run_rows(const chain *c, const engine_core *core, chain_frame *f, int first, int end) {
    f->row_n = c->row_n;
    for (int row = first; row < end; row += (int)c->block_rows) {
        const int left = end - row;
        f->n_rows = left < (int)c->block_rows ? (size_t)left : c->block_rows;
        f->n = (f->n_rows * f->row_n + CHAIN_VECTOR - 1) / CHAIN_VECTOR * CHAIN_VECTOR;
        move_rows(c, core, f, row, false);
        const int next = row + (int)c->block_rows, next_end = next + (int)c->block_rows;
        ask_ahead(c, core, next, next_end < end ? next_end : end);
        run_ops(c, f);
        move_rows(c, core, f, row, true);
    }
}

/* A part of a row: registers are memory where elements are adjacent. */
static void run_part(const chain *c, const engine_core *core, chain_frame *f, int row,
                     uint32_t from) {
    for (uint32_t i = 0; i < c->n_places; i++) {
        const chain_place *p = &c->place[i];
        uint8_t *at = engine_chip_row(core, &p->ap, row) + from * p->step;
        if (p->is_there) {
            f->reg[i] = at;
        } else if (p->is_loaded) {
            packing pack = p->pack;
            pack.n = (uint32_t)f->n;
            pack_gather(&pack, at, f->reg[i]);
        }
    }
    run_ops(c, f);
    for (uint32_t i = 0; i < c->n_places; i++) {
        const chain_place *p = &c->place[i];
        if (p->is_there || !p->is_stored)
            continue;
        packing pack = p->pack;
        pack.n = (uint32_t)f->n;
        pack_scatter(&pack, engine_chip_row(core, &p->ap, row) + from * p->step, f->reg[i]);
    }
}

static void run_in_place(const chain *c, const engine_core *core, chain_frame *f, int first,
                         int end) {
    f->n_rows = 1;
    for (int row = first; row < end; row++) {
        ask_ahead(c, core, row + 1, row + 2 < end ? row + 2 : end);
        for (uint32_t from = 0; from < c->row_n; from += c->part_n) {
            const uint32_t left = c->row_n - from;
            f->n = f->row_n = left < c->part_n ? left : c->part_n;
            run_part(c, core, f, row, from);
        }
    }
}

void chain_run(const chain *c, const engine_core *core, int thread_i) {
    chain_frame f;
    engine_rows rows = engine_rows_at(core, c->partition, c->n_rows, thread_i);
    begin(c, core, thread_i, &f);
    while (engine_rows_next(&rows)) {
        if (c->is_in_place)
            run_in_place(c, core, &f, rows.first, rows.end);
        else
            run_rows(c, core, &f, rows.first, rows.end);
    }
}

/* --- finding --- */

/* A chain that may go on. Steps are kept by number. */
typedef struct open_chain {
    uint32_t n_ops, n_places, n_accesses;
    int partition, n_rows;
    uint64_t row_n;
    rectangle bounds[2]; /* around all places in SBUF, and in PSUM */
    chain_place place[CHAIN_MAX_REGISTERS];
    uint32_t step[MAX_OPS];
    chain_op op[MAX_OPS];
} open_chain;

/* A stretch of a block's steps, from one barrier to the next, while chains are looked for. */
typedef struct finder {
    const vtrn_program *program;
    const vtrn_chip *chip;
    engine_block_plan *block;
    arena *kept;
    live *live; /* NULL: all results count as read again */
    const uint16_t *kept_rows;
    open_chain *open[MAX_OPEN]; /* the one that took an instruction last is the last */
    open_chain *idle[MAX_OPEN];
    int n_open, n_idle;
    uint32_t *order; /* of the block's steps */
    uint32_t n_ordered;
    engine_chain *chains;
    chain **found; /* [n_chains] the same, while they change */
    uint32_t n_chains;
} finder;

static rectangle rectangle_of(const vtrn_ap *ap) {
    rectangle r = {.space = ap->space, .row = ap->partition};
    isa_ap_extent(ap, &r.lo, &r.hi);
    r.end_row = r.row + (ap->partition_step ? ap->n_partitions : 1);
    return r;
}

static bool meets(const rectangle *a, const rectangle *b) {
    return a->space == b->space && a->lo < b->hi && b->lo < a->hi && a->row < b->end_row &&
           b->row < a->end_row;
}

static rectangle *bounds_of(open_chain *c, uint8_t space) {
    return &c->bounds[space == VTRN_SPACE_PSUM];
}

static void widen(open_chain *c, const rectangle *r) {
    rectangle *b = bounds_of(c, r->space);
    if (b->hi == 0) {
        *b = *r;
        return;
    }
    b->lo = r->lo < b->lo ? r->lo : b->lo;
    b->hi = r->hi > b->hi ? r->hi : b->hi;
    b->row = r->row < b->row ? r->row : b->row;
    b->end_row = r->end_row > b->end_row ? r->end_row : b->end_row;
}

/* Whether the order of the access and of the chain matters. */
static bool depends(open_chain *c, const rectangle *r, bool is_written) {
    const rectangle *b = bounds_of(c, r->space);
    if (b->hi == 0 || !meets(b, r))
        return false;
    for (uint32_t i = 0; i < c->n_places; i++)
        if ((is_written || c->place[i].is_stored) && meets(&c->place[i].bytes, r))
            return true;
    return false;
}

static bool step_depends(const finder *f, open_chain *c, const vtrn_instr *instr) {
    isa_access a;
    access_walk w = access_begin(instr, f->program->customs, f->program->n_customs);
    while (access_next(&w, &a)) {
        if (a.space != VTRN_SPACE_SBUF && a.space != VTRN_SPACE_PSUM)
            continue;
        rectangle r = {.space = a.space, .row = a.ap->partition};
        access_extent(&a, 0, &r.lo, &r.hi);
        r.end_row = r.row + (a.ap->partition_step ? (int)a.n_rows : 1);
        if (depends(c, &r, a.is_written))
            return true;
    }
    return false;
}

static uint32_t clamp(uint32_t x, uint32_t least, uint32_t most) {
    return x < least ? least : x > most ? most : x;
}

typedef enum way { WAY_APART, WAY_IN_PLACE, WAY_IN_REGISTERS } way;

/* What costs least of each row: to move its elements to registers and back, or a call of each
 * instruction, which short rows do without either way. */
static way choose_way(const chain *c, uint32_t n_moves) {
    const uint64_t move_work = n_moves * (uint64_t)(MOVE_WORK + c->row_n);
    const uint64_t saved_work = c->row_n < LEAST_CALLED
                                    ? c->n_accesses * (uint64_t)(MOVE_WORK + c->row_n)
                                    : c->n_ops * (uint64_t)CALL_WORK;
    if (c->row_n <= CHAIN_MAX_ELEMENTS / 2 && move_work < saved_work)
        return WAY_IN_REGISTERS;
    return c->row_n >= LEAST_IN_PLACE ? WAY_IN_PLACE : WAY_APART;
}

/* Decides how the chain's rows go through. False: as one after the other. */
static bool settle(const finder *f, chain *c) {
    const uint32_t n_registers = c->n_places + 1;
    const uint32_t n = clamp(CACHE_BYTES / 4 / n_registers, LEAST_ELEMENTS, CHAIN_MAX_ELEMENTS);
    uint32_t n_moves = 0;
    c->block_rows = 1;
    c->part_n = n;
    for (uint32_t i = 0; i < c->n_places; i++)
        n_moves += c->place[i].is_loaded + c->place[i].is_stored;
    const way w = choose_way(c, n_moves);
    if (w == WAY_APART)
        return false;
    c->is_in_place = w == WAY_IN_PLACE;
    if (!c->is_in_place) {
        c->block_rows = clamp(n / c->row_n, 1, (uint32_t)c->n_rows);
        if (c->block_rows > ENGINE_OWNER_ROWS)
            c->block_rows -= c->block_rows % ENGINE_OWNER_ROWS;
    }
    for (uint32_t i = 0; i < c->n_places; i++) {
        chain_place *p = &c->place[i];
        if (!c->is_in_place) {
            const int64_t bytes = (int64_t)engine_memory_stride(
                p->ap.space == VTRN_SPACE_PSUM ? f->chip->psum_partition_bytes
                                               : f->chip->sbuf_partition_bytes);
            if (!pack_rows(p, bytes, c->block_rows, c->row_n, &p->pack))
                return false;
            continue;
        }
        vtrn_dim d[VTRN_MAX_FREE_DIMS];
        const size_t size = dtype_size((vtrn_dtype)p->ap.dtype);
        engine_ap_merge(&p->ap, d);
        p->step = p->kind == PLACE_ROWS ? d[0].step * (int64_t)size : 0;
        p->is_there = (p->is_loaded || p->is_stored) && (p->kind == PLACE_NUMBER || d[0].step == 1);
        p->pack = (packing){
            .n_blocks = 1, .n_runs = 1, .n = c->part_n, .step = p->step, .size = (uint8_t)size};
    }
    return true;
}

static vtrn_status keep_chain(finder *f, const open_chain *o, chain **out) {
    const size_t n_bytes = sizeof(chain) + o->n_places * sizeof(chain_place);
    chain *c = arena_alloc(f->kept, 1, n_bytes);
    chain_op *ops = ARENA_NEW(f->kept, chain_op, o->n_ops);
    if (!c || !ops)
        return VTRN_OUT_OF_MEMORY(n_bytes);
    *c = (chain){.n_ops = o->n_ops,
                 .n_places = o->n_places,
                 .n_accesses = o->n_accesses,
                 .partition = o->partition,
                 .n_rows = o->n_rows,
                 .row_n = (uint32_t)o->row_n,
                 .ops = ops};
    memcpy(c->place, o->place, o->n_places * sizeof *o->place);
    memcpy(ops, o->op, o->n_ops * sizeof *ops);
    *out = c;
    return NULL;
}

/* The chain's steps come next in the order. */
static vtrn_status close_chain(finder *f, int open_i) {
    open_chain *o = f->open[open_i];
    if (o->n_ops >= LEAST_OPS) {
        VTRN_RETURN_IF_ERROR(keep_chain(f, o, &f->found[f->n_chains]));
        f->chains[f->n_chains++] =
            (engine_chain){.first = f->n_ordered, .end = f->n_ordered + o->n_ops};
    }
    memcpy(f->order + f->n_ordered, o->step, o->n_ops * sizeof *o->step);
    f->n_ordered += o->n_ops;
    f->n_open--;
    memmove(f->open + open_i, f->open + open_i + 1, (size_t)(f->n_open - open_i) * sizeof o);
    f->idle[f->n_idle++] = o;
    return NULL;
}

static vtrn_status close_all(finder *f) {
    while (f->n_open)
        VTRN_RETURN_IF_ERROR(close_chain(f, 0));
    return NULL;
}

/* Operands of a candidate, as places. */
typedef struct candidate {
    chain_op op;
    chain_operands operands;
    place_kind kind[VTRN_MAX_AP];
    rectangle bytes[VTRN_MAX_AP];
    unsigned all;
    uint64_t row_n;
} candidate;

static bool is_fit(const candidate *x, const vtrn_instr *instr, int i) {
    vtrn_dim d[VTRN_MAX_FREE_DIMS];
    if (x->kind[i] != PLACE_ROWS)
        return true;
    int n = engine_ap_merge(&instr->ap[i], d);
    return x->row_n >= LEAST_IN_PLACE ? n == 1 : n <= 2;
}

/* Whether a chain may have the instruction. */
static bool consider(const vtrn_instr *instr, candidate *x) {
    if (!chain_decode(instr, &x->op, &x->operands))
        return false;
    x->row_n = isa_ap_free_size(&instr->ap[0]);
    x->all = x->operands.streams | x->operands.scalars;
    if ((instr->ap[0].n_partitions == 1 && x->row_n <= SINGLE_ROW) || x->row_n > UINT32_MAX / 2)
        return false;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (!(x->all >> i & 1))
            continue;
        bool is_scalar = x->operands.scalars >> i & 1 && x->row_n > 1;
        x->kind[i] = !is_scalar ? PLACE_ROWS : x->op.has_numbers ? PLACE_NUMBER : PLACE_REPEATED;
        x->bytes[i] = rectangle_of(&instr->ap[i]);
        if (!is_fit(x, instr, i))
            return false;
    }
    return true;
}

/* The register of operand i in the chain; CHAIN_NONE: it has none yet. */
static uint8_t find_place(const open_chain *c, const candidate *x, const vtrn_instr *instr, int i) {
    for (uint32_t k = 0; k < c->n_places; k++)
        if (c->place[k].kind == x->kind[i] && isa_ap_is_same(&c->place[k].ap, &instr->ap[i]))
            return (uint8_t)k;
    return CHAIN_NONE;
}

/* Whether the operand meets bytes of other places of the chain such that one of them is written. */
static bool is_crossed(open_chain *c, const candidate *x, int i, uint8_t reg) {
    const rectangle *b = bounds_of(c, x->bytes[i].space);
    if (b->hi == 0 || !meets(b, &x->bytes[i]))
        return false;
    for (uint32_t k = 0; k < c->n_places; k++)
        if (k != reg && (i == 0 || c->place[k].is_stored) &&
            meets(&c->place[k].bytes, &x->bytes[i]))
            return true;
    return false;
}

/* Whether the chain may go on with the instruction; *n_shared: how many of its places it uses. */
static bool may_join(open_chain *c, const candidate *x, const vtrn_instr *instr, int *n_shared) {
    uint32_t n_new = 0;
    *n_shared = 0;
    if (c->row_n != x->row_n || c->n_rows != instr->ap[0].n_partitions ||
        c->partition != instr->ap[0].partition || c->n_ops == MAX_OPS)
        return false;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (!(x->all >> i & 1))
            continue;
        uint8_t reg = find_place(c, x, instr, i);
        if (is_crossed(c, x, i, reg))
            return false;
        n_new += reg == CHAIN_NONE;
        *n_shared += reg != CHAIN_NONE;
    }
    return c->n_places + n_new <= CHAIN_MAX_REGISTERS;
}

static void join(open_chain *c, const candidate *x, const vtrn_instr *instr, uint32_t step_i) {
    chain_op *op = &c->op[c->n_ops];
    *op = x->op;
    for (int i = VTRN_MAX_AP - 1; i >= 0; i--) { /* what is read before what is written */
        if (!(x->all >> i & 1))
            continue;
        uint8_t reg = find_place(c, x, instr, i);
        if (reg == CHAIN_NONE) {
            reg = (uint8_t)c->n_places++;
            c->place[reg] = (chain_place){.ap = instr->ap[i],
                                          .kind = x->kind[i],
                                          .bytes = x->bytes[i],
                                          .is_loaded = access_is_read(instr, i)};
            widen(c, &x->bytes[i]);
        }
        c->place[reg].is_stored |= i == 0;
        op->reg[i] = reg;
        c->n_accesses++;
    }
    c->step[c->n_ops++] = step_i;
}

static vtrn_status open_new(finder *f, const candidate *x, const vtrn_instr *instr,
                            open_chain **out) {
    if (f->n_open == MAX_OPEN)
        VTRN_RETURN_IF_ERROR(close_chain(f, 0));
    open_chain *c = f->n_idle ? f->idle[--f->n_idle] : malloc(sizeof *c);
    if (!c)
        return VTRN_OUT_OF_MEMORY(sizeof *c);
    c->n_ops = c->n_places = c->n_accesses = 0;
    c->partition = instr->ap[0].partition;
    c->n_rows = instr->ap[0].n_partitions;
    c->row_n = x->row_n;
    memset(c->bounds, 0, sizeof c->bounds);
    f->open[f->n_open++] = *out = c;
    return NULL;
}

/* Closes the open chains, but for one, on whose order with the step something depends. */
static vtrn_status close_dependent(finder *f, const open_chain *but, const vtrn_instr *instr) {
    for (int i = 0; i < f->n_open;) {
        if (f->open[i] != but && step_depends(f, f->open[i], instr))
            VTRN_RETURN_IF_ERROR(close_chain(f, i));
        else
            i++;
    }
    return NULL;
}

static vtrn_status take_step(finder *f, uint32_t step_i) {
    const vtrn_instr *instr = &f->program->instrs[f->block->steps[step_i].instr];
    candidate x;
    if (!consider(instr, &x)) {
        VTRN_RETURN_IF_ERROR(close_dependent(f, NULL, instr));
        f->order[f->n_ordered++] = step_i;
        return NULL;
    }
    open_chain *best = NULL;
    int most_shared = 0, n_shared, best_i = 0;
    for (int i = 0; i < f->n_open; i++)
        if (may_join(f->open[i], &x, instr, &n_shared) && n_shared > most_shared) {
            best = f->open[best_i = i];
            most_shared = n_shared;
        }
    if (best) {
        f->n_open--;
        memmove(f->open + best_i, f->open + best_i + 1, (size_t)(f->n_open - best_i) * sizeof best);
        f->open[f->n_open++] = best;
    }
    VTRN_RETURN_IF_ERROR(close_dependent(f, best, instr));
    if (!best)
        VTRN_RETURN_IF_ERROR(open_new(f, &x, instr, &best));
    join(best, &x, instr, step_i);
    return NULL;
}

/* Steps in their new order; what stands for a barrier stays at its place. */
static vtrn_status reorder(finder *f) {
    engine_block_plan *b = f->block;
    const uint32_t n = b->n_steps;
    engine_step *steps = ARENA_NEW(f->kept, engine_step, n);
    const small_op **small = ARENA_NEW(f->kept, const small_op *, n);
    const vtrn_instr **in_place = b->in_place ? ARENA_NEW(f->kept, const vtrn_instr *, n) : NULL;
    if (!steps || !small || (b->in_place && !in_place))
        return VTRN_OUT_OF_MEMORY(n * sizeof *steps);
    for (uint32_t i = 0; i < n; i++) {
        steps[i] = b->steps[f->order[i]];
        steps[i].needs_barrier = b->steps[i].needs_barrier;
        small[i] = b->small[f->order[i]];
        if (in_place)
            in_place[i] = b->in_place[f->order[i]];
    }
    b->steps = steps;
    b->small = small;
    b->in_place = in_place;
    return NULL;
}

/* Clears is_stored of the results that no instruction behind the chain reads before they are
 * overwritten. The steps are in their new order. */
static void find_dead(finder *f) {
    const engine_block_plan *b = f->block;
    uint32_t chain_i = f->n_chains;
    live_begin(f->live, f->kept_rows);
    for (uint32_t i = b->n_steps; i-- > 0;) {
        if (chain_i && f->chains[chain_i - 1].end == i + 1) {
            chain *c = f->found[--chain_i];
            for (uint32_t k = 0; k < c->n_places; k++)
                c->place[k].is_stored &= live_is_read(f->live, &c->place[k].ap);
        }
        if (!b->steps[i].is_left_out)
            live_step_back(f->live, engine_step_instr(f->program, b, i));
    }
}

/* Keeps the chains that are worth it. */
static void settle_all(finder *f) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < f->n_chains; i++) {
        if (!settle(f, f->found[i]))
            continue;
        f->chains[n] = f->chains[i];
        f->chains[n++].chain = f->found[i];
    }
    f->block->chains = f->chains;
    f->block->n_chains = n;
}

static vtrn_status find(finder *f) {
    const engine_block_plan *b = f->block;
    for (uint32_t i = 0; i < b->n_steps; i++) {
        if (b->steps[i].needs_barrier)
            VTRN_RETURN_IF_ERROR(close_all(f));
        VTRN_RETURN_IF_ERROR(take_step(f, i));
    }
    return close_all(f);
}

vtrn_status chain_find(const chain_context *context, engine_block_plan *block, bool is_last,
                       arena *kept) {
    const uint32_t n = block->n_steps;
    if (n < LEAST_OPS)
        return NULL;
    finder f = {.program = context->program,
                .chip = context->chip,
                .block = block,
                .kept = kept,
                .live = context->live,
                .kept_rows = is_last ? NULL : context->kept_rows};
    f.order = malloc(n * sizeof *f.order);
    f.found = malloc(n / LEAST_OPS * sizeof *f.found);
    f.chains = ARENA_NEW(kept, engine_chain, n / LEAST_OPS);
    vtrn_status status = NULL;
    if (!f.order || !f.found || !f.chains)
        status = VTRN_OUT_OF_MEMORY(n * (sizeof *f.order + sizeof *f.chains));
    if (!status)
        status = find(&f);
    if (!status && f.n_chains)
        status = reorder(&f);
    if (!status && f.n_chains) {
        if (f.live)
            find_dead(&f);
        settle_all(&f);
    }
    for (int i = 0; i < f.n_open; i++) /* of a failure */
        free(f.open[i]);
    for (int i = 0; i < f.n_idle; i++)
        free(f.idle[i]);
    free(f.found);
    free(f.order);
    return status;
}
