/* Random legal instructions and programs for the tests of the instruction set. */
#ifndef VTRN_TESTS_ISA_LEGAL_H
#define VTRN_TESTS_ISA_LEGAL_H

#include "chip/chip.h"
#include "isa/program.h"

typedef struct legal_rng {
    uint64_t state; /* not 0 */
} legal_rng;

/* VTRN_TEST_SEED or the clock; printed. */
legal_rng legal_rng_start(void);
uint32_t legal_random(legal_rng *r, uint32_t n); /* 0..n-1 */

/* A chip with the published limits of generation gen (2, 3 or 4). */
vtrn_chip legal_chip(int gen);

/* A program of a few blocks with every opcode at least once, slots of every kind, constants,
 * sources, a custom op. Legal on legal_chip(gen) by construction, not by asking the validator. */
vtrn_program *legal_program(legal_rng *r, int gen);

/* Index of an instruction with that opcode (the program has every one). */
uint32_t legal_find(const vtrn_program *p, vtrn_opcode opcode);

#endif
