"""Functions of nki.language that are many instructions, against NumPy."""

import ml_dtypes
import numpy as np
import pytest

import vtrn.nki
from vtrn.nki import errors, isa as nisa, language as nl

rng = np.random.default_rng(11)


def run(function, *arrays):
    """What function gives of tiles with the arrays' values, as an array."""
    @vtrn.nki.jit
    def kernel(*inputs):
        made = function(*(nl.load(x) for x in inputs))
        out = nl.ndarray(made.shape, made.dtype, buffer=nl.shared_hbm)
        nl.store(out, made)
        return out

    return kernel(*arrays)


NUMBERS = np.concatenate([rng.uniform(-9, 9, 200), np.arange(-4, 4, 0.5), [0.0, -0.0, 1e30, -1e30, 2**23 - 0.5, 8388609.0,
                          -2147483648.0, np.inf, -np.inf, 0.99999994, -0.99999994, 1e-30, -1e-30]]).astype(np.float32)


@pytest.mark.parametrize("name", ["floor", "ceil", "trunc"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16, np.int32, np.uint8])
@pytest.mark.parametrize("shape", [(128, -1), (1, -1), (3, 2, -1)])
def test_rounding_gives_numpys_whole_numbers(name, dtype, shape):
    n = abs(int(np.prod(shape)))
    x = np.resize(NUMBERS, n * 29)
    if np.dtype(dtype).kind in "iu":
        x = np.resize(np.arange(100), n * 29)
    x = x.reshape(shape).astype(dtype)
    want = getattr(np, name)(x.astype(np.float64)).astype(dtype)
    np.testing.assert_array_equal(run(getattr(nl, name), x), want)


def test_rounding_keeps_nan_and_takes_a_dtype():
    x = np.array([[np.nan, 1.5, -2.5]], np.float32)
    np.testing.assert_array_equal(run(nl.floor, x), np.floor(x))
    got = run(lambda t: nl.ceil(t, dtype=nl.int32), x[:, 1:])
    assert got.dtype == np.int32 and got.tolist() == [[2, -2]]


SIGNS = [(1, 1), (1, -1), (-1, 1), (-1, -1)]


@pytest.mark.parametrize("name", ["fmod", "mod"])
@pytest.mark.parametrize("signs", SIGNS)
def test_remainders_of_fp32_are_numpys(name, signs):
    x = (rng.uniform(0, 1000, (32, 200)) * signs[0]).astype(np.float32)
    y = (rng.uniform(0.5, 30, (32, 200)) * signs[1]).astype(np.float32)
    x[0, :50], y[0, :50] = np.arange(50) * signs[0], 5 * signs[1]  # whole quotients
    want = getattr(np, name)(x, y)
    got = run(getattr(nl, name), x, y)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


@pytest.mark.parametrize("name", ["fmod", "mod"])
@pytest.mark.parametrize("signs", SIGNS)
def test_remainders_of_integers_are_exact(name, signs):
    x = (rng.integers(0, 2**31, (32, 200)) * signs[0]).astype(np.int32)
    y = (np.maximum(rng.integers(1, 2**31, (32, 200)) >> rng.integers(0, 31, (32, 200)), 1) * signs[1]).astype(np.int32)
    x[0, :50], y[0, :50] = np.arange(50) * signs[0], 5 * signs[1]
    np.testing.assert_array_equal(run(getattr(nl, name), x, y), getattr(np, name)(x, y))


@pytest.mark.parametrize("name", ["fmod", "mod"])
def test_remainders_of_unsigned_integers_are_exact(name):
    x = rng.integers(0, 2**32, (32, 200)).astype(np.uint32)
    y = np.maximum(rng.integers(1, 2**32, (32, 200)) >> rng.integers(0, 32, (32, 200)), 1).astype(np.uint32)
    np.testing.assert_array_equal(run(getattr(nl, name), x, y), getattr(np, name)(x, y))
    narrow = rng.integers(1, 256, x.shape).astype(np.uint8)
    np.testing.assert_array_equal(run(getattr(nl, name), x, narrow), getattr(np, name)(x, narrow))
    with pytest.raises(TypeError, match="x is uint32, y int32; copy one"):
        run(getattr(nl, name), x, y.astype(np.int32))


@pytest.mark.parametrize("name", ["fmod", "mod"])
@pytest.mark.parametrize("largest", [2**12, 2**24, 2**32.99])
def test_remainders_of_large_quotients_are_exact(name, largest):
    y = (rng.uniform(1, 2, (64, 300)) * 2.0**rng.integers(-30, 30, (64, 300))).astype(np.float32)
    x = (y * 2.0**rng.uniform(0, np.log2(largest), y.shape)).astype(np.float32) * rng.choice([-1, 1], y.shape)
    x, y = x.astype(np.float32), y * rng.choice([-1, 1], y.shape).astype(np.float32)
    np.testing.assert_array_equal(run(getattr(nl, name), x, y), getattr(np, name)(x, y))


EDGES = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 3.4028235e38, -3.4e38, 1e-45, 1e-40, 1.1754944e-38, 2.0**126,
                  1.7e38, 8.6e37, 3e38], np.float32)


@pytest.mark.parametrize("name", ["fmod", "mod"])
def test_remainders_are_numpys_or_nan_with_a_warning(name):
    """Of any fp32: the smallest and largest, infinities, NaN, and any bits."""
    bits = rng.integers(0, 2**32, (2, 64, 256)).astype(np.uint32).view(np.float32)
    for x, y in (np.meshgrid(EDGES, EDGES), bits):
        with np.errstate(all="ignore"), pytest.warns(UserWarning, match=f"nl.{name}: quotients up to .* NaN beyond"):
            got, want, quotient = run(getattr(nl, name), x, y), getattr(np, name)(x, y), np.abs(x / y.astype(np.float64))
        is_far = (quotient >= 2**33) & np.isfinite(quotient)
        assert is_far.any() and np.isnan(got[is_far]).all()
        np.testing.assert_array_equal(got[~is_far], want[~is_far])


def test_integers_divided_by_zero_warn():
    x = np.arange(8, dtype=np.int32).reshape(1, 8)
    with pytest.warns(UserWarning, match="nl.mod: 1 of 8 divisors are 0"):
        run(nl.mod, x, x)


def test_remainders_take_numbers():
    x = np.arange(-12, 12, dtype=np.float32).reshape(1, -1)
    np.testing.assert_array_equal(run(lambda t: nl.mod(t, 5), x), np.mod(x, 5))
    np.testing.assert_array_equal(run(lambda t: nl.fmod(100.0, nl.add(t, 12.5)), x), np.fmod(np.float32(100), x + 12.5))
    small, large = np.array([[1.0, -2.0]], np.float32), np.array([[np.inf, 1e30]], np.float32)
    np.testing.assert_array_equal(run(nl.fmod, small, large), small)
    with pytest.raises(errors.NkiValidationError, match="nl.fmod: tiles of shapes"):
        run(nl.fmod, x, x[:, :3])


@pytest.mark.parametrize("shape, axis", [((128, 40), 1), ((5, 3, 40), 2), ((5, 3, 40), (1, 2)), ((5, 3, 40), [-1])])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_var_and_all_reduce_the_last_axes(shape, axis, dtype):
    x = rng.standard_normal(shape).astype(dtype)
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else axis
    want = np.var(x.astype(np.float32), axes, keepdims=True)
    got = run(lambda t: nl.var(t, axis, dtype=nl.float32), x)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=2e-5)
    x[rng.random(shape) < 0.02] = 0
    want = np.all(x.astype(np.float32), axes)
    np.testing.assert_array_equal(run(lambda t: nl.all(t, axis), x).reshape(want.shape).astype(bool), want)
    with pytest.raises(ValueError, match="takes the last free dimensions"):
        run(lambda t: nl.var(t, 0), x)


@pytest.mark.parametrize("rows", [1, 128])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_rms_norm_scales_rows(rows, dtype):
    x, w = rng.standard_normal((128, 96)).astype(dtype), rng.standard_normal((rows, 96)).astype(dtype)
    wide = x.astype(np.float64)
    want = wide / np.sqrt((wide**2).sum(1, keepdims=True) / 96 + 1e-3) * w.astype(np.float64)
    got = run(lambda a, b: nl.rms_norm(a, b, axis=1, n=96, epsilon=1e-3, compute_dtype=nl.float32), x, w)
    assert got.dtype == dtype
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=1e-5 if dtype == np.float32 else 8e-3, atol=1e-6)


def test_random_numbers_follow_the_seed_and_are_uniform():
    @vtrn.nki.jit
    def kernel():
        parts = []
        for seed in (42, 42, 43):
            nl.random_seed(nl.full((1, 1), seed, dtype=nl.int32))
            parts.append(nl.rand((128, 300), nl.float32))
        out = nl.ndarray((3, 128, 300), nl.float32, buffer=nl.shared_hbm)
        for i, part in enumerate(parts):
            nisa.dma_copy(dst=out[i], src=part)
        return out, nl.rand((200, 40), nl.float32, buffer=nl.shared_hbm)

    values, other = kernel()
    np.testing.assert_array_equal(values[0], values[1])
    assert (values[0] != values[2]).mean() > 0.99
    for x in (values[0], other):
        assert (x >= 0).all() and (x < 1).all()
        counts = np.histogram(x, 10, (0, 1))[0]
        assert (np.abs(counts - x.size / 10) < 5 * np.sqrt(x.size / 10)).all()


def test_dropout_zeroes_its_share_and_keeps_the_rest():
    x = rng.uniform(1, 2, (128, 400)).astype(np.float32)
    got = run(lambda t: nl.dropout(t, 0.3), x)
    dropped = got == 0
    np.testing.assert_array_equal(got[~dropped], x[~dropped])
    assert abs(dropped.mean() - 0.3) < 0.01


@pytest.mark.parametrize("kind", [np.uint32, np.int32])
def test_gather_flattened_gathers_in_each_partition(kind):
    data = rng.standard_normal((128, 4, 16)).astype(np.float32)
    indices = rng.integers(0, 64, (128, 50)).astype(kind)
    want = np.take_along_axis(data.reshape(128, 64), indices.astype(np.int64), 1)
    np.testing.assert_array_equal(run(nl.gather_flattened, data, indices), want)
    with pytest.raises(ValueError, match="axis=1"):
        run(lambda a, b: nl.gather_flattened(a, b, axis=1), data, indices)


@pytest.mark.parametrize("slope_is_tile", [False, True])
def test_prelu_has_the_slope_of_activate2(monkeypatch, slope_is_tile):
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn3")
    x, s = rng.standard_normal((128, 64)).astype(np.float32), rng.uniform(0, 1, (128, 1)).astype(np.float32)

    def function(x, s):
        out = nl.ndarray(x.shape, nl.float32)
        nisa.activate2(out, nl.prelu, x, 2.0, 0.5, nl.multiply, nl.add, relu_param=s if slope_is_tile else 0.25)
        return out

    y = x * 2 + np.float32(0.5)
    np.testing.assert_allclose(run(function, x, s), np.where(y > 0, y, y * (s if slope_is_tile else 0.25)), rtol=1e-6)
    with pytest.raises(TypeError, match="activate2"):
        run(lambda a: nl.prelu(a), x)


@pytest.mark.parametrize("name", ["mod", "fmod"])
def test_a_fraction_beside_32_bit_integers_is_refused(name):
    @vtrn.nki.jit
    def kernel(a):
        return getattr(nl, name)(nl.load(a), 2.5)

    with pytest.raises(TypeError, match="2.5 beside a tile of int32, which floats do not hold beyond 2"):
        kernel(np.full((1, 4), 16777217, np.int32))


# -- operands of other shapes, and of no kind


BINARY = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide, "maximum": np.maximum, "minimum": np.minimum,
          "power": np.power, "mod": np.mod, "fmod": np.fmod, "less": np.less, "equal": np.equal, "not_equal": np.not_equal,
          "logical_and": np.logical_and}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.int32], ids=str)
def test_a_column_is_repeated_beside_a_tile(name, is_swapped, dtype):
    if np.dtype(dtype).kind == "i" and name == "divide":
        pytest.skip("of whole numbers there is no division")
    x, column = rng.integers(1, 7, (33, 4, 9)).astype(dtype), rng.integers(1, 5, (33, 1, 1)).astype(dtype)
    x, y = (column, x) if is_swapped else (x, column)
    want = BINARY[name](x.astype(np.float32), y.astype(np.float32)).astype(dtype).astype(np.float32)
    got = run(getattr(nl, name), x, y).astype(np.float32)
    np.testing.assert_allclose(got, want, rtol=2**-7 if dtype == ml_dtypes.bfloat16 else 1e-6)


def test_rows_of_each_partition_and_columns_are_repeated_in_bitwise_operations_and_where():
    x, row, column = (rng.integers(0, 1000, (8, *n)).astype(np.int32) for n in ((3, 5), (1, 5), (3, 1)))
    np.testing.assert_array_equal(run(nl.bitwise_xor, x, row), x ^ row)
    np.testing.assert_array_equal(run(nl.add, row, column), row + column)
    np.testing.assert_array_equal(run(lambda a, b: nl.where(nl.greater(a, b, dtype=nl.uint8), a, b), x, column), np.maximum(x, column))


def test_tiles_that_do_not_fit_and_operands_of_no_kind_are_told():
    x = np.ones((4, 6), np.float32)
    for name in ("add", "mod", "divide"):
        with pytest.raises(errors.NkiValidationError, match=rf"(?s)nl\.\w+: tiles of shapes.*\(4, 6\).*nl.broadcast_to.*\n  at {__file__}"):
            run(getattr(nl, name), x, x[:1])
    for name in ("add", "mod"):
        with pytest.raises(errors.NkiTypeError, match=rf"nl.{name}: an operand is None.*\n  at {__file__}"):
            run(lambda t: getattr(nl, name)(t, None), x)


OPERATORS = ["x + 1", "1 - x", "x * x", "2 / x", "x // 2", "x % 2", "x ** 2", "x @ x", "x << 1", "x >> 1", "x & 1", "1 | x", "x ^ x",
             "-x", "+x", "~x", "abs(x)", "round(x)", "float(x)", "int(x)", "divmod(x, 2)", "np.float32(2) * x",
             "np.ones((4, 6)) + x", "x < 2", "np.exp(x)", "np.sum(x)", "np.float32(1) < x"]


@pytest.mark.parametrize("text", OPERATORS)
def test_operators_of_python_are_told_by_their_line_and_what_stands_for_them(text):
    with pytest.raises(errors.NkiTypeError, match="(?s)(nl\\.|of nl|register|the tile itself).*\n  at my_kernel.py:1"):
        run(lambda x: eval(compile(text, "my_kernel.py", "eval"), {"x": x, "np": np}), np.ones((4, 6), np.float32))
