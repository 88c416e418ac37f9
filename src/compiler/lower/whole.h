/* Operands of what sees whole tensors only: reference operations and collectives. */
#ifndef VTRN_COMPILER_LOWER_WHOLE_H
#define VTRN_COMPILER_LOWER_WHOLE_H

#include "compiler/lower/lower.h"

/* The slot that holds v, dense, and nothing else: a copy where v is a part of another tensor. */
vtrn_status lower_whole_operand(lower *l, graph_value v, uint32_t *out_slot);

#endif
