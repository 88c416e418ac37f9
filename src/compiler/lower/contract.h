/* A contraction: what dot_general and convolution have in common. */
#ifndef VTRN_COMPILER_LOWER_CONTRACT_H
#define VTRN_COMPILER_LOWER_CONTRACT_H

#include "compiler/lower/lower.h"

/* An operand: its element for (batch, k, x) lies at offset + the factors' strides. */
typedef struct contract_operand {
    uint32_t slot;
    uint8_t dtype;
    int64_t offset; /* elements */
    int n_batch, n_k, n_x;
    view_factor batch[VIEW_MAX_FACTORS], k[VIEW_MAX_FACTORS], x[VIEW_MAX_FACTORS];
} contract_operand;

typedef struct contract_output {
    uint32_t slot;
    uint8_t dtype;
    int64_t offset;
    int n_batch, n_m, n_n;
    view_factor batch[VIEW_MAX_FACTORS], m[VIEW_MAX_FACTORS], n[VIEW_MAX_FACTORS];
} contract_output;

/* Linear order of each index is that of its factors, the same in both operands and the output. */
typedef struct contract_spec {
    vtrn_dtype compute;    /* both operands are cast to it while loading */
    contract_operand a, b; /* a.x = m, stationary; b.x = n, moving */
    contract_output out;
} contract_spec;

vtrn_status contract_emit(lower *l, const contract_spec *spec);

/* Matmul input type for operands of two types; false when the tensor engine has none. */
bool contract_dtype(vtrn_dtype a, vtrn_dtype b, vtrn_dtype *out);

#endif
