/* Keeps infinities and NaN of updates out of one-hot products, and adds them to the sums. */
#include "compiler/lower/non_finite.h"

#include <float.h>
#include <math.h>

/* The bits of a flag, 1 or 0, as an integer: a predicate. */
static vtrn_ap as_predicate(vtrn_ap flag) {
    flag.dtype = dtype_size((vtrn_dtype)flag.dtype) == 4 ? VTRN_DTYPE_UINT32 : VTRN_DTYPE_UINT16;
    return flag;
}

vtrn_status non_finite_split(lower *l, const vtrn_ap *x, const vtrn_ap *above, const vtrn_ap *below,
                             const vtrn_ap *zero) {
    /* NaN is neither <= nor >= anything: it counts on both sides */
    VTRN_RETURN_IF_ERROR(
        lower_emit_two_scalars(l, above, x, VTRN_ALU_IS_LE, FLT_MAX, VTRN_ALU_IS_EQUAL, 0));
    VTRN_RETURN_IF_ERROR(
        lower_emit_two_scalars(l, below, x, VTRN_ALU_IS_GE, -FLT_MAX, VTRN_ALU_IS_EQUAL, 0));
    const vtrn_ap *flags[] = {above, below};
    for (int i = 0; i < 2; i++) {
        LOWER_EMIT(clear, l, COPY_PREDICATED, VECTOR);
        clear->ap[0] = *x;
        clear->ap[1] = *x;
        clear->ap[1].addr = zero->addr;
        clear->ap[1].dim[0].step = 0;
        clear->ap[2] = as_predicate(*flags[i]);
    }
    return NULL;
}

vtrn_status non_finite_join(lower *l, const vtrn_ap *dst, const vtrn_ap *spare,
                            const vtrn_ap *above, const vtrn_ap *below) {
    /* a count of 1 or more overflows, 0 stays 0 */
    VTRN_RETURN_IF_ERROR(
        lower_emit_two_scalars(l, dst, above, VTRN_ALU_MULTIPLY, FLT_MAX, VTRN_ALU_MULTIPLY, 2));
    VTRN_RETURN_IF_ERROR(
        lower_emit_two_scalars(l, spare, below, VTRN_ALU_MULTIPLY, -FLT_MAX, VTRN_ALU_MULTIPLY, 2));
    return lower_emit_tensor_tensor(l, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, dst, dst, spare);
}

bool non_finite_is_possible(lower *l, graph_value updates) {
    double value;
    return !lower_splat_float(l, updates, &value) || !isfinite(value);
}
