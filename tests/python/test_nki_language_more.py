"""Functions of nki.language that are many instructions, against NumPy."""

import ml_dtypes
import numpy as np
import pytest

import vtrn.nki
from vtrn.nki import isa as nisa, language as nl

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


@pytest.mark.parametrize("name", ["cos", "tan", "sin"])
@pytest.mark.parametrize("reach", [3.0, 100.0, 1e4])
def test_functions_of_angles_are_right_beyond_one_turn(name, reach):
    x = rng.uniform(-reach, reach, (64, 96)).astype(np.float32)
    want = getattr(np, name)(x.astype(np.float64))
    slope = 1 + want**2 if name == "tan" else 1  # how an error of the angle grows
    assert (np.abs(run(getattr(nl, name), x) - want) < 1e-6 * slope + 2e-7 * np.abs(want)).all()


SIGNS = [(1, 1), (1, -1), (-1, 1), (-1, -1)]


@pytest.mark.parametrize("name", ["fmod", "mod"])
@pytest.mark.parametrize("signs", SIGNS)
def test_remainders_of_fp32_are_numpys(name, signs):
    x = (rng.uniform(0, 1000, (32, 200)) * signs[0]).astype(np.float32)
    y = (rng.uniform(0.5, 30, (32, 200)) * signs[1]).astype(np.float32)
    x[0, :50], y[0, :50] = np.arange(50) * signs[0], 5 * signs[1]  # whole quotients
    want = getattr(np, name)(x, y)
    got = run(getattr(nl, name), x, y)
    # a remainder of 0 may as well be one of almost y, where the quotient is whole but for rounding
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert (np.abs(got) <= np.abs(y)).all()


@pytest.mark.parametrize("name", ["fmod", "mod"])
@pytest.mark.parametrize("signs", SIGNS)
def test_remainders_of_integers_are_exact(name, signs):
    x = (rng.integers(0, 2**31 - 70000, (32, 200)) * signs[0]).astype(np.int32)
    y = (rng.integers(1, 65536, (32, 200)) * signs[1]).astype(np.int32)
    x[0, :50], y[0, :50] = np.arange(50) * signs[0], 5 * signs[1]
    np.testing.assert_array_equal(run(getattr(nl, name), x, y), getattr(np, name)(x, y))


def test_remainders_take_numbers():
    x = np.arange(-12, 12, dtype=np.float32).reshape(1, -1)
    np.testing.assert_array_equal(run(lambda t: nl.mod(t, 5), x), np.mod(x, 5))
    np.testing.assert_array_equal(run(lambda t: nl.fmod(100.0, nl.add(t, 12.5)), x), np.fmod(np.float32(100), x + 12.5))
    small, large = np.array([[1.0, -2.0]], np.float32), np.array([[np.inf, 1e30]], np.float32)
    np.testing.assert_array_equal(run(nl.fmod, small, large), small)
    with pytest.raises(ValueError, match="x has shape"):
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
