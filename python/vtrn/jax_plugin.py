"""Registers the plugin with JAX. Found through the entry point group `jax_plugins`.

VTRN_CHIP, VTRN_INSTANCE, VTRN_PROFILE and VTRN_THREADS are read by the library itself.
"""

import vtrn


def initialize() -> None:
    from jax._src import xla_bridge

    xla_bridge.register_plugin("neuron", priority=500, library_path=vtrn.library_path())
