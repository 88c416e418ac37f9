"""Eigenvalues and eigenvectors of Hermitian matrices on the neuron backend."""

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from linalg_oracle import (  # noqa: E402
    DTYPES, adjoint, assert_product, assert_unitary, hermitian, matrix, on_cpu, on_neuron, roundings,
    wide)  # fmt: skip

SHAPES = [(0, 0), (1, 1), (2, 2), (3, 3), (33, 33), (128, 128), (129, 129), (2, 3, 5, 5), (0, 4, 4)]


def check(a, w, v):
    n = a.shape[-1]
    assert w.shape == a.shape[:-1] and v.shape == a.shape and v.dtype == a.dtype
    assert (np.diff(w) >= 0).all()
    assert_unitary(v)
    assert_product(wide(v) * w[..., None, :] @ adjoint(wide(v)), a)
    assert roundings(w - np.linalg.eigvalsh(wide(a)), a, a.dtype, n) < 4


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_are_orthonormal_and_give_the_matrix(shape, dtype):
    a = hermitian(shape, dtype)
    check(a, *on_neuron(jnp.linalg.eigh, a))


def test_bfloat16_is_computed_wide_and_rounded():
    a = hermitian((6, 6)).astype(jnp.bfloat16)
    w, v = on_neuron(lambda a: jax.lax.linalg.eigh(a)[::-1], a)
    check(a, np.sort(wide(w)), v)


@pytest.mark.parametrize("f", [jnp.linalg.eigh, jnp.linalg.svd, jnp.linalg.qr, jnp.linalg.inv])
def test_float16_is_refused_as_on_the_cpu(f):
    for run in (on_neuron, on_cpu):
        with pytest.raises(NotImplementedError, match="Unsupported dtype float16"):
            run(f, np.eye(3, dtype=np.float16))


SPECIAL = {
    "zeros": np.zeros((5, 5)),
    "one": np.eye(7),
    "equal eigenvalues": np.full((9, 9), 2.0),
    "blocks": np.kron(np.eye(4), [[1.0, 2], [2, 1]]),
    "huge": hermitian((6, 6), "float64") * 1e300,
    "tiny": hermitian((6, 6), "float64") * 1e-300,
    "graded": hermitian((8, 8), "float64") * np.logspace(0, -30, 8) * np.logspace(0, -30, 8)[:, None],
    "graded the other way": hermitian((8, 8), "float64")
    * np.logspace(-30, 0, 8) * np.logspace(-30, 0, 8)[:, None],
    "Wilkinson's": np.diag(np.abs(np.arange(-10, 11.0))) + np.eye(21, k=1) + np.eye(21, k=-1),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECIAL)
def test_special_matrices(name):
    check(SPECIAL[name], *on_neuron(jnp.linalg.eigh, SPECIAL[name]))


@pytest.mark.parametrize("uplo", "LU")
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_one_triangle_is_read(uplo, dtype):
    a = matrix((7, 7), dtype)
    triangle = np.tril(a, -1) if uplo == "L" else np.triu(a, 1)
    whole = triangle + adjoint(triangle) + np.diag(np.diag(a).real).astype(dtype)
    got = on_neuron(lambda a: jnp.linalg.eigh(a, UPLO=uplo, symmetrize_input=False), a)
    check(whole, *got)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_gives_nan_for_its_matrix_alone(bad):
    a = hermitian((3, 4, 4))
    a[1, 2, 2] = bad
    w, v = on_neuron(jnp.linalg.eigh, a)
    assert np.isnan(w[1]).all() and np.isnan(v[1]).all()
    check(a[::2], w[::2], v[::2])


def test_some_of_the_eigenvalues():
    a = hermitian((9, 9))
    v, w = on_neuron(lambda a: jax.lax.linalg.eigh(a, subset_by_index=(2, 5)), a)
    assert w.shape == (3,) and v.shape == (9, 3)
    np.testing.assert_allclose(w, np.linalg.eigvalsh(a)[2:5], atol=1e-5)
    np.testing.assert_allclose(a @ v, v * w, atol=1e-5)


def test_eigenvectors_have_a_sign_that_a_small_change_leaves():
    a = hermitian((12, 12), "float64")
    change = hermitian((12, 12), "float64", np.random.default_rng(1)) * 1e-7
    before, after = (on_neuron(jnp.linalg.eigh, x)[1] for x in (a, a + change))
    np.testing.assert_allclose(before, after, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_equal_the_cpus(dtype):
    a = hermitian((5, 5), dtype)

    def f(a):
        w, v = jnp.linalg.eigh(a)
        return (w**2 * jnp.abs(v[0]) ** 2).sum()

    got, expected = on_neuron(jax.jit(jax.grad(f)), a), on_cpu(jax.grad(f), wide(a))
    np.testing.assert_allclose(got, expected, rtol=1e-3 if a.itemsize % 16 else 1e-8, atol=1e-4)


def test_vmap_and_jit():
    a = hermitian((4, 6, 6))
    w = on_neuron(jax.jit(jax.vmap(jnp.linalg.eigvalsh)), a)
    np.testing.assert_allclose(w, np.linalg.eigvalsh(a), atol=1e-5)
