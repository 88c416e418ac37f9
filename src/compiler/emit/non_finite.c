/* Keeps infinities and NaN of updates out of one-hot products, and adds them to the sums. */
#include "compiler/emit/non_finite.h"

#include <float.h>

/* The bits of a flag, 1 or 0, as an integer: a predicate. */
static vtrn_ap as_predicate(vtrn_ap flag) {
    flag.dtype = dtype_size((vtrn_dtype)flag.dtype) == 4 ? VTRN_DTYPE_UINT32 : VTRN_DTYPE_UINT16;
    return flag;
}

vtrn_status non_finite_split(emitter *e, const vtrn_ap *x, const vtrn_ap *above,
                             const vtrn_ap *below, const vtrn_ap *zero) {
    /* NaN is neither <= nor >= anything: it counts on both sides */
    VTRN_RETURN_IF_ERROR(
        emit_scalars(e, VTRN_ENGINE_VECTOR, above, x, STEP(IS_LE, FLT_MAX), STEP(IS_EQUAL, 0)));
    VTRN_RETURN_IF_ERROR(
        emit_scalars(e, VTRN_ENGINE_VECTOR, below, x, STEP(IS_GE, -FLT_MAX), STEP(IS_EQUAL, 0)));
    const vtrn_ap *flags[] = {above, below};
    for (int i = 0; i < 2; i++) {
        EMIT(clear, e, COPY_PREDICATED, VECTOR);
        clear->ap[0] = *x;
        clear->ap[1] = *x;
        clear->ap[1].addr = zero->addr;
        clear->ap[1].dim[0].step = 0;
        clear->ap[2] = as_predicate(*flags[i]);
    }
    return NULL;
}

vtrn_status non_finite_join(emitter *e, const vtrn_ap *dst, const vtrn_ap *spare,
                            const vtrn_ap *above, const vtrn_ap *below) {
    /* a count of 1 or more overflows, 0 stays 0 */
    VTRN_RETURN_IF_ERROR(emit_scalars(e, VTRN_ENGINE_VECTOR, dst, above, STEP(MULTIPLY, FLT_MAX),
                                      STEP(MULTIPLY, 2)));
    VTRN_RETURN_IF_ERROR(emit_scalars(e, VTRN_ENGINE_VECTOR, spare, below, STEP(MULTIPLY, -FLT_MAX),
                                      STEP(MULTIPLY, 2)));
    return emit_tensor_tensor(e, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, dst, dst, spare);
}
