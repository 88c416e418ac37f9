/* Inside the validator: what its rules share. */
#ifndef VTRN_ISA_VALIDATE_RULES_H
#define VTRN_ISA_VALIDATE_RULES_H

#include "isa/validate.h"

/* One instruction under examination. */
typedef struct validation {
    const vtrn_program *program;
    const vtrn_chip *chip;
    const vtrn_instr *instr;
    const vtrn_op_info *info;
    bool is_dma;
    const uint8_t *is_writable; /* by slot; NULL: every slot that is no constant */
    uint64_t free_size[VTRN_MAX_AP];
    int64_t low, high;  /* of the operand at hand: elements that a row reaches below, above addr */
    bool is_repeating;  /* it names an element of a row more than once */
    const char *remedy; /* set by the rule that failed */
    program_stationary stationary; /* as far as this block's stream tells */
} validation;

/* Returns an error from a rule: category, remedy, then printf arguments. */
#define RULE_BROKEN(v, category, advice, ...)                                                      \
    do {                                                                                           \
        (v)->remedy = (advice);                                                                    \
        return VTRN_ERROR((category), __VA_ARGS__);                                                \
    } while (0)

/* For the rules of one instruction, named v. */
#define AP(i)   (&v->instr->ap[i])
#define FREE(i) (v->free_size[i])
#define NAME    (v->info->mnemonic)

/* Equal rows and equal elements a row. */
vtrn_status validate_same_shape(validation *v, int a, int b);
/* ap0[F, P] against ap1[P, F], at most limit each. */
vtrn_status validate_transposed_shape(validation *v, unsigned limit);
vtrn_status validate_same_dtype(validation *v, int a, int b);
vtrn_status validate_free_size_is(validation *v, int i, uint64_t want);

/* validate_tensor.c */
vtrn_status validate_ldweights(validation *v);
vtrn_status validate_matmul(validation *v);
vtrn_status validate_ldweights_mx(validation *v);
vtrn_status validate_matmul_mx(validation *v);
vtrn_status validate_quantize_mx(validation *v);
vtrn_status validate_pe_transpose(validation *v);

/* Rules of one opcode: shapes, dtypes, operations, arguments. Memory ranges, partitions, spaces and
 * queues are already known to be legal. */
vtrn_status validate_opcode(validation *v);

/* Whether operand i may be of a packed type (dtype_of_packed). */
bool validate_takes_packed(vtrn_opcode opcode, int i);

/* Whether operand 2 is the scales of an MX tile. */
bool validate_has_scales(vtrn_opcode opcode);

/* Flags that the opcode knows. */
uint32_t validate_legal_flags(vtrn_opcode opcode);

#endif
