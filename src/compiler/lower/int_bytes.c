/* Bytes of 32-bit integers, and integers from the sums of their bytes. */
#include "compiler/lower/int_bytes.h"

vtrn_status int_bytes_take(lower *l, const vtrn_ap *dst, const vtrn_ap *x, int i) {
    return lower_emit_scalar_bits(l, VTRN_ENGINE_VECTOR, dst, x, VTRN_ALU_SHIFT_RIGHT_LOGICAL,
                                  8 * (uint32_t)i, VTRN_ALU_BITWISE_AND, 255);
}

vtrn_status int_bytes_join(lower *l, const vtrn_ap *dst, const vtrn_ap *spare, const vtrn_ap *sum) {
    VTRN_RETURN_IF_ERROR(lower_emit_copy(l, dst, &sum[INT_BYTES - 1]));
    for (int i = INT_BYTES - 2; i >= 0; i--) {
        VTRN_RETURN_IF_ERROR(lower_emit_copy(l, spare, &sum[i]));
        VTRN_RETURN_IF_ERROR(lower_emit_scalar_bits(l, VTRN_ENGINE_GPSIMD, dst, dst,
                                                    VTRN_ALU_MULTIPLY, 256, VTRN_ALU_NONE, 0));
        VTRN_RETURN_IF_ERROR(
            lower_emit_tensor_tensor(l, VTRN_ENGINE_GPSIMD, VTRN_ALU_ADD, dst, dst, spare));
    }
    return NULL;
}
