"""Whatever the SBUF, a kernel is cut until it fits: no size of a tensor makes a program impossible."""

import re

import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import capi
from common import SEED
from paths import ROOT

pytestmark = pytest.mark.part(4)

BF16 = ml_dtypes.bfloat16
# Chips whose partitions hold next to nothing, beside the real ones; 4096 bytes are the least.
SMALL = {"tiny16k": 16 << 10, "tiny8k": 8 << 10, "tiny4k": 4 << 10}
CHIPS = ["trn1", "trn2", "inf2", *SMALL]


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    """Devices by name of a chip. The small ones are a Trainium1 in all but their SBUF."""
    open_devices, directory = {}, tmp_path_factory.mktemp("chips")

    def device(chip):
        if chip not in open_devices:
            name = chip
            if chip in SMALL:
                text = (ROOT / "chips" / "trn1.toml").read_text()
                keys = {"name": f'"{chip}"', "sbuf_partition_bytes": SMALL[chip],
                        "sbuf_reserved_partition_bytes": 0}  # fmt: skip
                for key, value in keys.items():
                    text, n = re.subn(rf"(?m)^{key} = \S+", f"{key} = {value}", text)
                    assert n == 1, key
                name = str(directory / f"{chip}.toml")
                (directory / f"{chip}.toml").write_text(text)
            open_devices[chip] = capi.Device(chip=name, threads=2)
        return open_devices[chip]

    yield device
    for d in open_devices.values():
        d.close()


def rand(shape, seed=0, dtype=np.float32):
    rng = np.random.default_rng([SEED, seed])
    if np.issubdtype(dtype, np.integer):
        return rng.integers(-1000, 1000, shape).astype(dtype)
    return (rng.random(shape) * 2 - 1).astype(dtype)


def check(device, f, *args, tol=1e-5):
    """f on the device against f on the host; no operation may have been left to a reference."""
    exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
    executable = device.compile(exported.mlir_module_serialized)
    got = executable(*[args[i] for i in exported.module_kept_var_idx])
    expected = [np.asarray(e) for e in jax.tree.leaves(jax.jit(f)(*args))]
    assert len(got) == len(expected)
    for g, e in zip(got, expected):
        assert g.dtype == e.dtype and g.shape == e.shape
        if e.dtype.kind in "iub":
            np.testing.assert_array_equal(g, e)
            continue
        bound = max(tol, 2.0**-7) if e.dtype == BF16 else tol
        e64 = e.astype(np.float64)
        scale = np.abs(e64[np.isfinite(e64)]).max(initial=0) + 1e-30
        np.testing.assert_allclose(g.astype(np.float64), e64, bound, bound * scale)
    assert executable.profile().n_reference_ops == 0


# --- operands of one value a column -----------------------------------------------------------------


KEYS = np.arange(16, dtype=np.uint32).reshape(8, 2)


def uniform(shape):
    return lambda keys: jax.vmap(lambda k: jax.random.uniform(jax.random.wrap_key_data(k), shape))(keys)


COLUMN_OPERANDS = {
    "a position embedding": (lambda x, p: x + p, (4, 64, 768), (64, 768)),
    "a bias of a vocabulary": (lambda x, b: x + b, (8, 50257), (50257,)),
    "softmax over few rows": (lambda x: jax.nn.softmax(x, 0), (2, 50000)),
    "more rows than partitions": (lambda x, b: x * b, (130, 50021), (50021,)),
    "rows of a prime length": (lambda x, b: x * b, (3, 50021), (50021,)),
}


@pytest.mark.parametrize("name", COLUMN_OPERANDS)
@pytest.mark.parametrize("chip", CHIPS)
def test_column_operands_of_any_width(devices, chip, name):
    f, *shapes = COLUMN_OPERANDS[name]
    check(devices(chip), f, *[rand(s, i) for i, s in enumerate(shapes)])


@pytest.mark.parametrize("chip", CHIPS)
def test_random_numbers_of_many_keys(devices, chip):
    check(devices(chip), uniform((64, 768)), KEYS)


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.int32])
@pytest.mark.parametrize("cols", [11263, 11264, 11265, 45055, 45056, 45057, 65535, 65536, 65537])
def test_column_operands_around_the_size_of_sbuf(devices, cols, dtype):
    def f(x, b, c):
        return x * b - c, x + c

    args = rand((5, cols), 1, dtype), rand(cols, 2, dtype), rand(cols, 3, dtype)
    check(devices("trn1"), f, *args)


@pytest.mark.parametrize("chip", ["trn1", "tiny16k"])
def test_forty_column_operands(devices, chip):
    def f(x, *biases):
        for b in biases:
            x = x + b
        return x

    check(devices(chip), f, rand((130, 20011)), *[rand(20011, i) for i in range(40)])


# --- reductions along rows of any length --------------------------------------------------------------


def layer_norm(x, scale, shift):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * scale + shift


LONG_ROWS = {
    "softmax": lambda x: jax.nn.softmax(x, -1),
    "log softmax": lambda x: jax.nn.log_softmax(x, -1),
    "logsumexp": lambda x: jax.nn.logsumexp(x, -1),
    "layer norm": lambda x: layer_norm(x, x[0] + 1, x[1]),
    "several reductions": lambda x: (x.max(-1), x.sum(-1), (x * x).min(-1), x * x.max(-1, keepdims=True)),
    "truth values": lambda x: ((x > 0.999).any(-1), (x > -2).all(-1)),
    "argmax": lambda x: (x.argmax(-1), x.argmin(-1)),
    "both ways": lambda x: (jax.nn.softmax(x, -1).sum(0), (x * x.sum(-1, keepdims=True)).mean()),
}
# Primes: no cut into equal shares helps.
PLACES = [("trn1", 3, 50021), ("trn2", 130, 45061), ("inf2", 3, 50021), ("tiny16k", 130, 4099), ("tiny8k", 3, 50021)]


@pytest.mark.parametrize("chip, rows, cols", PLACES)
@pytest.mark.parametrize("name", LONG_ROWS)
def test_reductions_along_rows_longer_than_sbuf(devices, name, chip, rows, cols):
    check(devices(chip), LONG_ROWS[name], rand((rows, cols)), tol=1e-4)


@pytest.mark.parametrize("chip, rows, cols", PLACES)
def test_gradient_of_a_layer_norm_of_long_rows(devices, chip, rows, cols):
    def loss(x, scale, shift):
        return (layer_norm(x, scale, shift) ** 2).sum()

    check(devices(chip), jax.grad(loss, argnums=(0, 1, 2)), rand((rows, cols)), rand(cols, 1), rand(cols, 2), tol=1e-3)


@pytest.mark.parametrize("chip, rows, cols", PLACES)
@pytest.mark.parametrize("dtype", [BF16, np.int32])
def test_short_floats_and_integers_are_reduced_block_by_block(devices, chip, rows, cols, dtype):
    def f(x):
        return x.max(-1), x.sum(-1), (x - x.min(-1, keepdims=True)).max(-1), x.sum(0)

    check(devices(chip), f, rand((rows, cols), 3, dtype), tol=2e-2)


@pytest.mark.parametrize("chip", ["trn1", *SMALL])
@pytest.mark.parametrize("cols", [511, 513, 2000])
def test_sums_over_rows_of_what_rows_are_reduced_to(devices, chip, cols):
    def f(x):
        mean = x.mean(-1, keepdims=True)
        return (x * mean).sum(0), jnp.broadcast_to(mean, x.shape).sum(0), (mean * mean).sum(), x.sum(0)

    check(devices(chip), f, rand((300, cols)), tol=1e-4)


def test_a_row_of_a_million_columns(devices):
    check(devices("trn1"), lambda x: (jax.nn.softmax(x), x.max(), x.sum(), x.argmax()), rand(1000003), tol=1e-4)


@pytest.mark.parametrize("cols", [4095, 4096, 4097, 7919, 11251, 11261, 22501, 22511, 44987, 45007, 45053])
def test_softmax_around_the_size_of_sbuf(devices, cols):
    check(devices("trn1"), lambda x: jax.nn.softmax(x, -1), rand((5, cols)), tol=1e-4)


@pytest.mark.parametrize("chip", ["trn1", "tiny16k"])
def test_many_reductions_in_a_row(devices, chip):
    def f(x):
        for _ in range(12):
            x = layer_norm(x, 1.5, 0.5)
        return x

    check(devices(chip), f, rand((3, 7919)), tol=1e-3)


@pytest.mark.parametrize("chip", ["trn1", "tiny16k", "tiny8k"])
def test_cumulative_sums_of_long_rows(devices, chip):
    def f(x, i):
        return jnp.cumsum(x, 1), jax.lax.cummax(x, 1, reverse=True), jnp.cumsum(i, 1), jax.lax.cumprod(1 + x / 1e4, 1)

    check(devices(chip), f, rand((3, 20000)), rand((3, 20000), 1, np.int32), tol=1e-4)


# --- more than one kernel can hold ----------------------------------------------------------------------


@pytest.mark.parametrize("chip", ["trn1", "tiny16k", "tiny8k"])
def test_more_constants_than_a_kernel_has_room_for(devices, chip):
    def f(x):
        for i in range(100):
            x = jnp.bitwise_xor(x, 37 * i + 1)
        return x

    check(devices(chip), f, rand(1000, 0, np.int32))


@pytest.mark.parametrize("chip", ["trn1", "tiny8k"])
def test_more_values_at_once_than_a_kernel_has_room_for(devices, chip):
    def f(x, row):
        values = [x * (i + 0.5) + row[i] for i in range(70)]
        total = 0
        for v in values[::-1]:
            total = total * 0.5 + v
        return total, values[3].sum(1), values[69]

    check(devices(chip), f, rand((130, 1000)), rand((70, 1000), 1))


# --- contractions ---------------------------------------------------------------------------------------


def gated_mlp(x, gate, up, down):
    return (jax.nn.silu(x @ gate) * (x @ up)) @ down


def attention(q, k, v):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 8
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v)


def conv(x, w):
    return jax.nn.relu(jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))


def total(f):
    """The gradients of all arguments."""

    def gradients(*args):
        return jax.grad(lambda *a: (f(*a) ** 2).mean(), argnums=tuple(range(len(args))))(*args)

    return gradients


CONTRACTIONS = {
    "a gated mlp": (gated_mlp, (130, 1024), (1024, 1000), (1024, 1000), (1000, 70)),
    "gradients of a gated mlp": (total(gated_mlp), (60, 300), (300, 520), (300, 520), (520, 70)),
    "a long product": (lambda x, y: x @ y, (130, 3000), (3000, 1100)),
    "sums of a product": (lambda x, y: (jax.nn.relu(x @ y).sum(0), (x @ y).max(1)), (130, 300), (300, 1000)),
    "transposed operands": (lambda x, y: x.T @ y.T + 1, (300, 200), (500, 300)),
    "attention": (attention, (2, 33, 4, 32), (2, 65, 4, 32), (2, 65, 4, 32)),
    "gradients of attention": (total(attention), (2, 33, 4, 32), (2, 65, 4, 32), (2, 65, 4, 32)),
    "a convolution": (conv, (2, 14, 14, 64), (3, 3, 64, 96)),
    "gradients of a convolution": (total(conv), (2, 9, 9, 32), (3, 3, 32, 48)),
}


@pytest.mark.parametrize("chip", ["trn1", *SMALL])
@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contractions_are_cut(devices, name, chip):
    f, *shapes = CONTRACTIONS[name]
    args = [rand(s, i) / max(1, s[0] if len(s) == 2 and i else 1) ** 0.5 for i, s in enumerate(shapes)]
    check(devices(chip), f, *args, tol=2e-4)


@pytest.mark.parametrize("chip", ["trn1", "trn2", "inf2"])
@pytest.mark.parametrize("dtype", [np.float32, BF16])
def test_two_of_the_widest_products_meet(devices, chip, dtype):
    """Each has 2048 x 1024 weights in SBUF."""

    def f(x, a, b):
        return (x @ a) * (x @ b)

    args = [rand(s, i, dtype) for i, s in enumerate([(130, 2048), (2048, 1024), (2048, 1024)])]
    check(devices(chip), f, *args, tol=1e-4)


# --- places that data decide ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.int32])
@pytest.mark.parametrize("chip", ["trn1", *SMALL])
def test_updates_named_by_two_dims_are_cut(devices, chip, dtype):
    i, j = (rand(40000, seed, np.int32) % n for seed, n in ((1, 9), (2, 90)))
    begin = np.stack([i[:30], j[:30]], 1)
    numbers = jax.lax.ScatterDimensionNumbers((1,), (0,), (0, 1))

    def f(x, i, j, u, begin, v):
        rows = jnp.zeros((9, 90, 3), dtype).at[i, j].add(jnp.ones((40000, 3), dtype))
        windows = jax.lax.scatter_add(x[:, 0], begin, v, numbers)
        return x.at[i[:200], j[:200]].add(u), rows, windows

    whole = [(rand(s, 3, np.int32) % 3).astype(dtype) for s in ((9, 90, 1100), (200, 1100), (30, 700))]
    check(devices(chip), f, whole[0], i, j, whole[1], begin, whole[2])


# --- few long rows ------------------------------------------------------------------------------------


def test_few_long_rows_use_all_partitions(devices):
    """A value a column may make rows long, but not leave most partitions without work."""
    x, row = rand((4, 40000)), rand(40000, 1)

    def f(x, row):
        return jnp.tanh(jnp.tanh(x * row) + row)

    def step_ns(*args):
        exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
        executable = devices("trn1").compile(exported.mlir_module_serialized)
        executable(*args)
        return executable.profile().step_ns

    check(devices("trn1"), f, x, row)
    assert step_ns(x, row) < 1.5 * step_ns(x.reshape(160, 1000), row[:1000])


# --- wide sums over rows --------------------------------------------------------------------------------


def many_sums(x):
    return [(x * i).sum(0) for i in range(5)]


def sums_and_more(x):
    first = jnp.broadcast_to(x[:, :1], x.shape)
    return x.mean(0), (x.mean(1) ** 2).sum(), first.sum(0), (x * 2 + first).sum(0), x * 3


def batch_norm(x, scale):
    return (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) * scale


WIDE_SUMS = {
    "one": (lambda x: (x * 2).sum(0), (1000, 2500)),
    "many": (many_sums, (200, 3000)),
    "beside other reductions": (sums_and_more, (200, 3001)),
    "a batch norm": (batch_norm, (140, 5003), (5003,)),
    "gradients of a wide layer": (total(lambda x, w, b: jnp.tanh(x @ w + b)), (130, 64), (64, 4096), (4096,)),
    "gradients of a layer norm": (total(layer_norm), (256, 4096), (4096,), (4096,)),
    "of several dims": (lambda x: (x + 1).sum((0, 1)), (10, 20, 4100)),
}


@pytest.mark.parametrize("chip", ["trn1", "trn2", *SMALL])
@pytest.mark.parametrize("name", WIDE_SUMS)
def test_sums_over_rows_of_any_width(devices, name, chip):
    f, *shapes = WIDE_SUMS[name]
    check(devices(chip), f, *[rand(s, i) for i, s in enumerate(shapes)], tol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, BF16])
@pytest.mark.parametrize("rows", [1, 2, 23, 24, 63, 64, 65, 127, 128, 129, 257])
@pytest.mark.parametrize("cols", [2047, 2048, 2049, 2561])
def test_sums_over_rows_around_what_psum_holds(devices, rows, cols, dtype):
    check(devices("trn1"), lambda x: (x.sum(0), (x * x).sum(0)), rand((rows, cols), rows, dtype), tol=1e-4)


def test_wide_sums_read_their_operand_once(devices):
    x = rand((1000, 2500))
    exported = jax.export.export(jax.jit(lambda x: (x * 2).sum(0)), platforms=["cpu"])(x)
    executable = devices("trn1").compile(exported.mlir_module_serialized)
    executable(x)
    assert executable.profile().hbm_read_bytes == x.nbytes
