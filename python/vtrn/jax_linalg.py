"""How JAX's linear algebra is written for platform `neuron`: custom calls to the library's own routines.

JAX has rules for factorisations on the CPU and on GPUs only. Each rule here names a routine of
src/compiler/reference/ref_linalg_calls.c and passes its parameters as "name=number" text.
"""

from collections.abc import Sequence
from typing import Any


def register() -> None:
    """Adds the rules; the platform must be known to JAX."""
    from jax._src.interpreters import mlir
    from jax._src.lax import linalg

    def call(ctx: Any, target: str, operands: Sequence[Any], avals: Sequence[Any], **params: int):
        module = ctx.module_context
        return mlir.custom_call(
            f"vtrn.{target}",
            result_types=[mlir.aval_to_ir_type(module, aval) for aval in avals],
            operands=operands,
            backend_config=" ".join(f"{name}={int(value)}" for name, value in params.items()),
            api_version=1,
        ).results

    def eigh(ctx, a, *, lower, sort_eigenvalues, subset_by_index, algorithm):
        del sort_eigenvalues, algorithm  # They are always sorted, and there is one algorithm.
        first = subset_by_index[0] if subset_by_index else 0
        return call(ctx, "eigh", [a], ctx.avals_out, lower=lower, first=first)

    for primitive, rule in {linalg.eigh_p: eigh}.items():
        mlir.register_lowering(primitive, rule, platform="neuron")
