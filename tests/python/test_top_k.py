"""lax.top_k, and approx_max_k and approx_min_k, whose exact answer is one that they may give."""

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402
from linalg_oracle import on_cpu, on_neuron, rng_of  # noqa: E402


def same(f, *args):
    got, expected = on_neuron(f, *args), on_cpu(f, *args)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("is_max", [False, True])
@pytest.mark.parametrize("shape,dim,k", [((9,), 0, 3), ((1,), 0, 1), ((4, 129), 1, 10), ((33, 5), 0, 33),
                                         ((2, 7, 3), -2, 2)], ids=str)  # fmt: skip
def test_the_approximate_few_are_exact(shape, dim, k, is_max, dtype):
    x = rng_of(shape, k).permutation(np.prod(shape)).reshape(shape).astype(jnp.dtype(dtype))
    f = lax.approx_max_k if is_max else lax.approx_min_k
    values, indices = on_neuron(lambda x: f(x, k, reduction_dimension=dim), x)
    order = np.argsort(x if not is_max else -x, axis=dim, kind="stable")
    expected = np.take(order, np.arange(k), axis=dim)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(x, expected, dim))


def test_without_aggregation_there_are_more_and_the_best_are_among_them():
    x = rng_of().standard_normal((2, 4096)).astype(np.float32)
    f = lambda x: lax.approx_max_k(x, 8, aggregate_to_topk=False)  # noqa: E731
    values, indices = on_neuron(f, x)
    assert values.shape == on_cpu(f, x)[0].shape
    np.testing.assert_array_equal(values, np.take_along_axis(x, indices, 1))
    np.testing.assert_array_equal(values[:, :8], -np.sort(-x)[:, :8])


def test_gradient_and_vmap():
    x = rng_of().standard_normal((3, 20)).astype(np.float32)
    f = jax.vmap(jax.grad(lambda x: (lax.approx_max_k(x, 4)[0] ** 2).sum()))
    got = on_neuron(f, x)
    rank = np.argsort(np.argsort(-x, axis=1), axis=1)
    np.testing.assert_allclose(got, np.where(rank < 4, 2 * x, 0), rtol=1e-6)


SPECIAL = np.array([[0.0, -0.0, np.inf, -np.inf, np.nan, 1, 1, -np.nan, 1e-40, -1]], np.float32)


@pytest.mark.parametrize("k", [0, 1, 3, 10])
def test_top_k_of_special_numbers(k):
    same(lambda x: lax.top_k(x, k), SPECIAL)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "float64", "bfloat16",
                                   "float16"])  # fmt: skip
def test_top_k_of_other_types_with_ties(dtype):
    x = rng_of(dtype).integers(0, 9, (4, 33)).astype(jnp.dtype(dtype))
    same(lambda x: lax.top_k(x, 7), x)


@pytest.mark.parametrize("shape,k,axis", [((5, 4), 2, 0), ((0, 4), 2, 1), ((3, 1), 1, 1), ((2, 3, 4), 3, 1)],
                         ids=str)  # fmt: skip
def test_top_k_of_other_shapes(shape, k, axis):
    same(lambda x: lax.top_k(x, k, axis=axis), rng_of(shape).standard_normal(shape).astype(np.float32))
