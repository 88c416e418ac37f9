"""Several operations of a kernel become one instruction: scale, bias and row sum of an activation,
conversions, choices in place. Values are those of the operations, at any size, type and chip."""

import re
import subprocess

import capi
import chip_run
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax
from chip_run import dump, export
from common import SEED
from paths import BUILD

pytestmark = pytest.mark.part(3)

BF16 = ml_dtypes.bfloat16
CHIPS = ["trn1", "trn2", "trn3"]


def run(*args, **where):
    """The first result."""
    return chip_run.run(*args, **where)[0]


def instructions(f, *args, tmp_path):
    return re.findall(r"^    \w+ ([\w.]+)", dump(f, *args, stage="emit", tmp_path=tmp_path), flags=re.M)


def shifted_exp(x):
    return jnp.exp(x - x.max(-1, keepdims=True))


def normalised(x, gain, shift):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + 1e-5) * gain + shift


def normalised_as_flax(x, gain, shift):
    mean, square = x.mean(-1, keepdims=True), (x * x).mean(-1, keepdims=True)
    variance = jnp.maximum(0.0, square - mean * mean)
    return (x - mean) * (lax.rsqrt(variance + 1e-5) * gain) + shift


def root_mean_square(x, gain, shift):
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * gain + shift


def scaled_and_shifted(x, gain, shift):
    """Rows that scale and shift what an activation reads, in each way that a program writes it."""
    a, b = x[:, :1] * 0.5, x[:, -1:] * 0.25
    terms = [jnp.tanh(x * a), jnp.tanh(x - b), jnp.tanh(b - x), jnp.tanh(x + 0.75), jnp.tanh(0.25 - x * 0.5),
             jnp.tanh(x * a + b), jnp.tanh(x * a - b), jnp.tanh(-x), jnp.tanh(b - x * a), jnp.tanh(x / 3)]  # fmt: skip
    return sum(terms) * gain + shift


def summed_functions(x, gain, shift):
    e = jnp.exp(x * 0.5)
    return e / e.sum(-1, keepdims=True) + jnp.tanh(x).sum(-1, keepdims=True) * 0.01 + gain * shift


def summed_products(x, gain, shift):
    """Vector makes products of tiles, and may leave it to Scalar to add up their rows."""
    terms = (x * gain) * (x + shift) * (x - gain)
    return terms.mean(-1, keepdims=True) * x + (terms * x).mean(-1, keepdims=True)


PROGRAMS = {
    "softmax": lambda x, g, s: jax.nn.softmax(x, -1) * g + s,
    "log softmax": lambda x, g, s: jax.nn.log_softmax(x, -1) * g + s,
    "softmax gradient": lambda x, g, s: jax.vjp(lambda v: jax.nn.softmax(v, -1), x)[1](x * g)[0],
    "layer norm": normalised,
    "layer norm gradient": lambda x, g, s: jax.vjp(normalised, x, g, s)[1](x)[0],
    "flax layer norm": normalised_as_flax,
    "flax layer norm gradient": lambda x, g, s: jax.vjp(normalised_as_flax, x, g, s)[1](x)[0],
    "rms norm": root_mean_square,
    "scales and biases": scaled_and_shifted,
    "sums of functions": summed_functions,
    "sums of products": summed_products,
}
SIZES = [1, 31, 32, 33, 127, 128, 129, 511, 512, 513, 640, 1000, 1023, 1024, 1025, 2047, 2049]


def on_cpu(f, *args):
    with jax.default_device(jax.devices("cpu")[0]), jax.enable_x64(True):
        return np.asarray(jax.jit(f)(*[np.asarray(a, np.float64) for a in args]))


def on_cpu_all(f, *args):
    with jax.default_device(jax.devices("cpu")[0]), jax.enable_x64(True):
        return [np.asarray(y) for y in jax.jit(f)(*[np.asarray(a, np.float64) for a in args])]


def arguments(rows, cols, dtype):
    rng = np.random.default_rng(SEED + rows * 10007 + cols)
    x = (rng.standard_normal((rows, cols)) * 2 + 1).astype(dtype)
    return x, rng.standard_normal(cols).astype(dtype), rng.standard_normal(cols).astype(dtype)


def assert_close(got, want, dtype):
    """Off by a few roundings of the largest terms: programs of tests have values about 1."""
    bound = {np.float32: 2e-5, BF16: 0.06, np.float16: 0.008}[dtype]
    scale = max(1.0, float(np.abs(want).max()))
    assert np.abs(got.astype(np.float64) - want).max() <= bound * scale


@pytest.mark.parametrize("cols", SIZES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_values_at_many_sizes(name, cols):
    rows = 131 if cols <= 513 else 37
    args = arguments(rows, cols, np.float32)
    assert_close(run(PROGRAMS[name], *args), on_cpu(PROGRAMS[name], *args), np.float32)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("dtype", [np.float32, BF16, np.float16])
@pytest.mark.parametrize("name", PROGRAMS)
def test_values_in_each_type_on_each_chip(name, dtype, chip):
    args = arguments(257, 384, dtype)
    got = [run(PROGRAMS[name], *args, chip=chip, threads=threads) for threads in (1, 2)]
    assert_close(got[0], on_cpu(PROGRAMS[name], *args), dtype)
    np.testing.assert_array_equal(got[0].view(np.uint8), got[1].view(np.uint8))


@pytest.mark.parametrize("name", ["softmax", "layer norm", "rms norm", "sums of functions"])
def test_rows_that_are_longer_than_sbuf(name):
    args = arguments(9, 50021, np.float32)
    assert_close(run(PROGRAMS[name], *args), on_cpu(PROGRAMS[name], *args), np.float32)


@pytest.mark.parametrize("dtype", [np.float32, BF16])
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_kernels_agree_with_the_reference_without_races(name, dtype, tmp_path):
    artifact = tmp_path / "program.mlirbc"
    artifact.write_bytes(export(PROGRAMS[name], *arguments(131, 513, dtype)))
    for chip in ("trn1", "trn2"):
        command = [BUILD / "src/cli/vtrn", "run", artifact, "--random", "--verify", "--check", "--chip", chip]
        subprocess.run(command, check=True, capture_output=True)


# --- which instructions ----------------------------------------------------------------------------


def test_a_softmax_takes_two_passes_of_the_vector_engine(tmp_path):
    made = instructions(lambda x: jax.nn.softmax(x, -1), np.ones((128, 512), np.float32), tmp_path=tmp_path)
    assert made.count("tensor_reduce.max") == 1
    assert made.count("activate.exp") == made.count("act_read_accumulator") == 1
    assert "tensor_reduce.add" not in made and "tensor_scalar.subtract" not in made


def test_the_squares_of_rms_norm_come_with_their_sum(tmp_path):
    args = np.ones((128, 512), np.float32), np.ones(512, np.float32), np.ones(512, np.float32)
    made = instructions(root_mean_square, *args, tmp_path=tmp_path)
    assert made.count("activate.square") == made.count("act_read_accumulator") == 1
    assert "tensor_reduce.add" not in made


def test_mean_and_variance_are_of_one_load(tmp_path):
    args = np.ones((128, 512), np.float32), np.ones(512, np.float32), np.ones(512, np.float32)
    for norm in (normalised, normalised_as_flax):
        text = dump(norm, *args, stage="place", tmp_path=tmp_path)
        assert text.count("  map ") == 1 and len(re.findall("= load : fp32 a0", text)) == 1


def test_conversions_that_only_arithmetic_reads_are_none(tmp_path):
    def f(x):
        wide = x.astype(jnp.float32)
        return (jnp.tanh(wide * 0.5) * wide).astype(BF16)

    made = instructions(f, np.ones((128, 512), BF16), tmp_path=tmp_path)
    arithmetic = [m for m in made if not m.startswith(("dma", "act_table", "event"))]
    assert sorted(arithmetic) == ["activate.tanh", "tensor_tensor.multiply"]


@pytest.mark.parametrize("f", [
    lambda p, x: jnp.where(p, jnp.exp(x), 0.0) + 1, lambda p, x: jnp.where(p, -3.0, jnp.exp(x)) + 1,
    lambda p, x: jnp.where(p, jnp.exp(x), -jnp.inf).max(-1),
])  # fmt: skip
def test_a_choice_between_a_number_and_a_last_use_is_one_instruction(f, tmp_path):
    args = np.ones((128, 512), np.bool_), np.ones((128, 512), np.float32)
    made = instructions(f, *args, tmp_path=tmp_path)
    assert made.count("tensor_copy_predicated") == 1
    assert "tensor_copy" not in made and made.count("memset") == 1  # the number, once


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.int32, np.int8])
@pytest.mark.parametrize("shape", [(3, 5), (129, 513), (200, 1000)])
def test_choices_are_exact(shape, dtype):
    rng = np.random.default_rng(SEED)
    p = rng.random(shape) < 0.5
    x, y = [(rng.standard_normal(shape) * 50).astype(dtype) for _ in range(2)]
    if np.dtype(dtype).kind not in "iu":
        x[0, :3] = [np.inf, -np.inf, np.nan]
    programs = [
        lambda p, x, y: jnp.where(p, x, 0), lambda p, x, y: jnp.where(p, 7, x), lambda p, x, y: jnp.where(p, x, y),
        lambda p, x, y: jnp.where(p, x + y, y) + x, lambda p, x, y: jnp.where(p, x + y, 0) * 1,
        lambda p, x, y: jnp.where(p, x, x) + y, lambda p, x, y: jnp.where(p, jnp.where(~p, x, y), x + x),
    ]  # fmt: skip
    for f in programs:
        with jax.default_device(jax.devices("cpu")[0]):
            want = np.asarray(jax.jit(f)(p, x, y))
        np.testing.assert_array_equal(run(f, p, x, y).astype(np.float64), want.astype(np.float64))


@pytest.mark.parametrize("narrow", [BF16, ml_dtypes.float8_e5m2])
def test_what_the_program_rounds_is_rounded(narrow):
    rng = np.random.default_rng(SEED)
    x, y = [rng.standard_normal((129, 300)).astype(np.float32) for _ in range(2)]

    def round_trip(v):
        return v.astype(narrow).astype(jnp.float32)

    programs = [
        lambda x, y: round_trip(x * 1.7) + y, lambda x, y: (round_trip(x * 1.7) - 0.25) * y,
        lambda x, y: jnp.abs(round_trip(x + 0.3)) + y, lambda x, y: round_trip(round_trip(x + 0.3) * y) * 3.0,
    ]  # fmt: skip
    for f in programs:
        with jax.default_device(jax.devices("cpu")[0]):
            steps = jax.jit(f).lower(x, y).compile(compiler_options={"xla_allow_excess_precision": False})
            want = np.asarray(steps(x, y))
        np.testing.assert_array_equal(run(f, x, y), want)
    sums = lambda x, y: round_trip(jnp.abs(x * 1.7)).sum(-1) + y[:, 0]  # noqa: E731
    exact = np.abs(x * np.float32(1.7)).astype(narrow).astype(np.float64).sum(-1) + y[:, 0]
    np.testing.assert_allclose(run(sums, x, y), exact, rtol=3e-6)


@pytest.mark.parametrize("norm", [normalised, normalised_as_flax])
@pytest.mark.parametrize("cols", [256, 768, 2000])
def test_mean_and_variance_are_statistics_of_one_pass(cols, norm, tmp_path):
    args = np.ones((128, cols), np.float32), np.ones(cols, np.float32), np.ones(cols, np.float32)
    made = instructions(norm, *args, tmp_path=tmp_path)
    assert made.count("bn_stats") == -(-cols // 512) and made.count("bn_aggr") == 1
    assert not {"tensor_reduce.add", "activate.square"} & set(made)


@pytest.mark.parametrize("cols", [37, 128, 255, 256, 512, 513, 1024, 1025, 3000])
def test_a_variance_beside_a_large_mean_does_not_cancel(cols):
    x, gain, shift = arguments(130, cols, np.float32)
    x = x + np.float32(500)

    def variance(x):
        return (x * x).mean(-1) - lax.square(x.mean(-1))

    want = x.astype(np.float64).var(-1)
    np.testing.assert_allclose(run(variance, x), want, rtol=1e-4)  # x * x has 24 bits, of which 16 cancel


RESULTS = {
    "of the program": lambda y, narrow: (y, y.astype(narrow)),
    "of the program, after its conversion": lambda y, narrow: (y.astype(narrow), y),
    "of a loop": lambda y, narrow: lax.fori_loop(
        0, 2, lambda i, c: (z := jnp.tanh(c[0]) * 0.9, z.astype(narrow)), (y, y.astype(narrow))
    ),
}


@pytest.mark.parametrize("narrow", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name", RESULTS)
def test_a_result_that_is_converted_too_keeps_its_type(name, chip, narrow):
    x = arguments(4, 257, np.float32)[0]
    for f in (lambda x: jax.nn.log_softmax(x, -1), lambda x: jnp.tanh(x) * 3, lambda x: x + 0.1):
        want = [y for y in on_cpu_all(lambda x: RESULTS[name](f(x), narrow), x) if y.dtype == np.float64]
        device = capi.Device(chip=chip, threads=2)
        executable = device.compile(export(lambda x: RESULTS[name](f(x), narrow), x))
        got = [y for y in executable(x) if y.dtype == np.float32]
        executable.destroy()
        device.close()
        assert len(got) == len(want) == 1
        np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-5)


# --- products --------------------------------------------------------------------------------------

PRODUCT_ENDS = {
    "bias": lambda p, s, x: p + s,
    "residual, from the left": lambda p, s, x: x[:, : p.shape[1]] - p,
    "scale": lambda p, s, x: p * 0.125,
    "scale, then a row": lambda p, s, x: (p * 0.125) * x[:, :1],
    "two steps with a tile": lambda p, s, x: (p * 2 + x[:, : p.shape[1]]) * s,
    "negative": lambda p, s, x: -p,
    "function of an affine": lambda p, s, x: jnp.tanh(p * 0.25 + 0.5),
    "comparison": lambda p, s, x: jnp.where(p > s, s, 1).astype(p.dtype),
    "gate": lambda p, s, x: jax.nn.silu(p) * s,
    "scores": lambda p, s, x: jax.nn.softmax(p * 0.125, -1),
    "product of two products": lambda p, s, x: p * (x @ jnp.ones((x.shape[1], p.shape[1]), x.dtype)),
    "square": lambda p, s, x: p * p,
    "sum of a row of functions": lambda p, s, x: jnp.exp(p - 3).sum(-1, keepdims=True) + s,
}


def product_arguments(rows, cols, dtype, depth=64):
    rng = np.random.default_rng(SEED + rows * 10007 + cols)
    x = (rng.standard_normal((rows, max(depth, cols))) / np.sqrt(max(depth, cols))).astype(dtype)
    w = rng.standard_normal((max(depth, cols), cols)).astype(dtype)
    return x, w, rng.standard_normal(cols).astype(dtype)


@pytest.mark.parametrize("rows,cols", [(1, 31), (33, 1), (129, 127), (257, 640), (128, 1025), (130, 2049)])
@pytest.mark.parametrize("name", PRODUCT_ENDS)
def test_what_takes_a_product_from_psum_has_the_value_of_its_copy(name, rows, cols):
    f = lambda x, w, s: PRODUCT_ENDS[name](x @ w, s, x)  # noqa: E731
    args = product_arguments(rows, cols, np.float32)
    np.testing.assert_allclose(run(f, *args), on_cpu(f, *args), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("chip", [*CHIPS, "inf2"])
@pytest.mark.parametrize("dtype", [BF16, np.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", PRODUCT_ENDS)
def test_narrow_products_from_psum_on_each_chip(name, dtype, chip):
    f = lambda x, w, s: PRODUCT_ENDS[name](x @ w, s, x)  # noqa: E731
    args = product_arguments(150, 640, dtype)
    got, want = run(f, *args, chip=chip).astype(np.float64), on_cpu(f, *args)
    if name == "comparison":  # beside a tie, rounding chooses
        assert (got != want).mean() < 0.01
    else:
        np.testing.assert_allclose(got, want, rtol=0.04, atol=0.04)


def test_a_bias_is_added_to_a_product_in_psum(tmp_path):
    """Sums are fp32 in PSUM, what is transposed on its way in is bf16."""
    args = product_arguments(256, 512, BF16, depth=128)
    text = dump(lambda x, w, s: x @ w + s, *args, stage="emit", tmp_path=tmp_path)
    readers = re.findall(r"^    \w+ ([\w.]+) sbuf\S+ \S+ psum\[[^]]*\]:fp32", text, flags=re.M)
    assert readers and set(readers) == {"tensor_tensor.add"}
    kept = dump(lambda x, w, s: (x @ w + s, x @ w), *args, stage="emit", tmp_path=tmp_path)
    readers = re.findall(r"^    \w+ ([\w.]+) sbuf\S+ \S+ psum\[[^]]*\]:fp32", kept, flags=re.M)
    assert {"tensor_copy", "activate.copy"} & set(readers)


def test_the_largest_of_a_row_is_negated_by_its_reduction(tmp_path):
    text = dump(shifted_exp, np.zeros((128, 256), np.float32), stage="emit", tmp_path=tmp_path)
    assert re.search(r"tensor_reduce.*negate", text), text
    assert "tensor_scalar" not in text


def test_scalar_adds_up_rows_where_vector_has_more_to_do(tmp_path):
    args = np.ones((512, 256), np.float32), np.ones(256, np.float32), np.ones(256, np.float32)
    made = instructions(summed_products, *args, tmp_path=tmp_path)
    assert made.count("act_read_accumulator") > 0
    made = instructions(lambda x: x.sum(-1), args[0], tmp_path=tmp_path)
    assert "act_read_accumulator" not in made and made.count("tensor_reduce.add") == 4


CONSTANT_OPS = {
    "add": lax.add, "subtract": lax.sub, "multiply": lax.mul, "maximum": lax.max, "minimum": lax.min, "and": lax.bitwise_and,
    "or": lax.bitwise_or, "xor": lax.bitwise_xor, "shift left": lax.shift_left, "less": lax.lt, "equal": lax.eq,
    "shift right": lax.shift_right_logical, "arithmetic shift": lax.shift_right_arithmetic,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int8, np.uint16])
@pytest.mark.parametrize("shape", [(7,), (40, 3)])
def test_constants_of_integer_operations_are_exact_on_either_side(dtype, shape):
    info = np.iinfo(dtype)
    rng = np.random.default_rng(SEED)
    x, row = (rng.integers(info.min, info.max, s, dtype, endpoint=True) for s in (shape, shape[:1] + (1,) * (len(shape) - 1)))

    def f(x, row):
        tiles, numbers = (x, jnp.broadcast_to(row, x.shape)), (0, info.max, info.min, 5, 31)
        constants = [jnp.full(x.shape, n, dtype) for n in numbers]
        return [op(*pair) for op in CONSTANT_OPS.values() for t in tiles for c in constants for pair in ((t, c), (c, t))] + [
            op(*tiles) for op in CONSTANT_OPS.values()]  # fmt: skip

    with jax.default_device(jax.devices("cpu")[0]):
        want = jax.jit(f)(x, row)
    for got, exact in zip(chip_run.run(f, x, row), want):
        np.testing.assert_array_equal(got, np.asarray(exact))


def test_constants_of_integer_operations_take_no_tiles(tmp_path):
    """Rounds as threefry has them."""

    def f(x, y):
        for k in (13, 15, 26, 6):
            x = x + y
            y = x ^ (y << np.uint32(k) | y >> np.uint32(32 - k))
        return x + np.uint32(0x1BD11BDA), y

    words = np.zeros((40, 3), np.uint32)
    made = instructions(f, words, words, tmp_path=tmp_path)
    assert made.count("memset") == 0, made
    assert "tensor_scalar.shift_left" in made and "tensor_scalar.add" in made
    assert not any(i.startswith("tensor_tensor.shift") for i in made), made


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.int8, np.uint16, np.int32])
def test_a_number_before_a_row_keeps_its_value(dtype):
    """Comparisons have results of a byte, in which the number does not fit."""
    row = np.arange(40).reshape(40, 1).astype(dtype)
    numbers = (1.5, 21, 300) if dtype in (np.float32, BF16) else (-3, 21, 100) if dtype != np.uint16 else (21, 65535)

    def f(row):
        tile = jnp.broadcast_to(row, (40, 3))
        numbers_before = [jnp.full(tile.shape, n, dtype) for n in numbers]
        return [op(n, tile) for n in numbers_before for op in (lax.lt, lax.ge, lax.eq, lax.max, lax.sub)]

    with jax.default_device(jax.devices("cpu")[0]):
        want = jax.jit(f)(row)
    for got, exact in zip(chip_run.run(f, row), want):
        np.testing.assert_array_equal(got, np.asarray(exact))


def test_what_integers_give_by_constant_index_is_known_before_the_program_runs(tmp_path):
    rng = np.random.default_rng(SEED)
    index, table = rng.integers(-3, 110, 300), rng.integers(-9, 9, 50).astype(np.float32)
    added = rng.integers(-5, 5, 300).astype(np.int32)

    def f(x):
        counts = jnp.zeros(100, jnp.int32).at[index].add(1, mode="drop")
        sums = jnp.ones(100, jnp.int32).at[index].add(added, mode="drop")
        most = jnp.zeros(100, jnp.int32).at[index].max(added, mode="drop")
        return x * (counts + 10 * sums + 1000 * most) + jnp.asarray(table)[index[:100] % 50]

    x = rng.integers(-9, 9, 100).astype(np.float32)
    with jax.default_device(jax.devices("cpu")[0]):
        want = np.asarray(f(x))
    np.testing.assert_array_equal(run(f, x), want)
    assert {"matmul", "dma_gather", "dma_scatter"}.isdisjoint(instructions(f, x, tmp_path=tmp_path))


def test_sums_of_floats_and_rows_that_replace_keep_their_order(tmp_path):
    index = np.array([3, 3, 1, 3], np.int32)

    def f(x):
        floats = jnp.zeros(5).at[index].add(np.array([1e8, 1, 2, -1e8], np.float32))
        return x + floats, x + jnp.zeros(5, jnp.int32).at[index].set(np.array([1, 2, 3, 4], np.int32))

    kinds = dump(f, np.ones(5, np.float32), stage="graph", tmp_path=tmp_path)
    assert kinds.count("stablehlo.scatter") == 2
