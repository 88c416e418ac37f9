"""QR, LU, Cholesky and triangular systems on the neuron backend, and the solvers built on them."""

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
import jax.scipy.linalg as jsp  # noqa: E402
from linalg_oracle import (  # noqa: E402
    DTYPES, adjoint, assert_product, assert_unitary, hermitian, matrix, on_cpu, on_neuron, wide)  # fmt: skip

pytestmark = pytest.mark.part(3)

SHAPES = [(0, 3), (1, 1), (4, 7), (7, 4), (129, 40), (40, 128), (2, 3, 5, 4)]
SQUARE = [(0, 0), (1, 1), (33, 33), (128, 128), (2, 3, 5, 5)]


def positive(shape, dtype="float32"):
    a = matrix(shape, dtype)
    return (a @ adjoint(a) + shape[-1] * np.eye(shape[-1])).astype(dtype)


def close(got, expected, dtype, factor=100):
    np.testing.assert_allclose(wide(got), expected, rtol=0, atol=factor * np.finfo(dtype).eps
                               * np.abs(expected).max(initial=1))  # fmt: skip


@pytest.mark.parametrize("mode", ["full", "economic"])
@pytest.mark.parametrize("shape", [(1, 1), (4, 7), (7, 4), (30, 33)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pivoted_qr_orders_the_diagonal(shape, dtype, mode):
    a = matrix(shape, dtype)
    q, r, pivots = on_neuron(lambda a: jsp.qr(a, mode=mode, pivoting=True), a)
    assert sorted(pivots) == list(range(shape[1]))
    assert_unitary(q)
    assert_product(wide(q) @ wide(r), a[:, pivots])
    diagonal = np.abs(np.diag(r))
    assert (diagonal[1:] <= diagonal[:-1] * (1 + 1e-5)).all()
    assert pivots[0] == np.argmax(np.linalg.norm(wide(a), axis=0))


def test_pivoted_qr_finds_the_rank():
    a = matrix((9, 3)) @ matrix((3, 8))
    r = on_neuron(lambda a: jsp.qr(a, mode="r", pivoting=True)[0], a)
    assert (np.abs(np.diag(r)) > 1e-5).sum() == 3


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_products_with_q_without_forming_it(side, is_complex):
    dtype = "complex128" if is_complex else "float64"
    a, c = matrix((7, 4), dtype), matrix((5, 7) if side == "right" else (7, 5), dtype)
    q = np.linalg.qr(a, "complete")[0]
    for is_transposed in (False, True):
        factor = adjoint(q) if is_transposed else q

        def f(a, c, is_transposed=is_transposed):
            r, taus = jnp.linalg.qr(a, mode="raw")
            return jax.lax.linalg.ormqr(r.mT, taus, c, left=side == "left", transpose=is_transposed)

        close(on_neuron(f, a, c), factor @ c if side == "left" else c @ factor, dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_lu_with_pivots_of_lapack(shape, dtype):
    a = matrix(shape, dtype)
    lu, pivots, permutation = on_neuron(jax.lax.linalg.lu, a)
    expected = on_cpu(jax.lax.linalg.lu, wide(a))
    np.testing.assert_array_equal(pivots, expected[1])
    np.testing.assert_array_equal(permutation, expected[2])
    close(lu, expected[0], dtype, 2000)


def test_lu_of_a_singular_matrix_has_a_zero_on_the_diagonal():
    a = np.ones((4, 4), np.float32)
    lu, pivots, _ = on_neuron(jax.lax.linalg.lu, a)
    np.testing.assert_array_equal(np.diag(lu), [1, 0, 0, 0])
    np.testing.assert_array_equal(pivots, [0, 1, 2, 3])


def test_pivots_become_a_permutation():
    swaps = np.array([[2, 1, 3], [0, 3, 3]], np.int32)
    got = on_neuron(lambda s: jax.lax.linalg.lu_pivots_to_permutation(s, 5), swaps)
    np.testing.assert_array_equal(got, [[2, 1, 3, 0, 4], [0, 3, 1, 2, 4]])


@pytest.mark.parametrize("is_upper", [False, True])
@pytest.mark.parametrize("shape", SQUARE, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cholesky(shape, dtype, is_upper):
    a = positive(shape, dtype)
    c = on_neuron(lambda a: jnp.linalg.cholesky(a, upper=is_upper), a)
    np.testing.assert_array_equal(np.tril(c, -1) if is_upper else np.triu(c, 1), 0)
    assert_product(adjoint(wide(c)) @ wide(c) if is_upper else wide(c) @ adjoint(wide(c)), a)


@pytest.mark.parametrize("a", [np.zeros((3, 3)), np.diag([1.0, -1]), np.array([[1.0, 2], [2, 1]]),
                               np.diag([1.0, np.nan])], ids=["zero", "negative", "indefinite", "nan"])  # fmt: skip
def test_cholesky_is_nan_where_there_is_none(a):
    batch = np.stack([np.eye(len(a)), a, 4 * np.eye(len(a))])
    got, expected = on_neuron(jnp.linalg.cholesky, batch), on_cpu(jnp.linalg.cholesky, batch)
    np.testing.assert_array_equal(got, expected)
    assert np.isnan(got[1]).any()


@pytest.mark.parametrize("is_left", [False, True])
@pytest.mark.parametrize("is_lower", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_triangular_solve_in_every_mode(dtype, is_lower, is_left):
    a = matrix((3, 6, 6), dtype) + 6 * np.eye(6, dtype=dtype)
    b = matrix((3, 6, 4) if is_left else (3, 4, 6), dtype)
    for transpose, conjugate, unit in np.ndindex(2, 2, 2):
        t = np.tril(a) if is_lower else np.triu(a)
        if unit:
            t = t * (1 - np.eye(6)) + np.eye(6)
        t = np.swapaxes(t, -1, -2) if transpose else t
        t = t.conj() if conjugate else t

        def f(a, b, flags=(transpose, conjugate, unit)):
            return jax.lax.linalg.triangular_solve(
                a, b, left_side=is_left, lower=is_lower, transpose_a=bool(flags[0]),
                conjugate_a=bool(flags[1]), unit_diagonal=bool(flags[2]))  # fmt: skip

        x = on_neuron(f, a, b)
        size = np.abs(t).sum(-1).max() * np.abs(x).max()
        residual = np.abs((t @ wide(x) if is_left else wide(x) @ t) - b).max()
        assert residual < 20 * np.finfo(dtype).eps * size


FUNCTIONS = {
    "solve": lambda np, a, b: np.linalg.solve(a, b),
    "inv": lambda np, a, b: np.linalg.inv(a),
    "det": lambda np, a, b: np.linalg.det(a / 4),
    "slogdet": lambda np, a, b: np.linalg.slogdet(a)[1],
    "matrix_power": lambda np, a, b: np.linalg.matrix_power(a / 4, -3),
    "lu_solve": lambda np, a, b: jsp.lu_solve(jsp.lu_factor(a), b),
    "cho_solve": lambda np, a, b: jsp.cho_solve(jsp.cho_factor(a @ a.T), b),
    "expm": lambda np, a, b: jsp.expm(a / 4),
    "lu": lambda np, a, b: jsp.lu(a),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_built_on_them_equal_the_cpus(name):
    a, b = matrix((6, 6)), matrix((6, 2))
    got = on_neuron(jax.jit(lambda a, b: FUNCTIONS[name](jnp, a, b)), a, b)
    expected = on_cpu(lambda a, b: FUNCTIONS[name](jnp, a, b), wide(a), wide(b))
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        close(x, y, "float32", 2000)


def test_gradients_of_solvers_equal_the_cpus():
    a, b = positive((5, 5), "float64"), matrix((5, 2), "float64")

    def f(a, b):
        return (jnp.linalg.solve(a, b) ** 2).sum() + jnp.linalg.slogdet(a)[1] + jsp.cholesky(a).sum()

    got = on_neuron(jax.jit(jax.grad(f, (0, 1))), a, b)
    for x, y in zip(got, on_cpu(jax.grad(f, (0, 1)), a, b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)


def test_random_numbers_of_a_covariance_and_orthogonal_matrices():
    covariance = hermitian((3, 3)) / 4 + np.eye(3, dtype=np.float32)
    for method in ("cholesky", "eigh", "svd"):
        x = on_neuron(lambda c, method=method: jax.random.multivariate_normal(
            jax.random.key(3), jnp.zeros(3), c, (4000,), method=method), covariance, x64=False)  # fmt: skip
        np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.1)
    q = on_neuron(lambda: jax.random.orthogonal(jax.random.key(0), 9, (2,)), x64=False)
    assert_unitary(q)
