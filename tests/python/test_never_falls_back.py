"""What training scripts call, held to the engines: no reference op, and the CPU's values.

Run as a script it prints a row for each function: the reference ops left, and the largest error.
"""

import os
import sys

import capi
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from common import SEED

pytestmark = pytest.mark.part(2)

RNG = np.random.default_rng(SEED)


def f32(*shape, lo=-2.0, hi=2.0):
    return (RNG.random(shape) * (hi - lo) + lo).astype(np.float32)


def i32(*shape, lo=-1000, hi=1000):
    return RNG.integers(lo, hi, shape, dtype=np.int32)


def u32(*shape, lo=0, hi=2**32 - 1):
    return RNG.integers(lo, hi, shape, dtype=np.uint32)


def key():
    return np.array([7, 42], np.uint32)


def scan_minibatches(w, xs, ys):
    def step(w, i):
        x = lax.dynamic_slice_in_dim(xs, i * 8, 8)
        y = lax.dynamic_slice_in_dim(ys, i * 8, 8)
        loss, g = jax.value_and_grad(lambda w: jnp.mean((x @ w - y) ** 2))(w)
        return w - 0.1 * g, loss

    return lax.scan(step, w, jnp.arange(4))


def rope(x):
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * 10000.0 ** (-jnp.arange(half) / half)
    c, s = jnp.cos(angle), jnp.sin(angle)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * c - b * s, a * s + b * c], -1)


def batch_norm(x, g, b):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) * lax.rsqrt(var + 1e-5) * g + b


def cross_entropy(logits, labels):
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, labels[..., None], -1).mean()


def adamw(p, g, m, v, t):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    a, b = m / (1 - 0.9**t), v / (1 - 0.999**t)
    return p - 1e-3 * (a / (jnp.sqrt(b) + 1e-8) + 0.01 * p), m, v


def clip_by_norm(a, b):
    norm = jnp.sqrt((a**2).sum() + (b**2).sum())
    scale = jnp.minimum(1.0, 1.0 / norm)
    return a * scale, b * scale


def cosine_schedule(step):
    warm = step / 10.0
    cos = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip((step - 10) / 90.0, 0, 1)))
    return jnp.where(step < 10, warm, cos) * 1e-3


def lstm(x, h, c, w):
    def step(carry, x):
        h, c = carry
        i, f, g, o = jnp.split(jnp.concatenate([x, h], -1) @ w, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return lax.scan(step, (h, c), x)


def kv_cache(cache, new, at):
    cache = lax.dynamic_update_slice(cache, new, (0, at, 0))
    mask = jnp.arange(cache.shape[1]) <= at
    return cache, jnp.where(mask[None, :, None], cache, 0).sum(1)


# name -> function, arguments
CASES = {
    # elementwise, floating point
    "sin cos": (lambda x: (jnp.sin(x), jnp.cos(x)), f32(40, 70, lo=-20, hi=20)),
    "tan": (lambda x: jnp.tan(x), f32(300, lo=-1.4, hi=1.4)),
    "arctan2": (lambda x, y: jnp.arctan2(x, y), f32(500), f32(500)),
    "arctan": (jnp.arctan, f32(500, lo=-9, hi=9)),
    "asin acos": (lambda x: (jnp.arcsin(x), jnp.arccos(x)), f32(500, lo=-1, hi=1)),
    "sinh cosh": (lambda x: (jnp.sinh(x), jnp.cosh(x)), f32(500)),
    "asinh acosh atanh": (lambda x: (jnp.arcsinh(x), jnp.arccosh(x + 4), jnp.arctanh(x / 3)), f32(500)),
    "cbrt": (jnp.cbrt, f32(500)),
    "exp2 log2 log10": (lambda x: (jnp.exp2(x), jnp.log2(x), jnp.log10(x)), f32(500, lo=0.1)),
    "erf erfc": (lambda x: (lax.erf(x), lax.erfc(x)), f32(500)),
    "erf_inv": (lax.erf_inv, f32(500, lo=-0.99, hi=0.99)),
    "power": (lambda x, y: (jnp.power(x, y), x**2.5, x**3, x**-1), f32(500, lo=0.1), f32(500)),
    "logaddexp": (jnp.logaddexp, f32(500), f32(500)),
    "square reciprocal": (lambda x: (jnp.square(x), jnp.reciprocal(x)), f32(500, lo=0.1)),
    "float remainder": (lambda x, y: (jnp.mod(x, y), jnp.fmod(x, y), x // y), f32(500), f32(500, lo=0.3)),
    "is finite": (lambda x: (jnp.isfinite(x), jnp.isnan(x), jnp.isinf(x)), f32(99)),
    "nan to num": (jnp.nan_to_num, f32(99)),
    "reduce precision": (lambda x: (lax.reduce_precision(x, 8, 7), lax.reduce_precision(x, 5, 10)), f32(999)),
    "floor ceil round trunc": (lambda x: (jnp.floor(x), jnp.ceil(x), jnp.round(x), jnp.trunc(x)), f32(99)),
    "heaviside hypot": (lambda x, y: (jnp.heaviside(x, 0.5), jnp.hypot(x, y)), f32(99), f32(99)),
    "sinc": (jnp.sinc, f32(99)),
    "lgamma digamma": (lambda x: (lax.lgamma(x), lax.digamma(x)), f32(99, lo=0.5)),
    "copysign nextafter": (lambda x, y: (jnp.copysign(x, y), jnp.nextafter(x, y)), f32(99), f32(99)),
    "frexp ldexp": (lambda x: (jnp.frexp(x), jnp.ldexp(x, 3)), f32(99)),
    "integer powers": (lambda x: (lax.integer_pow(x, 5), lax.integer_pow(x, -3)), f32(99, lo=0.2)),
    # elementwise, integers
    "integer division": (lambda a, b: (a // b, a % b, lax.div(a, b), lax.rem(a, b)), i32(300), i32(300, lo=1)),
    "unsigned division": (lambda a, b: (a // b, a % b), u32(300), u32(300, lo=1)),
    "integer sign abs": (lambda a: (jnp.sign(a), jnp.abs(a)), i32(300)),
    "integer power": (lambda a, b: a**b, i32(300, lo=-9, hi=9), i32(300, lo=0, hi=9)),
    "integer shifts": (lambda a, b: (a << b, a >> b, lax.shift_right_logical(a, b)), i32(300), i32(300, lo=0, hi=31)),
    "bit counts": (lambda a: (lax.population_count(a), lax.clz(a)), u32(300)),
    "small integers": (lambda a, b: (a + b, a * b, a - b, a & b, a | b, a ^ b, ~a, -a, a // b),
                       i32(300, lo=-99, hi=99).astype(np.int8), i32(300, lo=1, hi=99).astype(np.int8)),
    "bytes": (lambda a, b: (a + b, a * b, a - b, a & b, a >> 3, a << 2, a % b),
              u32(300, lo=0, hi=255).astype(np.uint8), u32(300, lo=1, hi=255).astype(np.uint8)),
    "half words": (lambda a, b: (a + b, a * b, a - b, jnp.maximum(a, b)), i32(300).astype(np.int16),
                   i32(300).astype(np.int16)),
    "integer sums": (lambda a: (a.sum(), a.sum(0), a.sum(1), a.max(), a.min(0), a.prod(1)), i32(30, 40, lo=-9, hi=9)),
    "truth sums": (lambda x: ((x > 0).sum(), (x > 0).sum(0), (x > 0).mean(), jnp.any(x > 1.9), jnp.all(x > -2)), f32(30, 40)),
    "convert integers": (lambda a: (a.astype(jnp.int8), a.astype(jnp.uint8), a.astype(jnp.int16), a.astype(jnp.float16)), i32(300)),
    "bitcasts": (lambda x: (lax.bitcast_convert_type(x, jnp.int32) >> 3, lax.bitcast_convert_type(x, jnp.uint32) & 255), f32(99)),
    # activations
    "activations": (lambda x: (jax.nn.relu(x), jax.nn.relu6(x), jax.nn.leaky_relu(x), jax.nn.elu(x), jax.nn.selu(x),
                               jax.nn.celu(x), jax.nn.silu(x), jax.nn.hard_tanh(x), jax.nn.hard_swish(x),
                               jax.nn.hard_sigmoid(x), jax.nn.soft_sign(x), jax.nn.squareplus(x)), f32(40, 50)),
    "softplus mish": (lambda x: (jax.nn.softplus(x), jax.nn.mish(x), jax.nn.log_sigmoid(x), jax.nn.gelu(x),
                                 jax.nn.gelu(x, approximate=False)), f32(40, 50)),
    "glu standardize": (lambda x: (jax.nn.glu(x), jax.nn.standardize(x)), f32(40, 50)),
    "log softmax logsumexp": (lambda x: (jax.nn.log_softmax(x), jax.nn.logsumexp(x, -1), jax.nn.softmax(x, 0)), f32(40, 50)),
    "one hot": (lambda y: jax.nn.one_hot(y, 10), i32(40, lo=0, hi=10)),
    # indices of extrema, order
    "argmax": (lambda x: (jnp.argmax(x, 1), jnp.argmin(x, 1)), f32(60, 10)),
    "argmax of columns": (lambda x: (jnp.argmax(x, 0), jnp.argmin(x, 0)), f32(60, 10)),
    "argmax of all": (lambda x: jnp.argmax(x), f32(60, 10)),
    "argmax of integers": (lambda x: jnp.argmax(x, 1), i32(60, 10)),
    "accuracy": (lambda x, y: (jnp.argmax(x, -1) == y).mean(), f32(60, 10), i32(60, lo=0, hi=10)),
    "max and its gradient": (jax.grad(lambda x: (x.max(1) ** 2).sum() + x.max() + (x.min(0) ** 3).sum()), f32(30, 12)),
    "top k": (lambda x: lax.top_k(x, 3), f32(60, 20)),
    "sort": (lambda x: jnp.sort(x, -1), f32(60, 20)),
    "argsort": (lambda x: jnp.argsort(x, -1), f32(60, 20)),
    "sort one row": (lambda x: jnp.sort(x), f32(300)),
    "median": (lambda x: jnp.median(x, -1), f32(60, 21)),
    # cumulative
    "cumsum": (lambda x: (jnp.cumsum(x, 1), jnp.cumsum(x, 0)), f32(30, 40)),
    "cumprod cummax": (lambda x: (jnp.cumprod(x, 1), lax.cummax(x, 1), lax.cummin(x, 0)), f32(30, 40, lo=0.5, hi=1.5)),
    "cumsum of integers": (lambda x: jnp.cumsum(x, 1), i32(30, 40)),
    "cumlogsumexp": (lambda x: lax.cumlogsumexp(x, 1), f32(30, 40)),
    "long cumsum": (lambda x: (jnp.cumsum(x), lax.cummax(x)), f32(3000, lo=0.5, hi=1.5)),  # of one sign: nothing cancels
    "reverse cumsum": (lambda x: lax.cumsum(x, 1, reverse=True), f32(30, 40)),
    "associative scan": (lambda a, b: lax.associative_scan(lambda x, y: (x[0] * y[0], y[0] * x[1] + y[1]), (a, b)), f32(33, 5), f32(33, 5)),
    "diff trapezoid": (lambda x: (jnp.diff(x), jnp.trapezoid(x)), f32(30, 40)),
    # slices whose start is data
    "dynamic slice": (lambda x, i: lax.dynamic_slice(x, (i, 0), (4, 20)), f32(30, 20), np.int32(7)),
    "dynamic slice of columns": (lambda x, i: lax.dynamic_slice(x, (0, i), (30, 4)), f32(30, 20), np.int32(17)),
    "dynamic slice of both": (lambda x, i, j: lax.dynamic_slice(x, (i, j), (5, 4)), f32(30, 20), np.int32(-3), np.int32(100)),
    "dynamic index": (lambda x, i: (x[i], x[-1], lax.dynamic_index_in_dim(x, i, 1, False)), f32(30, 20), np.int32(7)),
    "dynamic update slice": (lambda x, u, i: lax.dynamic_update_slice(x, u, (i, 0)), f32(30, 20), f32(4, 20), np.int32(28)),
    "dynamic update of a block": (lambda x, u, i, j: lax.dynamic_update_slice(x, u, (i, j)), f32(30, 20), f32(4, 5), np.int32(3), np.int32(9)),
    "kv cache": (kv_cache, f32(2, 16, 8), f32(2, 1, 8), np.int32(5)),
    "scan over minibatches": (scan_minibatches, f32(6), f32(32, 6), f32(32)),
    "scan with outputs": (lambda x, xs: lax.scan(lambda c, v: (c + v, c * v), x, xs), f32(5), f32(9, 5)),
    "gradient of a scan": (jax.grad(lambda x, xs: (lax.scan(lambda c, v: (jnp.tanh(c * v), c), x, xs)[1] ** 2).sum()), f32(5), f32(9, 5)),
    "map": (lambda xs: lax.map(lambda v: jnp.tanh(v) * 2, xs), f32(9, 5)),
    "fori with an update": (lambda x: lax.fori_loop(0, 5, lambda i, c: c.at[i].set(c[i] * 2 + i), x), f32(9, 5)),
    "roll": (lambda x, i: (jnp.roll(x, 3, 0), jnp.roll(x, i, 1)), f32(9, 5), np.int32(2)),
    "lstm": (lstm, f32(7, 4, 5), f32(4, 6), f32(4, 6), f32(11, 24)),
    # gather and scatter
    "rows by index": (lambda x, i: x[i], f32(50, 9), i32(30, lo=-50, hi=50)),
    "rows by index of vectors": (lambda x, i: x[i], f32(50), i32(30, lo=0, hi=50)),
    "columns by index": (lambda x, i: x[:, i], f32(9, 50), i32(30, lo=0, hi=50)),
    "elements by index": (lambda x, i, j: x[i, j], f32(50, 9), i32(30, lo=0, hi=50), i32(30, lo=0, hi=9)),
    "integers by index": (lambda x, i: x[i], i32(50, 9), i32(30, lo=0, hi=50)),
    "take": (lambda x, i: (jnp.take(x, i, 0), jnp.take(x, i, 1, mode="clip")), f32(50, 60), i32(30, lo=0, hi=50)),
    "take along axis": (lambda x, i: jnp.take_along_axis(x, i, 1), f32(50, 9), i32(50, 4, lo=0, hi=9)),
    "take along axis 0": (lambda x, i: jnp.take_along_axis(x, i, 0), f32(50, 9), i32(4, 9, lo=0, hi=50)),
    "cross entropy of labels": (jax.value_and_grad(cross_entropy), f32(20, 30, 10), i32(20, 30, lo=0, hi=10)),
    "cross entropy by index": (jax.value_and_grad(lambda x, y: -jax.nn.log_softmax(x)[jnp.arange(40), y].mean()),
                               f32(40, 10), i32(40, lo=0, hi=10)),
    "embedding gradient": (jax.grad(lambda t, i: (t[i] ** 2).sum()), f32(50, 16), i32(4, 30, lo=0, hi=50)),
    "embedding gradient by take": (jax.grad(lambda t, i: (jnp.take(t, i, 0) ** 2).sum()), f32(50, 16), i32(4, 30, lo=0, hi=50)),
    "gradient of columns by index": (jax.grad(lambda x, i: (x[:, i] ** 2).sum()), f32(9, 50), i32(30, lo=0, hi=50)),
    "at set": (lambda x, i, u: x.at[i].set(u), f32(50, 9), RNG.permutation(50)[:30].astype(np.int32), f32(30, 9)),
    "at add": (lambda x, i, u: x.at[i].add(u), f32(50, 9), i32(30, lo=0, hi=50), f32(30, 9)),
    "at max": (lambda x, i, u: x.at[i].max(u), f32(50, 9), i32(30, lo=0, hi=50), f32(30, 9)),
    "at multiply": (lambda x, i, u: x.at[i].multiply(u), f32(50, 9), RNG.permutation(50)[:30].astype(np.int32), f32(30, 9)),
    "at set of one row": (lambda x, i, u: x.at[i].set(u), f32(50, 9), np.int32(4), f32(9)),
    "at add of elements": (lambda x, i, j, u: x.at[i, j].add(u), f32(50, 9), i32(30, lo=0, hi=50), i32(30, lo=0, hi=9), f32(30)),
    "at set of a slice": (lambda x, u: x.at[3:7, 2:5].set(u), f32(50, 9), f32(4, 3)),
    "at add of a vector": (lambda x, i, u: x.at[i].add(u), f32(50), i32(30, lo=0, hi=50), f32(30)),
    "at add of integers": (lambda x, i: x.at[i].add(1), i32(50), i32(30, lo=0, hi=50)),
    "bincount": (lambda i: jnp.bincount(i, length=10), i32(300, lo=0, hi=10)),
    "segment sum": (lambda x, i: jax.ops.segment_sum(x, i, 10), f32(60, 5), i32(60, lo=0, hi=10)),
    "boolean mask": (lambda x, m: jnp.where(m, x, 0).sum(), f32(50), f32(50) > 0),
    "triangles": (lambda x: (jnp.tril(x), jnp.triu(x, 1), jnp.diag(x), jnp.trace(x)), f32(9, 9)),
    "diagonal matrix": (lambda x: jnp.diag(x), f32(9)),
    "stack tile repeat": (lambda x: (jnp.stack([x, x + 1], 1), jnp.tile(x, (2, 3)), jnp.repeat(x, 3, 0)), f32(9, 4)),
    "meshgrid linspace": (lambda x: jnp.linspace(0, 1, 9)[:, None] * x + jnp.eye(9, 4), f32(9, 4)),
    "searchsorted": (lambda x, v: jnp.searchsorted(x, v), np.sort(f32(50)), f32(20)),
    "interp": (lambda x, a, b: jnp.interp(x, a, b), f32(20), np.sort(f32(9)), f32(9)),
    # random numbers
    "random bits": (lambda k: jax.random.bits(k, (33, 7)), key()),
    "uniform": (lambda k: jax.random.uniform(k, (33, 7)), key()),
    "normal": (lambda k: jax.random.normal(k, (33, 7)), key()),
    "normal of single columns": (lambda k: jax.random.normal(k, (5, 30, 7, 1)), key()),
    "bernoulli": (lambda k: jax.random.bernoulli(k, 0.3, (33, 7)), key()),
    "dropout": (lambda k, x: jnp.where(jax.random.bernoulli(k, 0.9, x.shape), x / 0.9, 0), key(), f32(40, 50)),
    "split fold in": (lambda k: (jax.random.split(k, 3), jax.random.fold_in(k, 5)), key()),
    "randint": (lambda k: jax.random.randint(k, (99,), 0, 17), key()),
    "truncated normal": (lambda k: jax.random.truncated_normal(k, -2, 2, (33, 7)), key()),
    "gumbel categorical": (lambda k, x: (jax.random.gumbel(k, (9,)), jax.random.categorical(k, x)), key(), f32(20, 10)),
    "permutation": (lambda k: jax.random.permutation(k, 50), key()),
    "choice": (lambda k, x: jax.random.choice(k, x, (10,)), key(), f32(40)),
    "exponential": (lambda k: jax.random.exponential(k, (99,)), key()),
    "threefry generator": (lambda k: lax.rng_bit_generator(k, (33, 7), algorithm=lax.RandomAlgorithm.RNG_THREE_FRY), np.array([7, 42, 0, 0], np.uint32)),
    "philox generator": (lambda k: lax.rng_bit_generator(k, (33, 7), algorithm=lax.RandomAlgorithm.RNG_PHILOX), np.array([7, 42, 0, 0], np.uint32)),
    # models and optimisers
    "rope": (rope, f32(2, 16, 8)),
    "batch norm": (jax.value_and_grad(lambda x, g, b: (batch_norm(x, g, b) ** 3).sum(), (0, 1, 2)), f32(4, 5, 5, 6), f32(6), f32(6)),
    "adamw": (adamw, f32(40, 30), f32(40, 30), f32(40, 30), f32(40, 30, lo=0), np.float32(3)),
    "adamw with an integer step": (adamw, f32(40, 30), f32(40, 30), f32(40, 30), f32(40, 30, lo=0), np.int32(3)),
    "clip by norm": (clip_by_norm, f32(40, 30), f32(30)),
    "cosine schedule": (cosine_schedule, np.int32(37)),
    "average pool": (lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4, f32(2, 8, 8, 3)),
    "norms": (lambda x: (jnp.linalg.norm(x), jnp.linalg.norm(x, axis=1), jnp.std(x, 0), jnp.var(x)), f32(30, 20)),
    "einsum": (lambda a, b: (jnp.einsum("bhd,bkd->bhk", a, b), jnp.einsum("bhd->hd", a)), f32(3, 7, 9), f32(3, 5, 9)),
    "logic and select": (lambda a, b: (jnp.logical_and(a > 0, b > 0), jnp.select([a > 1, b > 1], [a, b], 0)), f32(99), f32(99)),
    "huber loss": (jax.grad(lambda x: jnp.where(jnp.abs(x) < 1, 0.5 * x**2, jnp.abs(x) - 0.5).sum()), f32(99)),
    "kl divergence": (lambda p, q: (jax.nn.softmax(p) * (jax.nn.log_softmax(p) - jax.nn.log_softmax(q))).sum(), f32(9, 20), f32(9, 20)),
    "bfloat16 block": (lambda x, w: jax.nn.gelu(x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)).astype(jnp.float32).sum(0), f32(30, 20), f32(20, 40)),
    "key array": (lambda s: jax.random.normal(jax.random.key(s), (5, 5)), np.int32(3)),
    "multi head mask": (lambda x: jnp.where(jnp.tril(jnp.ones((16, 16), bool)), x, -jnp.inf).max(-1), f32(2, 16, 16)),
    "checkpointed block": (jax.grad(lambda x, w: jax.checkpoint(lambda v: jnp.tanh(v @ w))(x).sum()), f32(9, 20), f32(20, 20)),
    "vmapped gradient": (jax.vmap(jax.grad(lambda w, x: jnp.tanh(x @ w).sum()), (None, 0)), f32(20), f32(9, 20)),
}  # fmt: skip

# What still runs as a reference op; these must give the CPU's values all the same.
FALLS_BACK = {
    "float remainder",
    "cumlogsumexp",
    "threefry generator",
    "philox generator",
}


def export(f, args):
    with jax.default_device(jax.devices("cpu")[0]):
        jitted = jax.jit(f)
        expected = [np.asarray(e) for e in jax.tree.leaves(jitted(*args))]
        exported = jax.export.export(jitted, platforms=["cpu"])(*args)
    leaves = jax.tree.leaves(args)
    kept = [np.asarray(leaves[i]) for i in exported.module_kept_var_idx]
    return exported.mlir_module_serialized, kept, expected


def error(got, expected):
    """Largest error relative to max(1, |expected|); integers: how many differ."""
    if expected.dtype.kind in "iub":
        return float((got != expected).sum())
    e, g = expected.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.where((g == e) | (np.isnan(g) & np.isnan(e)), 0, np.abs(g - e) / np.maximum(1, np.abs(e)))
    return float(distance.max(initial=0))


@pytest.fixture(scope="module")
def device():
    d = capi.Device(threads=2)
    yield d
    d.close()


@pytest.mark.parametrize("name", CASES)
def test_training_code_never_falls_back(device, name):
    f, *args = CASES[name]
    artifact, kept, expected = export(f, args)
    executable = device.compile(artifact)
    got = executable(*kept)
    for g, e in zip(got, expected, strict=True):
        assert g.shape == e.shape and g.dtype == e.dtype
        assert error(g, e) <= (1e-3 if "bfloat16" in name else 2e-5), name
    assert (executable.profile().n_reference_ops > 0) == (name in FALLS_BACK)


def main():
    device = capi.Device(threads=1)
    wanted = sys.argv[1:]
    for name, (f, *args) in CASES.items():
        if wanted and not any(w in name for w in wanted):
            continue
        try:
            artifact, kept, expected = export(f, args)
            executable = device.compile(artifact)
            got = executable(*kept)
            worst = max([error(g, e) for g, e in zip(got, expected, strict=True)], default=0)
            n = executable.profile().n_reference_ops
        except Exception as problem:  # noqa: BLE001
            print(f"{name:32} FAILED {str(problem)[:160]}")
            continue
        left = ""
        if n:
            os.environ["VTRN_STRICT"] = "1"
            try:
                device.compile(artifact)
            except capi.VtrnError as problem:
                left = str(problem)[:90].replace("\n", " ")
            del os.environ["VTRN_STRICT"]
        if n or worst > 2e-6:
            print(f"{name:32} {n:3} reference ops  error {worst:.2g}  {left}", flush=True)


if __name__ == "__main__":
    main()
