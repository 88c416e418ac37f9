"""Programs with BlackJAX: sampling kernels as pure functions."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np

import samples


def _regression():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 7)).astype(np.float32)
    y = (x @ rng.standard_normal(7) + rng.logistic(size=200) > 0).astype(np.float32)

    def log_density(w):
        logits = x @ w
        return jnp.sum(y * logits - jnp.logaddexp(0.0, logits)) - 0.5 * jnp.sum(w**2)

    return log_density


def hmc():
    """Logistic regression by Hamiltonian Monte Carlo, 16 chains; the loss is the mean energy a row."""
    log_density = _regression()
    kernel = blackjax.hmc(log_density, step_size=0.05, inverse_mass_matrix=jnp.ones(7), num_integration_steps=8)
    state = jax.vmap(kernel.init)(0.1 * jax.random.normal(jax.random.key(0), (16, 7)))

    @jax.jit
    def step(state, seed):
        state, info = jax.vmap(kernel.step)(jax.random.split(jax.random.key(seed), 16), state)
        return state, jnp.mean(info.energy) / 200

    return state, step, ((np.uint32(i),) for i in range(99))


def nuts():
    """The same by NUTS, one chain, whose trees double in a loop inside a loop."""
    log_density = _regression()
    kernel = blackjax.nuts(log_density, step_size=0.1, inverse_mass_matrix=jnp.ones(7), max_num_doublings=4)
    state = kernel.init(jnp.full(7, 0.1))

    @jax.jit
    def step(state, seed):
        state, info = kernel.step(jax.random.key(seed), state)
        return state, info.energy / 200

    return state, step, ((np.uint32(i),) for i in range(99))


def sgld():
    """Stochastic gradient Langevin dynamics of a network on digits."""
    def log_density(params, batch):
        images, labels = batch
        log_p = jax.nn.log_softmax(jnp.tanh(images.reshape(len(images), -1) @ params["w1"]) @ params["w2"])
        prior = -0.5 * sum(jnp.sum(p**2) for p in jax.tree.leaves(params))
        return 1500 * jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1)) + prior

    kernel = blackjax.sgld(jax.grad(log_density))
    keys = jax.random.split(jax.random.key(0), 2)
    params = {"w1": 0.1 * jax.random.normal(keys[0], (64, 45)), "w2": 0.1 * jax.random.normal(keys[1], (45, 10))}

    @jax.jit
    def step(state, images, labels):
        params, key = state
        key, key_step = jax.random.split(key)
        params = kernel.step(key_step, params, (images, labels), 1e-4)
        return (params, key), -log_density(params, (images, labels)) / 1500

    return (kernel.init(params), jax.random.key(1)), step, samples.digit_batches(70)
