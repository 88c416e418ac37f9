/* Bytes of 32-bit integers, and integers from the sums of their bytes. */
#include "compiler/emit/int_bytes.h"

vtrn_status int_bytes_take(emitter *e, const vtrn_ap *dst, const vtrn_ap *x, int i) {
    return emit_scalars(e, VTRN_ENGINE_VECTOR, dst, x,
                        STEP_BITS(SHIFT_RIGHT_LOGICAL, 8 * (uint32_t)i),
                        STEP_BITS(BITWISE_AND, 255));
}

vtrn_status int_bytes_join(emitter *e, const vtrn_ap *dst, const vtrn_ap *spare,
                           const vtrn_ap *sum) {
    VTRN_RETURN_IF_ERROR(emit_copy(e, dst, &sum[INT_BYTES - 1]));
    for (int i = INT_BYTES - 2; i >= 0; i--) {
        VTRN_RETURN_IF_ERROR(emit_copy(e, spare, &sum[i]));
        VTRN_RETURN_IF_ERROR(
            emit_scalars(e, VTRN_ENGINE_GPSIMD, dst, dst, STEP_BITS(MULTIPLY, 256), STEP_NONE));
        VTRN_RETURN_IF_ERROR(
            emit_tensor_tensor(e, VTRN_ENGINE_GPSIMD, VTRN_ALU_ADD, dst, dst, spare));
    }
    return NULL;
}
