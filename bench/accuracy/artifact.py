"""A JAX function as the StableHLO artifact that the compiler reads. No weight exists: only shapes."""

import jax
from jax import export

jax.config.update("jax_platforms", "cpu")  # tracing needs a back end, not a chip


def make(function, shapes, donated=()):
    """The artifact's bytes. `donated` numbers the arguments that the function may overwrite."""
    jitted = jax.jit(function, donate_argnums=donated)
    return export.export(jitted, platforms=["cpu"])(*shapes).mlir_module_serialized
