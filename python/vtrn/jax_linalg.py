"""How JAX's linear algebra is written for platform `neuron`: custom calls to the library's own routines.

JAX has rules for factorisations on the CPU and on GPUs only. Each rule here names a routine of
src/compiler/reference/ref_linalg.c and passes its parameters as "name=number" text.
"""

from collections.abc import Sequence
from typing import Any

# What the rules call, beside XLA's own Qr. Exported programs name them: a name and what its parameters
# mean do not change.
ROUTINES = (
    "eig",
    "eigh",
    "hessenberg",
    "lu",
    "qr_pivoted",
    "reflections_apply",
    "schur",
    "svd",
    "tridiagonal",
    "tridiagonal_solve",
)


def register() -> None:
    """Adds the rules; the platform must be known to JAX."""
    from jax import lax
    from jax import numpy as jnp
    from jax._src import core
    from jax._src.export import _export
    from jax._src.interpreters import mlir
    from jax._src.lax import ann, linalg

    def call(ctx: Any, target: str, operands: Sequence[Any], avals: Sequence[Any], **params: int):
        dtype = ctx.avals_in[0].dtype
        if dtype == jnp.float16:  # JAX has no factorisation of these on any platform.
            raise NotImplementedError(f"Unsupported dtype {dtype} in {target}: convert to float32 first")
        module = ctx.module_context
        # Dimensions that an export leaves open are computed by the program, beside the operands.
        is_open = not all(core.is_constant_shape(aval.shape) for aval in avals)
        shapes = [mlir.eval_dynamic_shape_as_tensor(ctx, aval.shape) for aval in avals] if is_open else None
        return mlir.custom_call(
            f"vtrn.{target}" if target in ROUTINES else target,
            result_types=[mlir.aval_to_ir_type(module, aval) for aval in avals],
            operands=operands,
            result_shapes=shapes,
            backend_config=" ".join(f"{name}={int(value)}" for name, value in params.items()),
            api_version=1,
        ).results

    # **_ takes the parameters that say how, not what: there is one algorithm each.

    def eigh(ctx, a, *, lower, subset_by_index, **_):
        first = subset_by_index[0] if subset_by_index else 0
        return call(ctx, "eigh", [a], ctx.avals_out, lower=lower, first=first)

    def eig(ctx, a, *, compute_left_eigenvectors, compute_right_eigenvectors, **_):
        wanted = {"left": compute_left_eigenvectors, "right": compute_right_eigenvectors}
        return call(ctx, "eig", [a], ctx.avals_out, **wanted)

    def hessenberg(ctx, a):
        return call(ctx, "hessenberg", [a], ctx.avals_out)

    def schur(ctx, a, *, sort_eig_vals, **_):
        if sort_eig_vals:
            raise NotImplementedError("neuron: Schur forms are not sorted; pass sort_eig_vals=False")
        return call(ctx, "schur", [a], ctx.avals_out)

    def tridiagonal(ctx, a, *, lower):
        return call(ctx, "tridiagonal", [a], ctx.avals_out, lower=lower)

    def tridiagonal_solve(ctx, below, diagonal, above, b, *, perturb_singular=False, **_):
        digits = jnp.finfo(ctx.avals_in[3].dtype).nmant if perturb_singular else 0
        operands = [below, diagonal, above, b]
        return call(ctx, "tridiagonal_solve", operands, ctx.avals_out, perturb=digits)

    def lu(ctx, a):
        return call(ctx, "lu", [a], ctx.avals_out)

    def qr(ctx, a):
        return call(ctx, "Qr", [a], ctx.avals_out)

    def qr_pivoted(ctx, a, pivots, **_):
        return call(ctx, "qr_pivoted", [a, pivots], ctx.avals_out)

    def reflections_apply(ctx, a, taus, c, *, left, transpose):
        operands = [a, taus, c]
        return call(ctx, "reflections_apply", operands, ctx.avals_out, left=left, transpose=transpose)

    def svd(ctx, a, *, full_matrices, compute_uv, subset_by_index, **_):
        del full_matrices  # The results' shapes say it.
        *_, m, n = ctx.avals_in[0].shape
        if subset_by_index is None or tuple(subset_by_index) == (0, min(m, n)):
            return call(ctx, "svd", [a], ctx.avals_out)

        def some(a):
            part = slice(*subset_by_index)
            results = linalg.svd(a, full_matrices=False, compute_uv=compute_uv)
            if not compute_uv:
                return [results[..., part]]
            u, s, vh = results
            return s[..., part], u[..., part], vh[..., part, :]

        return mlir.lower_fun(some, multiple_results=True)(ctx, a)

    def approx_top_k(ctx, operand, *, reduction_dimension, is_max_k, **_):
        # The exact answer, on the engines. Without aggregation more than k are returned.
        count = ctx.avals_out[0].shape[reduction_dimension]

        def exact(x):
            values, indices = lax.top_k(x if is_max_k else -x, count, axis=reduction_dimension)
            return [values if is_max_k else -values, indices]

        return mlir.lower_fun(exact, multiple_results=True)(ctx, operand)

    rules = {
        "approx_top_k_p": approx_top_k,
        "eig_p": eig,
        "eigh_p": eigh,
        "geqp3_p": qr_pivoted,
        "geqrf_p": qr,
        "hessenberg_p": hessenberg,
        "lu_p": lu,
        "ormqr_p": reflections_apply,
        "schur_p": schur,
        "svd_p": svd,
        "tridiagonal_p": tridiagonal,
        "tridiagonal_solve_p": tridiagonal_solve,
    }
    for name, rule in rules.items():
        primitive = getattr(linalg, name, None) or getattr(ann, name, None)
        if primitive is not None:  # Not every version of JAX has each.
            mlir.register_lowering(primitive, rule, platform="neuron")
    # jax.export writes only calls that it knows to be stable; a version without the set refuses these.
    getattr(_export, "_CUSTOM_CALL_TARGETS_GUARANTEED_STABLE", set()).update(f"vtrn.{name}" for name in ROUTINES)
