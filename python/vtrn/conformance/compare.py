"""When two results are the same, for results of the chip and of the CPU."""

import numpy as np

# Largest error by element type, relative to the element or to the largest of the result: what JAX's
# tests allow by default, times ten for fp32 and wider, whose sums the two add up in different orders.
TOLERANCE = {"float64": 1e-13, "float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}


def part_of(dtype):
    """The real type of a complex one."""
    return {"complex64": "float32", "complex128": "float64"}.get(str(dtype), str(dtype))


def tolerance(dtype):
    name = part_of(dtype)
    return TOLERANCE.get(name, 0.1 if "float" in name else 0)


def check_same(got, want, what="result", factor=1):
    """Raises AssertionError when got is not want, within the tolerance of the type times factor."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    assert got.dtype == want.dtype, f"{what}: type {got.dtype}, expected {want.dtype}"
    allowed = tolerance(want.dtype) * factor
    if not allowed:
        np.testing.assert_array_equal(got, want, what)
        return
    wide = np.complex128 if np.iscomplexobj(want) else np.float64
    got, want = got.astype(wide), want.astype(wide)
    finite = np.abs(want[np.isfinite(want)])
    np.testing.assert_allclose(got, want, rtol=allowed, atol=allowed * max(1.0, finite.max(initial=0.0)),
                               err_msg=what)
