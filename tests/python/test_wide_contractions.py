"""Kernels that hold several PSUM banks at once: wide products, column sums, transposes, on chips with
few or narrow banks as well."""

import re

import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

import capi
from paths import ROOT

pytestmark = pytest.mark.part(3)

CHIPS = ["trn1", "trn2", "trn3", "inf2"]
BF16 = ml_dtypes.bfloat16


@pytest.fixture(scope="module", params=CHIPS)
def any_chip(request):
    d = capi.Device(request.param, threads=2)
    yield d
    d.close()


@pytest.fixture(scope="module")
def trn1():
    d = capi.Device("trn1", threads=2)
    yield d
    d.close()


def chip_file(directory, n_banks, bank_bytes):
    """trn1 with other PSUM banks."""
    text = (ROOT / "chips" / "trn1.toml").read_text()
    numbers = {"psum_partition_bytes": n_banks * bank_bytes, "psum_bank_bytes": bank_bytes, "psum_banks": n_banks}
    for key, value in numbers.items():
        text, n = re.subn(rf"^{key} = \S+", f"{key} = {value}", text, flags=re.M)
        assert n == 1
    path = directory / f"banks_{n_banks}_{bank_bytes}.toml"
    path.write_text(text)
    return str(path)


def run(device, f, *args):
    exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
    return device.compile(exported.mlir_module_serialized)(
        *[jax.tree.leaves(args)[i] for i in exported.module_kept_var_idx]
    )


def assert_same(device, f, *args, tolerance=2e-5):
    """Every element is within `tolerance` of JAX's on the host, in units of the largest."""
    expected = [np.asarray(e) for e in jax.tree.leaves(jax.jit(f)(*args))]
    got = run(device, f, *args)
    assert len(got) == len(expected)
    for g, e in zip(got, expected):
        g, e = g.astype(np.float64), e.astype(np.float64)
        scale = np.abs(e[np.isfinite(e)]).max()
        wrong = ~np.isclose(g, e, rtol=0, atol=tolerance * scale, equal_nan=True)
        assert not wrong.any(), f"{wrong.sum()} of {wrong.size} elements, the first at {np.argwhere(wrong)[0]}"


def gated(x, a, b):
    return (x @ a) * (x @ b)


def swiglu(x, a, b):
    return jax.nn.silu(x @ a) * (x @ b)


def three(x, a, b, c):
    return jax.nn.silu(x @ a) * (x @ b) + jnp.tanh(x @ c)


def with_sums(x, a, b):
    h = gated(x, a, b)
    return h, h.sum(0), h.sum(1), (h * h).sum(0), h.max(1)


def residual(x, a, b):
    return x @ a + b, (x @ a + b).sum(0)


def normal(rng, *shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


WIDTHS = [1, 127, 512, 513, 640, 768, 1000, 1024, 1025, 1536]


@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("f", [gated, swiglu])
def test_two_products_of_any_width_meet(rng, trn1, f, n):
    assert_same(trn1, f, normal(rng, 256, 256), normal(rng, 256, n), normal(rng, 256, n))


@pytest.mark.parametrize("rows", [1, 129, 300])
@pytest.mark.parametrize("f", [gated, swiglu])
def test_two_wide_products_meet_on_every_chip(rng, any_chip, f, rows):
    assert_same(any_chip, f, normal(rng, rows, 200), normal(rng, 200, 640), normal(rng, 200, 640))


@pytest.mark.parametrize("dtype", [BF16, np.float16])
def test_two_wide_products_of_short_floats_meet(rng, any_chip, dtype):
    args = [normal(rng, *s, dtype=dtype) for s in ((130, 256), (256, 1000), (256, 1000))]
    assert_same(any_chip, gated, *args, tolerance=2e-2)


@pytest.mark.parametrize("n", [500, 640, 1024])
def test_three_products_meet(rng, any_chip, n):
    assert_same(any_chip, three, normal(rng, 140, 128), *[normal(rng, 128, n) for _ in range(3)])


@pytest.mark.parametrize("n", [500, 640, 1024, 2047])
@pytest.mark.parametrize("f", [with_sums, residual])
def test_products_are_summed_over_rows_and_columns(rng, trn1, f, n):
    b = normal(rng, 256, n) if f is with_sums else normal(rng, n)
    assert_same(trn1, f, normal(rng, 256, 256), normal(rng, 256, n), b)


@pytest.mark.parametrize("batch", ["vmap", "scan"])
def test_batches_of_wide_products_meet(rng, trn1, batch):
    x, a, b = normal(rng, 3, 64, 128), normal(rng, 3, 128, 640), normal(rng, 3, 128, 640)
    if batch == "vmap":
        assert_same(trn1, jax.vmap(swiglu), x, a, b)
        return

    def layer(h, weights):
        return h + swiglu(h, *weights) @ weights[1].T / 640, None

    assert_same(trn1, lambda x, a, b: lax.scan(layer, x, (a / 11, b / 11))[0], x[0], a, b)


def mlp_loss(weights, x):
    up, gate, down, scale = weights
    y = swiglu(x, up, gate) @ down
    y = (y - y.mean(-1, keepdims=True)) * scale
    return y.var() + (y.sum(0) ** 2).mean()


def mlp_weights(rng, n=640):
    return normal(rng, 64, n) / 8, normal(rng, 64, n) / 8, normal(rng, n, 64) / 25, normal(rng, 64)


def test_a_gated_mlp_has_its_gradients(rng, any_chip):
    assert_same(any_chip, jax.value_and_grad(mlp_loss), mlp_weights(rng), normal(rng, 200, 64), tolerance=1e-4)


def conv(x, w, stride):
    return lax.conv_general_dilated(
        x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def bottleneck(x, wa, wb, wd, we):
    h = jax.nn.relu(conv(jax.nn.relu(conv(x, wa, 1)), wb, 2))
    return jax.nn.relu(conv(h, wd, 1) + conv(x, we, 2))


def bottleneck_args(rng, size, channels, inner, outer):
    return (
        normal(rng, 1, size, size, channels),
        normal(rng, 1, 1, channels, inner) / channels**0.5,
        normal(rng, 3, 3, inner, inner) / (9 * inner) ** 0.5,
        normal(rng, 1, 1, inner, outer) / inner**0.5,
        normal(rng, 1, 1, channels, outer) / channels**0.5,
    )


def test_the_bottleneck_of_a_residual_network_adds_two_convolutions(rng, trn1):
    assert_same(trn1, bottleneck, *bottleneck_args(rng, 28, 512, 256, 1024))


def test_a_narrow_bottleneck_adds_two_convolutions(rng, any_chip):
    assert_same(any_chip, bottleneck, *bottleneck_args(rng, 8, 128, 64, 640))


def many_sums(x):
    return jnp.sin(x).sum(0), x.sum(0), jnp.cos(x).sum(0), (jnp.cos(x).sum(1) ** 2).sum()


@pytest.mark.parametrize("n", [511, 1000, 2048, 2049])
def test_a_kernel_has_more_column_sums_than_banks(rng, trn1, n):
    assert_same(trn1, many_sums, normal(rng, 300, n))


def test_merged_kernels_have_more_column_sums_than_banks(rng, trn1):
    def f(x, y):
        a, b = jnp.sin(x), jnp.cos(y)
        sums = a.sum(0), (a * a).sum(0), b.sum(0), (b * b).sum(0)
        return sums, (a + b).sum(0)

    assert_same(trn1, f, normal(rng, 200, 1000), normal(rng, 200, 1000))


def add_rows(table, index, updates):
    return table.at[index].add(updates)


def add_elements(table, index, updates):
    return table.at[index, index % 7].add(updates)


BANKS = [(2, 2048), (2, 512), (3, 1540), (4, 2048), (5, 1024), (16, 1024), (8, 4096), (64, 512)]


@pytest.mark.parametrize("n_banks, bank_bytes", BANKS)
def test_any_chip_of_two_banks_has_room(rng, tmp_path, n_banks, bank_bytes):
    device = capi.Device(chip_file(tmp_path, n_banks, bank_bytes), threads=2)
    x, a, b, c = normal(rng, 140, 200), *[normal(rng, 200, 640) for _ in range(3)]
    assert_same(device, swiglu, x, a, b)
    assert_same(device, three, x, a, b, c)
    assert_same(device, with_sums, x, a, b)
    assert_same(device, jax.value_and_grad(mlp_loss), mlp_weights(rng), normal(rng, 200, 64), tolerance=1e-4)
    assert_same(device, bottleneck, *bottleneck_args(rng, 8, 64, 32, 160))
    assert_same(device, many_sums, normal(rng, 300, 1000))
    assert_same(device, lambda x: jnp.transpose(x, (2, 0, 1)) + 1, normal(rng, 3, 200, 300))
    index = rng.integers(0, 300, 200).astype(np.int32)
    updates = normal(rng, 200, 700)
    assert_same(device, add_rows, normal(rng, 300, 700), index, updates)
    updates[0, 0], updates[1, 1], updates[2, 2] = np.inf, -np.inf, np.nan
    assert_same(device, add_rows, normal(rng, 300, 700), index, updates)
    assert_same(device, add_elements, normal(rng, 300, 70), index, updates[:, 0])
    ints = rng.integers(-(2**31), 2**31, (300, 70)).astype(np.int32)
    got = run(device, add_elements, ints, index, ints[:200, 0])
    np.testing.assert_array_equal(got[0], jax.jit(add_elements)(ints, index, ints[:200, 0]))
    device.close()


@pytest.mark.parametrize(
    "n_banks, bank_bytes, rule",
    [(1, 2048, "between 2 and 64 banks"), (8, 256, "at least 512"), (8, 2050, "a multiple of 4")],
)
def test_a_chip_of_too_few_or_too_narrow_banks_is_refused(tmp_path, n_banks, bank_bytes, rule):
    with pytest.raises(capi.VtrnError, match=rule):
        capi.Device(chip_file(tmp_path, n_banks, bank_bytes))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3"])
def test_products_of_fp8_on_every_chip(any_chip, name):
    """The PE array takes fp8e4m3fn from v4 only; elsewhere it works on bf16."""
    rng = np.random.default_rng(3)
    a, b = (rng.integers(-8, 9, shape).astype(getattr(ml_dtypes, name)) for shape in ((65, 200), (200, 130)))
    product = jax.jit(lambda a, b: lax.dot(a, b, preferred_element_type=jnp.float32))
    exported = jax.export.export(product, platforms=["cpu"])(a, b)
    (got,) = any_chip.compile(exported.mlir_module_serialized)(a, b)
    np.testing.assert_array_equal(got, a.astype(np.float32) @ b.astype(np.float32))
