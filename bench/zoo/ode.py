"""Programs with diffrax: differential equations inside of training."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import samples


def _step_of(optimiser, loss_of):
    @eqx.filter_jit
    def step(state, *batch):
        model, opt_state = state
        loss, grads = eqx.filter_value_and_grad(loss_of)(model, *batch)
        updates, opt_state = optimiser.update(grads, opt_state)
        return (eqx.apply_updates(model, updates), opt_state), loss

    return step


def neural_ode():
    """diffrax's neural ODE: adaptive Tsit5 through an MLP, spirals as data, gradients by checkpoints."""
    ts = jnp.linspace(0.0, 3.0, 15)
    model = eqx.nn.MLP(2, 2, 32, 2, activation=jax.nn.softplus, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    start = rng.uniform(-0.6, 1.0, (128, 2)).astype(np.float32)
    turn = np.array([[-0.1, 2.0], [-2.0, -0.1]])
    w, v = np.linalg.eig(turn)
    flow = np.real(v @ (np.exp(w * np.asarray(ts)[:, None])[:, :, None] * np.linalg.inv(v)))
    data = np.einsum("tij,bj->bti", flow, start).astype(np.float32)

    def loss_of(model, ys):
        def solved(y0):
            return diffrax.diffeqsolve(
                diffrax.ODETerm(lambda t, y, args: model(y)), diffrax.Tsit5(), ts[0], ts[-1], ts[1] - ts[0], y0,
                stepsize_controller=diffrax.PIDController(rtol=1e-3, atol=1e-6), saveat=diffrax.SaveAt(ts=ts),
            ).ys

        return jnp.mean((jax.vmap(solved)(ys[:, 0]) - ys) ** 2)

    optimiser = optax.adabelief(3e-3)
    state = model, optimiser.init(eqx.filter(model, eqx.is_inexact_array))
    return state, _step_of(optimiser, loss_of), samples.batches(32, data)


def cnf():
    """A continuous normalising flow with the exact trace, solved by fixed steps of Heun's method."""
    model = eqx.nn.MLP(3, 2, 24, 2, activation=jnp.tanh, key=jax.random.key(0))
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 1000)
    noise = np.random.default_rng(1).standard_normal((1000, 2)) * 0.1
    data = (np.stack([2 * np.cos(angle), np.sin(angle)], axis=1) + noise).astype(np.float32)

    def loss_of(model, x):
        def rate(t, y, args):
            def field(y):
                return model(jnp.append(y, t))

            return field(y[0]), jnp.trace(jax.jacfwd(field)(y[0]))

        def likelihood(x):
            z, change = diffrax.diffeqsolve(
                diffrax.ODETerm(rate), diffrax.Heun(), 1.0, 0.0, -0.1, (x, 0.0),
            ).ys
            return -0.5 * jnp.sum(z[0] ** 2) - np.log(2 * np.pi) + change[0]

        return -jnp.mean(jax.vmap(likelihood)(x))

    optimiser = optax.adam(1e-2)
    state = model, optimiser.init(eqx.filter(model, eqx.is_inexact_array))
    return state, _step_of(optimiser, loss_of), samples.batches(50, data)


def sde():
    """Parameters of a stochastic equation from paths: Euler-Heun with a virtual Brownian tree."""

    def loss_of(params, seed):
        def path(key):
            brownian = diffrax.VirtualBrownianTree(0.0, 1.0, tol=1e-2, shape=(), key=key)
            terms = diffrax.MultiTerm(
                diffrax.ODETerm(lambda t, y, args: params["pull"] * (params["mean"] - y)),
                diffrax.ControlTerm(lambda t, y, args: jnp.exp(params["log_noise"]), brownian),
            )
            return diffrax.diffeqsolve(terms, diffrax.EulerHeun(), 0.0, 1.0, 0.05, jnp.float32(0.0)).ys[0]

        ends = jax.vmap(path)(jax.random.split(jax.random.key(seed), 40))
        return (jnp.mean(ends) - 1.5) ** 2 + (jnp.std(ends) - 0.3) ** 2

    optimiser = optax.adam(5e-2)
    params = {"pull": jnp.float32(1.0), "mean": jnp.float32(1.0), "log_noise": jnp.float32(-0.5)}
    batches = ((np.uint32(i),) for i in range(1000))
    return (params, optimiser.init(params)), _step_of(optimiser, loss_of), batches
