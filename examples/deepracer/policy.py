"""The three policy networks in JAX, with a head for actions and one for the value; discrete or continuous actions."""

import dataclasses
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
# The service's deeper networks see two cameras through these convolutions, SHALLOW through its own.
STEREO = dict(conv=[(32, 3, 1), (64, 3, 2), (64, 3, 1), (128, 3, 2), (128, 3, 1)], dense=[256, 128], is_tanh=False)
LIDAR_DENSE = (256, 256)
LOG_STD_START, LOG_STD_RANGE = -0.7, (-3.0, 0.5)


@dataclasses.dataclass(frozen=True)
class Network:
    """One of NETWORKS by name, for images of so many channels and a lidar of n_lidar numbers; hashable."""

    name: str = DEFAULT
    channels: int = 1
    n_lidar: int = 0
    is_stereo: bool = False

    @property
    def shape(self) -> dict:
        return STEREO if self.is_stereo and self.name != DEFAULT else NETWORKS[self.name]

    def convolutions(self):
        """(kernel, stride, channels in, channels out, rows out, columns out) of each."""
        h, w, c = HEIGHT, WIDTH, self.channels
        for n, kernel, stride in self.shape["conv"]:
            h, w = (h - kernel) // stride + 1, (w - kernel) // stride + 1
            yield kernel, stride, c, n, h, w
            c = n

    @property
    def n_embedded(self) -> int:
        """Numbers that the convolutions leave of an image, and the lidar's layers of a scan."""
        *_, n, h, w = list(self.convolutions())[-1]
        return h * w * n + (LIDAR_DENSE[-1] if self.n_lidar else 0)


def dense(rng, name: str, n_in: int, n_out: int, gain: float) -> dict:
    """Weights and biases of a dense layer, by name."""
    weights = (rng.standard_normal((n_in, n_out)) * gain / math.sqrt(n_in)).astype(np.float32)
    return {name: weights, f"{name}_bias": np.zeros(n_out, np.float32)}


def init_trunk(network: Network, rng) -> tuple:
    """(fp32 parameters by name, numbers that the layers before the heads give)."""
    shape, params = network.shape, {}
    gain = 1.0 if shape["is_tanh"] else math.sqrt(2)
    for i, (kernel, _, c, n, _, _) in enumerate(network.convolutions()):
        size = kernel, kernel, c, n
        params[f"conv{i}"] = (rng.standard_normal(size) * gain / math.sqrt(kernel * kernel * c)).astype(np.float32)
        params[f"conv{i}_bias"] = np.zeros(n, np.float32)
        if shape["is_tanh"]:
            params[f"conv{i}_scale"] = np.ones(n, np.float32)
    for name, n_in, widths in (("lidar", network.n_lidar, LIDAR_DENSE), ("dense", network.n_embedded, shape["dense"])):
        for i, n in enumerate(widths if n_in else ()):
            params |= dense(rng, f"{name}{i}", n_in, n, gain)
            n_in = n
    return params, n_in


def init(network: Network, actions, seed: int) -> dict:
    """fp32 parameters by name. actions is a files.Actions: its number of logits, or of means."""
    rng = np.random.default_rng(seed)
    params, n_in = init_trunk(network, rng)
    params |= dense(rng, "action", n_in, actions.n_out, 0.01) | dense(rng, "value", n_in, 1, 0.1)
    if actions.is_continuous:
        params["log_std"] = np.full(actions.n_out, LOG_STD_START, np.float32)
    return params


def n_macs(network: Network, n_out: int) -> int:
    """Multiply-accumulates of one image, forward."""
    total = sum(h * w * n * kernel * kernel * c for kernel, _, c, n, h, w in network.convolutions())
    for n_in, widths in ((network.n_lidar, LIDAR_DENSE), (network.n_embedded, network.shape["dense"])):
        for n in widths if n_in else ():
            total += n_in * n
            n_in = n
    return total + n_in * (n_out + 1)


def embed(network: Network, params: dict, images, lidar=None):
    """fp32 [N, network.n_embedded] of uint8 images [N, HEIGHT, WIDTH, channels] and a lidar's numbers [N, n_lidar]."""
    is_tanh = network.shape["is_tanh"]
    x = images.astype(jnp.float32) * (1 / 255)
    for i, (_, stride, *_) in enumerate(network.convolutions()):
        x = lax.conv_general_dilated(
            x, params[f"conv{i}"], (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        if is_tanh:
            # The statistics are of the image, not of the batch: an action may not depend on who else is driving.
            mean = jnp.mean(x, (1, 2), keepdims=True)
            spread = jnp.mean(jnp.square(x - mean), (1, 2), keepdims=True)
            x = (x - mean) * lax.rsqrt(spread + 1e-5) * params[f"conv{i}_scale"]
        x = x + params[f"conv{i}_bias"]
        x = jnp.tanh(x) if is_tanh else jax.nn.relu(x)
    x = x.reshape(x.shape[0], -1)
    return jnp.concatenate([x, layers(network, params, "lidar", lidar)], -1) if network.n_lidar else x


def layers(network: Network, params: dict, name: str, x):
    """x [N, .] behind the dense layers name0, name1, ... of params."""
    i = 0
    while f"{name}{i}" in params:
        x = x @ params[f"{name}{i}"] + params[f"{name}{i}_bias"]
        x = jnp.tanh(x) if network.shape["is_tanh"] else jax.nn.relu(x)
        i += 1
    return x


def head(params: dict, name: str, x):
    return x @ params[name] + params[f"{name}_bias"]


def apply(network: Network, params: dict, images, lidar=None):
    """What embed() takes -> (logits or means [N, n_out], value [N])."""
    x = layers(network, params, "dense", embed(network, params, images, lidar))
    return head(params, "action", x), head(params, "value", x)[:, 0]


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
