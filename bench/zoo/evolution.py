"""Programs with evosax: strategies that need no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
from evosax.algorithms import Open_ES, Sep_CMA_ES

import optax
import samples


def _step_of(strategy, hyper, fitness_of):
    @jax.jit
    def step(state, seed):
        key_ask, key_tell = jax.random.split(jax.random.key(seed))
        population, state = strategy.ask(key_ask, state, hyper)
        fitness = fitness_of(population)
        state, _ = strategy.tell(key_tell, population, fitness, state, hyper)
        return state, jnp.mean(fitness)

    return step


def open_es():
    """OpenAI's strategy with 64 networks a step on digits."""
    images, labels = samples.digits()
    x, y = jnp.asarray(images[:256].reshape(256, -1)), jnp.asarray(labels[:256])
    params = {"w1": jnp.zeros((64, 16)), "w2": jnp.zeros((16, 10))}
    strategy = Open_ES(population_size=64, solution=params, optimizer=optax.adam(0.05))
    hyper = strategy.default_params

    def fitness_of(population):
        def one(p):
            return optax.softmax_cross_entropy_with_integer_labels(jnp.tanh(x @ p["w1"]) @ p["w2"], y).mean()

        return jax.vmap(one)(population)

    start = {"w1": np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32) * 0.2,
             "w2": np.random.default_rng(1).standard_normal((16, 10)).astype(np.float32) * 0.2}
    state = strategy.init(jax.random.key(0), jax.tree.map(jnp.asarray, start), hyper)
    return state, _step_of(strategy, hyper, fitness_of), ((np.uint32(i),) for i in range(99))


def sep_cma_es():
    """CMA-ES of a diagonal covariance on a rotated ellipsoid. The full one samples along eigenvectors, whose signs
    are anybody's."""
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((10, 10)))[0].astype(np.float32)
    scale = jnp.asarray(10.0 ** np.linspace(0, 2, 10), jnp.float32)
    strategy = Sep_CMA_ES(population_size=16, solution=jnp.zeros(10))
    hyper = strategy.default_params
    state = strategy.init(jax.random.key(0), jnp.ones(10), hyper)
    return (state, _step_of(strategy, hyper, lambda p: jnp.sum(scale * (p @ turn - 0.5) ** 2, axis=1)),
            ((np.uint32(i),) for i in range(99)))
