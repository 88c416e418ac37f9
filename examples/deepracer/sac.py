"""Soft actor-critic in JAX, continuous actions: a policy, two soft Q functions and a state value with its slow copy.

Networks and losses are those of the service: none share parameters, each has its own convolutions. Actions are the
policy's, squashed to -1..1. The value's copy follows by TARGET_RATE each update (Haarnoja et al. 2018, arXiv:1801.01290);
the service copies all of it once a training iteration."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

import policy
import ppo

HEAD, Q_LAYERS = 256, (256, 256)
LOG_STD_RANGE = (-20.0, 2.0)
TARGET_RATE = 0.005


def init(network, actions, seed: int) -> dict:
    """fp32 parameters by name: policy/..., q/..., v/... and v_slow/..."""
    rng = np.random.default_rng(seed)
    gain = math.sqrt(2)
    driver, n_in = policy.init_trunk(network, rng)
    driver |= policy.dense(rng, "head", n_in, HEAD, gain)
    driver |= policy.dense(rng, "mean", HEAD, actions.n_out, 0.01) | policy.dense(rng, "log_std", HEAD, actions.n_out, 0.01)
    driver["log_std_bias"] += np.float32(policy.LOG_STD_START)
    # The Q functions have no dense layers before their heads.
    q = {k: v for k, v in policy.init_trunk(network, rng)[0].items() if not k.startswith("dense")}
    for name in ("q1", "q2"):
        n_in = network.n_embedded + actions.n_out
        for i, n in enumerate(Q_LAYERS):
            q |= policy.dense(rng, f"{name}_{i}", n_in, n, gain)
            n_in = n
        q |= policy.dense(rng, name, n_in, 1, 0.1)
    value, n_in = policy.init_trunk(network, rng)
    value |= policy.dense(rng, "value", n_in, 1, 0.1)
    nets = {"policy": driver, "q": q, "v": value, "v_slow": {k: v.copy() for k, v in value.items()}}
    return {f"{net}/{k}": v for net, part in nets.items() for k, v in part.items()}


def part(params: dict, net: str) -> dict:
    """The parameters of one of the networks, or their gradients."""
    return {k[len(net) + 1 :]: v for k, v in params.items() if k.startswith(net + "/")}


def distribution(network, driver: dict, images, lidar=None):
    """(mean, log of the standard deviation) [N, n_out] of an action before it is squashed."""
    x = policy.layers(network, driver, "dense", policy.embed(network, driver, images, lidar))
    x = jax.nn.relu(policy.head(driver, "head", x))
    return policy.head(driver, "mean", x), jnp.clip(policy.head(driver, "log_std", x), *LOG_STD_RANGE)


def sample(mean, log_std, noise):
    """(action [N, n_out] in -1..1, log of its probability density [N]); noise is standard normal, zeros give the mean."""
    action = jnp.tanh(mean + jnp.exp(log_std) * noise)
    log_p = -0.5 * noise * noise - log_std - 0.5 * math.log(2 * math.pi)
    return action, jnp.sum(log_p - jnp.log(1 - action * action + 1e-6), -1)


def q_values(network, q: dict, embedded, action):
    """(Q1 [N], Q2 [N]) of embedded images, as policy.embed gives them for q, and actions."""
    x, out = jnp.concatenate([embedded, action], -1), []
    for name in ("q1", "q2"):
        h = x
        for i in range(len(Q_LAYERS)):
            h = jax.nn.relu(policy.head(q, f"{name}_{i}", h))
        out.append(policy.head(q, name, h)[:, 0])
    return out


def state_value(network, value: dict, images, lidar=None):
    x = policy.layers(network, value, "dense", policy.embed(network, value, images, lidar))
    return policy.head(value, "value", x)[:, 0]


@dataclasses.dataclass(frozen=True)
class Loss:
    """What the losses are made with; hashable, so that jit may close over it."""

    network: policy.Network
    alpha: float
    discount: float
    is_huber: bool

    def _of(self, error):
        if not self.is_huber:
            return jnp.mean(0.5 * error * error)
        size = jnp.minimum(jnp.abs(error), 1.0)
        return jnp.mean(size * (jnp.abs(error) - 0.5 * size))

    def __call__(self, params, batch, noise):
        """The sum of all losses; each gradient is of the loss that its network answers for."""
        driver, q, value = (part(params, net) for net in ("policy", "q", "v"))
        seen = batch["image"], batch.get("lidar")
        mean, log_std = distribution(self.network, driver, *seen)
        action, log_p = sample(mean, log_std, noise)
        embedded = policy.embed(self.network, q, *seen)
        fixed = jax.lax.stop_gradient
        best = jnp.minimum(*q_values(self.network, fixed(q), fixed(embedded), action))
        policy_loss = jnp.mean(self.alpha * log_p - best)
        value_loss = self._of(state_value(self.network, value, *seen) - fixed(best - self.alpha * log_p))
        after = state_value(self.network, fixed(part(params, "v_slow")), batch["next_image"], batch.get("next_lidar"))
        target = batch["reward"] + self.discount * batch["goes_on"] * fixed(after)
        one, two = q_values(self.network, q, embedded, batch["action"])
        q_loss = self._of(one - target) + self._of(two - target)
        return policy_loss + value_loss + q_loss, jnp.stack([policy_loss, value_loss, q_loss, -jnp.mean(log_p)])


TERMS = ("policy_loss", "value_loss", "q_loss", "entropy")


def trained(params: dict) -> dict:
    """The parameters that have gradients: all but the slow copy."""
    return {k: v for k, v in params.items() if not k.startswith("v_slow/")}


def update(loss: Loss, params: dict, state: dict, batch: dict, lr, noise):
    """(params, Adam's state, TERMS) after one minibatch: image and next_image uint8 [B, HEIGHT, WIDTH, channels], lidar and
    next_lidar where there is one, action [B, n_out] in -1..1, reward and goes_on [B]; noise [B, n_out] standard normal."""
    slow = {k: v for k, v in params.items() if k.startswith("v_slow/")}
    fast = trained(params)
    grads, terms = jax.grad(lambda p: loss(p | slow, batch, noise), has_aux=True)(fast)
    fast, state = ppo.adam(fast, state, grads, lr)
    slow = {k: v + TARGET_RATE * (fast["v/" + k[len("v_slow/") :]] - v) for k, v in slow.items()}
    return fast | slow, state, terms


class Replay:
    """The last steps of all cars, n_frames of them: a ring of what was seen and done. A step's next image is the next
    frame's; the newest frame has none, and is not drawn."""

    def __init__(self, n_frames: int):
        self.n_frames, self.n_added, self.columns = n_frames, 0, {}

    def add(self, frame: dict) -> None:
        """Arrays [N, ...] of one frame: image, lidar, action, reward, goes_on."""
        for name, value in frame.items():
            if name not in self.columns:
                self.columns[name] = np.zeros((self.n_frames, *value.shape), value.dtype)
            self.columns[name][self.n_added % self.n_frames] = value
        self.n_added += 1

    @property
    def n_steps(self) -> int:
        """Steps that can be drawn."""
        n = min(self.n_added, self.n_frames) - 1
        return max(0, n) * (self.columns["reward"].shape[1] if self.columns else 0)

    def draw(self, rng, n: int) -> dict:
        """A batch of n steps, as update() takes it."""
        oldest = max(0, self.n_added - self.n_frames)
        t = rng.integers(oldest, self.n_added - 1, n)
        car = rng.integers(0, self.columns["reward"].shape[1], n)
        now, then = t % self.n_frames, (t + 1) % self.n_frames
        batch = {name: column[now, car] for name, column in self.columns.items()}
        seen = {f"next_{k}": self.columns[k][then, car] for k in ("image", "lidar") if k in self.columns}
        return batch | seen
