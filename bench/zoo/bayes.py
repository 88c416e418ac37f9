"""Programs with NumPyro: models by handlers, variational inference and Hamiltonian sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import samples


def eight_schools():
    """NUTS on the eight schools, not centred; the loss is the potential energy after each draw."""
    effects = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], np.float32)
    errors = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], np.float32)

    def model():
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = numpyro.sample("tau", dist.HalfCauchy(5))
        with numpyro.plate("school", 8):
            theta = numpyro.sample("theta", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(mu + tau * theta, errors), obs=effects)

    kernel = NUTS(model, step_size=0.1, adapt_step_size=False, adapt_mass_matrix=False, max_tree_depth=4)
    state = kernel.init(jax.random.key(0), 0, None, (), {})

    @jax.jit
    def step(state):
        state = kernel.sample(state, (), {})
        return state, state.potential_energy

    return state, step, samples.always()


def svi():
    """A hierarchical linear regression by variational inference with an automatic guide."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 12, 300)
    x = rng.standard_normal((300, 3)).astype(np.float32)
    slopes = rng.standard_normal((12, 3))
    y = (np.sum(x * slopes[group], axis=1) + 0.3 * rng.standard_normal(300)).astype(np.float32)

    def model(x, group, y):
        mean = numpyro.sample("mean", dist.Normal(0, 1).expand([3]).to_event(1))
        spread = numpyro.sample("spread", dist.HalfNormal(1).expand([3]).to_event(1))
        with numpyro.plate("groups", 12):
            slope = numpyro.sample("slope", dist.Normal(mean, spread).to_event(1))
        noise = numpyro.sample("noise", dist.Exponential(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.StudentT(4, jnp.sum(x * slope[group], axis=1), noise), obs=y)

    inference = SVI(model, AutoNormal(model), numpyro.optim.Adam(0.02), Trace_ELBO(num_particles=3))
    state = inference.init(jax.random.key(0), x, group, y)

    @jax.jit
    def step(state):
        state, loss = inference.update(state, x, group, y)
        return state, loss / len(y)

    return state, step, samples.always()


def mixture():
    """NUTS over a Gaussian mixture whose assignments are summed out; predictions from each draw."""
    rng = np.random.default_rng(0)
    data = np.concatenate([rng.normal(-2, 0.5, 40), rng.normal(1, 1.0, 60)]).astype(np.float32)

    def model(data):
        weight = numpyro.sample("weight", dist.Dirichlet(jnp.ones(2)))
        place = numpyro.sample("place", dist.Normal(0, 3).expand([2]).to_event(1))
        scale = numpyro.sample("scale", dist.LogNormal(0, 1).expand([2]).to_event(1))
        mixed = dist.MixtureSameFamily(dist.Categorical(weight), dist.Normal(place, scale))
        with numpyro.plate("rows", 100):
            numpyro.sample("y", mixed, obs=data)

    kernel = NUTS(model, step_size=0.05, adapt_step_size=False, adapt_mass_matrix=False, max_tree_depth=3)
    state = kernel.init(jax.random.key(0), 0, None, (data,), {})

    @jax.jit
    def step(state, seed):
        state = kernel.sample(state, (data,), {})
        drawn = jax.tree.map(lambda x: x[None], kernel.postprocess_fn((data,), {})(state.z))
        made = Predictive(model, drawn)(jax.random.key(seed), None)["y"]
        return state, state.potential_energy / 100 + jnp.mean(made**2)

    return state, step, ((np.uint32(i),) for i in range(20))
