/* Reads of what nothing wrote: a bit for every byte of SBUF, PSUM, scratch and outputs. */
#include "check/check.h"
#include "check/footprint.h"

#include "engine/plan_parts.h"

#include <stdio.h>
#include <stdlib.h>

/* A bit a byte; NULL: all of it is known to be written. */
typedef struct shadow {
    uint64_t *bits;
} shadow;

typedef struct reads {
    const vtrn_program *program;
    const vtrn_chip *chip;
    shadow *sbuf, *psum; /* by partition */
    shadow *slots;       /* scratch by slot, outputs by their first slot */
    uint32_t *slot_of;   /* by slot: the one that holds its shadow */
} reads;

static vtrn_status shadow_create(shadow *s, uint64_t n_bytes) {
    s->bits = calloc(n_bytes / 64 + 1, sizeof *s->bits); /* untouched pages cost nothing */
    return s->bits ? NULL : VTRN_OUT_OF_MEMORY(n_bytes / 8);
}

/* Bits [lo, hi) of one word. */
static uint64_t mask_of(int64_t lo, int64_t hi) {
    return (hi - lo == 64 ? ~UINT64_C(0) : (UINT64_C(1) << (hi - lo)) - 1) << (lo % 64);
}

static int64_t word_end(int64_t lo, int64_t hi) {
    int64_t end = (lo / 64 + 1) * 64;
    return end < hi ? end : hi;
}

static bool mark(void *ctx, int64_t lo, int64_t hi) {
    shadow *s = ctx;
    for (int64_t at = lo, end; at < hi; at = end) {
        end = word_end(at, hi);
        s->bits[at / 64] |= mask_of(at, end);
    }
    return true;
}

static bool is_marked(void *ctx, int64_t lo, int64_t hi) {
    const shadow *s = ctx;
    for (int64_t at = lo, end; at < hi; at = end) {
        end = word_end(at, hi);
        uint64_t mask = mask_of(at, end);
        if ((s->bits[at / 64] & mask) != mask)
            return false;
    }
    return true;
}

/* One output may have several slots; scratch slots that share memory hold different tensors. */
static vtrn_status prepare_slot(reads *r, uint32_t slot_i) {
    const vtrn_program *p = r->program;
    const vtrn_slot *slot = &p->slots[slot_i];
    r->slot_of[slot_i] = slot_i;
    bool is_output = slot->kind == VTRN_SLOT_OUTPUT;
    if (slot->kind != VTRN_SLOT_SCRATCH &&
        !(is_output && (!p->output_alias || p->output_alias[slot->index] < 0)))
        return NULL;
    uint64_t n_bytes = slot->size_bytes;
    for (uint32_t i = 0; is_output && i < p->n_slots; i++) {
        if (p->slots[i].kind != VTRN_SLOT_OUTPUT || p->slots[i].index != slot->index)
            continue;
        if (i < slot_i) {
            r->slot_of[slot_i] = r->slot_of[i];
            return NULL;
        }
        n_bytes = p->slots[i].size_bytes > n_bytes ? p->slots[i].size_bytes : n_bytes;
    }
    return shadow_create(&r->slots[slot_i], n_bytes);
}

static vtrn_status prepare(reads *r) {
    int n = r->chip->n_partitions;
    r->sbuf = calloc((size_t)n, sizeof *r->sbuf);
    r->psum = calloc((size_t)n, sizeof *r->psum);
    r->slots = calloc((size_t)r->program->n_slots + 1, sizeof *r->slots);
    r->slot_of = calloc((size_t)r->program->n_slots + 1, sizeof *r->slot_of);
    if (!r->sbuf || !r->psum || !r->slots || !r->slot_of)
        return VTRN_OUT_OF_MEMORY(sizeof(shadow) * ((size_t)n * 2 + r->program->n_slots));
    for (int i = 0; i < n; i++) {
        VTRN_RETURN_IF_ERROR(shadow_create(&r->sbuf[i], (uint64_t)r->chip->sbuf_partition_bytes));
        VTRN_RETURN_IF_ERROR(shadow_create(&r->psum[i], (uint64_t)r->chip->psum_partition_bytes));
    }
    for (uint32_t i = 0; i < r->program->n_slots; i++)
        VTRN_RETURN_IF_ERROR(prepare_slot(r, i));
    return NULL;
}

static void destroy(reads *r) {
    for (int i = 0; i < r->chip->n_partitions; i++) {
        if (r->sbuf)
            free(r->sbuf[i].bits);
        if (r->psum)
            free(r->psum[i].bits);
    }
    for (uint32_t i = 0; r->slots && i < r->program->n_slots; i++)
        free(r->slots[i].bits);
    free(r->sbuf);
    free(r->psum);
    free(r->slots);
    free(r->slot_of);
}

/* The shadow of an HBM slot, or NULL when its contents are given. */
static shadow *shadow_of_slot(const reads *r, uint32_t slot_i) {
    shadow *s = &r->slots[r->slot_of[slot_i]];
    return s->bits ? s : NULL;
}

/* An operand's runs in its own shadow: false when a read finds bytes that nothing wrote. */
static bool visit(const reads *r, footprint f, shadow *hbm) {
    footprint_visit visitor = f.is_write ? mark : is_marked;
    if (f.space == VTRN_SPACE_HBM)
        return !hbm || footprint_runs(&f, visitor, hbm);
    shadow *rows = f.space == VTRN_SPACE_PSUM ? r->psum : r->sbuf;
    for (uint32_t row = f.first_row; row < f.end_row; row++)
        if (!footprint_runs(&f, visitor, &rows[row]))
            return false;
    return true;
}

/* In bytes of the slot itself: slots that share memory have shadows of their own. */
static footprint within_slot(const reads *r, footprint f, uint32_t slot_i) {
    int64_t base;
    footprint_slot_memory(r->program, slot_i, &base);
    f.origin -= base;
    f.lo -= base;
    f.hi -= base;
    return f;
}

static vtrn_status unwritten(const reads *r, uint32_t instr_i, const footprint *f, int64_t slot_i) {
    char place[96];
    footprint_print(f, place, sizeof place);
    const vtrn_instr *instr = &r->program->instrs[instr_i];
    char tensor[32] = "";
    if (slot_i >= 0)
        snprintf(tensor, sizeof tensor, " of tensor %lld", (long long)slot_i);
    return instr_annotate(
        VTRN_ERROR(VTRN_UNINITIALISED,
                   "instruction %u (%s) reads %s%s, of which nothing has written a part; write it "
                   "first, or read less",
                   instr_i, isa_op_info((vtrn_opcode)instr->opcode)->mnemonic, place, tensor),
        r->program, instr_i);
}

static vtrn_status check_access(const reads *r, uint32_t instr_i, const isa_access *a,
                                bool is_write) {
    footprint f = footprint_of(r->program, a, is_write);
    if (a->is_kept && !is_write) /* nothing is computed from it */
        return NULL;
    if (f.space != VTRN_SPACE_HBM)
        return visit(r, f, NULL) ? NULL : unwritten(r, instr_i, &f, -1);
    if (!f.unit || (a->is_table && !is_write)) /* which rows is known only to the values */
        return NULL;
    f = within_slot(r, f, a->slot);
    return visit(r, f, shadow_of_slot(r, a->slot)) ? NULL : unwritten(r, instr_i, &f, a->slot);
}

static vtrn_status check_instr(const reads *r, uint32_t instr_i) {
    const vtrn_program *p = r->program;
    isa_access a;
    for (int is_write = 0; is_write < 2; is_write++)
        for (access_walk w = access_begin(&p->instrs[instr_i], p->customs, p->n_customs);
             access_next(&w, &a);)
            if (is_write ? a.is_written : a.is_read)
                VTRN_RETURN_IF_ERROR(check_access(r, instr_i, &a, is_write));
    return NULL;
}

/* What is written stays written: a block that passed once passes again. */
static vtrn_status walk(const reads *r, const engine_plan *plan, const uint32_t *trace,
                        uint32_t n) {
    bool *is_checked = calloc((size_t)plan->n_blocks + 1, sizeof *is_checked);
    if (!is_checked)
        return VTRN_OUT_OF_MEMORY(plan->n_blocks);
    vtrn_status status = NULL;
    for (uint32_t i = 0; i < n && !status; i++) {
        const engine_block_plan *block = &plan->blocks[trace[i]];
        for (uint32_t s = 0; s < block->n_steps && !status && !is_checked[trace[i]]; s++)
            status = check_instr(r, block->sequence[s].instr);
        is_checked[trace[i]] = true;
    }
    free(is_checked);
    return status;
}

vtrn_status check_reads(const vtrn_program *program, const vtrn_chip *chip, const engine_plan *plan,
                        const uint32_t *block_trace, uint32_t n_block_trace) {
    reads r = {.program = program, .chip = chip};
    vtrn_status status = prepare(&r);
    if (!status)
        status = walk(&r, plan, block_trace, n_block_trace);
    destroy(&r);
    return status;
}
