"""Clipped PPO in JAX: the update of one minibatch with Adam, and advantages on the host."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import policy

CLIP, CLIP_STEPS, GAE_LAMBDA = 0.2, 1_000_000, 0.95
ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-5
VALUE_WEIGHT = 0.5


def init_adam(params: dict) -> dict:
    zeros = {name: np.zeros_like(p) for name, p in params.items()}
    return {"m": zeros, "v": {name: z.copy() for name, z in zeros.items()}, "t": np.float32(0)}


def adam(params: dict, state: dict, grads: dict, lr):
    """(params, state) after one step of Adam."""
    t = state["t"] + 1.0
    m = jax.tree.map(lambda m, g: ADAM_BETA1 * m + (1 - ADAM_BETA1) * g, state["m"], grads)
    v = jax.tree.map(lambda v, g: ADAM_BETA2 * v + (1 - ADAM_BETA2) * g * g, state["v"], grads)
    scale = lr / (1 - ADAM_BETA1**t)
    unbias = 1 / (1 - ADAM_BETA2**t)
    params = jax.tree.map(lambda p, m, v: p - scale * m / (jnp.sqrt(v * unbias) + ADAM_EPSILON), params, m, v)
    return params, {"m": m, "v": v, "t": t}


@dataclasses.dataclass(frozen=True)
class Loss:
    """What the loss is made with; hashable, so that jit may close over it."""

    network: policy.Network
    actions: object
    beta_entropy: float
    is_huber: bool

    def __call__(self, params, batch, clip):
        out, value = policy.apply(self.network, params, batch["image"], batch.get("lidar"))
        log_p, entropy = policy.log_prob(self.actions, params, out, batch["action"])
        ratio = jnp.exp(log_p - batch["log_p"])
        gain = jnp.minimum(
            ratio * batch["advantage"], jnp.clip(ratio, 1 - clip, 1 + clip) * batch["advantage"]
        )
        error = value - batch["target"]
        if self.is_huber:
            size = jnp.minimum(jnp.abs(error), 1.0)
            value_loss = size * (jnp.abs(error) - 0.5 * size)
        else:
            value_loss = 0.5 * error * error
        policy_loss, value_loss, entropy = -jnp.mean(gain), jnp.mean(value_loss), jnp.mean(entropy)
        loss = policy_loss + VALUE_WEIGHT * value_loss - self.beta_entropy * entropy
        kl = jnp.mean(batch["log_p"] - log_p)
        return loss, jnp.stack([policy_loss, value_loss, entropy, kl])


def update(loss: Loss, params: dict, state: dict, batch: dict, lr, clip):
    """(params, Adam's state, [policy loss, value loss, entropy, KL]) after one minibatch: image uint8
    [B, HEIGHT, WIDTH, channels], lidar [B, n_lidar] where there is one, action, log_p, advantage, target [B]."""
    grads, terms = jax.grad(loss, has_aux=True)(params, batch, clip)
    params, state = adam(params, state, grads, lr)
    return params, state, terms


def clip_at(step: int) -> float:
    """The clipping range falls linearly to nothing over a million steps."""
    return CLIP * max(0.0, 1 - step / CLIP_STEPS)


def advantages(rewards, values, is_end, discount: float):
    """(advantage, target) fp32 [T, N] of T steps of N cars: rewards [T, N], values [T + 1, N], is_end [T, N] where an
    episode ended with the step. A value is that of the discounted rewards times 1 - discount, so that it has a reward's
    size whatever the discount is."""
    scale = 1 - discount if discount < 1 else 1.0
    rewards = rewards.astype(np.float64) * scale
    goes_on = 1.0 - is_end
    out, last = np.zeros_like(rewards), 0.0
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + discount * values[t + 1] * goes_on[t] - values[t]
        last = delta + discount * GAE_LAMBDA * goes_on[t] * last
        out[t] = last
    return out.astype(np.float32), (out + values[:-1]).astype(np.float32)
