"""Operands that are views: transposed, reshaped, sliced, broadcast, reversed or concatenated values in
front of operations that step through their operands' dims, against JAX on the CPU."""

import capi
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

pytestmark = pytest.mark.part(3)

LAYOUT = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(scope="module")
def device():
    d = capi.Device(threads=2)
    yield d
    d.close()


def check(device, f, *args, rtol=0.0, n_reference_ops=0):
    """Integers and sums of small integers are exact: rtol is for what is not."""
    with jax.default_device(jax.devices("cpu")[0]):
        jitted = jax.jit(f)
        expected = [np.asarray(e) for e in jax.tree.leaves(jitted(*args))]
        exported = jax.export.export(jitted, platforms=["cpu"])(*args)
    executable = device.compile(exported.mlir_module_serialized)
    leaves = jax.tree.leaves(args)
    got = executable(*[np.asarray(leaves[i]) for i in exported.module_kept_var_idx])
    for g, e in zip(got, expected, strict=True):
        assert g.shape == e.shape and g.dtype == e.dtype
        g, e = g.astype(np.float64), e.astype(np.float64)
        largest = np.abs(e[np.isfinite(e)]).max(initial=0)
        np.testing.assert_allclose(g, e, rtol, rtol * largest)
    assert executable.profile().n_reference_ops == n_reference_ops


def whole(rng, shape, dtype=np.float32):
    return rng.integers(-3, 4, shape).astype(dtype)


def conv(x, w, strides=(1, 1), padding="SAME", layout=LAYOUT, **options):
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=layout,
                                    preferred_element_type=jnp.float32, **options)  # fmt: skip


def group_norm(y, groups=4):
    n, h, w, c = y.shape
    y = y.reshape(n, h, w, groups, c // groups)
    mean = y.mean((1, 2, 4), keepdims=True)
    return ((y - mean) * lax.rsqrt(y.var((1, 2, 4), keepdims=True) + 1e-5)).reshape(n, h, w, c)


# name: shape of what the weights are a view of, and the view [3, 3, 16, 16]
WEIGHTS = {
    "the first of a stack": ((3, 3, 3, 16, 16), lambda w: w[0]),
    "the second of a stack": ((3, 3, 3, 16, 16), lambda w: w[1]),
    "of a stack of one": ((1, 3, 3, 16, 16), lambda w: w[0]),
    "of a stack behind": ((3, 3, 16, 16, 2), lambda w: w[..., 1]),
    "with channels in two dims": ((3, 3, 4, 4, 16), lambda w: w.reshape(3, 3, 16, 16)),
    "with features in two dims": ((9, 16, 4, 4), lambda w: w.reshape(3, 3, 16, 16)),
    "flat": ((3 * 3 * 16 * 16,), lambda w: w.reshape(3, 3, 16, 16)),
    "a matrix": ((144, 16), lambda w: w.reshape(3, 3, 16, 16)),
    "with dims of size 1": ((1, 3, 1, 3, 16, 1, 16), lambda w: w.reshape(3, 3, 16, 16)),
    "transposed": ((16, 16, 3, 3), lambda w: w.transpose(2, 3, 1, 0)),
    "transposed and split": ((4, 3, 16, 4, 3),
                             lambda w: w.transpose(1, 4, 0, 3, 2).reshape(3, 3, 16, 16)),
    "reversed": ((3, 3, 16, 16), lambda w: w[::-1, ::-1, :, ::-1]),
    "a slice": ((5, 3, 20, 16), lambda w: w[1:4, :, 2:18]),
    "every other channel": ((3, 3, 32, 16), lambda w: w[:, :, ::2]),
    "broadcast over taps": ((16, 16), lambda w: jnp.broadcast_to(w, (3, 3, 16, 16))),
    "broadcast over channels": ((3, 3, 1, 16), lambda w: jnp.broadcast_to(w, (3, 3, 16, 16))),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_may_be_a_view(device, rng, name):
    shape, view = WEIGHTS[name]
    x, w = whole(rng, (2, 8, 8, 16)), whole(rng, shape)

    def both(x, w):
        y, pull = jax.vjp(lambda x, w: conv(x, view(w)), x, w)
        return y, *pull(jnp.sign(y))

    check(device, both, x, w)


# name: shape of what the activations are a view of, and the view [2, 8, 8, 16]
ACTIVATIONS = {
    "one of a stack": ((3, 2, 8, 8, 16), lambda x: x[1]),
    "channels in two dims": ((2, 8, 8, 4, 4), lambda x: x.reshape(2, 8, 8, 16)),
    "pixels in one dim": ((2, 64, 16), lambda x: x.reshape(2, 8, 8, 16)),
    "patches": ((2, 4, 2, 4, 2, 16),
                lambda x: x.transpose(0, 1, 3, 2, 4, 5).reshape(2, 8, 8, 16)),
    "transposed": ((16, 8, 2, 8), lambda x: x.transpose(2, 3, 1, 0)),
    "reversed": ((2, 8, 8, 16), lambda x: x[::-1, :, ::-1, ::-1]),
    "a slice": ((2, 12, 9, 16), lambda x: x[:, 2:10, 1:]),
    "every third row": ((2, 22, 8, 16), lambda x: x[:, ::3]),
    "broadcast over images": ((8, 8, 16), lambda x: jnp.broadcast_to(x, (2, 8, 8, 16))),
    "broadcast over rows": ((2, 1, 8, 16), lambda x: jnp.broadcast_to(x, (2, 8, 8, 16))),
    "broadcast over channels": ((2, 8, 8, 1), lambda x: jnp.broadcast_to(x, (2, 8, 8, 16))),
    "put together": ((2, 8, 4, 16), lambda x: jnp.concatenate([x, x[:, :, ::-1]], 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_may_be_a_view(device, rng, name):
    shape, view = ACTIVATIONS[name]
    x, w = whole(rng, shape), whole(rng, (3, 3, 16, 8))

    def both(x, w):
        def f(x, w):
            return conv(view(x), w, (1, 2), "SAME"), conv(view(x), w, (1, 2), "VALID")

        y, pull = jax.vjp(f, x, w)
        return y, *pull(jax.tree.map(jnp.sign, y))

    check(device, both, x, w)


# name: weights of a view, options of a convolution of x [4, 8, 8, 16]
KINDS = {
    "strides": ((3, 3, 16, 8), dict(strides=(2, 3))),
    "dilated weights": ((3, 3, 16, 8), dict(rhs_dilation=(2, 1))),
    "dilated activations": ((3, 3, 16, 8), dict(padding=((2, 1), (1, 2)), lhs_dilation=(2, 2))),
    "padding that cuts": ((3, 3, 16, 8), dict(padding=((-1, 2), (0, -2)))),
    "groups": ((3, 3, 4, 8), dict(feature_group_count=4)),
    "one channel each": ((3, 3, 1, 16), dict(feature_group_count=16)),
    "two features from each channel": ((3, 3, 1, 32), dict(feature_group_count=16)),
    "groups of the batch": ((3, 3, 16, 8), dict(batch_group_count=2)),
    "channels first": ((3, 3, 16, 8), dict(layout=("NHWC", "HWIO", "NCHW"))),
    "an odd layout": ((3, 3, 16, 8), dict(layout=("NHWC", "HWIO", "HCNW"))),
    "one tap": ((1, 1, 16, 8), dict()),
    "one channel": ((3, 3, 16, 1), dict()),
}


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", KINDS)
def test_views_meet_every_kind_of_convolution(device, rng, name, dtype):
    shape, options = KINDS[name]
    stacked, turned = whole(rng, (2, *shape), dtype), whole(rng, shape[::-1], dtype)
    x = whole(rng, (8, 4, 16, 8), dtype)

    def both(x, w, t):
        def f(x, w, t):
            x = x.transpose(1, 3, 0, 2)
            return conv(x, w[0], **options) + conv(x, w[1] + t.T, **options)

        y, pull = jax.vjp(f, x, w, t)
        return y, *pull(jnp.sign(y))

    # XLA adds gradients of bf16 up in fp32, and rounds the sum once
    check(device, both, x, stacked, turned, rtol=0 if dtype == np.float32 else 1e-2)


@pytest.mark.parametrize("n_dims", [1, 3])
def test_views_meet_convolutions_of_other_ranks(device, rng, n_dims):
    spatial, taps = (9, 7, 5)[:n_dims], (3, 2, 3)[:n_dims]
    axes = "DHW"[:n_dims]
    x, w = whole(rng, (3, *spatial, 6, 2)), whole(rng, (3, *taps, 2, 6, 5))
    layout = (f"N{axes}C", f"{axes}IO", f"NC{axes}")

    def both(x, w):
        def f(x, w):
            kernel = w[1].reshape(*taps, 12, 5)[::-1]
            return conv(x.reshape(3, *spatial, 12), kernel, (2,) * n_dims, "SAME", layout)

        y, pull = jax.vjp(f, x, w)
        return y, *pull(jnp.sign(y))

    check(device, both, x, w)


def test_layers_scan_over_stacked_weights(device, rng):
    x, w = rng.random((2, 8, 8, 16), np.float32), rng.random((3, 3, 3, 16, 16), np.float32) - 0.5

    def layers(x, w):
        return lax.scan(lambda y, k: (jnp.tanh(conv(y, k)), None), x, w)[0]

    check(device, layers, x, w, rtol=1e-5)
    check(device, jax.grad(lambda w, x: (layers(x, w) ** 2).mean()), w, x, rtol=1e-5)


def test_weights_may_be_mapped(device, rng):
    x, w = whole(rng, (3, 2, 8, 8, 4)), whole(rng, (3, 3, 3, 4, 16))
    check(device, jax.vmap(conv), x, w)
    check(device, jax.vmap(conv, (None, 0)), x[0], w)
    check(device, jax.vmap(conv, (None, 3), out_axes=1), x[0], w.transpose(1, 2, 3, 0, 4))


def test_weights_have_a_gradient_before_a_group_norm(device, rng):
    x, w = rng.random((2, 8, 8, 16), np.float32), rng.random((3, 3, 16, 16), np.float32) - 0.5
    check(device, jax.grad(lambda w, x: (group_norm(conv(x, w)) * x).sum()), w, x, rtol=1e-4)


WINDOWS = [
    ((1, 3, 1, 1), (1, 3, 1, 1), (1, 1, 1, 1)),
    ((1, 1, 1, 5), (1, 1, 1, 3), (1, 1, 1, 2)),
    ((1,), (1,), (1,)),
    ((1, 1, 7, 1), (1, 1, 2, 1), (1, 1, 2, 1)),
    ((2, 1, 6, 1), (2, 1, 3, 1), (1, 1, 3, 1)),
    ((1, 4, 1, 3), (1, 2, 1, 1), (1, 2, 1, 1)),
]


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("case", range(len(WINDOWS)))
def test_windows_over_dims_of_size_1(device, rng, case, padding):
    shape, window, strides = WINDOWS[case]

    def reduced(x):
        by = ((lax.add, 0.0), (lax.max, -np.inf), (lax.min, np.inf))
        return [lax.reduce_window(x, init, f, window, strides, padding) for f, init in by]

    def gradient(x):
        return jax.grad(lambda x: sum((y**2).sum() for y in reduced(x)[:2]))(x)

    check(device, lambda x: (reduced(x), gradient(x)), whole(rng, shape))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, jnp.bfloat16, np.float32])
def test_windows_and_scans_over_single_elements_take_them(device, rng, dtype):
    x = whole(rng, (7, 1, 3), dtype)

    def takes(x):
        y = x.transpose(2, 1, 0)
        zero = jnp.zeros((), dtype)
        scans = [f(y, 1, reverse=r) for f in (lax.cumsum, lax.cummax, lax.cumprod) for r in (0, 1)]
        return (*scans, lax.reduce_window(y, zero, lax.add, (1, 1, 1), (1, 1, 1), "SAME"))

    check(device, takes, x)
    check(device, lambda x: lax.cumsum(x, 1) + lax.cumsum(x * 2, 1), x)


VIEWS = {
    "one of a stack": lambda x: jnp.stack([x, x + 1])[1],
    "reshaped": lambda x: (x + 1).reshape(-1).reshape(x.shape),
    "transposed": lambda x: x.transpose(0, 3, 1, 2).reshape(x.shape),
    "reversed": lambda x: x[:, ::-1, :, ::-1],
    "a slice": lambda x: jnp.pad(x, 1)[1:-1, 1:-1, 2:, :-2],
    "broadcast": lambda x: jnp.broadcast_to(x[:, :1], x.shape),
}


@pytest.mark.parametrize("name", VIEWS)
def test_windows_and_scans_of_views(device, rng, name):
    view, x = VIEWS[name], whole(rng, (2, 6, 9, 4))
    pads = ((0, 0), (1, 0), (0, 2), (0, 0))

    def pool(x):
        return lax.reduce_window(view(x), -np.inf, lax.max, (1, 3, 2, 1), (1, 2, 2, 1), "SAME")

    def pools(x):
        mean = lax.reduce_window(view(x), 0.0, lax.add, (1, 2, 2, 1), (1, 1, 3, 1), pads)
        return mean, pool(x), jax.grad(lambda x: (pool(x) ** 2).sum())(x)

    def along(axis, x):
        x = view(x)
        return lax.cumsum(x, axis, reverse=axis % 2 == 1), lax.sort(x, axis), jnp.argmax(x, axis)

    check(device, pools, x)
    check(device, lambda x: [along(axis, x) for axis in range(4)], x)


# Sizes of a matrix and of another of as many elements: no factor of rows divides the other's.
RESHAPED = [((6, 10), (15, 4)), ((15, 4), (6, 10)), ((10, 6), (4, 15)), ((9, 35), (21, 15)),
            ((6, 14), (4, 21)), ((12, 5), (10, 6)), ((127, 6), (6, 127)), ((33, 62), (31, 66))]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int32, np.int8, np.bool_])
@pytest.mark.parametrize("case", range(len(RESHAPED)))
def test_copies_whose_sides_have_no_common_factors(device, rng, case, dtype):
    (rows, cols), new = RESHAPED[case]
    x, y = whole(rng, (cols, rows), dtype), whole(rng, (new[0], 3), dtype)
    wide = whole(rng, (new[0], new[1] + 2), dtype)

    def copies(x, y, wide):
        z = x.T.reshape(new)
        thrice = jnp.repeat(x.T[:, None], 3, 1).reshape(new[0], -1)
        return (jnp.concatenate([z, y], 1), jnp.concatenate([y, z[::-1, ::-1]], 1),
                jnp.concatenate([thrice, y], 1), jnp.stack([z, z], 1),
                jnp.pad(z, ((0, 0), (1, 2))), wide.at[:, 1:-1].set(z),
                lax.dynamic_update_slice(wide, z, (0, 1)))  # fmt: skip

    check(device, copies, x, y, wide)
