"""Programs of many small operations, as bench/small.py times them.

    python bench/programs/small.py NAME SECONDS     # on the back end that JAX chooses

prints {"s": median seconds of a call, "cpu_s": mean processor seconds of one, "n": calls}. A call is
one execution of the jitted function."""

import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

PROGRAMS = {}


def program(function):
    """Registers a maker of (function, arguments)."""
    PROGRAMS[function.__name__] = function
    return function


def normal(rng, *shape, scale=1.0):
    return (scale * rng.standard_normal(shape)).astype(np.float32)


@program
def scalar(rng):
    """100,000 steps of a scalar loop."""
    return (lambda x: lax.fori_loop(0, 100_000, lambda i, x: x * 0.999 + 0.5, x)), (np.float32(1),)


@program
def matmul8(rng):
    """10,000 products of 8x8 matrices, one after the other."""
    w = normal(rng, 8, 8, scale=0.3)
    return (lambda x, w: lax.fori_loop(0, 10_000, lambda i, x: x @ w, x)), (normal(rng, 8, 8), w)


@program
def instructions(rng):
    """A loop whose body is 64 additions of 128 elements, each of which waits for the one before."""

    def body(i, x):
        for _ in range(32):
            x = jnp.where(x > 0, x, 1.0) - x
        return x

    return (lambda x: lax.fori_loop(0, 1_000, body, x)), (normal(rng, 128),)


def cartpole_step(state, action):
    """The pole's equations of motion, half a step explicit: gravity 9.8, pole of half length 0.5."""
    x, v, angle, w = state
    force = jnp.where(action > 0, 10.0, -10.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    push = (force + 0.05 * w * w * sin) / 1.1
    turn = (9.8 * sin - cos * push) / (0.5 * (4.0 / 3.0 - 0.1 * cos * cos / 1.1))
    shift = push - 0.05 * turn * cos / 1.1
    new = (x + 0.02 * v, v + 0.02 * shift, angle + 0.02 * w, w + 0.02 * turn)
    is_over = (jnp.abs(new[0]) > 2.4) | (jnp.abs(new[2]) > 0.21)
    return tuple(jnp.where(is_over, 0.01, n) for n in new), is_over


def cartpole(n):
    def run(gains, state):
        def step(state, _):
            action = sum(g * s for g, s in zip(gains, state))
            return cartpole_step(state, action)

        return lax.scan(step, state, None, length=1_000)

    def make(rng):
        return run, (normal(rng, 4), tuple(normal(rng, n, scale=0.05) for _ in range(4)))

    return make


PROGRAMS["cartpole1"] = cartpole(1)
PROGRAMS["cartpole64"] = cartpole(64)


@program
def mixed(rng):
    """400 layers of 16x64 and one product of 512x512 matrices."""

    def run(x, w, big):
        x = lax.fori_loop(0, 400, lambda i, x: jnp.tanh(x @ w), x)
        return x, big @ big

    return run, (normal(rng, 16, 64), normal(rng, 64, 64, scale=0.2), normal(rng, 512, 512))


def mlp_params(rng, *widths):
    return [(normal(rng, a, b, scale=a**-0.5), np.zeros(b, np.float32)) for a, b in zip(widths, widths[1:])]


def mlp(params, x):
    for i, (w, b) in enumerate(params):
        x = x @ w + b
        x = jnp.tanh(x) if i + 1 < len(params) else x
    return x


@program
def neural_ode(rng):
    """A training step through 40 Runge-Kutta steps of a network's field."""

    def rk4(params, y, h):
        k1 = mlp(params, y)
        k2 = mlp(params, y + h / 2 * k1)
        k3 = mlp(params, y + h / 2 * k2)
        k4 = mlp(params, y + h * k3)
        return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    def loss(params, y0, ys):
        def step(y, target):
            y = rk4(params, y, 0.05)
            return y, jnp.mean((y - target) ** 2)

        return jnp.mean(lax.scan(step, y0, ys)[1])

    def run(params, y0, ys):
        value, grads = jax.value_and_grad(loss)(params, y0, ys)
        return value, jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)

    return run, (mlp_params(rng, 2, 64, 64, 2), normal(rng, 32, 2), normal(rng, 40, 32, 2))


@program
def ppo(rng):
    """128 steps of 16 cart-poles, then four epochs of the clipped loss over four minibatches."""

    def collect(params, state, noise):
        def step(state, noise):
            seen = jnp.stack(state, -1)
            logit, value = mlp(params["policy"], seen)[:, 0], mlp(params["value"], seen)[:, 0]
            action = jnp.where(noise < jax.nn.sigmoid(logit), 1.0, -1.0)
            after, is_over = cartpole_step(state, action)
            reward = jnp.where(is_over, 0.0, 1.0)
            return after, (seen, action, jax.nn.log_sigmoid(action * logit), value, reward, is_over)

        return lax.scan(step, state, noise)

    def advantages(value, reward, is_over):
        def step(carry, now):
            gain, after = carry
            value, reward, is_over = now
            goes_on = 1.0 - is_over
            gain = reward + 0.99 * after * goes_on - value + 0.99 * 0.95 * goes_on * gain
            return (gain, value), gain

        zero = jnp.zeros(value.shape[1])
        return lax.scan(step, (zero, value[-1]), (value, reward, is_over.astype(jnp.float32)), reverse=True)[1]

    def loss(params, batch):
        seen, action, old, gain, returns = batch
        logit, value = mlp(params["policy"], seen)[:, 0], mlp(params["value"], seen)[:, 0]
        ratio = jnp.exp(jax.nn.log_sigmoid(action * logit) - old)
        clipped = jnp.minimum(ratio * gain, jnp.clip(ratio, 0.8, 1.2) * gain)
        return 0.5 * jnp.mean((value - returns) ** 2) - jnp.mean(clipped)

    def run(params, state, noise):
        state, (seen, action, old, value, reward, is_over) = collect(params, state, noise)
        gain = advantages(value, reward, is_over)
        flat = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[2:]), (seen, action, old, gain, gain + value))

        def update(params, i):
            batch = jax.tree.map(lambda x: x[i % 4], flat)
            grads = jax.grad(loss)(params, batch)
            return jax.tree.map(lambda p, g: p - 3e-3 * g, params, grads), None

        return lax.scan(update, params, jnp.arange(16))[0], state

    params = {"policy": mlp_params(rng, 4, 64, 64, 1), "value": mlp_params(rng, 4, 64, 64, 1)}
    state = tuple(normal(rng, 16, scale=0.05) for _ in range(4))
    return run, (params, state, rng.uniform(size=(128, 16)).astype(np.float32))


def lstm_cell(params, carry, x):
    h, c = carry
    gates = jnp.concatenate([x, h], -1) @ params["w"] + params["b"]
    i, f, g, o = jnp.split(gates, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def lstm_params(rng, n_in, width):
    return {"w": normal(rng, n_in + width, 4 * width, scale=0.1), "b": np.zeros(4 * width, np.float32)}


def sgd(loss, params, *arguments):
    value, grads = jax.value_and_grad(loss)(params, *arguments)
    return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)


@program
def lstm(rng):
    """A training step of a bidirectional LSTM over 64 tokens of 32 features."""

    def loss(params, x, labels):
        zero = (jnp.zeros((x.shape[1], 64)),) * 2
        ahead = lax.scan(lambda c, x: lstm_cell(params["ahead"], c, x), zero, x)[1]
        back = lax.scan(lambda c, x: lstm_cell(params["back"], c, x), zero, x, reverse=True)[1]
        logits = jnp.concatenate([ahead, back], -1) @ params["head"]
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, 10), -1))

    params = {"ahead": lstm_params(rng, 32, 64), "back": lstm_params(rng, 32, 64), "head": normal(rng, 128, 10, scale=0.1)}
    labels = rng.integers(0, 10, (64, 16)).astype(np.int32)
    return (lambda p, x, y: sgd(loss, p, x, y)), (params, normal(rng, 64, 16, 32), labels)


@program
def seq2seq(rng):
    """A training step of an encoder and a decoder (GRU-like cells) with attention over 24 tokens."""

    def cell(params, h, x):
        z, r = jnp.split(jax.nn.sigmoid(jnp.concatenate([x, h], -1) @ params["gates"]), 2, -1)
        new = jnp.tanh(jnp.concatenate([x, r * h], -1) @ params["new"])
        return (1 - z) * h + z * new

    def cell_params(n_in, width):
        return {"gates": normal(rng, n_in + width, 2 * width, scale=0.1), "new": normal(rng, n_in + width, width, scale=0.1)}

    def loss(params, source, target):
        words = params["words"]

        def encode(h, token):
            h = cell(params["encoder"], h, words[token])
            return h, h

        def decode(h, token):
            weights = jax.nn.softmax(jnp.einsum("bh,sbh->bs", h, seen), -1)
            context = jnp.einsum("bs,sbh->bh", weights, seen)
            h = cell(params["decoder"], h, jnp.concatenate([words[token], context], -1))
            return h, h @ params["head"]

        h, seen = lax.scan(encode, jnp.zeros((source.shape[1], 64)), source)
        logits = lax.scan(decode, h, target[:-1])[1]
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(target[1:], 40), -1))

    params = {
        "words": normal(rng, 40, 32, scale=0.1),
        "encoder": cell_params(32, 64),
        "decoder": cell_params(96, 64),
        "head": normal(rng, 64, 40, scale=0.1),
    }
    source, target = (rng.integers(0, 40, (24, 16)).astype(np.int32) for _ in range(2))
    return (lambda p, s, t: sgd(loss, p, s, t)), (params, source, target)


def main():
    name, seconds = sys.argv[1], float(sys.argv[2])
    function, arguments = PROGRAMS[name](np.random.default_rng(1))
    arguments = jax.device_put(arguments, jax.devices()[0])
    compiled = jax.jit(function).lower(*arguments).compile()
    for _ in range(2):
        jax.block_until_ready(compiled(*arguments))
    times, end = [], time.perf_counter() + seconds
    begin = time.process_time()
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - start)
    cpu_s = (time.process_time() - begin) / len(times)
    print(json.dumps({"s": statistics.median(times), "cpu_s": cpu_s, "n": len(times)}))


if __name__ == "__main__":
    main()
