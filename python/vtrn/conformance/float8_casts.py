"""Faster casts between NumPy's fp32 and fp64 and ml_dtypes' floats of 8 bits, with the same values: their own take some 6 ns an
element, and what nki-library's tests compare has billions of them. For a process that does nothing else: they are the process's.

It works with ml_dtypes before 0.7: NumPy replaces its casts as long as nobody has used them. NumPy refuses to replace those of 0.7, and the
refusal drops a reference to the old cast that NumPy still holds, so the next such cast crashes."""

import ctypes
import warnings

import ml_dtypes
import numpy as np

from vtrn.nki._load import core

TYPES = ("float8_e4m3", "float8_e4m3fn", "float8_e5m2")
FIRST_FIXED = (0, 7)  # the first release of ml_dtypes whose casts NumPy does not replace
REGISTER_CAST = 193  # the place of PyArray_RegisterCastFunc in NumPy's table of its C API, which only grows


def tables(dtype):
    """The code of each fp32 whose lower 16 bits are zeros, a bfloat16, by the others (with any but zeros the lowest of the others is
    set, which is below what such a type rounds by), and the fp32 of each code.

    By other casts than those that are replaced: NumPy keeps one that was used once."""
    with np.errstate(invalid="ignore"):
        rounded = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(dtype)
    values = np.arange(1 << 8, dtype=np.uint8).view(dtype).astype(np.float64).astype(np.float32)
    return rounded.view(np.uint8), values


def can_replace():
    """Whether NumPy replaces casts of this release of ml_dtypes."""
    return tuple(int(part) for part in ml_dtypes.__version__.split(".")[:2]) < FIRST_FIXED


def install():
    """Replaces the casts. False: this release of ml_dtypes has to keep its own. RuntimeError where the process has used one already."""
    if not can_replace():
        return False
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    api = ctypes.cast(address(np._core._multiarray_umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    register = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_int, ctypes.c_void_p)(api[REGISTER_CAST])
    wide, wider = np.dtype(np.float32), np.dtype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            for dtype in (np.dtype(getattr(ml_dtypes, name)) for name in TYPES):
                from_wide, from_wider, to_wide = core.table_casts(*tables(dtype))
                register(wide, dtype.num, from_wide)
                register(wider, dtype.num, from_wider)
                register(dtype, wide.num, to_wide)
        except RuntimeWarning as used:  # NumPy has dropped a reference that it still holds
            raise RuntimeError("floats of 8 bits were cast before float8_casts.install(), and casts may crash from here on; call it "
                               "first") from used
    return True
