"""What tests of linear algebra share: matrices, running on the virtual chip, distances in units of rounding."""

import zlib

import jax
import ml_dtypes
import numpy as np
from common import SEED

DTYPES = ["float32", "float64", "complex64", "complex128"]


def rng_of(*what):
    return np.random.default_rng([SEED, zlib.crc32(repr(what).encode())])


def matrix(shape, dtype="float32", rng=None):
    rng = rng or rng_of(shape, dtype)
    a = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        a = a + 1j * rng.standard_normal(shape)
    return a.astype(dtype)


def hermitian(shape, dtype="float32", rng=None):
    a = matrix(shape, dtype, rng)
    return ((a + adjoint(a)) / 2).astype(dtype)


def adjoint(a):
    return np.swapaxes(a, -1, -2).conj()


def on_neuron(f, *args, x64=True):
    """f's results as NumPy arrays; f is traced with 64-bit types unless told otherwise."""
    with jax.enable_x64(x64), jax.default_device(jax.devices("neuron")[0]):
        return jax.tree.map(np.asarray, f(*args))


def on_cpu(f, *args):
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        return jax.tree.map(np.asarray, f(*args))


def wide(a):
    return a.astype(np.complex128 if np.iscomplexobj(a) else np.float64)


def roundings(difference, size, dtype, n):
    """How large the difference is beside n roundings of numbers of this size."""
    eps = float(ml_dtypes.finfo(dtype).eps)
    largest = np.abs(wide(np.asarray(difference))).max(initial=0)
    return largest / (max(np.abs(size).max(initial=0), np.finfo(np.float64).tiny) * eps * max(n, 1))


def assert_unitary(q, bound=4):
    """The columns of q are orthonormal."""
    n = q.shape[-1]
    gram = adjoint(wide(q)) @ wide(q)
    assert roundings(gram - np.eye(n), 1, q.dtype, n) < bound


def assert_product(product, a, bound=4):
    """The product of computed factors is a."""
    assert product.shape == a.shape
    assert roundings(wide(np.asarray(product)) - wide(a), a, a.dtype, max(a.shape[-2:])) < bound
