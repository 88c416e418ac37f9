"""Singular values and vectors on the neuron backend, and what is built on them."""

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from linalg_oracle import (  # noqa: E402
    DTYPES, adjoint, assert_product, assert_unitary, matrix, on_cpu, on_neuron, roundings, wide)  # fmt: skip

pytestmark = pytest.mark.part(3)

SHAPES = [(0, 3), (1, 1), (5, 1), (4, 7), (7, 4), (33, 33), (129, 40), (40, 128),
          (2, 3, 5, 4), (0, 3, 2)]  # fmt: skip


def check(a, u, s, vh):
    k = min(a.shape[-2:])
    assert (s >= 0).all() and (np.diff(s) <= 0).all()
    assert_unitary(u)
    assert_unitary(adjoint(vh))
    assert_product(wide(u)[..., :k] * s[..., None, :] @ wide(vh)[..., :k, :], a)
    assert roundings(s - np.linalg.svd(wide(a), compute_uv=False), a, a.dtype, max(a.shape)) < 4


@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_are_orthonormal_and_give_the_matrix(shape, dtype, is_full):
    a = matrix(shape, dtype)
    check(a, *on_neuron(lambda a: jnp.linalg.svd(a, full_matrices=is_full), a))


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (70, 70)], ids=str)
def test_values_alone(shape):
    a = matrix(shape)
    s = on_neuron(jnp.linalg.svdvals, a)
    np.testing.assert_allclose(s, np.linalg.svd(a, compute_uv=False), atol=1e-5)


SPECIAL = {
    "zeros": np.zeros((4, 3)),
    "one": np.eye(5),
    "a row of zeros": np.vstack([np.eye(3), np.zeros(3)]),
    "rank one": np.outer(np.arange(1.0, 7), np.arange(1.0, 5)),
    "a zero on the bidiagonal": np.diag([1.0, 0, 2, 0]) + np.diag([3.0, 4, 5], 1),
    "a nilpotent": np.eye(6, k=1),
    "huge": matrix((5, 4), "float64") * 1e300,
    "tiny": matrix((5, 4), "float64") * 1e-305,
    "graded": matrix((8, 8), "float64") * np.logspace(0, -40, 8),
    "graded rows": matrix((8, 8), "float64") * np.logspace(-40, 0, 8)[:, None],
    "Hilbert's": 1 / (np.arange(12.0)[:, None] + np.arange(12) + 1),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_matrices(name):
    check(SPECIAL[name], *on_neuron(jnp.linalg.svd, SPECIAL[name]))


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_what_is_not_finite_gives_nan_for_its_matrix_alone(bad):
    a = matrix((3, 4, 2))
    a[1, 2, 1] = bad
    u, s, vh = on_neuron(jnp.linalg.svd, a)
    assert np.isnan(u[1]).all() and np.isnan(s[1]).all() and np.isnan(vh[1]).all()
    check(a[::2], u[::2], s[::2], vh[::2])


def test_some_of_the_values():
    a = matrix((9, 6))
    u, s, vh = on_neuron(
        lambda a: jax.lax.linalg.svd(a, full_matrices=False, subset_by_index=(1, 4)), a)  # fmt: skip
    assert u.shape == (9, 3) and s.shape == (3,) and vh.shape == (3, 6)
    expected = np.linalg.svd(a, full_matrices=False)
    np.testing.assert_allclose(s, expected[1][1:4], rtol=1e-5)
    part = expected[0][:, 1:4] * expected[1][1:4] @ expected[2][1:4]
    np.testing.assert_allclose(u * s @ vh, part, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_gradients_equal_the_cpus(dtype):
    a = matrix((5, 3), dtype)

    def f(a):
        u, s, vh = jnp.linalg.svd(a, full_matrices=False)
        return (s**2).sum() + (jnp.abs(u[0] * vh[:, 0]) ** 2).sum()

    got, expected = on_neuron(jax.jit(jax.grad(f)), a), on_cpu(jax.grad(f), wide(a))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


BUILT_ON_IT = {
    "pinv": lambda np, a, b: np.linalg.pinv(a),
    "lstsq": lambda np, a, b: np.linalg.lstsq(a, b)[0],
    "matrix_rank": lambda np, a, b: np.linalg.matrix_rank(a[:, :2] @ a[:, :2].T),
    "cond": lambda np, a, b: np.linalg.cond(a),
    "norm 2": lambda np, a, b: np.linalg.norm(a, 2),
    "norm nuc": lambda np, a, b: np.linalg.norm(a, "nuc"),
}


@pytest.mark.parametrize("name", BUILT_ON_IT)
def test_functions_that_use_it(name):
    a, b = matrix((7, 4)), matrix((7, 2))
    got = on_neuron(lambda a, b: BUILT_ON_IT[name](jnp, a, b), a, b)
    np.testing.assert_allclose(got, BUILT_ON_IT[name](np, wide(a), wide(b)), rtol=2e-5, atol=1e-5)


def test_vmap_and_jit():
    a = matrix((4, 6, 3))
    s = on_neuron(jax.jit(jax.vmap(jnp.linalg.svdvals)), a)
    np.testing.assert_allclose(s, np.linalg.svd(a, compute_uv=False), rtol=1e-5, atol=1e-6)
