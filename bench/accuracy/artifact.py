"""A JAX function as the StableHLO artifact that the compiler reads. No weight exists: only shapes."""

import jax
from jax import export


def make(function, shapes, donated=()):
    """The artifact's bytes. `donated` numbers the arguments that the function may overwrite."""
    jitted = jax.jit(function, donate_argnums=donated)
    return export.export(jitted, platforms=["cpu"])(*shapes).mlir_module_serialized
