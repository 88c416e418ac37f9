"""Programs in Flax's linen, trained by Optax as Flax's own examples are."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state

import samples


class TrainState(train_state.TrainState):
    batch_stats: dict


def _mean_loss(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()


def cnn(dtype):
    """Flax's mnist example, digits enlarged to 24x24."""

    class CNN(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.avg_pool(nn.relu(nn.Conv(32, (3, 3), dtype=dtype)(x)), (2, 2), (2, 2))
            x = nn.avg_pool(nn.relu(nn.Conv(64, (3, 3), dtype=dtype)(x)), (2, 2), (2, 2))
            x = nn.relu(nn.Dense(256, dtype=dtype)(x.reshape(len(x), -1)))
            return nn.Dense(10, dtype=dtype)(x)

    model = CNN()
    params = model.init(jax.random.key(0), jnp.ones((1, 24, 24, 1)))["params"]
    state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=optax.sgd(0.01, 0.9))

    @jax.jit
    def step(state, images, labels):
        def loss_of(params):
            return _mean_loss(state.apply_fn({"params": params}, images), labels)

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        return state.apply_gradients(grads=grads), loss

    return state, step, samples.digit_batches(32, 3)


def resnet(dtype):
    """Flax's imagenet example in small: residual blocks with batch normalisation."""

    class Block(nn.Module):
        width: int
        stride: int = 1

        @nn.compact
        def __call__(self, x):
            def norm(**keywords):
                return nn.BatchNorm(use_running_average=False, momentum=0.9, dtype=dtype, **keywords)

            strides = (self.stride, self.stride)
            y = nn.Conv(self.width, (3, 3), strides, use_bias=False, dtype=dtype)(x)
            y = nn.Conv(self.width, (3, 3), use_bias=False, dtype=dtype)(nn.relu(norm()(y)))
            y = norm(scale_init=nn.initializers.zeros)(y)
            if x.shape != y.shape:
                x = norm()(nn.Conv(self.width, (1, 1), strides, use_bias=False, dtype=dtype)(x))
            return nn.relu(x + y)

    class ResNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(16, (7, 7), (2, 2), use_bias=False, dtype=dtype)(x)
            x = nn.max_pool(nn.relu(x), (3, 3), (2, 2), "SAME")
            for width, stride in ((16, 1), (32, 2), (64, 2)):
                x = Block(width, stride)(x)
            return nn.Dense(10, dtype=dtype)(jnp.mean(x, axis=(1, 2)))

    model = ResNet()
    variables = model.init(jax.random.key(0), jnp.ones((1, 32, 32, 3)))
    rate = optax.warmup_cosine_decay_schedule(0.0, 0.02, 5, 20)
    state = TrainState.create(
        apply_fn=model.apply, params=variables["params"], batch_stats=variables["batch_stats"],
        tx=optax.sgd(rate, 0.9, nesterov=True),
    )

    @jax.jit
    def step(state, images, labels):
        def loss_of(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, new = state.apply_fn(variables, images, mutable=["batch_stats"])
            decay = sum(jnp.sum(p**2) for p in jax.tree.leaves(params) if p.ndim > 1)
            return _mean_loss(logits, labels) + 1e-4 * decay / 2, new

        (loss, new), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads, batch_stats=new["batch_stats"]), loss

    return state, step, samples.photos(16, 32)


def vae(dtype):
    """Flax's vae example on digits."""

    class VAE(nn.Module):
        @nn.compact
        def __call__(self, x, key):
            h = nn.relu(nn.Dense(150, dtype=dtype)(x))
            mean, log_var = nn.Dense(20, dtype=dtype)(h), nn.Dense(20, dtype=dtype)(h)
            z = mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape, dtype)
            h = nn.relu(nn.Dense(150, dtype=dtype)(z))
            return nn.Dense(64, dtype=dtype)(h), mean.astype(jnp.float32), log_var.astype(jnp.float32)

    model = VAE()
    params = model.init(jax.random.key(0), jnp.ones((1, 64)), jax.random.key(1))["params"]
    state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(1e-3))

    @jax.jit
    def step(carry, images, labels):
        state, key = carry
        key, key_z = jax.random.split(key)
        x = images.reshape(len(images), -1)

        def loss_of(params):
            logits, mean, log_var = state.apply_fn({"params": params}, x, key_z)
            likelihood = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), x).sum(axis=-1)
            divergence = -0.5 * jnp.sum(1 + log_var - mean**2 - jnp.exp(log_var), axis=-1)
            return jnp.mean(likelihood + divergence)

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        return (state.apply_gradients(grads=grads), key), loss

    return (state, jax.random.key(2)), step, samples.digit_batches(128)


def transformer(dtype):
    """Flax's lm1b example in small: a causal decoder with dropout, AdamW and a warm-up."""
    n_words, width, length = 512, 96, 65

    class Decoder(nn.Module):
        @nn.compact
        def __call__(self, text):
            x = nn.Embed(n_words, width, dtype=dtype)(text)
            x = x + self.param("place", nn.initializers.normal(0.02), (length, width)).astype(dtype)
            mask = nn.make_causal_mask(text)
            for _ in range(2):
                y = nn.LayerNorm(dtype=dtype)(x)
                y = nn.MultiHeadDotProductAttention(6, dtype=dtype)(y, y, mask=mask)
                x = x + nn.Dropout(0.1, deterministic=False)(y)
                y = nn.Dense(4 * width, dtype=dtype)(nn.LayerNorm(dtype=dtype)(x))
                y = nn.Dense(width, dtype=dtype)(nn.gelu(y))
                x = x + nn.Dropout(0.1, deterministic=False)(y)
            return nn.Dense(n_words, dtype=dtype)(nn.LayerNorm(dtype=dtype)(x))

    model = Decoder()
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = model.init(keys, jnp.ones((1, length), jnp.int32))["params"]
    tx = optax.adamw(optax.linear_schedule(0.0, 1e-3, 10), b2=0.98, weight_decay=0.1)
    state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    @jax.jit
    def step(state, text):
        key = jax.random.fold_in(jax.random.key(3), state.step)

        def loss_of(params):
            logits = state.apply_fn({"params": params}, text[:, :-1], rngs={"dropout": key})
            return _mean_loss(logits, text[:, 1:])

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        return state.apply_gradients(grads=grads), loss

    return state, step, samples.tokens(9, length, n_words)


def seq2seq(dtype):
    """Flax's seq2seq example: LSTM encoder and decoder, teacher forcing, masked loss of a reversed text."""
    n_words, width, length = 23, 72, 14

    class Seq2Seq(nn.Module):
        @nn.compact
        def __call__(self, source, lengths, target):
            embed = nn.Embed(n_words, 32, dtype=dtype)
            carry, _ = nn.RNN(nn.OptimizedLSTMCell(width, dtype=dtype), return_carry=True)(
                embed(source), seq_lengths=lengths
            )
            h = nn.RNN(nn.OptimizedLSTMCell(width, dtype=dtype))(embed(target), initial_carry=carry)
            return nn.Dense(n_words, dtype=dtype)(h)

    model = Seq2Seq()
    dummy = jnp.ones((1, length), jnp.int32)
    params = model.init(jax.random.key(0), dummy, jnp.ones(1, jnp.int32), dummy)["params"]
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
    state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    @jax.jit
    def step(state, text):
        source = text[:, 1:]
        lengths = 5 + source[:, 0] % (length - 5)
        target = source[:, ::-1]
        shifted = jnp.pad(target[:, :-1], ((0, 0), (1, 0)))
        mask = jnp.arange(length)[None] < lengths[:, None]

        def loss_of(params):
            logits = state.apply_fn({"params": params}, source, lengths, shifted).astype(jnp.float32)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, target)
            return jnp.sum(loss * mask) / jnp.sum(mask)

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        return state.apply_gradients(grads=grads), loss

    return state, step, samples.tokens(40, length, n_words)
