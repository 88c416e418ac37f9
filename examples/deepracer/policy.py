"""The three policy networks in JAX, with a head for actions and one for the value; discrete or continuous actions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from camera import HEIGHT, WIDTH

# Convolutions (filters, kernel, stride) without padding, and dense layers.
NETWORKS = {
    "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW": dict(conv=[(32, 8, 4), (64, 4, 2), (64, 3, 1)], dense=[512], is_tanh=False),
    "DEEP_CONVOLUTIONAL_NETWORK": dict(
        conv=[(32, 5, 2), (32, 3, 1), (64, 3, 2), (64, 3, 1)], dense=[64], is_tanh=True
    ),
    "DEEP_CONVOLUTIONAL_NETWORK_DEEP": dict(
        conv=[(32, 8, 4), (32, 4, 2), (64, 4, 2), (64, 3, 1)], dense=[512, 512], is_tanh=False
    ),
}
DEFAULT = "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW"
LOG_STD_START, LOG_STD_RANGE = -0.7, (-3.0, 0.5)


def init(network: str, actions, stack: int, seed: int) -> dict:
    """fp32 parameters by name. actions is a files.Actions: its number of logits, or of means."""
    rng = np.random.default_rng(seed)
    shape = NETWORKS[network]

    def weights(fan_in, size, gain):
        return (rng.standard_normal(size) * gain / math.sqrt(fan_in)).astype(np.float32)

    params, h, w, c = {}, HEIGHT, WIDTH, stack
    gain = 1.0 if shape["is_tanh"] else math.sqrt(2)
    for i, (n, kernel, stride) in enumerate(shape["conv"]):
        params[f"conv{i}"] = weights(kernel * kernel * c, (kernel, kernel, c, n), gain)
        params[f"conv{i}_bias"] = np.zeros(n, np.float32)
        if shape["is_tanh"]:
            params[f"conv{i}_scale"] = np.ones(n, np.float32)
        h, w, c = (h - kernel) // stride + 1, (w - kernel) // stride + 1, n
    n_in = h * w * c
    for i, n in enumerate(shape["dense"]):
        params[f"dense{i}"] = weights(n_in, (n_in, n), gain)
        params[f"dense{i}_bias"] = np.zeros(n, np.float32)
        n_in = n
    params["action"] = weights(n_in, (n_in, actions.n_out), 0.01)
    params["action_bias"] = np.zeros(actions.n_out, np.float32)
    params["value"] = weights(n_in, (n_in, 1), 0.1)
    params["value_bias"] = np.zeros(1, np.float32)
    if actions.is_continuous:
        params["log_std"] = np.full(actions.n_out, LOG_STD_START, np.float32)
    return params


def n_macs(network: str, n_out: int, stack: int = 1) -> int:
    """Multiply-accumulates of one image, forward."""
    h, w, c, total = HEIGHT, WIDTH, stack, 0
    for n, kernel, stride in NETWORKS[network]["conv"]:
        h, w = (h - kernel) // stride + 1, (w - kernel) // stride + 1
        total += h * w * n * kernel * kernel * c
        c = n
    n_in = h * w * c
    for n in NETWORKS[network]["dense"]:
        total += n_in * n
        n_in = n
    return total + n_in * (n_out + 1)


def apply(network: str, params: dict, images):
    """uint8 images [N, HEIGHT, WIDTH, stack] -> (logits or means [N, n_out], value [N])."""
    shape = NETWORKS[network]
    x = images.astype(jnp.float32) * (1 / 255)
    for i, (_, _, stride) in enumerate(shape["conv"]):
        x = lax.conv_general_dilated(
            x, params[f"conv{i}"], (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        if shape["is_tanh"]:
            # The statistics are of the image, not of the batch: an action may not depend on who else is driving.
            mean = jnp.mean(x, (1, 2), keepdims=True)
            spread = jnp.mean(jnp.square(x - mean), (1, 2), keepdims=True)
            x = (x - mean) * lax.rsqrt(spread + 1e-5) * params[f"conv{i}_scale"]
        x = x + params[f"conv{i}_bias"]
        x = jnp.tanh(x) if shape["is_tanh"] else jax.nn.relu(x)
    x = x.reshape(x.shape[0], -1)
    for i in range(len(shape["dense"])):
        x = x @ params[f"dense{i}"] + params[f"dense{i}_bias"]
        x = jnp.tanh(x) if shape["is_tanh"] else jax.nn.relu(x)
    return x @ params["action"] + params["action_bias"], (x @ params["value"] + params["value_bias"])[:, 0]


def log_std(params: dict):
    return jnp.clip(params["log_std"], *LOG_STD_RANGE)


def log_prob(actions, params: dict, out, action):
    """(log probability [N] of action, entropy [N]); action [N] int32, or [N, 2] before it is clipped to -1..1."""
    if actions.is_continuous:
        s = log_std(params)
        z = (action - jnp.tanh(out)) * jnp.exp(-s)
        log_p = jnp.sum(-0.5 * z * z - s - 0.5 * math.log(2 * math.pi), -1)
        return log_p, jnp.broadcast_to(jnp.sum(s + 0.5 * math.log(2 * math.pi * math.e)), log_p.shape)
    logits = jax.nn.log_softmax(out)
    chosen = jnp.arange(actions.n_out, dtype=jnp.int32)[None, :] == action[:, None]
    return jnp.sum(jnp.where(chosen, logits, 0.0), -1), -jnp.sum(jnp.exp(logits) * logits, -1)


def sample(actions, params: dict, out, noise):
    """An action for each row of out. noise [N, n_out] is Gumbel's for discrete actions, normal for continuous ones; zeros
    give the most probable action."""
    if actions.is_continuous:
        return jnp.tanh(out) + jnp.exp(log_std(params)) * noise
    return jnp.argmax(out + noise, -1).astype(jnp.int32)
