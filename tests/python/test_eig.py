"""Eigenvalues, Schur and Hessenberg forms of general matrices, and tridiagonal ones, on the neuron backend."""

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
import jax.scipy.linalg as jsp  # noqa: E402
from linalg_oracle import (  # noqa: E402
    DTYPES, adjoint, assert_product, assert_unitary, hermitian, matrix, on_cpu, on_neuron, roundings,
    wide)  # fmt: skip

pytestmark = pytest.mark.part(3)

SHAPES = [(1, 1), (2, 2), (3, 3), (33, 33), (128, 128), (2, 3, 5, 5)]


def check_vectors(a, w, v):
    """a v = v w, and v has columns of unit length."""
    residual = wide(a) @ v - v * w[..., None, :]
    assert roundings(residual, wide(a), a.dtype, a.shape[-1]) < 4
    np.testing.assert_allclose(np.linalg.norm(v, axis=-2), 1, rtol=1e-5)


@pytest.mark.parametrize("shape", [(0, 0), (0, 4, 4), *SHAPES], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_eigenvectors_from_both_sides(shape, dtype):
    a = matrix(shape, dtype)
    w, left, right = on_neuron(
        lambda a: jax.lax.linalg.eig(a, compute_left_eigenvectors=True), a)  # fmt: skip
    check_vectors(a, wide(w), wide(right))
    check_vectors(adjoint(a), wide(w).conj(), wide(left))


@pytest.mark.parametrize("n", [2, 5, 8, 33])
def test_real_matrices_have_conjugate_pairs_and_vectors_as_lapack_scales_them(n):
    a = matrix((n, n), "float64")
    w, v = on_neuron(jnp.linalg.eig, a)
    expected_w, expected_v = np.linalg.eig(a)
    for k in range(n):
        if w[k].imag > 0:
            assert w[k + 1] == w[k].conj()
            np.testing.assert_array_equal(v[:, k + 1], v[:, k].conj())
        elif w[k].imag == 0:
            np.testing.assert_array_equal(v[:, k].imag, 0)
        other = np.argmin(np.abs(expected_w - w[k]))
        np.testing.assert_allclose(w[k], expected_w[other], rtol=1e-10)
        phase = v[:, k] @ expected_v[:, other].conj()
        np.testing.assert_allclose(v[:, k], phase * expected_v[:, other], atol=1e-10)
        if w[k].imag:
            np.testing.assert_allclose(abs(phase.real), 1, rtol=1e-10)


SPECIAL = {
    "zeros": np.zeros((4, 4)),
    "one": np.eye(5),
    "a Jordan block": np.eye(6, k=1) + 2 * np.eye(6),
    "a nilpotent": np.eye(6, k=1),
    "a permutation": np.roll(np.eye(7), 1, axis=0),
    "a rotation": np.array([[0.0, -1], [1, 0]]),
    "a companion": np.vstack([np.arange(-3.0, 3), np.eye(5, 6)]),
    "huge": matrix((5, 5), "float64") * 1e290,
    "tiny": matrix((5, 5), "float64") * 1e-290,
    "triangular": np.triu(matrix((6, 6), "float64")),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_matrices(name):
    a = SPECIAL[name]
    w, v = on_neuron(jnp.linalg.eig, a)
    check_vectors(a, w, v)
    t, z = on_neuron(lambda a: jax.lax.linalg.schur(a), a)
    assert_unitary(z)
    assert_product(z @ t @ adjoint(z), a)


def test_eigenvalues_of_a_badly_scaled_matrix_keep_their_digits():
    a = matrix((6, 6), "float64")
    scales = 2.0 ** np.arange(0, 60, 10)
    w, v = on_neuron(jnp.linalg.eig, a * scales / scales[:, None])
    w0, v0 = on_neuron(jnp.linalg.eig, a)
    np.testing.assert_allclose(np.sort_complex(w), np.sort_complex(w0), rtol=1e-10)
    residual = (a * scales / scales[:, None]) @ v - v * w
    assert np.abs(residual * scales[:, None]).max() < 1e-12 * np.abs(v * scales[:, None]).max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_gives_nan_for_its_matrix_alone(dtype):
    a = matrix((3, 4, 4), dtype)
    a[1, 2, 1] = np.nan
    w, v = on_neuron(jnp.linalg.eig, a)
    assert np.isnan(w[1]).all() and np.isnan(v[1]).all()
    check_vectors(a[::2], wide(w[::2]), wide(v[::2]))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_gradients_equal_the_cpus(dtype):
    a = matrix((4, 4), dtype)

    def f(a):
        w = jnp.linalg.eigvals(a)
        return (jnp.abs(w) ** 3).sum()

    got, expected = on_neuron(jax.jit(jax.grad(f)), a), on_cpu(jax.grad(f), a)
    np.testing.assert_allclose(got, expected, rtol=1e-8)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_schur_form_is_triangular_but_for_blocks_of_complex_pairs(shape, dtype):
    a = matrix(shape, dtype)
    t, z = on_neuron(jax.lax.linalg.schur, a)
    assert_unitary(z)
    assert_product(wide(z) @ wide(t) @ adjoint(wide(z)), a, 6)
    np.testing.assert_array_equal(np.tril(t, -2), 0)
    below = np.diagonal(t, -1, -2, -1)
    if dtype.startswith("complex"):
        np.testing.assert_array_equal(below, 0)
    else:
        pairs = below != 0
        assert not (pairs[..., 1:] & pairs[..., :-1]).any()
        diagonal, above = np.diagonal(t, 0, -2, -1), np.diagonal(t, 1, -2, -1)
        np.testing.assert_array_equal(diagonal[..., 1:][pairs], diagonal[..., :-1][pairs])
        assert (above[pairs] * below[pairs] < 0).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_hessenberg_form(shape, dtype):
    a = matrix(shape, dtype)
    h, q = on_neuron(lambda a: jsp.hessenberg(a, calc_q=True), a)
    np.testing.assert_array_equal(np.tril(h, -2), 0)
    assert_unitary(q)
    assert_product(wide(q) @ wide(h) @ adjoint(wide(q)), a)


@pytest.mark.parametrize("is_lower", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 3), (33, 33), (2, 5, 5)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_tridiagonal_form_equals_the_cpus(shape, dtype, is_lower):
    a = hermitian(shape, dtype)
    got = on_neuron(lambda a: jax.lax.linalg.tridiagonal(a, lower=is_lower), a)
    expected = on_cpu(lambda a: jax.lax.linalg.tridiagonal(a, lower=is_lower), a)
    for x, y in zip(got[1:], expected[1:], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11)
    part = (lambda a: np.tril(a)) if is_lower else (lambda a: np.triu(a))
    np.testing.assert_allclose(part(got[0]), part(expected[0]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n", [1, 2, 3, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tridiagonal_systems(n, dtype):
    below, diagonal, above = (matrix((2, n), dtype, np.random.default_rng(i)) for i in range(3))
    b = matrix((2, n, 3), dtype)
    x = on_neuron(jax.lax.linalg.tridiagonal_solve, below, diagonal, above, b)
    for i in range(2):
        a = np.diag(diagonal[i]) + np.diag(below[i, 1:], -1) + np.diag(above[i, :-1], 1)
        assert roundings(wide(a) @ wide(x[i]) - b[i], np.abs(wide(x)) * 3, dtype, 4) < 4


def test_a_singular_tridiagonal_system_is_nan_unless_it_is_perturbed():
    zero, b = np.zeros((2, 4), np.float32), np.ones((2, 4, 1), np.float32)
    diagonal = np.array([[1, 2, 3, 4], [1, 0, 1, 1]], np.float32)
    x = on_neuron(jax.lax.linalg.tridiagonal_solve, zero, diagonal, zero, b)
    np.testing.assert_allclose(x[0, :, 0], 1 / diagonal[0], rtol=1e-6)
    assert np.isnan(x[1]).all()
    x = on_neuron(lambda *a: jax.lax.linalg.tridiagonal_solve(*a, perturb_singular=True),
                  zero, diagonal, zero, b)  # fmt: skip
    assert np.isfinite(x).all() and x[1, 1, 0] > 1e6


FUNCTIONS = {
    "sqrtm": lambda a: jsp.sqrtm(a @ a.T),
    "roots": lambda a: jnp.sort_complex(jnp.roots(a[0])),
    "eigvals": lambda a: jnp.sort_complex(jnp.linalg.eigvals(a)),
    "eigh_tridiagonal": lambda a: jsp.eigh_tridiagonal(a[0], a[1, :-1], eigvals_only=True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_built_on_them_equal_the_cpus(name):
    a = matrix((5, 5), "float64")
    got, expected = on_neuron(FUNCTIONS[name], a), on_cpu(FUNCTIONS[name], a)
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-10)


def test_vmap_and_jit():
    a = matrix((4, 6, 6))
    w, v = on_neuron(jax.jit(jax.vmap(jnp.linalg.eig)), a)
    check_vectors(a, wide(w), wide(v))
