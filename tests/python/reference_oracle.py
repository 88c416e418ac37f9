"""Evaluates JAX functions with the reference, from their exported artifact."""

import ctypes
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import pytest
from jax import export
from common import SHORT_FLOATS
from paths import BUILD

LIBRARY = BUILD / "tests" / "compiler" / "libreference_harness.so"

DTYPES = {"pred": np.bool_, **SHORT_FLOATS, "fp32": np.float32, "fp64": np.float64}


class Refused(Exception):
    """The reader or the reference returned an error."""


def library():
    if not LIBRARY.exists():
        pytest.skip(f"{LIBRARY} is not built", allow_module_level=True)
    lib = ctypes.CDLL(str(LIBRARY))
    lib.reference_open.argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p), ctypes.c_char_p,
        ctypes.c_size_t]
    lib.reference_close.argtypes = [ctypes.c_void_p]
    lib.reference_count.argtypes = [ctypes.c_void_p, ctypes.c_int]
    lib.reference_type.argtypes = [
        ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.POINTER(ctypes.c_int64),
        ctypes.POINTER(ctypes.c_char_p)]
    lib.reference_run.argtypes = [
        ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_void_p),
        ctypes.c_char_p, ctypes.c_size_t]
    return lib


LIB = library()


def _type(g, is_result, i):
    dims = (ctypes.c_int64 * 12)()
    name = ctypes.c_char_p()
    rank = LIB.reference_type(g, is_result, i, dims, ctypes.byref(name))
    dtype = name.value.decode()
    return tuple(dims[: max(rank, 0)]), np.dtype(DTYPES.get(dtype, dtype))


def _pointers(arrays):
    return (ctypes.c_void_p * max(len(arrays), 1))(*[a.ctypes.data for a in arrays])


def evaluate(artifact, arrays):
    """The results of the artifact's program on arrays, as a list of arrays."""
    text = ctypes.create_string_buffer(2000)
    g = ctypes.c_void_p()
    if LIB.reference_open(artifact, len(artifact), ctypes.byref(g), text, 2000):
        raise Refused(text.value.decode())
    try:
        args = []
        for i in range(LIB.reference_count(g, 0)):
            shape, dtype = _type(g, 0, i)
            args.append(np.ascontiguousarray(np.asarray(arrays[i], dtype=dtype)).reshape(shape))
        results = [np.zeros(*_type(g, 1, i)) for i in range(LIB.reference_count(g, 1))]
        if LIB.reference_run(g, _pointers(args), _pointers(results), text, 2000):
            raise Refused(text.value.decode())
        return results
    finally:
        LIB.reference_close(g)


def both(function, *args, run=evaluate):
    """(results of JAX on the CPU, results of the reference or of another run of the artifact), flat
    lists of arrays."""
    jitted = function if hasattr(function, "lower") else jax.jit(function)
    flat, _ = jax.tree.flatten(args)
    exported = export.export(jitted, platforms=["cpu"], disabled_checks=[export.DisabledSafetyCheck.custom_call(n)
                                                      for n in ("mhlo.topk",)])(*args)
    kept = [np.asarray(flat[i]).astype(exported.in_avals[i].dtype)
            for i in exported.module_kept_var_idx]
    try:
        want = [np.asarray(x) for x in jax.tree.leaves(jitted(*args))]
    except jax.errors.JaxRuntimeError as error:
        if "UNIMPLEMENTED" not in str(error):
            raise
        pytest.skip(f"no oracle: {str(error).splitlines()[0]}")
    return want, run(exported.mlir_module_serialized, kept)


# Relative to the largest magnitude: sums are rounded in another order, functions by another libm.
BOUND = {"float64": 1e-12, "complex128": 1e-12, "float32": 2e-5, "complex64": 2e-5,
         "float16": 4e-3, "bfloat16": 3e-2}


def compare(want, got, bound=None):
    assert len(want) == len(got)
    for w, g in zip(want, got):
        assert w.shape == g.shape and w.dtype == g.dtype, (w.shape, w.dtype, g.shape, g.dtype)
        if w.dtype.kind in "biu":
            np.testing.assert_array_equal(g, w)
            continue
        b = bound or BOUND.get(w.dtype.name, 0.15)
        wide = np.complex128 if w.dtype.kind == "c" else np.float64
        w, g = w.astype(wide), g.astype(wide)
        finite = np.abs(w[np.isfinite(w)])
        scale = min(finite.max(), 1e3) if finite.size else 0
        np.testing.assert_allclose(g, w, rtol=b, atol=b * max(scale, 1e-3))
