"""Sine, cosine and tangent over every exponent of fp32, and of each number of narrower floats."""

import capi
import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import trig_oracle
from common import SHORT_FLOATS

FUNCTIONS = {"sin": jnp.sin, "cos": jnp.cos, "tan": jnp.tan}
# XLA's own errors on the CPU are 0.56, 0.56 and 1.2.
BOUND_ULP = {"sin": 1.0, "cos": 1.0, "tan": 1.05}
# Of all fp32 those closest to a multiple of pi/2, found by trying them all.
NEAR_ZEROS = np.array([
    0x6f79be45, 0x50a3e87f, 0x6ff9be45, 0x5123e87f, 0x437ce5f1, 0x7079be45, 0x6a1976f1, 0x53b146a6,
    0x65898498, 0x51a3e87f, 0x43fce5f1, 0x77584625, 0x4c2332e9, 0x4096cbe4, 0x6c55da58, 0x70f9be45,
    0x6a9976f1, 0x5c07bcd0, 0x543146a6, 0x66098498, 0x5223e87f, 0x474d246f, 0x723fa09a, 0x447ce5f1,
    0x4a2562ae, 0x77d84625, 0x642e0733, 0x664e46e4, 0x4e13d4a5, 0x7ebdcda0, 0x4ca332e9, 0x4116cbe4,
], np.uint32).view(np.float32)  # fmt: skip


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def device(request):
    d = capi.Device(chip=request.param, threads=2)
    yield d
    d.close()


def run(device, f, *args):
    with jax.default_device(jax.devices("cpu")[0]):
        exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
    executable = device.compile(exported.mlir_module_serialized)
    got = executable(*args)
    assert executable.profile().n_reference_ops == 0
    return got


def ulps(got, exact, dtype=np.float32):
    """Distance in units of the last place that the exact value has in dtype."""
    info = ml_dtypes.finfo(dtype)
    _, exponent = np.frexp(np.maximum(np.abs(exact), float(info.smallest_normal)))
    return np.abs(got.astype(np.float64) - exact) / np.ldexp(float(info.eps), exponent - 1)


def check(name, x, got):
    exact = trig_oracle.exact(name, x)
    error = ulps(got, exact)
    at = np.argmax(error)
    print(f"largest error {error[at]:.4f} ulp: {name}({x[at]!r}) = {exact[at]!r}, not {got[at]!r}")
    assert error[at] <= BOUND_ULP[name]
    np.testing.assert_array_equal(np.signbit(got), np.signbit(exact))


def of_every_exponent(rng, n):
    exponents = np.arange(255, dtype=np.uint32)[:, None] << np.uint32(23)
    x = rng.integers(0, 1 << 23, (255, n), dtype=np.uint32) | exponents
    ends = exponents | np.array([0, 1, (1 << 23) - 1], np.uint32)
    return np.concatenate([x.ravel(), ends.ravel()]).view(np.float32)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_waves_are_within_an_ulp_over_all_of_fp32(name, device, rng):
    usual = [rng.uniform(-limit, limit, 50_000) for limit in (1, 3, 10, 1e3, 1e6)]
    near = (np.arange(-3000, 3000) * (np.pi / 2))[:, None] + np.linspace(-1e-3, 1e-3, 11)
    named = [1e6, 1e10, 1e20, 83853.82, 0.7853981, 0.7853982, np.pi, np.pi / 2]
    x = np.concatenate([of_every_exponent(rng, 400), NEAR_ZEROS, *usual, near.ravel(), named])
    x = x.astype(np.float32)
    x = np.concatenate([x, -x])
    (got,) = run(device, FUNCTIONS[name], x)
    check(name, x, got)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_zeros_keep_their_sign_and_what_is_not_finite_gives_nan(name, device):
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45], np.float32)
    (got,) = run(device, FUNCTIONS[name], x)
    assert np.isnan(got[2:5]).all()
    expected = np.ones(4, np.float32) if name == "cos" else x[[0, 1, 5, 6]]
    assert got[[0, 1, 5, 6]].tobytes() == expected.tobytes()


@pytest.mark.parametrize("t", SHORT_FLOATS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_waves_of_each_narrow_float_are_rounded_right(name, t, device):
    """Nearest but for ties that fp32 cannot tell: a thousandth of an ulp beyond one half."""
    dtype = np.dtype(SHORT_FLOATS[t])
    n_bits = 8 * dtype.itemsize
    x = np.arange(1 << n_bits, dtype=f"u{dtype.itemsize}").view(dtype)
    (got,) = run(device, FUNCTIONS[name], x)
    is_finite = np.isfinite(x.astype(np.float32))
    assert np.isnan(got[~is_finite].astype(np.float32)).all()
    exact = trig_oracle.exact(name, x[is_finite].astype(np.float32))
    largest = float(ml_dtypes.finfo(dtype).max)
    got, exact = got[is_finite], exact
    in_range = np.abs(exact) <= largest
    assert ulps(got[in_range], exact[in_range], dtype).max() <= 0.501
    np.testing.assert_array_equal(np.signbit(got.astype(np.float32)), np.signbit(exact))


@pytest.mark.parametrize("shape", [(), (1,), (31,), (129,), (128, 513), (3, 1000), (1025, 7)], ids=str)
def test_waves_of_any_shape_also_of_rows_and_columns(shape, device, rng):
    x = (rng.choice([-1, 1], shape) * 10 ** rng.uniform(-3, 12, shape)).astype(np.float32)
    x = np.asarray(x)
    col = x[0] if x.ndim == 2 else x
    row = x[:, :1] if x.ndim == 2 else x

    def f(x, col, row):
        return jnp.sin(x), jnp.cos(col) + jnp.zeros_like(x), jnp.tan(row) + jnp.zeros_like(x)

    for name, v, got in zip(("sin", "cos", "tan"), (x, col, row), run(device, f, x, col, row), strict=True):
        v, got = np.broadcast_arrays(v, got)
        check(name, v.ravel(), got.ravel())


def test_waves_of_sums_and_of_tiles_that_a_matmul_left(device, rng):
    a = rng.integers(-8, 9, (200, 64)).astype(np.float32)
    b = rng.integers(-8, 9, (64, 130)).astype(np.float32) * 1000
    got = run(device, lambda a, b: (jnp.sin(a @ b), jnp.cos(b.sum(1))), a, b)
    check("sin", (a @ b).ravel(), got[0].ravel())
    check("cos", b.sum(1), got[1])
