"""The reference against JAX on the CPU: op families, models, and what XLA makes of the odd cases."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax
from reference_oracle import both, compare

pytestmark = pytest.mark.part(4)

FLOATS = [np.float32, np.float16, ml_dtypes.bfloat16]


def normal(rng, shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


def shape(rng, rank):
    return tuple(int(d) for d in rng.integers(1, 7, rank))


def check(function, *args, bound=None):
    compare(*both(function, *args), bound=bound)


UNARY = ["abs", "cbrt", "ceil", "cos", "exp", "expm1", "floor", "log1p", "logistic", "neg", "sign",
         "sin", "sqrt", "rsqrt", "tan", "tanh", "erf", "is_finite", "round"]


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("name", UNARY)
def test_a_unary_float_op_agrees_with_the_cpu_on_specials_too(name, dtype, rng):
    specials = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 0.5, -0.5, 2.5], dtype)
    x = np.concatenate([specials, normal(rng, 700, dtype)])
    check(getattr(lax, name), x)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "max", "min", "pow", "rem", "atan2"])
def test_a_binary_float_op_agrees_with_the_cpu_on_specials_too(name, dtype, rng):
    s = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1, -2, 3], dtype)
    x = np.concatenate([np.repeat(s, 8), np.abs(normal(rng, 600, dtype))])
    y = np.concatenate([np.tile(s, 8), normal(rng, 600, dtype)])
    check(getattr(lax, name), x, y)


INTS = [np.int8, np.int16, np.int32, np.uint8, np.uint16, np.uint32]
INT_OPS = ["add", "sub", "mul", "div", "rem", "max", "min", "bitwise_and", "bitwise_or",
           "bitwise_xor", "shift_left", "shift_right_logical", "shift_right_arithmetic", "eq", "lt"]


@pytest.mark.parametrize("dtype", INTS, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("name", INT_OPS)
def test_a_binary_integer_op_is_exact_at_the_edges(name, dtype, rng):
    i = np.iinfo(dtype)
    s = np.array([i.min, i.max, 0, 1, 2, i.max - 1, 7, i.bits, i.bits - 1], dtype)
    x = np.concatenate([np.repeat(s, 9), rng.integers(i.min, i.max, 500, dtype, True)])
    y = np.concatenate([np.tile(s, 9), rng.integers(i.min, i.max, 500, dtype, True)])
    check(getattr(lax, name), x, y)


@pytest.mark.parametrize("dtype", INTS, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("name", ["abs", "neg", "sign", "bitwise_not", "population_count", "clz"])
def test_a_unary_integer_op_is_exact(name, dtype, rng):
    i = np.iinfo(dtype)
    if name == "abs" and i.min == 0:
        pytest.skip("no abs of unsigned integers")
    edges = np.array([i.min, i.max, 0, 1], dtype)
    check(getattr(lax, name), np.concatenate([edges, rng.integers(i.min, i.max, 300, dtype)]))


def test_an_integer_power_is_exact(rng):
    check(lambda x: [x**k for k in (0, 1, 2, 5)], rng.integers(-9, 9, 50).astype(np.int32))
    check(jnp.power, np.array([0, 1, -1, -1, 2, -2, 7], np.int32),
          np.array([0, 3, 3, 2, 1, 31, 40], np.int32))


def test_convert_saturates_and_gives_zero_for_nan(rng):
    x = np.array([np.nan, np.inf, -np.inf, 3e9, -3e9, 300.7, -300.7, 1.5, -0.5], np.float32)
    check(lambda x: [x.astype(t) for t in (jnp.int8, jnp.uint8, jnp.int32, jnp.uint32, bool)], x)


def test_total_order_puts_the_nans_outside(rng):
    x = np.array([np.nan, -np.nan, 0.0, -0.0, np.inf, -np.inf, 1, -1], np.float32)
    check(jnp.sort, x)
    check(lambda x: lax.sort([x, jnp.arange(8)], num_keys=1), x)


@pytest.mark.parametrize("k", range(4))
def test_sorts_are_stable_and_agree(k, rng):
    n = int(rng.integers(1, 700))
    x = rng.integers(0, 9, (3, n)).astype(np.int32)
    y = normal(rng, (3, n))
    check(lambda x, y: [jnp.argsort(x, 1), jnp.sort(y, 0), jnp.argsort(-y, axis=1),
                        lax.sort([x, y], num_keys=2), lax.top_k(y, min(n, 5)),
                        jnp.median(y), jnp.unique(x, size=9)], x, y)


def test_moves_agree_on_random_shapes(rng):
    for _ in range(5):
        s = shape(rng, 3)
        x = normal(rng, s)
        order = tuple(int(i) for i in rng.permutation(3))
        low, high = rng.integers(-1, 3, 3), rng.integers(0, 3, 3)
        inner = rng.integers(0, 3, 3)
        pads = [(int(a), int(b), int(c)) for a, b, c in zip(low, high, inner)]
        check(lambda x: [jnp.transpose(x, order), jnp.flip(x, (0, 2)), lax.pad(x, 2.5, pads),
                         jnp.concatenate([x, x[:, :1]], 1), x[::2, :, ::-1], x.reshape(-1),
                         jnp.tile(x, (2, 1, 3)), lax.broadcasted_iota(jnp.int8, s, 1),
                         jnp.roll(x, 2, 0), jnp.where(x > 0, x, 0.0)], x)


def test_dynamic_slices_clamp(rng):
    x, u = normal(rng, (5, 6)), normal(rng, (2, 3))
    for at in (-9, 0, 2, 99):
        check(lambda x, u, i: [lax.dynamic_slice(x, (i, i), (2, 3)),
                               lax.dynamic_update_slice(x, u, (i, -i))], x, u, np.int32(at))


@pytest.mark.parametrize("mode", ["clip", "fill", "promise_in_bounds"])
def test_gathers_and_scatters_agree(mode, rng):
    x = normal(rng, (7, 4, 3))
    edge = 0 if mode == "promise_in_bounds" else 4
    i = rng.integers(-edge, 7 + edge, (5, 2)).astype(np.int32)
    u = normal(rng, (5, 2, 4, 3))
    modes = {"mode": mode}
    check(lambda x, i, u: [x.at[i].get(**modes), x.at[i].set(0.0, **modes),
                           x.at[i].add(u, **modes), x.at[i].max(u, **modes),
                           x.at[:, 1].multiply(2.0, **modes), x.at[i, 1].min(0.5, **modes),
                           jnp.take(x, i, axis=0, mode="clip"),
                           jax.nn.one_hot(i, 7)], x, i, u)
    check(lambda x, i: jnp.take_along_axis(x[:, :2, 0], i[:2] % 7, axis=0), x, i)


def test_reductions_agree(rng):
    for dtype in FLOATS + [np.int32, np.bool_]:
        x = (normal(rng, shape(rng, 4)) * 3).astype(dtype)
        check(lambda x: [jnp.sum(x, (1, 3)), jnp.max(x, 0), jnp.min(x), jnp.any(x > 0, 2),
                         jnp.all(x > -9), jnp.argmax(x, 3), jnp.argmin(x), jnp.prod(x, 2),
                         jnp.cumsum(x, 1), lax.cummax(x.astype(jnp.float32), 2)], x)
    check(lambda x: [jnp.sum(x, 1), jnp.prod(x, 0)], np.zeros((3, 0), np.float32))
    check(lambda x: [jnp.max(x, 0), jnp.argmax(x, 1)], np.array([[1, np.nan], [2, 3]], np.float32))


def test_a_reduction_of_pairs_agrees(rng):
    def welford(a, b):
        return a[0] + b[0] * b[1], a[1] * b[1]
    check(lambda x, y: lax.reduce((x, y), (0.0, 1.0), welford, (0,)),
          normal(rng, (9, 4)), normal(rng, (9, 4)))


@pytest.mark.parametrize("equation", ["ij,jk->ik", "bij,bkj->bik", "abc,cd->adb", "i,j->ij",
                                      "bhqd,bhkd->bhqk", "ijk,jil->kl", "ij,ij->"])
def test_an_einsum_agrees(equation, rng):
    sizes = {c: int(rng.integers(1, 9)) for c in equation if c.isalpha()}
    a, b = (normal(rng, [sizes[c] for c in s]) for s in equation.split("->")[0].split(","))
    check(lambda a, b: jnp.einsum(equation, a, b), a, b)
    bf = ml_dtypes.bfloat16
    check(lambda a, b: jnp.einsum(equation, a, b, preferred_element_type=jnp.float32),
          a.astype(bf), b.astype(bf))
    check(lambda a, b: jnp.einsum(equation, a, b), (a * 9).astype(np.int8), (b * 9).astype(np.int8))


@pytest.mark.parametrize("layout", [("NCHW", "OIHW", "NCHW"), ("NHWC", "HWIO", "NHWC"),
                                    ("CHWN", "IHWO", "HNWC")], ids=lambda v: v[0])
@pytest.mark.parametrize("groups", ["none", "feature", "batch"])
@pytest.mark.parametrize("case", range(3))
def test_a_convolution_agrees(layout, groups, case, rng):
    fg, bg = (2 if groups == "feature" else 1), (2 if groups == "batch" else 1)
    sizes = {"N": 4, "C": 4, "H": int(rng.integers(5, 9)), "W": int(rng.integers(5, 9))}
    kernel = {"O": 6, "I": 4 // fg, "H": int(rng.integers(1, 4)), "W": int(rng.integers(1, 4))}
    x = normal(rng, [sizes[c] for c in layout[0]])
    w = normal(rng, [kernel[c] for c in layout[1]])
    pick = lambda: tuple(int(v) for v in rng.integers(1, 3, 2))
    strides, ld, rd = pick(), pick(), pick()
    pads = [(int(a), int(b)) for a, b in rng.integers(0, 3, (2, 2))]
    check(lambda x, w: lax.conv_general_dilated(
        x, w, strides, pads, ld, rd, layout, feature_group_count=fg, batch_group_count=bg), x, w)


def test_gradients_of_conv_pool_and_softmax_agree(rng):
    x, w = normal(rng, (2, 8, 8, 3)), normal(rng, (3, 3, 3, 5))
    y = rng.integers(0, 5, 2).astype(np.int32)

    def loss(w, x, y):
        h = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        h = lax.reduce_window(jax.nn.relu(h), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        logits = h.mean((1, 2))
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()
    check(jax.value_and_grad(loss, (0, 1)), w, x, y)


def test_windows_agree(rng):
    x = normal(rng, (2, 9, 7, 3))
    pool = lambda f, i: lambda x: lax.reduce_window(x, i, f, (1, 3, 2, 1), (1, 2, 1, 1), "SAME",
                                                    (1, 1, 2, 1), (1, 2, 1, 1))
    check(lambda x: [pool(lax.add, 0.0)(x), pool(lax.max, -jnp.inf)(x), pool(lax.mul, 1.0)(x)], x)


def test_control_flow_agrees(rng):
    x = normal(rng, (6, 4))

    def body(c, r):
        c = lax.cond(r.sum() > 0, lambda c: c * 0.5 + r, lambda c: c - x[0], c)
        return c, (c, lax.switch(jnp.int32(r[0] * 2), [jnp.sin, jnp.cos, jnp.tanh], r))
    check(lambda x: lax.scan(body, x[0], x), x)
    check(lambda n: lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, s[2], s[1] + s[2]),
                                   (0, 0, 1)), np.int32(20))
    check(lambda x: lax.fori_loop(0, 5, lambda i, a: a.at[i].add(a[i - 1]), x), x)
    check(jax.grad(lambda x: lax.scan(lambda c, r: (jnp.tanh(c + r), c), x[0], x)[0].sum()), x)


@pytest.mark.parametrize("draw", [
    lambda k: jax.random.bits(k, (5, 3)), lambda k: jax.random.normal(k, (7, 3)),
    lambda k: jax.random.uniform(k, (11,)), lambda k: jax.random.permutation(k, 50),
    lambda k: jax.random.randint(k, (9,), -5, 70), lambda k: jax.random.categorical(k, jnp.ones(5)),
    lambda k: jax.random.bernoulli(k, 0.3, (40,)), lambda k: jax.random.split(k, 3)],
    ids=["bits", "normal", "uniform", "permutation", "randint", "categorical", "bernoulli", "split"])
def test_a_draw_from_threefry_agrees(draw, rng):
    check(draw, jax.random.PRNGKey(int(rng.integers(1 << 30))))


@pytest.mark.parametrize("algorithm", [lax.RandomAlgorithm.RNG_THREE_FRY,
                                       lax.RandomAlgorithm.RNG_PHILOX], ids=["threefry", "philox"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64],
                         ids=lambda d: np.dtype(d).name)
def test_the_bit_generator_is_exact(algorithm, dtype, rng):
    for s in [(), (1,), (7,), (4, 3), (3, 5, 2), (3, 5)]:
        key = rng.integers(0, 1 << 32, 4, np.uint64).astype(np.uint32)
        key[2:] = 0xFFFFFFFF  # the counter carries
        with jax.enable_x64(True):
            check(lambda k: lax.rng_bit_generator(k, s, dtype, algorithm), key)


@pytest.mark.parametrize("n", [1, 2, 8, 12, 13, 60])
def test_fourier_transforms_agree(n, rng):
    x = normal(rng, (3, n))
    check(lambda x: [jnp.fft.fft(x), jnp.fft.ifft(x + 1j), jnp.fft.rfft(x), jnp.fft.fft2(x),
                     jnp.fft.rfft2(x), jnp.fft.irfft(jnp.fft.rfft(x), n=n),
                     jnp.fft.irfft2(jnp.fft.rfft2(x), s=x.shape)], x)


def test_complex_arithmetic_agrees(rng):
    x, y = (normal(rng, 200) + 1j * normal(rng, 200) for _ in range(2))
    x, y = x.astype(np.complex64), y.astype(np.complex64)
    check(lambda x, y: [x * y, x / y, jnp.abs(x), jnp.exp(x), jnp.log(x), jnp.sqrt(x), jnp.tanh(x),
                        jnp.conj(x), jnp.real(x), x @ y, jnp.sum(x), x == y, jnp.sin(x), x**y], x, y,
          bound=1e-4)


def test_double_precision_agrees(rng):
    with jax.enable_x64(True):
        x = normal(rng, (9, 9), np.float64)
        check(lambda x: [jnp.sin(x) @ x, jnp.sum(x, 0), jnp.sort(x), x.astype(jnp.int64),
                         jax.scipy.special.erf(x), x.astype(jnp.float32)], x)
        i = rng.integers(-(2**62), 2**62, (2, 300))
        check(lambda a, b: [a + b, a * b, a // b, a % b, a >> 3, a < b, a.astype(jnp.float64)], *i)


def attention(p, x):
    q, k, v = (x @ p[n] for n in "qkv")
    s = jnp.where(jnp.tril(jnp.ones((x.shape[1],) * 2, bool)), q @ k.swapaxes(1, 2) / 4, -1e9)
    h = x + jax.nn.softmax(s) @ v
    h = (h - h.mean(-1, keepdims=True)) * lax.rsqrt(h.var(-1, keepdims=True) + 1e-5)
    return jax.nn.gelu(h @ p["up"]) @ p["down"]


def test_gradients_of_attention_and_layer_norm_agree(rng):
    p = {n: normal(rng, (8, 8)) for n in "qkv"} | {"up": normal(rng, (8, 16)),
                                                   "down": normal(rng, (16, 8))}
    check(jax.value_and_grad(lambda p, x: jnp.mean(attention(p, x) ** 2)), p, normal(rng, (2, 5, 8)))


def test_ten_adam_steps_of_a_perceptron_agree(rng):
    x, y = normal(rng, (32, 6)), rng.integers(0, 3, 32).astype(np.int32)
    p = [normal(rng, (6, 16)), np.zeros(16, np.float32), normal(rng, (16, 3))]

    def loss(p):
        logits = jnp.tanh(x @ p[0] + p[1]) @ p[2]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(32), y])

    def step(s, t):
        p, m, v = s
        l, g = jax.value_and_grad(loss)(p)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, v, g)
        p = jax.tree.map(lambda p, m, v: p - 0.05 * m / (1 - 0.9**t) / (
            jnp.sqrt(v / (1 - 0.99**t)) + 1e-6), p, m, v)
        return (p, m, v), l

    def train(p):
        zero = jax.tree.map(jnp.zeros_like, p)
        return lax.scan(step, (p, zero, zero), jnp.arange(1.0, 11.0))
    check(train, p, bound=1e-3)
