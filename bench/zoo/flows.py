"""Programs with distrax: distributions and bijectors."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax

import samples
import steps


def _mlp(params, x):
    for w, b in params[:-1]:
        x = jnp.tanh(x @ w + b)
    return x @ params[-1][0] + params[-1][1]


def _layers(key, *widths):
    keys = jax.random.split(key, len(widths) - 1)
    return [(jax.random.normal(k, (i, o)) * 0.3 / np.sqrt(i), jnp.zeros(o)) for k, i, o in zip(keys, widths, widths[1:])]


def _moons():
    rng = np.random.default_rng(0)
    angle, side = rng.uniform(0, np.pi, 1000), rng.integers(0, 2, 1000)
    points = np.stack([np.cos(angle) * (1 - 2 * side) + side - 0.5, np.sin(angle) * (1 - 2 * side)], axis=1)
    return (points + 0.05 * rng.standard_normal((1000, 2))).astype(np.float32)


def spline():
    """distrax's flow example: masked couplings with rational quadratic splines."""
    n_bins, n_layers = 6, 4
    params = [_layers(k, 2, 40, 40, 2 * (3 * n_bins + 1)) for k in jax.random.split(jax.random.key(0), n_layers)]

    def loss_of(params, x):
        couplings = []
        for i, layer in enumerate(params):
            couplings.append(distrax.MaskedCoupling(
                mask=jnp.arange(2) % 2 == i % 2,
                bijector=lambda p: distrax.RationalQuadraticSpline(p, -3.0, 3.0),
                conditioner=lambda x, layer=layer: _mlp(layer, x).reshape(*x.shape, 3 * n_bins + 1),
            ))
        base = distrax.MultivariateNormalDiag(jnp.zeros(2), jnp.ones(2))
        flow = distrax.Transformed(base, distrax.Inverse(distrax.Chain(couplings)))
        return -jnp.mean(flow.log_prob(x))

    optimiser = optax.adam(3e-3)
    return (params, optimiser.init(params)), steps.of_loss(optimiser, loss_of), samples.batches(128, _moons())


def policy():
    """Policy gradients with a categorical and a squashed normal head, entropy and divergence from an old policy."""
    params = {"pi": _layers(jax.random.key(0), 11, 48, 5), "mu": _layers(jax.random.key(1), 11, 48, 6)}
    rng = np.random.default_rng(0)

    def batches():
        while True:
            yield tuple(rng.standard_normal((90, n)).astype(np.float32) for n in (11, 1))

    def loss_of(params, seen, advantage):
        pi = distrax.Categorical(logits=_mlp(params["pi"], seen))
        mean, log_std = jnp.split(_mlp(params["mu"], seen), 2, axis=1)
        normal = distrax.MultivariateNormalDiag(mean, jnp.exp(log_std))
        force = distrax.Transformed(normal, distrax.Block(distrax.Tanh(), 1))
        moved, log_p = force.sample_and_log_prob(seed=jax.random.key(4))
        action = jnp.argmax(seen[:, :5], axis=1)
        old = distrax.Categorical(logits=jnp.zeros((len(seen), 5)))
        gain = advantage[:, 0] * pi.log_prob(action) + jnp.sum(moved * seen[:, :3], axis=1) - 0.01 * log_p
        return -jnp.mean(gain + 0.01 * pi.entropy()) + 0.1 * jnp.mean(old.kl_divergence(pi))

    optimiser = optax.chain(optax.clip(0.5), optax.adam(1e-3))
    return (params, optimiser.init(params)), steps.of_loss(optimiser, loss_of), batches()
