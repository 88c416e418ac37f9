"""NKI kernels on the virtual chip. install() makes `import nki` find them; docs/nki.md says what there is."""

import importlib
import sys
import types

from vtrn.nki import beta1, collectives, isa, language
from vtrn.nki.errors import NkiValidationError
from vtrn.nki.kernel import Kernel, Profile, jit, profile, simulate

__all__ = ["Kernel", "NkiValidationError", "Profile", "install", "isa", "jit", "language", "profile", "simulate"]


def _module(name, **names):
    module = types.ModuleType(name)
    module.__dict__.update(names)
    return module


def install(force=False):
    """Makes `nki`, `nki.language`, `nki.isa`, `nki.typing` and `nki.dtype` name vtrn's, unless AWS's package is there
    (force: even then)."""
    if not force and "nki" not in sys.modules:
        try:
            importlib.import_module("nki")
            return
        except ModuleNotFoundError:
            pass
    elif not force and sys.modules["nki"] is not sys.modules[__name__]:
        return
    this = sys.modules[__name__]
    from vtrn.nki import dtypes

    beta1.install()
    typing = _module("nki.typing", tensor=language.ndarray, mutable_tensor=language.ndarray)
    this.typing, this.dtype = typing, dtypes
    this.compiler, this.cpu_simulate, this.collectives = _module("nki.compiler"), simulate, collectives
    sys.modules.update({"nki.compiler": this.compiler, "nki.collectives": collectives,
                        "nki": this, "nki.language": language, "nki.isa": isa, "nki.typing": typing,
                        "nki.dtype": dtypes, "nki.isa.constants": isa.constants})
