"""Programs in JAX alone, with optimisers of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import samples


def _dense(key, n_in, n_out):
    return {"w": jax.random.normal(key, (n_in, n_out)) / np.sqrt(n_in), "b": jnp.zeros(n_out)}


def _layers(key, *widths):
    keys = jax.random.split(key, len(widths) - 1)
    return [_dense(k, i, o) for k, i, o in zip(keys, widths, widths[1:])]


def _mlp(layers, x, act=jax.nn.relu):
    for layer in layers[:-1]:
        x = act(x @ layer["w"].astype(x.dtype) + layer["b"].astype(x.dtype))
    return x @ layers[-1]["w"].astype(x.dtype) + layers[-1]["b"].astype(x.dtype)


def _cross_entropy(logits, labels):
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.mean(jnp.take_along_axis(log_p, labels[..., None], axis=-1))


def _sgd(params, grads, rate):
    return jax.tree.map(lambda p, g: p - rate * g, params, grads)


def _adam(params, grads, moments, i, rate):
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], grads)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, moments[1], grads)

    def moved(p, m, v):
        return p - rate * m / (1 - 0.9**i) / (jnp.sqrt(v / (1 - 0.999**i)) + 1e-8)

    return jax.tree.map(moved, params, m, v), (m, v)


def _zeros(params):
    return jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)


def mlp(dtype):
    """JAX's own mnist_classifier_fromscratch."""

    @jax.jit
    def step(params, images, labels):
        def loss_of(params):
            return _cross_entropy(_mlp(params, images.reshape(len(images), -1).astype(dtype), jnp.tanh), labels)

        loss, grads = jax.value_and_grad(loss_of)(params)
        return _sgd(params, grads, 0.1), loss

    return _layers(jax.random.key(0), 64, 1024, 1024, 10), step, samples.digit_batches(128)


def lstm(dtype):
    """A language model of characters: LSTM cells in a scan, clipped gradients."""
    n_words, width = 61, 100
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "embed": jax.random.normal(keys[0], (n_words, width)) * 0.1,
        "cell": _dense(keys[1], 2 * width, 4 * width),
        "out": _dense(keys[2], width, n_words),
    }

    def loss_of(params, text):
        x = params["embed"][text[:, :-1]].astype(dtype)
        w, b = params["cell"]["w"].astype(dtype), params["cell"]["b"].astype(dtype)

        def cell(carry, x):
            h, c = carry
            i, f, g, o = jnp.split(jnp.concatenate([x, h], axis=1) @ w + b, 4, axis=1)
            c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = jnp.zeros((len(text), width), dtype)
        _, h = lax.scan(cell, (start, start), x.swapaxes(0, 1))
        return _cross_entropy(_mlp([params["out"]], h), text[:, 1:].T)

    @jax.jit
    def step(params, text):
        loss, grads = jax.value_and_grad(loss_of)(params, text)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
        return _sgd(params, grads, jnp.minimum(1.0, 1.0 / norm)), loss

    return params, step, samples.tokens(20, 35, n_words)


def gan(dtype):
    """Two networks against each other on digits, Adam both."""
    keys = jax.random.split(jax.random.key(0), 2)
    maker, judge = _layers(keys[0], 24, 150, 64), _layers(keys[1], 64, 150, 1)
    leaky = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)

    def made(maker, z):
        return jax.nn.sigmoid(_mlp(maker, z.astype(dtype)))

    def judge_loss(judge, real, fake):
        scores = _mlp(judge, jnp.concatenate([real, fake]), leaky).astype(jnp.float32)[:, 0]
        return jnp.mean(jax.nn.softplus(-scores[: len(real)])) + jnp.mean(jax.nn.softplus(scores[len(real) :]))

    def maker_loss(maker, judge, z):
        return jnp.mean(jax.nn.softplus(-_mlp(judge, made(maker, z), leaky).astype(jnp.float32)))

    @jax.jit
    def step(state, images, labels):
        maker, judge, maker_m, judge_m, key, i = state
        key, key_z = jax.random.split(key)
        z = jax.random.normal(key_z, (len(images), 24))
        real = images.reshape(len(images), -1).astype(dtype)
        loss_j, grads = jax.value_and_grad(judge_loss)(judge, real, made(maker, z))
        judge, judge_m = _adam(judge, grads, judge_m, i, 1e-3)
        loss_m, grads = jax.value_and_grad(maker_loss)(maker, judge, z)
        maker, maker_m = _adam(maker, grads, maker_m, i, 1e-3)
        return (maker, judge, maker_m, judge_m, key, i + 1), loss_j + loss_m

    state = maker, judge, _zeros(maker), _zeros(judge), jax.random.key(7), jnp.int32(1)
    return state, step, samples.digit_batches(60)


def moe(dtype):
    """A mixture of experts: the best two of six for each token, with a capacity, and a balance loss."""
    n_experts, width, hidden, capacity = 6, 48, 96, 40
    keys = jax.random.split(jax.random.key(0), 5)
    params = {
        "embed": jax.random.normal(keys[0], (97, width)),
        "gate": jax.random.normal(keys[1], (width, n_experts)) * 0.1,
        "up": jax.random.normal(keys[2], (n_experts, width, hidden)) / np.sqrt(width),
        "down": jax.random.normal(keys[3], (n_experts, hidden, width)) / np.sqrt(hidden),
        "out": _dense(keys[4], width, 97),
    }

    def loss_of(params, text):
        x = params["embed"][text[:, :-1]].reshape(-1, width)
        p = jax.nn.softmax(x @ params["gate"])
        weight, expert = lax.top_k(p, 2)
        weight = weight / jnp.sum(weight, axis=1, keepdims=True)
        chosen = jax.nn.one_hot(expert.T.reshape(-1), n_experts)
        place = (jnp.cumsum(chosen, axis=0) * chosen).sum(axis=1).astype(jnp.int32) - 1
        place = jax.nn.one_hot(place, capacity)
        route = (chosen[:, :, None] * place[:, None, :]).reshape(2, -1, n_experts, capacity)
        sent = jnp.einsum("knec,nd->ecd", route, x).astype(dtype)
        h = jax.nn.gelu(jnp.einsum("ecd,edh->ech", sent, params["up"].astype(dtype)))
        h = jnp.einsum("ech,ehd->ecd", h, params["down"].astype(dtype)).astype(jnp.float32)
        y = x + jnp.einsum("knec,kn,ecd->nd", route, weight.T, h)
        balance = n_experts * jnp.sum(jnp.mean(p, axis=0) * jnp.mean(chosen, axis=0))
        return _cross_entropy(_mlp([params["out"]], y), text[:, 1:].reshape(-1)) + 0.01 * balance

    @jax.jit
    def step(params, text):
        loss, grads = jax.value_and_grad(loss_of)(params, text)
        return _sgd(params, grads, 0.2), loss

    return params, step, samples.tokens(6, 19, 97)


def diffusion(dtype):
    """DDPM on digits: a network that predicts the noise of a random time."""
    n_times = 100
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, n_times)).astype(np.float32)
    params = _layers(jax.random.key(0), 64 + 32, 200, 200, 64)
    waves = np.exp(-np.log(1e4) * np.arange(16) / 16).astype(np.float32)

    def loss_of(params, x, key):
        key_t, key_e = jax.random.split(key)
        t = jax.random.randint(key_t, (len(x),), 0, n_times)
        noise = jax.random.normal(key_e, x.shape)
        a = jnp.asarray(kept)[t][:, None]
        angle = t[:, None] * waves
        seen = jnp.concatenate([jnp.sqrt(a) * x + jnp.sqrt(1 - a) * noise, jnp.sin(angle), jnp.cos(angle)], axis=1)
        return jnp.mean((_mlp(params, seen.astype(dtype), jax.nn.silu).astype(jnp.float32) - noise) ** 2)

    @jax.jit
    def step(state, images, labels):
        params, moments, key, i = state
        key, key_loss = jax.random.split(key)
        loss, grads = jax.value_and_grad(loss_of)(params, 2 * images.reshape(len(images), -1) - 1, key_loss)
        params, moments = _adam(params, grads, moments, i, 1e-3)
        return (params, moments, key, i + 1), loss

    return (params, _zeros(params), jax.random.key(5), jnp.int32(1)), step, samples.digit_batches(77)


def decode(dtype):
    """Inference: a decoder with a cache writes a token a step, and tells how likely it found it."""
    n_words, width, heads, layers, length = 211, 64, 4, 3, 48
    keys = iter(jax.random.split(jax.random.key(0), 20))
    params = {
        "embed": jax.random.normal(next(keys), (n_words, width)) * 0.2,
        "place": jax.random.normal(next(keys), (length, width)) * 0.1,
        "blocks": [
            {name: _dense(next(keys), *size) for name, size in
             {"qkv": (width, 3 * width), "o": (width, width), "up": (width, 4 * width),
              "down": (4 * width, width)}.items()}
            for _ in range(layers)
        ],
    }
    params = jax.tree.map(lambda p: p.astype(dtype), params)

    def norm(x):
        x = x.astype(jnp.float32)
        return (x * lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)).astype(dtype)

    @functools.partial(jax.jit, donate_argnums=1)
    def write(params, cache, token, at):
        x = params["embed"][token] + params["place"][at]
        new = []
        for block, (keys, values) in zip(params["blocks"], cache):
            q, k, v = jnp.split(_mlp([block["qkv"]], norm(x)), 3, axis=-1)
            keys = lax.dynamic_update_slice(keys, k[:, None], (0, at, 0))
            values = lax.dynamic_update_slice(values, v[:, None], (0, at, 0))
            new.append((keys, values))
            split = (len(token), length, heads, width // heads)
            scores = jnp.einsum("bhd,bthd->bht", q.reshape(-1, heads, width // heads), keys.reshape(split))
            scores = jnp.where(jnp.arange(length) <= at, scores / np.sqrt(width // heads), -1e9)
            p = jax.nn.softmax(scores.astype(jnp.float32)).astype(dtype)
            x = x + _mlp([block["o"]], jnp.einsum("bht,bthd->bhd", p, values.reshape(split)).reshape(-1, width))
            x = x + _mlp([block["down"]], jax.nn.gelu(_mlp([block["up"]], norm(x))))
        log_p = jax.nn.log_softmax((norm(x) @ params["embed"].T).astype(jnp.float32))
        return new, jnp.argmax(log_p, axis=-1), -jnp.mean(jnp.max(log_p, axis=-1))

    def step(state, prompt):
        cache, token, at = state
        cache, token, loss = write(params, cache, prompt if at == 0 else token, at)
        return (cache, token, at + 1), loss

    cache = [(jnp.zeros((5, length, width), dtype), jnp.zeros((5, length, width), dtype)) for _ in range(layers)]
    return (cache, None, 0), step, samples.always(np.arange(5, dtype=np.int32) * 31)
