"""Programs in Haiku: functions that are transformed into init and apply."""

import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import optax

import samples


def _mean_loss(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()


def resnet(dtype):
    """Haiku's imagenet example on small images: its own ResNet18, with a policy of precision."""
    policy = jmp.Policy(param_dtype=jnp.float32, compute_dtype=dtype, output_dtype=dtype)
    hk.mixed_precision.set_policy(hk.nets.ResNet18, policy)

    def forward(images):
        return hk.nets.ResNet18(10, resnet_v2=True, bn_config={"decay_rate": 0.9})(images.astype(dtype), is_training=True)

    net = hk.transform_with_state(forward)
    optimiser = optax.chain(optax.trace(0.9), optax.scale_by_schedule(optax.cosine_decay_schedule(0.0005, 20)), optax.scale(-1))
    params, net_state = net.init(jax.random.key(0), jnp.ones((2, 20, 20, 3)))

    @jax.jit
    def step(state, images, labels):
        params, net_state, opt_state = state

        def loss_of(params):
            logits, new = net.apply(params, net_state, None, images)
            return _mean_loss(logits, labels), new

        (loss, net_state), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimiser.update(grads, opt_state)
        return (optax.apply_updates(params, updates), net_state, opt_state), loss

    return (params, net_state, optimiser.init(params)), step, samples.photos(8, 20)


def lstm(dtype):
    """Haiku's rnn example: dynamic_unroll of a deep LSTM with skip connections."""
    n_words = 128

    def forward(text):
        core = hk.DeepRNN([lambda x: jax.nn.one_hot(x, n_words).astype(dtype), hk.LSTM(64), jax.nn.relu, hk.LSTM(64),
                           hk.nets.MLP([64, n_words])])
        logits, _ = hk.dynamic_unroll(core, text, jax.tree.map(lambda x: x.astype(dtype), core.initial_state(text.shape[1])))
        return logits

    net = hk.without_apply_rng(hk.transform(forward))
    optimiser = optax.adam(1e-3)
    params = net.init(jax.random.key(0), jnp.ones((5, 8), jnp.int32))

    @jax.jit
    def step(state, text):
        params, opt_state = state
        text = text.T

        def loss_of(params):
            lowered = jax.tree.map(lambda p: p.astype(dtype), params)
            return _mean_loss(net.apply(lowered, text[:-1]), text[1:])

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, opt_state = optimiser.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    return (params, optimiser.init(params)), step, samples.tokens(32, 25, n_words)


def vqvae():
    """Haiku's vqvae example: a quantiser with an exponential moving average between two networks."""

    def forward(images):
        x = hk.nets.MLP([100, 16 * 8])(images.reshape(len(images), -1)).reshape(-1, 16, 8)
        quantiser = hk.nets.VectorQuantizerEMA(8, 50, commitment_cost=0.25, decay=0.99)
        found = quantiser(x, is_training=True)
        out = hk.nets.MLP([100, 64])(found["quantize"].reshape(len(images), -1))
        return jnp.mean((out - images.reshape(len(images), -1)) ** 2) / 0.06 + found["loss"]

    net = hk.transform_with_state(forward)
    optimiser = optax.adam(3e-4)
    params, net_state = net.init(jax.random.key(0), jnp.ones((2, 8, 8, 1)))

    @jax.jit
    def step(state, images, labels):
        params, net_state, opt_state = state
        (loss, net_state), grads = jax.value_and_grad(
            lambda p: net.apply(p, net_state, None, images), has_aux=True)(params)
        updates, opt_state = optimiser.update(grads, opt_state)
        return (optax.apply_updates(params, updates), net_state, opt_state), loss

    return (params, net_state, optimiser.init(params)), step, samples.digit_batches(32)
