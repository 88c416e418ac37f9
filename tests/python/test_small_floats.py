"""FNUZ formats, E8M0 and FP4 on the engines: every code, and every number of fp32 that rounding could get wrong.
The oracle is ml_dtypes, and fp32 arithmetic that it rounds."""

import subprocess

import conftest
import ml_dtypes
import numpy as np
import pytest
from chip_run import export
from common import SEED
from paths import BUILD

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.export  # noqa: E402
import jax.numpy as jnp  # noqa: E402

TYPES = [ml_dtypes.float4_e2m1fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz, ml_dtypes.float8_e4m3b11fnuz,
         ml_dtypes.float8_e8m0fnu]  # fmt: skip
WIDE = [np.float32, ml_dtypes.bfloat16, np.float16]
each_type = pytest.mark.parametrize("small", TYPES, ids=lambda t: np.dtype(t).name)
each_wide = pytest.mark.parametrize("wide", WIDE, ids=lambda t: np.dtype(t).name)


def codes(small):
    return np.arange(16 if small is ml_dtypes.float4_e2m1fn else 256, dtype=np.uint8).view(small)


def assert_no_reference_op(artifact, tmp_path):
    path = tmp_path / "program.mlirbc"
    path.write_bytes(artifact)
    command = [BUILD / "src/cli/vtrn", "compile", path, "--dump", "form"]
    assert "custom" not in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def run(f, args, tmp_path):
    """f of the arguments, computed without a reference op."""
    artifact = export(f, *args)
    assert_no_reference_op(artifact, tmp_path)
    return np.asarray(jax.jit(f)(*jax.device_put(args, jax.devices("neuron")[0])))


def assert_same(got, want):
    is_nan = np.isnan(want.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(got.astype(np.float32)), is_nan)
    np.testing.assert_array_equal(got[~is_nan].view(np.uint8), want[~is_nan].view(np.uint8))


@each_wide
@each_type
def test_every_code_is_read(small, wide, tmp_path):
    x = codes(small)
    got = run(lambda v: v.astype(wide), (x,), tmp_path)
    with np.errstate(over="ignore"):
        assert_same(got, x.astype(np.float32).astype(wide))


@each_wide
@each_type
def test_numbers_round_once(small, wide, tmp_path):
    rng = np.random.default_rng(SEED)
    c = np.sort(codes(small).astype(np.float32))
    c = c[np.isfinite(c)]
    ties = (c[1:] + c[:-1]) / 2
    near = [np.nextafter(ties, np.float32(side)) for side in (np.inf, -np.inf)]
    if np.dtype(wide).itemsize == 2:
        x = np.arange(1 << 16, dtype=np.uint16).view(wide)
    else:
        heads = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
        any_bits = rng.integers(0, 1 << 32, 1 << 16, dtype=np.uint64).astype(np.uint32)
        x = np.concatenate([heads, any_bits.view(np.float32)])
    with np.errstate(over="ignore"):
        x = np.concatenate([x, np.concatenate([c, ties, *near]).astype(wide)])
    if small is ml_dtypes.float8_e8m0fnu:  # which ml_dtypes rounds up between 2^-127 and the middle
        x = x[~(np.abs(x.astype(np.float32)) < 2.0**-126) | (x.astype(np.float32) == 0)]
    got = run(lambda v: v.astype(small), (x,), tmp_path).view(np.uint8)
    with np.errstate(all="ignore"):
        want = x.astype(np.float32).astype(small)
    is_number = ~np.isnan(x.astype(np.float32))
    np.testing.assert_array_equal(got[is_number], want.view(np.uint8)[is_number])
    if small is not ml_dtypes.float4_e2m1fn:  # of which NaN is a zero, whose sign is NaN's
        np.testing.assert_array_equal(got, want.view(np.uint8))


OPERATIONS = {
    "add": (jnp.add, np.add), "subtract": (jnp.subtract, np.subtract), "multiply": (jnp.multiply, np.multiply),
    "maximum": (jnp.maximum, np.maximum), "minimum": (jnp.minimum, np.minimum), "less": (jnp.less, np.less),
    "equal": (jnp.equal, np.equal), "where": (lambda x, y: jnp.where(x < y, y, x), lambda x, y: np.where(x < y, y, x)),
    "negate": (jnp.negative, np.negative), "abs": (jnp.abs, np.abs),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
@each_type
def test_arithmetic_of_all_pairs_is_rounded_fp32(small, name, tmp_path):
    f, oracle = OPERATIONS[name]
    c = codes(small)
    if small is ml_dtypes.float8_e8m0fnu:
        c = c[1:]  # 2^-127, which is subnormal in fp32
    x, y = np.repeat(c, len(c)), np.tile(c, len(c))
    if name in ("maximum", "minimum"):  # NumPy's of two zeros has the sign of one of them
        are_zeros = (x.astype(np.float32) == 0) & (y.astype(np.float32) == 0)
        x, y = x[~are_zeros], y[~are_zeros]
    args = (x, y)[: 1 if name in ("negate", "abs") else 2]
    got = run(f, args, tmp_path)
    with np.errstate(all="ignore"):
        want = oracle(*(a.astype(np.float32) for a in args))
        if want.dtype != bool:
            if small is ml_dtypes.float8_e8m0fnu:  # ml_dtypes rounds subnormal results up
                is_normal = ~(np.abs(want) < 2.0**-126) | (want == 0)
                got, want = got[is_normal], want[is_normal]
            got, want = got.view(np.uint8), want.astype(small).view(np.uint8)
    np.testing.assert_array_equal(got, want)


@each_type
def test_products_sum_in_fp32(small, tmp_path):
    rng = np.random.default_rng(SEED)
    c = codes(small)
    size = np.abs(c.astype(np.float32))
    c = c[np.isfinite(size) & (size < 1e4) & (size > 1e-4)]
    x, y = c[rng.integers(0, len(c), (70, 130))], c[rng.integers(0, len(c), (130, 129))]
    got = run(lambda a, b: jnp.dot(a, b, preferred_element_type=jnp.float32), (x, y), tmp_path)
    x, y = x.astype(np.float64), y.astype(np.float64)
    assert np.max(np.abs(got - x @ y) / (np.abs(x) @ np.abs(y))) < 1e-6


@pytest.mark.parametrize("name", ["max", "min"])
def test_extremes_of_fp8_without_infinity(name, tmp_path):
    """OCP's e4m3, which engines have: JAX begins with the type's last number, for there is no infinity."""
    small = ml_dtypes.float8_e4m3fn
    rng = np.random.default_rng(SEED)
    x = rng.integers(0, 256, (130, 129), dtype=np.uint8).view(small)
    x = np.where(np.isnan(x.astype(np.float32)), small(-448 if name == "max" else 448), x)
    x[7] = small(-448 if name == "max" else 448)
    x[5, 3] = np.nan
    got = run(lambda v: (getattr(v, name)(1)), (x,), tmp_path)
    assert_same(got, getattr(x.astype(np.float32), name)(1).astype(small))
    pooled = run(lambda v: jax.lax.reduce_window(v, small(-448), jax.lax.max, (2, 3), (1, 2), "SAME"), (x,), tmp_path)
    with jax.default_device(jax.devices("cpu")[0]):
        want = jax.lax.reduce_window(x.astype(np.float32), -np.inf, jax.lax.max, (2, 3), (1, 2), "SAME")
    assert_same(pooled, np.asarray(want).astype(small))
