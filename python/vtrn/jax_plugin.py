"""Registers the plugin with JAX. Found through the entry point group `jax_plugins`, or in a source
tree through the namespace package of that name.

VTRN_CHIP, VTRN_INSTANCE, VTRN_PROFILE and VTRN_THREADS are read by the library itself.
"""

import atexit
import ctypes
import functools
import os
import sys
import types

import vtrn
from vtrn import callbacks, jax_dlpack, jax_linalg, partition, profile


def _named_in_environment() -> str | None:
    """The library that PJRT_NAMES_AND_LIBRARY_PATHS gives for the platform: JAX registers it."""
    for plugin in os.environ.get("PJRT_NAMES_AND_LIBRARY_PATHS", "").split(","):
        name, _, path = plugin.partition(os.pathsep)
        if name == "neuron":
            return path
    return None


def _end_soon(library: ctypes.CDLL) -> None:
    """What ends one of several processes is told to the others before JAX's shutdown, which waits for them: they may be
    waiting for this process. After an uncaught error there is no such shutdown, as its coordinator would end a
    process that waits in it by SIGABRT once the others have gone."""
    shown = sys.excepthook

    def end(kind: type, error: BaseException, trace: types.TracebackType | None) -> None:
        shown(kind, error, trace)
        if library.vtrn_leave_processes():
            library.vtrn_profile_flush()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    library.vtrn_leave_processes.restype = ctypes.c_bool
    sys.excepthook = end
    atexit.register(library.vtrn_leave_processes)


@functools.cache
def _install(path: str) -> None:
    """Once the platform is registered: rules for what JAX lowers on platforms that it knows only."""
    library = ctypes.CDLL(path)
    if hasattr(library, "vtrn_host_callbacks_set"):
        callbacks.connect(library)
        callbacks.install()
        profile.write_at_end(library)
    if hasattr(library, "vtrn_partitioner_set"):
        partition.connect(library)
    if hasattr(library, "vtrn_leave_processes"):
        _end_soon(library)


def _refuse_in_fork() -> None:
    """JAX would wait for threads of its own, which a fork does not have; the library refuses to run
    what was compiled before."""
    from jax._src import compiler, xla_bridge

    if "neuron" not in xla_bridge._backends:
        return
    jaxs_own = compiler.compile_or_get_cached

    def compile_or_get_cached(backend, *args, **kwargs):
        if backend.platform == "neuron":
            raise RuntimeError(
                "this process is a fork of the one that opened the device, and has none of its "
                'threads; start processes by spawn, as multiprocessing.set_start_method("spawn") '
                "does, or fork before the first use"
            )
        return jaxs_own(backend, *args, **kwargs)

    compiler.compile_or_get_cached = compile_or_get_cached


@functools.cache
def initialize() -> None:
    from jax._src import xla_bridge

    # JAX takes rules for platforms that it knows, and warns of all but these.
    getattr(xla_bridge, "_nonexperimental_plugins", set()).add("neuron")
    path = _named_in_environment()
    if path is None:
        path = vtrn.library_path()
        xla_bridge.register_plugin("neuron", priority=500, library_path=path)
    xla_bridge.register_plugin_callbacks(lambda c_api: _install(path))
    os.register_at_fork(after_in_child=_refuse_in_fork)
    jax_linalg.register()
    jax_dlpack.register()
