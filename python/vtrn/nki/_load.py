"""The extension vtrn._nki: of the package, or beside the library of a development build."""

import glob
import importlib.machinery
import importlib.util
import os
import sys

import vtrn


def _missing():
    """Why there is no extension, and what to do."""
    path = vtrn.library_path()
    if os.path.exists(path):
        return (f"vtrn's extension for NKI kernels is not beside {path}; install the headers of Python 3.11 or newer and build vtrn "
                "again")
    if "VTRN_LIBRARY" in os.environ:
        return f"VTRN_LIBRARY={path}: there is no such file; name the libvtrn.so of a build (BUILD/src/libvtrn.so), or unset it"
    return (f"there is no {path}: vtrn is not installed here, and this is its source; run pip install '.[nki]' in a checkout, or "
            "build it (meson setup build; ninja -C build) and set VTRN_LIBRARY=BUILD/src/libvtrn.so")


def _load():
    folder = os.path.dirname(vtrn.library_path())
    found = [path for pattern in ("_nki.*.so", "nki/python/_nki.*.so")
             for path in glob.glob(os.path.join(folder, pattern))]
    if not found:
        raise ImportError(_missing())
    loader = importlib.machinery.ExtensionFileLoader("vtrn._nki", found[0])
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("vtrn._nki", loader))
    loader.exec_module(module)
    sys.modules["vtrn._nki"] = module
    return module


core = _load()
_tables = core.tables()
OPCODE = {name: i for i, name in enumerate(_tables["opcodes"])}
ALU = {name: i for i, name in enumerate(_tables["alu"])}
ACT = {name: i for i, name in enumerate(_tables["act"])}
DTYPE = {name: i for i, name in enumerate(_tables["dtypes"])}
TENSOR, VECTOR, SCALAR, GPSIMD, SYNC = range(5)  # as the chip numbers its engines
SBUF, PSUM, HBM = 1, 2, 3
