"""Reductions of what does not vary along rows, along columns, or at all: each element of the result is
written, and counts what it sums up as often as it occurs."""

import itertools

import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

import capi

pytestmark = pytest.mark.part(3)

BF16 = ml_dtypes.bfloat16
CHIPS = ["trn1", "trn2", "trn3", "inf2"]


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


def run(device, f, *args):
    exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
    return device.compile(exported.mlir_module_serialized)(
        *[args[i] for i in exported.module_kept_var_idx]
    )


def assert_close(got, expected, roundings=16):
    """Each element is within a few roundings of the largest from the one expected in fp64."""
    assert len(got) == len(expected)
    for g, e in zip(got, expected):
        e = np.asarray(e)
        assert g.shape == e.shape
        if g.dtype.kind in "biu":
            np.testing.assert_array_equal(g, e.astype(g.dtype))
            continue
        epsilon = float(ml_dtypes.finfo(g.dtype).eps)
        scale = np.abs(e.astype(np.float64)).max() + 1e-30
        np.testing.assert_allclose(g.astype(np.float64), e.astype(np.float64), rtol=0, atol=roundings * epsilon * scale)


ROWS, COLS = 200, 12
SHAPES = {
    "rows": lambda rows, cols: (rows, 1),
    "columns": lambda rows, cols: (1, cols),
    "one": lambda rows, cols: (1, 1),
    "all": lambda rows, cols: (rows, cols),
}
INIT = {
    lax.add: lambda t: 0,
    lax.mul: lambda t: 1,
    lax.max: lambda t: -np.inf if np.dtype(t).kind not in "biu" else np.iinfo(t).min,
    lax.min: lambda t: np.inf if np.dtype(t).kind not in "biu" else np.iinfo(t).max,
    lax.bitwise_and: lambda t: True if t == np.bool_ else -1,
    lax.bitwise_or: lambda t: 0,
}
NUMPY = {
    lax.add: np.add.reduce,
    lax.mul: np.multiply.reduce,
    lax.max: np.maximum.reduce,
    lax.min: np.minimum.reduce,
    lax.bitwise_and: np.bitwise_and.reduce,
    lax.bitwise_or: np.bitwise_or.reduce,
}
AXES = [(0,), (1,), (0, 1)]


def values(rng, shape, dtype):
    if dtype == np.bool_:
        return rng.random(shape) < 0.5
    if np.dtype(dtype).kind in "iu":
        return rng.integers(-9, 9, shape).astype(dtype)
    return rng.choice([-1.5, -1, -0.5, 0.5, 1, 1.5], shape).astype(dtype)


def wide(x):
    return x if x.dtype.kind in "biu" else x.astype(np.float64)


def reduce(f, x, axes):
    return lax.reduce(x, np.asarray(INIT[f](x.dtype), x.dtype), f, axes)


def numpy_reduce(f, x, axes):
    with np.errstate(over="ignore"):
        return NUMPY[f](wide(x), axis=axes, dtype=wide(x).dtype)


def reducers(dtype):
    if dtype == np.bool_:
        return [lax.bitwise_and, lax.bitwise_or]
    if dtype == np.int32:
        return list(INIT)
    return [lax.add, lax.mul, lax.max, lax.min]


def cases_of(dtype):
    cases = list(itertools.product(reducers(dtype), AXES))
    if np.dtype(dtype).kind in "biu":
        return cases
    return [(f, axes) for f, axes in cases if f is not lax.mul or axes == (1,)]  # no overflow


def reductions(cases):
    return lambda x: [reduce(f, jnp.broadcast_to(x, (ROWS, COLS)), axes) for f, axes in cases]


def expected_of(cases, x):
    return [numpy_reduce(f, np.broadcast_to(x, (ROWS, COLS)), axes) for f, axes in cases]


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.float16, np.int32, np.bool_])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_reduction_of_a_stretched_operand(rng, any_chip, shape, dtype):
    x, cases = values(rng, SHAPES[shape](ROWS, COLS), dtype), cases_of(dtype)
    assert_close(run(any_chip, reductions(cases), x), expected_of(cases, x))


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.int32])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_reduction_of_a_stretched_operand_alone(rng, trn1, shape, dtype):
    x = values(rng, SHAPES[shape](ROWS, COLS), dtype)
    for case in cases_of(dtype):
        assert_close(run(trn1, reductions([case]), x), expected_of([case], x))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows, cols", [(1, 1), (2, 33), (127, 512), (128, 513), (129, 1000), (1024, 3), (2049, 128)])
def test_sums_of_any_size(rng, trn1, shape, rows, cols):
    x = values(rng, SHAPES[shape](rows, cols), np.float32)
    y = values(rng, (rows, 1), np.float32)

    def f(x, y):
        z = jnp.broadcast_to(x * 2, (rows, cols))
        return z.sum(0), z.sum(1), (z * y).sum(0), (z + y).sum(0), jnp.broadcast_to(y * y, (rows, cols)).sum(0)

    z = np.broadcast_to(wide(x) * 2, (rows, cols))
    w = wide(y)
    expected = [z.sum(0), z.sum(1), (z * w).sum(0), (z + w).sum(0), np.broadcast_to(w * w, (rows, cols)).sum(0)]
    assert_close(run(trn1, f, x, y), expected)


@pytest.mark.parametrize("cols", [12, 128, 600])
def test_a_value_of_the_row_is_summed_over_rows_behind_a_row_reduction(rng, any_chip, cols):
    x, b = rng.standard_normal((ROWS, cols)).astype(np.float32), values(rng, (cols,), np.float32)

    def f(x, b):
        mean = jnp.tanh((x + b).mean(-1))
        stretched = jnp.broadcast_to(mean[:, None], (ROWS, cols))
        return stretched.sum(0), (stretched * x).sum(0), mean.sum(), (mean * mean).sum()

    mean = np.tanh((wide(x) + wide(b)).mean(-1))
    expected = [np.full(cols, mean.sum()), mean @ wide(x), mean.sum(), (mean * mean).sum()]
    assert_close(run(any_chip, f, x, b), expected)


@pytest.mark.parametrize("rows, cols", [(16, 12), (300, 12), (129, 1000)])
@pytest.mark.parametrize("reduce", [jnp.mean, jnp.sum])
def test_a_bias_under_a_pooling_has_its_gradient(rng, trn1, reduce, rows, cols):
    b = rng.standard_normal(cols).astype(np.float32) / cols
    x = rng.standard_normal((rows, cols)).astype(np.float32) / cols

    def loss(b, x):
        return (jnp.tanh(reduce(x + b, axis=-1)) ** 2).mean()

    assert_close(run(trn1, jax.grad(loss), b, x), [jax.grad(loss)(b, x)])
    batch = rng.standard_normal((3, rows, cols)).astype(np.float32) / cols
    mapped = jax.vmap(jax.grad(loss), (None, 0))
    assert_close(run(trn1, mapped, b, batch), [mapped(b, batch)])

    def step(b, x):
        return b - jax.grad(loss)(b, x), None

    def train(b, batch):
        return lax.scan(step, b, batch)[0]

    assert_close(run(trn1, train, b, batch), [train(b, batch)], roundings=64)


@pytest.mark.parametrize("first", [np.float32, BF16])
def test_one_kernel_sums_columns_of_two_types(rng, any_chip, first):
    second = BF16 if first is np.float32 else np.float32
    x = rng.standard_normal((ROWS, COLS)).astype(np.float32)

    def f(x):
        y = jnp.tanh(x)
        return [reduce(lax.add, (y * 2).astype(t), (0,)) for t in (first, second)]

    y = 2 * np.tanh(wide(x))
    assert_close(run(any_chip, f, x), [y.sum(0), y.sum(0)])
