"""Programs with RLax: losses of reinforcement learning, on environments written in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rlax

import samples


def _layers(key, *widths):
    keys = jax.random.split(key, len(widths) - 1)
    return [(jax.random.normal(k, (i, o)) / np.sqrt(i), jnp.zeros(o)) for k, i, o in zip(keys, widths, widths[1:])]


def _mlp(params, x):
    for w, b in params[:-1]:
        x = jnp.tanh(x @ w + b)
    return x @ params[-1][0] + params[-1][1]


def _cart_pole(x, action):
    """gymnax's CartPole: (next state, whether it fell)."""
    force = 20.0 * action - 10.0
    theta, theta_dot = x[2], x[3]
    cos, sin = jnp.cos(theta), jnp.sin(theta)
    temp = (force + 0.05 * theta_dot**2 * sin) / 1.1
    theta_acc = (9.8 * sin - cos * temp) / (0.5 * (4.0 / 3.0 - 0.1 * cos**2 / 1.1))
    x_acc = temp - 0.05 * theta_acc * cos / 1.1
    x = x + 0.02 * jnp.stack([x[1], x_acc, x[3], theta_acc])
    return x, (jnp.abs(x[0]) > 2.4) | (jnp.abs(x[2]) > 0.21)


def ppo():
    """PPO in one jit as in PureJaxRL: 8 environments of 32 steps, advantages, epochs of shuffled minibatches."""
    n_envs, n_steps, n_epochs = 8, 32, 2
    keys = jax.random.split(jax.random.key(0), 2)
    params = {"pi": _layers(keys[0], 4, 64, 64, 2), "v": _layers(keys[1], 4, 64, 64, 1)}
    optimiser = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(2.5e-4, eps=1e-5))

    def rollout(params, x, key):
        def one(x, key):
            key_a, key_r = jax.random.split(key)
            logits, value = _mlp(params["pi"], x), _mlp(params["v"], x)[:, 0]
            action = jax.random.categorical(key_a, logits)
            log_p = jax.nn.log_softmax(logits)[jnp.arange(n_envs), action]
            new, fell = jax.vmap(_cart_pole)(x, action.astype(jnp.float32))
            fresh = jax.random.uniform(key_r, (n_envs, 4), minval=-0.05, maxval=0.05)
            seen = {"x": x, "a": action, "log_p": log_p, "v": value, "go": 0.99 * (1.0 - fell)}
            return jnp.where(fell[:, None], fresh, new), seen

        return jax.lax.scan(one, x, jax.random.split(key, n_steps))

    def loss_of(params, batch):
        log_p = jax.nn.log_softmax(_mlp(params["pi"], batch["x"]))
        ratio = jnp.exp(log_p[jnp.arange(len(log_p)), batch["a"]] - batch["log_p"])
        gain = (batch["gain"] - jnp.mean(batch["gain"])) / (jnp.std(batch["gain"]) + 1e-8)
        value = rlax.l2_loss(_mlp(params["v"], batch["x"])[:, 0], batch["target"]).mean()
        entropy = -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=1))
        return rlax.clipped_surrogate_pg_loss(ratio, gain, 0.2) + 0.5 * value - 0.01 * entropy

    @jax.jit
    def step(state):
        params, opt_state, key = state
        key, key_x, key_roll, key_epoch = jax.random.split(key, 4)
        # a pole falls exponentially fast: over longer episodes the last bit of a sine would decide
        x, seen = rollout(params, jax.random.uniform(key_x, (n_envs, 4), minval=-0.05, maxval=0.05), key_roll)
        values = jnp.concatenate([seen["v"], _mlp(params["v"], x)[None, :, 0]])
        advantage = jax.vmap(rlax.truncated_generalized_advantage_estimation, in_axes=(1, 1, None, 1), out_axes=1)
        seen["gain"] = advantage(jnp.ones((n_steps, n_envs)), seen["go"], 0.95, values)
        seen["target"] = seen["gain"] + seen["v"]
        flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), seen)

        def epoch(carry, key):
            order = jax.random.permutation(key, n_envs * n_steps)
            batches = jax.tree.map(lambda a: a[order].reshape(4, -1, *a.shape[1:]), flat)

            def update(carry, batch):
                params, opt_state = carry
                loss, grads = jax.value_and_grad(loss_of)(params, batch)
                updates, opt_state = optimiser.update(grads, opt_state)
                return (optax.apply_updates(params, updates), opt_state), loss

            return jax.lax.scan(update, carry, batches)

        (params, opt_state), losses = jax.lax.scan(epoch, (params, opt_state), jax.random.split(key_epoch, n_epochs))
        return (params, opt_state, key), jnp.mean(losses)

    return (params, optimiser.init(params), jax.random.key(2)), step, samples.always()


def dqn():
    """Double DQN with a replay buffer on the device and a slow target network."""
    size, n_actions = 1000, 4
    online = _layers(jax.random.key(0), 6, 80, n_actions)
    rng = np.random.default_rng(0)
    optimiser = optax.adam(1e-3)

    def loss_of(online, target, x, a, r, go, y):
        error = jax.vmap(rlax.double_q_learning)(_mlp(online, x), a, r, go, _mlp(target, y), _mlp(online, y))
        return jnp.mean(rlax.huber_loss(error))

    @jax.jit
    def step(state, x, a, r, go, y):
        online, target, opt_state, buffer, at = state
        rows = (at + jnp.arange(len(x))) % size
        buffer = jax.tree.map(lambda b, new: b.at[rows].set(new), buffer, (x, a, r, go, y))
        at = at + len(x)
        drawn = jax.random.randint(jax.random.fold_in(jax.random.key(1), at), (32,), 0, jnp.minimum(at, size))
        loss, grads = jax.value_and_grad(loss_of)(online, target, *jax.tree.map(lambda b: b[drawn], buffer))
        updates, opt_state = optimiser.update(grads, opt_state)
        online = optax.apply_updates(online, updates)
        target = optax.periodic_update(online, target, at // len(x), 5)
        return (online, target, opt_state, buffer, at), loss

    def batches():
        while True:
            x = rng.standard_normal((70, 6)).astype(np.float32)
            a = rng.integers(0, n_actions, 70).astype(np.int32)
            r = (x[:, 0] * (a == 1) - x[:, 1] * (a == 2)).astype(np.float32)
            yield x, a, r, np.float32(0.9) * (rng.random(70) > 0.1).astype(np.float32), (0.9 * x + 0.1 * r[:, None]).astype(np.float32)

    buffer = (jnp.zeros((size, 6)), jnp.zeros(size, jnp.int32), jnp.zeros(size), jnp.zeros(size), jnp.zeros((size, 6)))
    return (online, online, optimiser.init(online), buffer, jnp.int32(0)), step, batches()


def vtrace():
    """IMPALA's loss over trajectories: V-trace, policy gradients, entropy."""
    params = {"pi": _layers(jax.random.key(0), 10, 50, 6), "v": _layers(jax.random.key(1), 10, 50, 1)}
    rng = np.random.default_rng(0)
    optimiser = optax.rmsprop(1e-3, decay=0.99)

    def loss_of(params, x, a, r, go, old):
        logits, value = _mlp(params["pi"], x[:-1]), _mlp(params["v"], x)[:, 0]
        ratio = rlax.categorical_importance_sampling_ratios(logits, old, a)
        found = rlax.vtrace_td_error_and_advantage(value[:-1], value[1:], r, go, ratio)
        policy = rlax.policy_gradient_loss(logits, a, found.pg_advantage, jnp.ones_like(r))
        return policy + 0.5 * jnp.mean(found.errors**2) + 0.01 * rlax.entropy_loss(logits, jnp.ones_like(r))

    @jax.jit
    def step(state, *batch):
        params, opt_state = state
        loss, grads = jax.value_and_grad(lambda p: jnp.mean(jax.vmap(loss_of, (None, 0, 0, 0, 0, 0))(p, *batch)))(params)
        updates, opt_state = optimiser.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    def batches():
        while True:
            x = rng.standard_normal((9, 21, 10)).astype(np.float32)
            a = rng.integers(0, 6, (9, 20)).astype(np.int32)
            old = rng.standard_normal((9, 20, 6)).astype(np.float32)
            go = np.float32(0.95) * (rng.random((9, 20)) > 0.05).astype(np.float32)
            yield x, a, (x[:, 1:, 0] > 0).astype(np.float32), go, old

    return (params, optimiser.init(params)), step, batches()
