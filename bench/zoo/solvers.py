"""Programs with Optimistix: solvers, iterated by their own interface and as one call."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx

import samples


def curve_fit():
    """Levenberg-Marquardt on a damped oscillation, from a new start a step; gradients through the solution."""
    t = jnp.linspace(0.0, 4.0, 90)
    truth = 2.0 * jnp.exp(-0.4 * t) * jnp.cos(3.0 * t + 0.2)
    noise = np.random.default_rng(0).standard_normal(90).astype(np.float32) * 0.05

    def residual(p, data):
        return p[0] * jnp.exp(-p[1] * t) * jnp.cos(p[2] * t + p[3]) - data

    @eqx.filter_jit
    def step(state, start):
        def solved(data):
            return optx.least_squares(residual, optx.LevenbergMarquardt(1e-5, 1e-5), start, data, max_steps=60).value

        p = solved(truth + noise)
        sensitivity = jax.grad(lambda data: jnp.sum(solved(data)))(truth + noise)
        return state, jnp.sum(residual(p, truth) ** 2) + jnp.sum(sensitivity**2)

    rng = np.random.default_rng(1)
    starts = ((np.float32([1.5, 0.3, 2.9, 0.0]) + 0.1 * rng.standard_normal(4).astype(np.float32),) for _ in range(99))
    return None, step, starts


def bfgs():
    """Rosenbrock's function of twelve by BFGS, a few steps of the solver a step."""
    solver = optx.BFGS(rtol=1e-6, atol=1e-6)

    def f(y, args):
        value = jnp.sum(100 * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2)
        return value, None

    y = jnp.linspace(-1.0, 1.5, 12)
    fixed = {"fn": f, "args": None, "options": {}, "tags": frozenset()}
    shape = jax.eval_shape(lambda: f(y, None))
    state = solver.init(y=y, f_struct=shape[0], aux_struct=shape[1], **fixed)
    move = eqx.filter_jit(lambda y, state: solver.step(y=y, state=state, **fixed))

    def step(carry):
        y, state = carry
        y, state, _ = move(y, state)
        return (y, state), f(y, None)[0]

    return (y, state), step, samples.always()


def implicit():
    """A deep equilibrium layer: a fixed point inside of the loss, differentiated implicitly."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "w": jax.random.normal(keys[0], (30, 30)) * 0.1,
        "u": jax.random.normal(keys[1], (64, 30)) * 0.1,
        "out": jax.random.normal(keys[2], (30, 10)) * 0.2,
    }

    def loss_of(params, images, labels):
        x = images.reshape(len(images), -1) @ params["u"]
        solver = optx.FixedPointIteration(1e-5, 1e-5)
        z = optx.fixed_point(lambda z, p: jnp.tanh(z @ p[0] + p[1]), solver, jnp.zeros_like(x), (params["w"], x)).value
        log_p = jax.nn.log_softmax(z @ params["out"])
        return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))

    @eqx.filter_jit
    def step(params, images, labels):
        loss, grads = jax.value_and_grad(loss_of)(params, images, labels)
        return jax.tree.map(lambda p, g: p - 0.3 * g, params, grads), loss

    return params, step, samples.digit_batches(16)
