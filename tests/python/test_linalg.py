"""jax.numpy.linalg on the neuron backend: what initialisers and solvers of models call."""

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from common import SEED  # noqa: E402

SHAPES = [(6, 4), (4, 6), (5, 5), (1, 1), (70, 33), (2, 3, 4, 9), (3, 7, 5), (0, 3), (4, 0)]


def on_neuron(f, *args):
    with jax.default_device(jax.devices("neuron")[0]):
        return jax.tree.map(np.asarray, f(*args))


@pytest.mark.parametrize("mode", ["reduced", "complete"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_qr_has_the_factors_of_lapack(shape, mode):
    rng = np.random.default_rng(SEED)
    a = rng.standard_normal(shape).astype(np.float32)
    q, r = on_neuron(lambda a: jnp.linalg.qr(a, mode=mode), a)
    expected = np.linalg.qr(a.astype(np.float64), mode)
    np.testing.assert_allclose(q, expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(r, expected[1], rtol=1e-5, atol=1e-5)


def test_qr_of_complex_numbers():
    rng = np.random.default_rng(SEED)
    a = (rng.standard_normal((5, 3)) + 1j * rng.standard_normal((5, 3))).astype(np.complex64)
    q, r = on_neuron(jnp.linalg.qr, a)
    np.testing.assert_allclose(q @ r, a, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(q.conj().T @ q, np.eye(3), rtol=1e-5, atol=1e-5)


def test_a_column_of_zeros_needs_no_reflection():
    a = np.array([[2, 0, 1], [0, 0, 1], [0, 0, 1]], np.float32)
    q, r = on_neuron(jnp.linalg.qr, a)
    assert np.isfinite(q).all()
    np.testing.assert_allclose(q @ r, a, atol=1e-6)


def test_what_is_not_finite_comes_back_and_nothing_hangs():
    a = np.full((4, 3), np.nan, np.float32)
    q, r = on_neuron(jnp.linalg.qr, a)
    assert np.isnan(q).any() and np.isnan(r).any()


def test_orthogonal_initialiser():
    """The default of recurrent layers."""
    q = on_neuron(lambda: jax.nn.initializers.orthogonal()(jax.random.key(SEED), (48, 48)))
    np.testing.assert_allclose(q @ q.T, np.eye(48), atol=1e-5)


def test_solvers():
    rng = np.random.default_rng(SEED)
    a = rng.standard_normal((6, 6)).astype(np.float32)
    b = rng.standard_normal((6, 2)).astype(np.float32)
    spd = a @ a.T + 6 * np.eye(6, dtype=np.float32)
    np.testing.assert_allclose(
        on_neuron(jnp.linalg.solve, spd, b), np.linalg.solve(spd, b), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        on_neuron(jnp.linalg.cholesky, spd), np.linalg.cholesky(spd), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        on_neuron(jnp.linalg.inv, spd), np.linalg.inv(spd), rtol=1e-4, atol=1e-5
    )


def test_gradient_through_qr():
    rng = np.random.default_rng(SEED)
    a = rng.standard_normal((5, 3)).astype(np.float32)
    f = jax.grad(lambda a: jnp.abs(jnp.linalg.qr(a)[1]).sum())
    with jax.default_device(jax.devices("cpu")[0]):
        expected = np.asarray(f(a))
    np.testing.assert_allclose(on_neuron(f, a), expected, rtol=1e-4, atol=1e-4)
