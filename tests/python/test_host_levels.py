"""Whole programs give the same bits with each set of host instructions (VTRN_ISA) and any number of threads.

engine_harness.py holds this for each instruction of the chip; here a compiler chooses them. The sign and payload of a
NaN are the host's (docs/decisions/0012)."""

import json
import os
import subprocess
import sys

import conftest
import pytest
from engine_harness import LEVELS, level_name

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
pytest.importorskip("jax")

PROGRAMS = """
import hashlib, json
import jax, jax.numpy as jnp, numpy as np
from jax import lax

rng = np.random.default_rng(0)
def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)
def loss(p, x, y):
    h = jax.nn.gelu(x @ p[0] + p[1])
    h = h * lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-5)
    return -jnp.take_along_axis(jax.nn.log_softmax(h @ p[2]), y[:, None], 1).mean()
def train(p, x, y):
    for _ in range(3):
        value, g = jax.value_and_grad(loss)(p, x, y)
        p = [a - 0.1 * b for a, b in zip(p, g)]
    return value, p
x, y = normal(65, 129), rng.integers(0, 33, 65)
weights = [normal(129, 257) / 8, normal(257), normal(257, 33) / 8]
bf16 = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), tree)
numbers = np.concatenate([normal(1000) * 10.0**k for k in range(-20, 20)] + [np.float32([0, -0.0, np.inf, -np.inf, np.nan])])
programs = {
    "train": (train, weights, x, y),
    "train bf16": (train, bf16(weights), bf16(x), y),
    "attention": (lambda q: jax.nn.dot_product_attention(q, q, q, is_causal=True), normal(2, 70, 3, 24)),
    "convolution": (jax.value_and_grad(lambda w, x: jnp.tanh(lax.conv(x, w, (2, 1), "SAME")).sum()), normal(7, 5, 3, 3), normal(2, 5, 17, 19)),
    "sums": (lambda x: [f(x, a) for f in (jnp.sum, jnp.max, jnp.var, jnp.cumsum, jnp.argmax) for a in (0, 1)], normal(131, 1025)),
    "elementwise": (lambda x: [f(x) for f in (jnp.exp, jnp.log, jnp.sin, jnp.tan, jnp.sqrt, lax.erf, jax.nn.silu, jnp.cbrt, lax.lgamma,
                                              lambda v: 1 / v, lambda v: v / 3, lambda v: v.astype(jnp.bfloat16),
                                              lambda v: v.astype(jnp.float16), lambda v: v.astype(jnp.float8_e4m3fn),
                                              lambda v: v.astype(jnp.int32))], numbers),
    "integers": (lambda x: [x @ x.T, x // 7, x % 7, jnp.sort(x, 0), x << 3, lax.population_count(x)], rng.integers(-99, 99, (63, 65), np.int32)),
    "int8": (lambda x: lax.dot(x, x.T, preferred_element_type=jnp.int32), rng.integers(-128, 127, (33, 130)).astype(np.int8)),
    "random": (lambda: jax.random.normal(jax.random.key(1), (1000,)),),
    "loop": (lambda x: lax.fori_loop(0, 9, lambda i, v: jnp.tanh(v @ v) + i, x), normal(31, 31)),
    "indices": (lambda x, i: [x[i], x.at[i].add(1.5), lax.top_k(x.T, 5)[0]], normal(200, 40), rng.integers(0, 200, 500)),
}
def digest(function, *args):
    leaves = [np.array(leaf) for leaf in jax.tree.leaves(jax.jit(function)(*args))]
    for leaf in leaves:
        leaf[leaf != leaf] = np.nan if leaf.dtype.kind != "i" else 0
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()
assert jax.devices()[0].platform == "neuron"
print(json.dumps({name: digest(*program) for name, program in programs.items()}))
"""
NAMES = [level_name(level) for level in LEVELS]


def bits(level, n_threads):
    env = os.environ | {"VTRN_ISA": level, "VTRN_THREADS": str(n_threads)}
    done = subprocess.run([sys.executable, "-c", PROGRAMS], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def expected():
    return bits(NAMES[-1], 2)


@pytest.mark.slow
@pytest.mark.parametrize("level,n_threads", [*((name, 1) for name in NAMES[:-1]), (NAMES[-1], 3)])
def test_the_bits_are_those_of_the_best_instructions_on_two_threads(expected, level, n_threads):
    assert bits(level, n_threads) == expected
