"""Tensors without elements, through everything that might divide by their size or read their first."""

import capi
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

Z = np.zeros((0, 5), np.float32)
X = np.arange(20, dtype=np.float32).reshape(4, 5)
NONE = np.zeros((0,), np.int32)
ONE = np.int32(1)

CASES = {
    "add a constant": (lambda z: z + 1, Z),
    "constant": (lambda: jnp.asarray(Z) * 2,),
    "iota": (lambda: (jnp.arange(0), lax.broadcasted_iota(jnp.int32, (0, 4), 1)),),
    "reshape and transpose": (lambda z: (z.reshape(5, 0), z.T.astype(jnp.bfloat16)), Z),
    "select": (lambda z: jnp.where(z > 0, z, 2.0), Z),
    "reduce": (lambda z: (z.sum(), z.sum(0), z.sum(1), z.prod(), z.max(0, initial=-1.0)), Z),
    "no rows times": (lambda z, x: z @ x.T, Z, X),
    "sum over nothing": (lambda a, b: a @ b, np.zeros((4, 0), np.float32), np.zeros((0, 3), np.float32)),
    "gradient of no rows": (lambda z, w: jax.grad(lambda w: (z @ w).sum())(w), Z, X.T),
    "convolution of no images": (
        lambda x, k: lax.conv(x, k, (1, 1), "SAME"),
        np.zeros((0, 3, 8, 8), np.float32),
        np.ones((4, 3, 3, 3), np.float32),
    ),
    "pooling": (lambda z: lax.reduce_window(z, 0.0, lax.add, (1, 2), (1, 1), "VALID"), Z),
    "concatenate": (lambda z, x: jnp.concatenate([z, x, z]), Z, X),
    "pad": (lambda z: jnp.pad(z, ((2, 1), (0, 0)), constant_values=3.0), Z),
    "gather nothing": (lambda x, i: (x[i], x[:, i]), X, NONE),
    "scatter nothing": (lambda x, i: (x.at[i].add(1.0), x.at[:, i].set(1.0)), X, NONE),
    "slices": (lambda x, i: lax.dynamic_slice(x, (i, 0), (0, 5)), X, ONE),
    "updates": (lambda x, i: lax.dynamic_update_slice(x, x[:0], (i, 0)), X, ONE),
    "sort": (lambda z: (jnp.sort(z, 0), lax.top_k(z, 2)), Z),
    "cumulative sum and argmax": (lambda z: (jnp.cumsum(z, 0), jnp.argmax(z, 1)), Z),
    "scan of no turns": (lambda x: lax.scan(lambda c, r: (c + r.sum(), r * 2), 0.0, x[:0]), X),
    "loop carries it": (lambda z: lax.fori_loop(0, 3, lambda i, c: c * 2, z), Z),
    "random bits": (lambda k: jax.random.bits(k, (0,)), np.array([1, 2], np.uint32)),
    "random normal": (lambda k: jax.random.normal(k, (5, 0, 1)), np.array([1, 2], np.uint32)),
    "random permutation": (lambda k: jax.random.permutation(k, 0), np.array([1, 2], np.uint32)),
}


@pytest.fixture(scope="module")
def device():
    d = capi.Device(threads=2)
    yield d
    d.close()


@pytest.mark.parametrize("name", CASES)
def test_tensors_without_elements(device, name):
    f, *args = CASES[name]
    with jax.default_device(jax.devices("cpu")[0]):
        jitted = jax.jit(f)
        expected = [np.asarray(e) for e in jax.tree.leaves(jitted(*args))]
        exported = jax.export.export(jitted, platforms=["cpu"])(*args)
    executable = device.compile(exported.mlir_module_serialized)
    got = executable(*[args[i] for i in exported.module_kept_var_idx])
    for g, e in zip(got, expected, strict=True):
        assert g.shape == e.shape and g.dtype == e.dtype
        np.testing.assert_array_equal(g, e)


def test_products_of_nothing_are_zeros_without_a_reference_op(device):
    def f(a, b, x, k):
        pads = ((1, 1), (2, 2))
        images = lax.conv_general_dilated(
            x, k, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return a @ b, (a @ b + 1).sum(), images

    shapes = [(3, 0), (0, 4), (2, 3, 0, 4), (2, 2, 4, 3)]
    args = [np.zeros(shape, np.float32) for shape in shapes]
    exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
    executable = device.compile(exported.mlir_module_serialized)
    got = executable(*[args[i] for i in exported.module_kept_var_idx])
    assert [g.shape for g in got] == [(3, 4), (), (2, 4, 3, 3)]
    assert not got[0].any() and got[1] == 12 and not got[2].any()
    assert executable.profile().n_reference_ops == 0


def test_reductions_of_nothing_give_what_they_begin_with_without_a_reference_op(device):
    def f(z, x):
        """The gradient of a pad that repeats edges reduces the empty part between them."""
        edges = jax.grad(lambda x: jnp.sum(jnp.pad(x, ((1, 2), (0, 3)), "edge") ** 2))(x)
        return z.sum(1), z.sum(), z.max(1, initial=-1.0), z.prod(1), jnp.any(z > 0, 1), edges

    args = [np.zeros((4, 0), np.float32), np.arange(12, dtype=np.float32).reshape(3, 4)]
    with jax.default_device(jax.devices("cpu")[0]):
        expected = [np.asarray(e) for e in jax.jit(f)(*args)]
        exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
    executable = device.compile(exported.mlir_module_serialized)
    got = executable(*[args[i] for i in exported.module_kept_var_idx])
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_array_equal(g, e)
    assert executable.profile().n_reference_ops == 0
