"""Registers the plugin with JAX. Found through the entry point group `jax_plugins`, or in a source
tree through the namespace package of that name.

VTRN_CHIP, VTRN_INSTANCE, VTRN_PROFILE and VTRN_THREADS are read by the library itself.
"""

import ctypes
import functools
import os

import vtrn
from vtrn import callbacks


def _named_in_environment() -> str | None:
    """The library that PJRT_NAMES_AND_LIBRARY_PATHS gives for the platform: JAX registers it."""
    for plugin in os.environ.get("PJRT_NAMES_AND_LIBRARY_PATHS", "").split(","):
        name, _, path = plugin.partition(os.pathsep)
        if name == "neuron":
            return path
    return None


@functools.cache
def _install(path: str) -> None:
    """Once the platform is registered: rules for what JAX lowers on platforms that it knows only."""
    library = ctypes.CDLL(path)
    if hasattr(library, "vtrn_host_callbacks_set"):
        callbacks.connect(library)
        callbacks.install()


def initialize() -> None:
    from jax._src import xla_bridge

    path = _named_in_environment()
    if path is None:
        path = vtrn.library_path()
        xla_bridge.register_plugin("neuron", priority=500, library_path=path)
    xla_bridge.register_plugin_callbacks(lambda c_api: _install(path))
