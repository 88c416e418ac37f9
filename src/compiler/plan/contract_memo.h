/* Cuts of contractions that were chosen before: the layers of a network have the same shapes. */
#ifndef VTRN_COMPILER_PLAN_CONTRACT_MEMO_H
#define VTRN_COMPILER_PLAN_CONTRACT_MEMO_H

#include "compiler/plan/contract_cut.h"

enum { CONTRACT_CUTS_REMEMBERED = 128 };

/* What contract_choose_cut is asked. */
typedef struct contract_question {
    contract_shape shape;
    int64_t group_rows, turn_cols;
    uint64_t limit_bytes;
} contract_question;

/* Zeroed, it is empty. All questions are of one chip. */
typedef struct contract_memo {
    struct {
        contract_question question;
        contract_cut cut;
    } entries[CONTRACT_CUTS_REMEMBERED];
} contract_memo;

/* The answer of contract_choose_cut. */
contract_cut contract_memo_choose(contract_memo *memo, const vtrn_chip *chip,
                                  const contract_question *question);

#endif
