"""NKI kernels on the virtual chip. install() makes `import nki` find them; docs/nki.md says what there is."""

import importlib
import os
import sys
import types

from vtrn.nki import beta1, collectives, compiler, dtypes, isa, isa_mx, language, tensor, versions
from vtrn.nki.errors import NkiValidationError
from vtrn.nki.kernel import Kernel, Profile, jit, profile, simulate
from vtrn.nki.ranks import profile_ranks, run_ranks
from vtrn.nki.tuner import Tuned, tune

__all__ = ["Kernel", "NkiValidationError", "Profile", "Tuned", "install", "isa", "jit", "language", "profile", "profile_ranks", "run_ranks",
           "simulate", "tune"]
_is_vtrn = True


def _module(name, **names):
    module = types.ModuleType(name)
    module.__dict__.update(names)
    return module


def install(force=False, version=None):
    """Makes `nki`, `nki.language`, `nki.isa`, `nki.typing`, `nki.dtype` and `neuronxcc.nki` name vtrn's, unless AWS's
    package is there (force: even then). version: "0.2" to "0.7", else VTRN_NKI_VERSION: names, keywords and rules of
    that version; without either all versions' names are there together."""
    version = version or os.environ.get("VTRN_NKI_VERSION") or None
    if version is not None:
        versions.number(version)
    if not force and "nki" not in sys.modules:
        try:
            importlib.import_module("nki")
            return
        except ModuleNotFoundError:
            pass
    elif not force and not hasattr(sys.modules["nki"], "_is_vtrn"):
        return
    this = sys.modules[__name__]
    beta1.install()
    typing = _module("nki.typing", tensor=language.ndarray, mutable_tensor=language.ndarray)
    this.typing, this.dtype = typing, dtypes
    this.compiler, this.cpu_simulate, this.collectives = compiler, simulate, collectives
    nki, of_isa, of_language = this, isa, language
    if version is not None:
        of_isa = versions.module_of(version, isa, "nki.isa")
        of_language = versions.module_of(version, language, "nki.language")
        nki = versions.module_of(version, this, "nki")
        nki.isa, nki.language, nki.__path__ = of_isa, of_language, []
    isa_mx.doubles_scales = version is None or versions.number(version) >= versions.number("0.5")
    tensor.register_loops = version is None or versions.number(version) < versions.number("0.7")
    sys.modules.update({"nki.compiler": this.compiler, "nki.collectives": collectives, "nki": nki,
                        "nki.language": of_language, "nki.isa": of_isa, "nki.typing": typing, "nki.dtype": dtypes})
    if hasattr(of_isa, "constants"):
        sys.modules["nki.isa.constants"] = isa.constants
    else:
        sys.modules.pop("nki.isa.constants", None)
