"""Makes the plugin the Neuron device of torch_xla. PyTorch calls `autoload` when it is imported: entry point
group `torch.backends`, by the installed package or python/ of a source tree on PYTHONPATH.

torch_xla asks the module `libneuronxla` of AWS's package for the plugin's library. Where that package is not
installed, a module of ours answers to the name.
"""

import ctypes
import importlib.abc
import importlib.machinery
import os
import sys
from types import ModuleType

import vtrn

PACKAGE = "libneuronxla"


def _is_neuron_chosen() -> bool:
    """torch_xla takes NEURON where libneuronxla is found and nothing else is asked for."""
    return os.environ.get("PJRT_DEVICE", "NEURON") == "NEURON"


def configure_environment() -> None:
    """torch_xla calls it when it is imported, before it reads these variables."""
    if not _is_neuron_chosen():
        return
    # Programs then come as StableHLO artifacts; HLO, which it sends otherwise, is not read.
    os.environ.setdefault("XLA_STABLEHLO_COMPILE", "1")
    # Its processes divide no program: each would compute as if it were alone.
    os.environ["VTRN_REFUSE_PROCESSES"] = "1"
    # torch_xla tells the plugin of torchrun's processes, but not under SPMD.
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("XLA_USE_SPMD", "0") == "1":
        os.environ.setdefault("NEURON_PJRT_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"))


def _library_path() -> str:
    """What torch_xla loads; the profile that VTRN_PROFILE asks for is written when Python ends, or gets SIGTERM."""
    path = vtrn.library_path()
    if os.environ.get("VTRN_PROFILE") and _is_neuron_chosen():
        from vtrn import profile

        profile.write_at_end(ctypes.CDLL(path))
    return path


class _StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Behind all other finders: what they find is not asked for here."""

    def find_spec(self, name, path=None, target=None):
        if name == PACKAGE:
            return importlib.machinery.ModuleSpec(name, self, origin=__file__, is_package=True)
        package = sys.modules.get(PACKAGE)
        if name == f"{PACKAGE}.libneuronpjrt_path" and getattr(package, "__loader__", None) is self:
            return importlib.machinery.ModuleSpec(name, self, origin=__file__)
        return None

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == PACKAGE:
            module.configure_environment = configure_environment
        else:
            module.libneuronpjrt_path = _library_path


def autoload() -> None:
    """Whoever imports torch runs this: it costs nothing, and changes nothing of torch, unless asked to."""
    if not any(type(finder) is _StandIn for finder in sys.meta_path):
        sys.meta_path.append(_StandIn())
    if os.environ.get("VTRN_TORCH_NEURON", "0") not in ("", "0"):
        from vtrn import torch_neuron

        torch_neuron.install()
