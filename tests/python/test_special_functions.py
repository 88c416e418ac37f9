"""lgamma, digamma and the Bessel functions against float64, dense where they lose digits: next to their roots."""

import subprocess

import capi
import jax
import ml_dtypes
import numpy as np
import pytest
from jax import lax
from scipy import special
from chip_run import export
from common import SEED
from paths import BUILD

# fp32 next to each root that the compiler's forms know (src/compiler/passes/composites.def)
ROOTS = {
    "lgamma": (1.0, 2.0, -2.45702474, -2.74768265, -3.14358089, -3.95529428, -4.03936184, -4.99154464, -5.00821817,
               -5.99860748),
    "digamma": (1.46163214, -0.50408301, -1.57349847, -2.61072087, -3.63529337, -4.65323776),
}
# function of JAX, truth in float64
FUNCTIONS = {
    "lgamma": (lax.lgamma, special.gammaln),
    "digamma": (lax.digamma, special.digamma),
    "bessel_i0e": (lax.bessel_i0e, special.i0e),
    "bessel_i1e": (lax.bessel_i1e, special.i1e),
}
DTYPES = [np.float32, ml_dtypes.bfloat16, np.float16]


@pytest.fixture(scope="module")
def device():
    d = capi.Device(threads=2)
    yield d
    d.close()


def ulps(got, truth):
    return np.abs(got.astype(np.float64) - truth) / 2.0 ** (np.floor(np.log2(np.abs(truth))) - 23)


def floats_around(x, n):
    """The n numbers of fp32 on either side of x, and x."""
    bits = np.float32(x).view(np.int32)
    return np.arange(bits - n, bits + n + 1, dtype=np.int32).view(np.float32)


@pytest.mark.parametrize("name, root", [(name, root) for name, roots in ROOTS.items() for root in roots])
def test_no_digit_is_lost_next_to_a_root(device, name, root):
    f, oracle = FUNCTIONS[name]
    near = floats_around(root, 50)  # within a few hundred ulps of each root of the reflected half
    x = near[oracle(near.astype(np.float64)) != 0]
    error = ulps(device.compile(export(f, x))(x)[0], oracle(x.astype(np.float64)))
    print(f"{error.max():.3g} ulp, mean {error.mean():.3g}")
    assert error.max() <= 4


# name: ends, largest and mean error in ulps
RANGES = {
    "lgamma above 0": ("lgamma", 0.5, 100, 5, 0.6),
    "lgamma of anything positive": ("lgamma", 1e-30, 1e30, 5, 0.6),
    "lgamma below 0": ("lgamma", -6, 0, 800, 4),
    "digamma above 0": ("digamma", 0.5, 100, 4, 0.7),
    "digamma below 0": ("digamma", -5, 0, 200, 2),
    "bessel_i0e": ("bessel_i0e", 1e-3, 1e5, 4, 0.7),
    "bessel_i0e below 0": ("bessel_i0e", -30, 0, 4, 0.7),
    "bessel_i1e": ("bessel_i1e", 1e-3, 1e5, 4, 0.7),
    "bessel_i1e below 0": ("bessel_i1e", -30, 0, 4, 0.7),
}


@pytest.mark.parametrize("case", RANGES)
def test_functions_keep_their_digits(device, case):
    name, low, high, most, mean = RANGES[case]
    f, oracle = FUNCTIONS[name]
    rng = np.random.default_rng(SEED)
    if high / max(low, 1e-300) > 1e3:
        x = np.exp(rng.uniform(np.log(low), np.log(high), 1 << 17))
    else:
        x = rng.uniform(low, high, 1 << 17)
    x = x.astype(np.float32)
    truth = oracle(x.astype(np.float64))
    is_normal = np.isfinite(truth) & (np.abs(truth) > 1e-30)
    error = ulps(device.compile(export(f, x))(x)[0][is_normal], truth[is_normal])
    print(f"{error.max():.3g} ulp at {x[is_normal][error.argmax()]:.9g}, mean {error.mean():.3g}")
    assert error.max() <= most and error.mean() <= mean


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_ends_of_the_range_are_those_of_the_cpu(device, name, dtype):
    f, _ = FUNCTIONS[name]
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 0.5, 1, 2, 3, -1, -2, -5, -7.5, 4, 8, 6e4, -6e4, 1e-7] * 30)
    x = x.astype(dtype)
    ours = device.compile(export(f, x))(x)[0].astype(np.float64)
    with jax.default_device(jax.devices("cpu")[0]):
        cpu = np.asarray(jax.jit(f)(x)).astype(np.float64)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(cpu))
    np.testing.assert_array_equal(np.isinf(ours), np.isinf(cpu))
    # XLA gives 4.8e-7 for lgamma(1)
    np.testing.assert_allclose(ours, cpu, rtol=4 * float(ml_dtypes.finfo(dtype).eps), atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_kernels_agree_with_the_reference(name, dtype, tmp_path):
    artifact = tmp_path / "function.mlirbc"
    artifact.write_bytes(export(FUNCTIONS[name][0], np.ones((129, 511), dtype)))
    for chip in ("trn1", "trn2"):
        command = [BUILD / "src/cli/vtrn", "run", artifact, "--random", "--verify", "--check", "--chip", chip]
        subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_form_is_recognised(name, tmp_path):
    """A new version of JAX that writes another form is still right, but less accurate: then this fails."""
    artifact = tmp_path / "function.mlirbc"
    for dtype in DTYPES:
        artifact.write_bytes(export(FUNCTIONS[name][0], np.ones((8, 16), dtype)))
        texts = [subprocess.run([BUILD / "src/cli/vtrn", "compile", artifact, "--dump", "graph", "--passes", passes],
                                capture_output=True, text=True, check=True).stdout for passes in ("on", "off")]
        assert texts[0].count("divide") <= 3 < texts[1].count("divide") or "bessel" in name
        assert ("rsqrt" in texts[0]) == ("bessel" in name) and "rsqrt" not in texts[1]
