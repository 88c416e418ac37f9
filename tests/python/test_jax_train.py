"""A small network trained through the plugin, against the same steps of JAX on the CPU."""

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402


def loss(params, x, y):
    w1, b1, w2, b2 = params
    hidden = jnp.maximum(x @ w1 + b1, 0)
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(hidden @ w2 + b2) * y, axis=-1))


def losses(device, n_steps):
    rng = np.random.default_rng(7)
    shapes = [(24, 32), (32,), (32, 10), (10,)]
    params = [jax.device_put(rng.normal(0, 0.2, s).astype(np.float32), device) for s in shapes]
    x = jax.device_put(rng.normal(size=(48, 24)).astype(np.float32), device)
    y = jax.device_put(np.eye(10, dtype=np.float32)[rng.integers(0, 10, 48)], device)

    def step(p):
        value, grads = jax.value_and_grad(loss)(p, x, y)
        return value, [a - 0.5 * g for a, g in zip(p, grads)]

    step = jax.jit(step, donate_argnums=0)
    out = []
    for _ in range(n_steps):
        value, params = step(params)
        out.append(float(value))
    return np.array(out)


def test_an_mlp_trains_as_on_the_cpu():
    with jax.default_device(jax.devices("neuron")[0]):
        ours = losses(jax.devices("neuron")[0], 30)
    with jax.default_device(jax.devices("cpu")[0]):
        theirs = losses(jax.devices("cpu")[0], 30)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert ours[-1] < 0.7 * ours[0]
