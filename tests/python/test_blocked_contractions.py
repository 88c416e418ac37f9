"""Dot products whose operands are cut into blocks: rows, columns and the contracted index, with the parts that stay in
SBUF and whatever is transposed on its way in. Small chip files make small products be cut as large ones are."""

import json
import re
import subprocess

import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import capi
from paths import BUILD, ROOT

pytestmark = pytest.mark.part(3)

BF16 = ml_dtypes.bfloat16
FP8 = ml_dtypes.float8_e5m2
# name: bytes of a partition (0: as trn1), PSUM banks, partitions
CHIP_FILES = {
    "sbuf4k": (4 << 10, 8, 128),
    "sbuf16k": (16 << 10, 8, 128),
    "banks2": (24 << 10, 2, 128),
    "banks4": (64 << 10, 4, 128),
    "half": (16 << 10, 8, 64),
}


def chip_file(directory, name):
    sbuf_bytes, n_banks, n_partitions = CHIP_FILES[name]
    text = (ROOT / "chips" / "trn1.toml").read_text()
    keys = {
        "name": f'"{name}"', "sbuf_partition_bytes": sbuf_bytes, "sbuf_reserved_partition_bytes": 0,
        "psum_banks": n_banks, "psum_partition_bytes": n_banks * 2048, "partitions": n_partitions,
    }  # fmt: skip
    for key, value in keys.items():
        text, n = re.subn(rf"(?m)^{key} = \S+", f"{key} = {value}", text)
        assert n == 1, key
    path = directory / f"{name}.toml"
    path.write_text(text)
    return str(path)


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    opened, directory = {}, tmp_path_factory.mktemp("chips")

    def device(chip, threads=2):
        if (chip, threads) not in opened:
            name = chip_file(directory, chip) if chip in CHIP_FILES else chip
            opened[chip, threads] = capi.Device(name, threads=threads)
        return opened[chip, threads]

    yield device
    for d in opened.values():
        d.close()


def normal(rng, *shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(np.float32).astype(dtype)


def run(device, f, *args):
    exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
    executable = device.compile(exported.mlir_module_serialized)
    got = executable(*[jax.tree.leaves(args)[i] for i in exported.module_kept_var_idx])
    assert executable.profile().n_reference_ops == 0
    return got


def assert_same(device, f, *args, tolerance=2e-5):
    """Every element is within `tolerance` of the result in fp64, in units of the largest."""
    got = run(device, f, *args)
    wide = [a.astype(np.float64) for a in jax.tree.leaves(args)]
    with jax.enable_x64(True):
        expected = [np.asarray(e, np.float64) for e in jax.tree.leaves(f(*wide))]
    assert len(got) == len(expected)
    for g, e in zip(got, expected):
        assert g.shape == e.shape
        off = np.abs(g.astype(np.float64) - e).max() / np.abs(e).max()
        assert off <= tolerance, off


# Layouts: the contracted index is innermost in the left operand of "ab", outermost in that of "Tb".
PRODUCTS = {
    "ab": (lambda a, b: a @ b, lambda m, k, n: ((m, k), (k, n))),
    "Tb": (lambda a, b: a.T @ b, lambda m, k, n: ((k, m), (k, n))),
    "aT": (lambda a, b: a @ b.T, lambda m, k, n: ((m, k), (n, k))),
    "TT": (lambda a, b: a.T @ b.T, lambda m, k, n: ((k, m), (n, k))),
    "turned": (lambda a, b: (a @ b).T, lambda m, k, n: ((m, k), (k, n))),
}


def operands(rng, product, m, k, n, dtype=np.float32):
    return [normal(rng, *s, dtype=dtype) for s in PRODUCTS[product][1](m, k, n)]


def bias_and_activation(a, b, bias):
    return jax.nn.relu(a @ b + bias)


def normalised(a, b, residual):
    x = a @ b + residual
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5)


def with_column_sums(a, b, bias):
    y = a @ b + bias
    return y, y.sum(0)


EDGES = [1, 31, 33, 127, 128, 129, 511, 513]


@pytest.mark.parametrize("chip", ["trn1", "sbuf16k"])
@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("index", "mkn")
def test_each_index_may_end_anywhere(rng, devices, chip, index, size):
    sizes = dict({"m": 200, "k": 160, "n": 300}, **{index: size})
    for name, (f, _) in PRODUCTS.items():
        assert_same(devices(chip), f, *operands(rng, name, **sizes))


@pytest.mark.parametrize("size", [640, 1000, 1023, 1025, 2047, 2049])
@pytest.mark.parametrize("index", "mkn")
def test_long_indices_are_cut(rng, devices, index, size):
    sizes = dict({"m": 130, "k": 260, "n": 520}, **{index: size})
    for name in ("ab", "TT"):
        assert_same(devices("trn1"), PRODUCTS[name][0], *operands(rng, name, **sizes))
        assert_same(devices("sbuf16k"), PRODUCTS[name][0], *operands(rng, name, **sizes))


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("chip", ["trn1", "trn2", "trn3", "inf2", *CHIP_FILES])
def test_every_layout_on_every_chip(rng, devices, chip, product):
    for sizes in ((300, 700, 900), (257, 1100, 130)):
        assert_same(devices(chip), PRODUCTS[product][0], *operands(rng, product, *sizes))


@pytest.mark.parametrize("product", ["ab", "Tb", "aT"])
@pytest.mark.parametrize("dtype, tolerance", [(BF16, 8e-3), (np.float16, 1e-3), (FP8, 0.13)])
@pytest.mark.parametrize("chip", ["trn1", "trn2", "sbuf16k"])
def test_narrow_floats(rng, devices, chip, dtype, tolerance, product):
    for sizes in ((300, 700, 900), (129, 130, 1030)):
        args = operands(rng, product, *sizes, dtype=dtype)
        assert_same(devices(chip), PRODUCTS[product][0], *args, tolerance=tolerance)


@pytest.mark.parametrize("chip", ["trn1", "trn2", *CHIP_FILES])
@pytest.mark.parametrize("m, k, n", [(300, 500, 1100), (257, 129, 4100), (1, 1000, 2049), (640, 64, 64)])
def test_products_meet_what_uses_them(rng, devices, chip, m, k, n):
    a, b = normal(rng, m, k), normal(rng, k, n)
    assert_same(devices(chip), bias_and_activation, a, b, normal(rng, n))
    assert_same(devices(chip), normalised, a, b, normal(rng, m, n), tolerance=1e-4)
    assert_same(devices(chip), with_column_sums, a, b, normal(rng, n), tolerance=1e-4)


@pytest.mark.parametrize("chip", ["trn1", "trn2", "sbuf16k", "half"])
@pytest.mark.parametrize("m, k, n", [(64, 40, 128), (128, 128, 600), (256, 64, 33), (100, 129, 50), (192, 64, 64)])
def test_batches(rng, devices, chip, m, k, n):
    a, b = normal(rng, 3, 2, m, k), normal(rng, 3, 2, n, k)
    assert_same(devices(chip), lambda a, b: jnp.einsum("xymk,xynk->xymn", a, b), a, b)
    assert_same(devices(chip), lambda a, b: jax.nn.relu(jnp.einsum("xymk,xynk->xymn", a, b)).sum(-1), a, b)


def layer(x, w1, b1, w2, b2):
    y = x + jnp.tanh(x @ w1 + b1) @ w2 + b2
    return y - y.mean(-1, keepdims=True)


@pytest.mark.parametrize("chip", ["trn1", "trn2", "sbuf16k", "banks2", "half"])
def test_layers_and_their_gradients(rng, devices, chip):
    x, w1, b1 = normal(rng, 200, 192), normal(rng, 192, 1300) / 14, normal(rng, 1300)
    w2, b2 = normal(rng, 1300, 192) / 36, normal(rng, 192)
    assert_same(devices(chip), layer, x, w1, b1, w2, b2, tolerance=1e-4)
    gradients = jax.grad(lambda *args: (layer(*args) ** 2).mean(), argnums=(0, 1, 2, 3, 4))
    assert_same(devices(chip), gradients, x, w1, b1, w2, b2, tolerance=2e-4)


@pytest.mark.parametrize("chip", ["trn1", "sbuf16k", "banks2"])
@pytest.mark.parametrize("f", [bias_and_activation, with_column_sums])
def test_the_number_of_threads_changes_no_bit(rng, devices, chip, f):
    args = normal(rng, 300, 700), normal(rng, 700, 1100), normal(rng, 1100)
    for one, two in zip(run(devices(chip, 1), f, *args), run(devices(chip, 2), f, *args)):
        np.testing.assert_array_equal(one, two)


def profile(device, f, *shapes):
    args = [np.zeros(s, BF16) for s in shapes]
    exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
    executable = device.compile(exported.mlir_module_serialized)
    executable(*args)
    return executable.profile()


@pytest.mark.parametrize("chip, mfu", [("trn1", 0.6), ("trn2", 0.8)])
def test_large_products_keep_the_tensor_engine_busy(devices, chip, mfu):
    size = (2048, 2048)
    plain = profile(devices(chip), lambda a, b: a @ b, size, size)
    assert plain.mfu >= mfu
    assert plain.hbm_read_bytes <= 3 * 2 * 2048 * 2048 * 2


@pytest.mark.parametrize("chip", ["trn1", "trn2"])
@pytest.mark.parametrize("depth,cols", [(2048, 16384), (1024, 8192)])
def test_a_row_reads_wide_weights_once(depth, cols, chip, tmp_path):
    """Blocks of columns that share a slot would read all of k again, each."""
    args = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((1, depth), (depth, cols))]
    artifact = tmp_path / "program.mlirbc"
    exported = jax.export.export(jax.jit(jnp.matmul), platforms=["cpu"])(*args)
    artifact.write_bytes(exported.mlir_module_serialized)
    command = [BUILD / "src/cli/vtrn", "time", artifact, "--chip", chip, "--json"]
    profile = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert profile["hbm_read_bytes"] < 1.1 * 2 * depth * cols
