/* Which earlier instructions an instruction must follow, found per granule of memory.
 *
 * A list is walked in program order. Each granule keeps its last writer and the readers since, so
 * every read after write, write after read and write after write is found. A granule coarser than
 * an operand finds a dependence too many, never one too few. */
#ifndef VTRN_COMPILER_BUILD_GRANULES_H
#define VTRN_COMPILER_BUILD_GRANULES_H

#include "chip/chip.h"
#include "isa/program.h"

typedef struct granules_input {
    const vtrn_chip *chip;
    const vtrn_slot *slots;
    uint32_t n_slots;
    const vtrn_custom *customs;
    uint32_t n_customs;
    const int32_t *output_alias; /* per output: argument it may share memory with, or -1 */
    const vtrn_instr *list;      /* in program order; engines and rings chosen, no waits yet */
    uint32_t n;
    /* Scratch slots have their addresses, so they may share memory; the list's order is final:
     * engines and rings complete in it. */
    bool has_addresses;
    bool is_plain; /* as builder.is_plain */
} granules_input;

typedef struct dependence {
    uint32_t instr;  /* list index, below the instruction's own */
    bool is_of_data; /* read after write; else only the order counts */
} dependence;

typedef struct granules granules;

/* `in` must live as long. The arena is the tracker's own until it dies. */
vtrn_status granules_create(const granules_input *in, arena *home, granules **out);

/* The next instruction of the list: those that it must follow, each once. They stay valid until the
 * next call. */
vtrn_status granules_next(granules *g, const dependence **out, uint32_t *n);

void granules_destroy(granules *g); /* NULL is fine; the arena is left */

#endif
