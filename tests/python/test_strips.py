"""Products of few rows with weights wider than PSUM, which are loaded in whole rows, a chunk of k at a
time: sums of integers, which are exact, against NumPy, and what joins such products."""

import re
import subprocess

import capi
import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from paths import BUILD, ROOT

pytestmark = pytest.mark.part(3)

BF16, FP16, FP32 = ml_dtypes.bfloat16, np.float16, np.float32
TOLERANCE = {FP32: 2**-16, BF16: 2**-6, FP16: 2**-8}


def slow_parts(folder, chip):
    """Path of a chip file in folder: the chip loads parts of rows of HBM slowly however long they are."""
    text = (ROOT / f"chips/{chip}.toml").read_text()
    assert "\nstrided_row_bytes = 2048 " in text
    path = folder / f"{chip}.toml"
    path.write_text(text.replace("\nstrided_row_bytes = 2048 ", "\nstrided_row_bytes = 1e9 "))
    return str(path)


@pytest.fixture(scope="module", params=["trn1", "inf2", "trn2"])
def device(request, tmp_path_factory):
    d = capi.Device(slow_parts(tmp_path_factory.mktemp("chips"), request.param), threads=2)
    yield d
    d.close()


def export(f, *args):
    with jax.default_device(jax.devices("cpu")[0]):
        exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
    return exported.mlir_module_serialized


def run(device, f, *args):
    return device.compile(export(f, *args))(*args)


def whole(rng, *shape, dtype=BF16):
    """Small integers: products and their sums are exact in fp32."""
    return rng.integers(-3, 4, shape).astype(dtype)


def product(x, w):
    return jnp.dot(x, w, preferred_element_type=jnp.float32)


SIZES = [(1, 257, 8192), (1, 1000, 10240), (2, 384, 6145), (31, 300, 8200), (33, 512, 8191), (127, 129, 6144),
         (128, 640, 8192), (129, 300, 8192), (200, 513, 4608), (1, 255, 20000)]  # fmt: skip


@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
@pytest.mark.parametrize("m, k, n", SIZES)
def test_sums_are_exact(device, rng, dtype, m, k, n):
    x, w = whole(rng, m, k, dtype=dtype), whole(rng, k, n, dtype=dtype)
    (got,) = run(device, product, x, w)
    np.testing.assert_array_equal(got, x.astype(np.float64) @ w.astype(np.float64))


@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_results_are_rounded_once(device, rng, dtype):
    """A narrow result is the fp32 sum of all chunks, rounded to nearest even."""
    x, w = whole(rng, 3, 1200, dtype=dtype), whole(rng, 1200, 8192, dtype=dtype)
    (got,) = run(device, lambda x, w: x @ w, x, w)
    want = (x.astype(np.float64) @ w.astype(np.float64)).astype(dtype)
    np.testing.assert_array_equal(got.astype(FP32), want.astype(FP32))


def gated(x, up, gate, down):
    return (jax.nn.silu(x @ gate) * (x @ up)) @ down


@pytest.mark.parametrize("rows", [1, 5, 128])
@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("inner", [8192, 7000])
def test_a_gated_mlp_of_wide_weights(device, rng, rows, dtype, inner):
    """Two products that one operation joins, and the product behind it."""
    shapes = (rows, 384), (384, inner), (384, inner), (inner, 256)
    x, up, gate, down = ((rng.normal(size=s) / s[0] ** 0.5 * (s[0] != rows or 1)).astype(dtype) for s in shapes)
    (got,) = run(device, gated, x, up, gate, down)
    x, up, gate, down = (a.astype(np.float64) for a in (x, up, gate, down))
    g = x @ gate
    want = (g / (1 + np.exp(-g)) * (x @ up)) @ down
    np.testing.assert_allclose(got.astype(np.float64), want, 0, TOLERANCE[dtype] * np.abs(want).max())


def test_operands_that_are_views(device, rng):
    """Rows that a reshape, a slice or a transpose gives, a bias and a sum behind them."""
    x, w = whole(rng, 384, 4, 2, dtype=FP32), whole(rng, 2, 384, 8192)
    bias = whole(rng, 8192, dtype=FP32)

    def f(x, w, bias):
        y = product(x[:, :, 1].T.astype(jnp.bfloat16), w[1]) + bias
        return jnp.maximum(y, 0), y.sum(-1)

    got = run(device, f, x, w, bias)
    want = x[:, :, 1].T.astype(np.float64) @ w[1].astype(np.float64) + bias
    np.testing.assert_array_equal(got[0], np.maximum(want, 0))
    np.testing.assert_array_equal(got[1], want.sum(-1))


def test_infinities_and_nan_stay_where_they_are(device, rng):
    x, w = whole(rng, 2, 512), whole(rng, 512, 8192)
    w[3, 5], w[200, 6], w[500, 7], x[0, :] = np.inf, -np.inf, np.nan, 1
    (got,) = run(device, product, x, w)
    with np.errstate(invalid="ignore"):
        want = x.astype(FP32) @ w.astype(FP32)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("chip, n, is_slow, is_in_strips", [("trn1", 18432, True, True), ("inf2", 16384, True, True),
                                                              ("trn1", 4096, True, False), ("trn1", 18432, False, False)])
def test_plans_say_strips(tmp_path, chip, n, is_slow, is_in_strips):
    artifact = tmp_path / "product.vhlo"
    shapes = (jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((1, 2048), (2048, n)))
    artifact.write_bytes(export(lambda x, w: jnp.tanh(x @ w), *shapes))
    chip = slow_parts(tmp_path, chip) if is_slow else chip
    argv = [BUILD / "src/cli/vtrn", "compile", artifact, "--chip", chip, "--dump", "place"]
    plan = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert bool(re.search(r"contract .* in strips", plan)) == is_in_strips, plan
