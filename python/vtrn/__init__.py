"""vtrn: a virtual Trainium. JAX finds it as platform `neuron`; see vtrn.jax_plugin."""

import ctypes
import functools
import os

__all__ = ["__version__", "chips_path", "library_path"]


def library_path() -> str:
    """The shared library: VTRN_LIBRARY when set (a development build), else the package's own."""
    return os.environ.get("VTRN_LIBRARY") or os.path.join(os.path.dirname(__file__), "libvtrn.so")


def chips_path() -> str:
    """The directory of the chip descriptions that come with the package."""
    return os.path.join(os.path.dirname(__file__), "chips")


@functools.cache
def _library_version() -> str:
    library = ctypes.CDLL(library_path())
    library.vtrn_version.restype = ctypes.c_char_p
    return library.vtrn_version().decode()


def __getattr__(name: str):
    if name == "__version__":
        return _library_version()
    raise AttributeError(f"module 'vtrn' has no attribute {name!r}")
