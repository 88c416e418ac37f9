"""Programs that are about Optax: its solvers, its losses, its wrappers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import samples


def lbfgs():
    """Logistic regression by L-BFGS with a zoom line search."""
    images, labels = samples.digits()
    x, y = jnp.asarray(images[:500].reshape(500, -1)), jnp.asarray(labels[:500])

    def loss_of(params):
        logits = x @ params["w"] + params["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean() + 1e-3 * jnp.sum(params["w"] ** 2)

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss_of)

    @jax.jit
    def step(state):
        params, opt_state = state
        loss, grads = value_and_grad(params, state=opt_state)
        updates, opt_state = solver.update(grads, opt_state, params, value=loss, grad=grads, value_fn=loss_of)
        return (optax.apply_updates(params, updates), opt_state), loss

    params = {"w": jnp.zeros((64, 10)), "b": jnp.zeros(10)}
    return (params, solver.init(params)), step, samples.always()


def ctc():
    """Speech in small: a recurrent network, optax.ctc_loss, an update every second step, a moving average."""
    n_labels, width, n_frames, n_tokens = 12, 40, 30, 9
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "in": jax.random.normal(keys[0], (13, width)) * 0.3,
        "h": jax.random.orthogonal(keys[1], width),
        "out": jax.random.normal(keys[2], (width, n_labels)) * 0.1,
    }
    optimiser = optax.MultiSteps(optax.chain(optax.adaptive_grad_clip(0.1), optax.lion(1e-3)), 2)
    rng = np.random.default_rng(0)

    def batches():
        sounds = rng.standard_normal((n_labels, 13))
        while True:
            tokens = rng.integers(1, n_labels, (10, n_tokens)).astype(np.int32)
            lengths = rng.integers(3, n_tokens + 1, 10)
            frames = sounds[tokens.repeat(4, axis=1)[:, :n_frames]] + 0.3 * rng.standard_normal((10, n_frames, 13))
            yield frames.astype(np.float32), tokens, (np.arange(n_tokens) >= lengths[:, None]).astype(np.float32)

    def loss_of(params, frames, tokens, padding):
        def cell(h, x):
            h = jnp.tanh(x @ params["in"] + h @ params["h"])
            return h, h

        _, h = jax.lax.scan(cell, jnp.zeros((len(frames), width)), frames.swapaxes(0, 1))
        logits = h.swapaxes(0, 1) @ params["out"]
        return jnp.mean(optax.ctc_loss(logits, jnp.zeros(logits.shape[:2]), tokens, padding))

    @jax.jit
    def step(state, *batch):
        params, opt_state, average = state
        loss, grads = jax.value_and_grad(loss_of)(params, *batch)
        updates, opt_state = optimiser.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, optax.incremental_update(params, average, 0.01)), loss

    return (params, optimiser.init(params), params), step, batches()


def sam(dtype):
    """Sharpness-aware minimisation with Adafactor, two optimisers for two kinds of parameters."""
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "w1": jax.random.normal(keys[0], (64, 130)) * 0.12, "b1": jnp.zeros(130),
        "w2": jax.random.normal(keys[1], (130, 10)) * 0.1, "b2": jnp.zeros(10),
    }
    optimiser = optax.partition(
        {"matrix": optax.adafactor(1e-2, min_dim_size_to_factor=8), "bias": optax.adagrad(1e-2)},
        lambda params: {name: "matrix" if name[0] == "w" else "bias" for name in params},
    )

    def loss_of(params, x, y):
        p = jax.tree.map(lambda p: p.astype(dtype), params)
        logits = jax.nn.mish(x.astype(dtype) @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
        smooth = optax.smooth_labels(jax.nn.one_hot(y, 10), 0.1)
        return optax.softmax_cross_entropy(logits.astype(jnp.float32), smooth).mean()

    @jax.jit
    def step(state, images, labels):
        params, opt_state = state
        x = images.reshape(len(images), -1)
        loss, grads = jax.value_and_grad(loss_of)(params, x, labels)
        norm = optax.global_norm(grads)
        up = jax.tree.map(lambda p, g: p + 0.05 * g / (norm + 1e-12), params, grads)
        updates, opt_state = optimiser.update(jax.grad(loss_of)(up, x, labels), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    return (params, optimiser.init(params)), step, samples.digit_batches(100)
