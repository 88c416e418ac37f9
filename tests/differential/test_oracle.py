"""The NumPy rules against JAX in float64 on the CPU, to the last digits; and what noise says of errors."""

import numpy as np
import pytest

from . import oracle

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

NHWC = ("NHWC", "HWIO", "NHWC")


def f(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def i(*shape, low=0, high=5, dtype=np.int32):
    return np.random.default_rng(shape).integers(low, high, shape).astype(dtype)


def conv(groups=1, **options):
    return lambda x, w: lax.conv_general_dilated(x, w, feature_group_count=groups, dimension_numbers=NHWC, **options)


def gradients(function, *argnums):
    return jax.grad(lambda *a: (jnp.sin(function(*a)) * 2).sum(), argnums or (0,))


SAME = {"window_strides": (1, 1), "padding": "SAME"}
ODD = {"window_strides": (2, 3), "padding": ((1, 2), (0, 3)), "rhs_dilation": (2, 1)}
window = lambda op, start: lambda x: lax.reduce_window(x, start, op, (1, 3, 2, 1), (1, 2, 1, 1), "SAME")  # noqa: E731

CASES = {
    "unary": (lambda x: [jnp.tanh(x), jnp.exp(x), jnp.log(x * x), lax.erf(x), lax.rsqrt(x * x), jnp.cbrt(x),
                         jax.nn.sigmoid(x), jnp.sinh(x), jnp.log1p(x * x), jnp.expm1(x), jnp.round(x), jnp.exp2(x),
                         jnp.sign(x), x**3, x**-2, lax.erf_inv(jnp.tanh(x)), jnp.arctan(x), jnp.ceil(x)], f(7, 5)),
    "binary": (lambda x, y: [jnp.arctan2(x, y), x % (y * y), jnp.maximum(x, y), lax.rem(x, x * y), x / y,
                             jnp.abs(x) ** y, jnp.hypot(x, y), jnp.logaddexp(x, y)], f(7, 5), f(5)),
    "integers": (lambda a, b: [a // b, a % b, lax.div(a, b), lax.rem(a, b), a << 3, a >> 1, a * b * 99999,
                               lax.shift_right_logical(a, b), lax.clz(a), lax.population_count(a), ~a, a**2],
                 i(40, low=-2**31, high=2**31 - 1), i(40, low=1, high=40)),
    "bytes": (lambda a: [a + 200, a * 3, a >> 2, a.sum(dtype=np.int32), lax.clz(a), jnp.cumsum(a, dtype=np.uint8)],
              i(50, high=256, dtype=np.uint8)),
    "conversions": (lambda x, a: [x.astype(np.int32), (x * 100).astype(np.uint8), a.astype(np.float32), x > 0,
                                  a.astype(bool)], f(30), i(30, low=-3)),
    "layout": (lambda x: [x.T, x[::-1, 1::2], jnp.pad(x, ((1, 2), (0, 1))), jnp.repeat(x, 3, 1), jnp.tile(x, (2, 1)),
                          lax.pad(x, 0.5, ((-1, 2, 1), (1, -2, 2))), jnp.roll(x, 2, 0), x.reshape(-1, 2),
                          jnp.concatenate([x, x * 2], 1), jnp.stack([x, x], 2), jnp.split(x, [2], 1)[1],
                          lax.reshape(x, (4, 6), dimensions=(1, 0)), jnp.squeeze(x[:1])], f(6, 4)),
    "reductions": (lambda x: [x.sum(1), x.max((0, 2)), x.prod(2), x.mean(), x.argmax(1), x.argmin(0), x.std(1),
                              jnp.any(x > 1, 2), jnp.all(x > -1, 0), jnp.linalg.norm(x, axis=1)], f(4, 5, 6)),
    "cumulative": (lambda x: [jnp.cumsum(x, 1), jnp.cumprod(x, 0), lax.cummax(x, axis=1, reverse=True),
                              lax.cumlogsumexp(x, axis=0), lax.cummin(x)], f(9, 6)),
    "sorting": (lambda x: [jnp.sort(x, 0), jnp.argsort(x, 1), *lax.top_k(x, 3), jnp.median(x, 1),
                           *lax.sort((jnp.round(x), x), num_keys=1)], f(8, 9)),
    "dots": (lambda x, y: [x @ y, jnp.einsum("ij,jk->ki", x, y), jnp.tensordot(x, y, ((0, 1), (1, 0))),
                           jnp.einsum("ij,jk->ij", x, y)], f(5, 7), f(7, 5)),
    "batched dots": (lambda x, y: [jnp.einsum("bij,bjk->bik", x, y), jnp.einsum("bij,bjk->ik", x, y),
                                   jnp.einsum("bij,bjk->jbi", x, y)], f(3, 4, 5), f(3, 5, 6)),
    "convolution": (conv(**SAME), f(2, 7, 6, 4), f(3, 3, 4, 5)),
    "odd convolution": (conv(**ODD), f(2, 9, 8, 4), f(3, 2, 4, 5)),
    "even kernel": (conv(window_strides=(1, 1), padding=((1, 0), (-1, 2)), lhs_dilation=(2, 1)), f(1, 5, 6, 3), f(2, 4, 3, 2)),
    "grouped": (conv(3, **SAME), f(2, 5, 6, 6), f(3, 3, 2, 9)),
    "gradients of convolutions": (gradients(conv(**ODD), 0, 1), f(2, 9, 8, 4), f(3, 2, 4, 5)),
    "gradients of groups": (gradients(conv(3, **SAME), 0, 1), f(2, 5, 6, 6), f(3, 3, 2, 9)),
    "mapped convolution": (jax.vmap(conv(2, **SAME)), f(3, 2, 5, 6, 4), f(3, 3, 3, 2, 6)),
    "transposed": (lambda x, w: lax.conv_transpose(x, w, (2, 2), "SAME", dimension_numbers=NHWC), f(1, 4, 5, 3),
                   f(3, 3, 3, 2)),
    "windows": (lambda x: [window(lax.max, -jnp.inf)(x), window(lax.add, 0.0)(x), window(lax.min, jnp.inf)(x)],
                f(2, 7, 6, 3)),
    "gradient of a window": (gradients(window(lax.max, -jnp.inf)), f(2, 7, 6, 3)),
    "gradient of ties": (gradients(lambda x: window(lax.max, -jnp.inf)(jax.nn.relu(x))), f(2, 7, 6, 3)),
    "dynamic slices": (lambda x, k: [lax.dynamic_slice(x, (k, k), (2, 3)), lax.dynamic_update_slice(x, x[:2], (k, k - 3)),
                                     lax.dynamic_index_in_dim(x, k), x.at[k].set(0)], f(6, 5), i(high=9)),
    "gathers": (lambda x, t: [x[t], x[:, t], x[t, t], jnp.take(x, t + 3, 0, mode="clip"), x.at[t + 3].get(mode="fill"),
                              jnp.take_along_axis(x, t[:, None], 1), x[t][:, t]], f(5, 5), i(5)),
    "scatters": (lambda x, t, u: [x.at[t].add(u), x.at[:, t].add(u[:5, 1:2]), x.at[t, t % 5].add(u[:, 0]), x.at[t].max(u),
                                  x.at[t].multiply(u), x.at[t + 2].add(u, mode="drop"), x.at[1, t].min(u[:, 0]),
                                  jax.ops.segment_sum(u, t, 7)], f(5, 5), i(6), f(6, 5)),
    "gradients of gathers": (gradients(lambda x, t: x[t] * x[:, t].sum()), f(5, 5), i(7)),
    "mapped places": (jax.vmap(lambda x, t, k: lax.dynamic_update_slice(x.at[t].add(x[:2]), x[:1], (k, k))),
                      f(3, 6, 4), i(3, 2), i(3)),
    "scan": (lambda x: lax.scan(lambda c, r: (jnp.tanh(c + r), c * r), x[0], x, reverse=True), f(6, 4)),
    "gradient of scan": (gradients(lambda x: lax.scan(lambda c, r: (jnp.tanh(c * r), c), x[0], x)[1]), f(6, 4)),
    "loops": (lambda x, n: [lax.fori_loop(0, n, lambda i, s: s * 1.5 + i, x),
                            lax.while_loop(lambda s: s.sum() < 100, lambda s: s + jnp.abs(s) + 1, x)], f(6), i(high=7)),
    "branches": (lambda x, k: [lax.cond(k > 2, jnp.sin, jnp.cos, x), lax.switch(k, [jnp.sin, jnp.cos, jnp.tanh], x),
                               jax.vmap(lambda r: lax.cond(r[0] > 0, lambda: r, lambda: -r))(x)], f(6, 3), i(high=9)),
    "checkpoint": (gradients(jax.checkpoint(lambda x: jnp.sin(x @ x))), f(5, 5)),
    "custom derivatives": (gradients(lambda x: jax.nn.relu(x) + jax.nn.silu(x) + jax.nn.softplus(x)), f(20)),
    "associative scan": (lambda x: lax.associative_scan(lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (x, x)), f(9, 3)),
    "random": (lambda s: [jax.random.bits(jax.random.key(s), (5,)), jax.random.permutation(jax.random.key(s), 9),
                          jax.random.randint(jax.random.key(s), (7,), 0, 50)], np.uint32(5)),
    "random floats": (lambda s: [jax.random.uniform(jax.random.key(s), (9,), jnp.float32)], np.uint32(5)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def on_the_cpu():
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


@pytest.mark.parametrize("name", CASES)
def test_rules_agree_with_jax_in_float64(name):
    function, *args = CASES[name]
    traced = jax.jit(function).trace(*args)
    ours = oracle.Evaluation().run(traced.jaxpr, args)
    with jax.enable_x64(not name.startswith("random")):  # there the bits would be others
        wide = [a.astype(np.float64) if a.dtype == np.float32 and jax.config.jax_enable_x64 else a for a in args]
        theirs = [np.asarray(x) for x in jax.tree.leaves(jax.jit(function)(*wide))]
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert a.shape == b.shape
        if b.dtype.kind == "f":
            # lax.erf and its inverse in XLA have ten digits.
            np.testing.assert_allclose(a, b, rtol=1e-8 if name == "unary" else 1e-11, atol=1e-11)
        else:
            np.testing.assert_array_equal(a, b.astype(a.dtype))


def spread(function, *args, n=40):
    """The largest move of a scalar result, in units of the amplitude, relative to the result."""
    traced = jax.jit(function).trace(*args)
    exact = oracle.Evaluation().run(traced.jaxpr, args)[0]
    moves = [oracle.Evaluation(a, salt).run(traced.jaxpr, args)[0] - exact for salt in range(n) for a in (1.0, -1.0)]
    return float(np.max(np.abs(moves)) / abs(exact))


def test_noise_is_as_large_as_rounding():
    u = 2.0**-24
    x = np.float32(1.5)
    assert 0.8 * u < spread(lambda x: x * x, x) <= u
    assert spread(lambda x: -jnp.abs(x), x) == 0
    assert 0.8 * 2**-8 < spread(lambda x: (x * 1).astype(jnp.bfloat16), x) < 2**-8 + 2 * u


def test_cancellation_shows():
    x = np.float32(1.5)
    assert spread(lambda x: (x * x + 1000) - 1000, x) > 200 * 2.0**-24


def test_long_sums_err_more():
    one, many = f(1, 1) + 3, f(1, 4096) + 3
    assert spread(lambda x: x.sum(), many) > 10 * spread(lambda x: (x * 1).sum(), one)


def test_a_float_operation_without_a_rule_is_refused():
    with pytest.raises(oracle.UnknownPrimitive):
        x = f(4, 4)
        traced = jax.jit(jnp.linalg.cholesky).trace(x @ x.T)
        oracle.Evaluation().run(traced.jaxpr, [x])
