"""Programs in Equinox: models are trees, and steps are jitted over filtered leaves."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import samples


def _trained(model, optimiser, loss_of):
    """(state, step) of a loss over (model, *batch)."""

    @eqx.filter_jit
    def step(state, *batch):
        model, opt_state = state
        loss, grads = eqx.filter_value_and_grad(loss_of)(model, *batch)
        updates, opt_state = optimiser.update(grads, opt_state, eqx.filter(model, eqx.is_array))
        return (eqx.apply_updates(model, updates), opt_state), loss

    return (model, optimiser.init(eqx.filter(model, eqx.is_array))), step


def gru():
    """Equinox's train_rnn: which way does a spiral turn."""

    class RNN(eqx.Module):
        cell: eqx.nn.GRUCell
        linear: eqx.nn.Linear

        def __init__(self, key):
            key_cell, key_linear = jax.random.split(key)
            self.cell = eqx.nn.GRUCell(2, 16, key=key_cell)
            self.linear = eqx.nn.Linear(16, 1, key=key_linear)

        def __call__(self, points):
            h, _ = jax.lax.scan(lambda h, x: (self.cell(x, h), None), jnp.zeros(16), points)
            return jax.nn.sigmoid(self.linear(h)[0])

    t = np.linspace(0, 2 * np.pi, 16)
    start = np.random.default_rng(0).uniform(0, 2 * np.pi, 2000)
    turn = np.where(np.arange(2000) % 2, 1, -1)
    angle = start[:, None] + turn[:, None] * t
    points = np.stack([np.cos(angle), np.sin(angle)], axis=-1) / (1 + t)[:, None]

    def loss_of(model, x, y):
        p = jax.vmap(model)(x)
        return -jnp.mean(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))

    state, step = _trained(RNN(jax.random.key(1)), optax.adam(3e-3), loss_of)
    data = points.astype(np.float32), (turn > 0).astype(np.float32)
    return state, step, samples.batches(32, *data)


def mixer():
    """Equinox's score-based diffusion: an MLP mixer of patches and time, a continuous noise schedule."""
    patch, width = 2, 32
    n_patches = (8 // patch) ** 2

    class Mixer(eqx.Module):
        conv_in: eqx.nn.Conv2d
        conv_out: eqx.nn.ConvTranspose2d
        blocks: list
        norm: eqx.nn.LayerNorm

        def __init__(self, key):
            keys = jax.random.split(key, 6)
            self.conv_in = eqx.nn.Conv2d(2, width, patch, stride=patch, key=keys[0])
            self.conv_out = eqx.nn.ConvTranspose2d(width, 1, patch, stride=patch, key=keys[1])
            self.blocks = [
                (
                    eqx.nn.MLP(n_patches, n_patches, 48, depth=1, key=a),
                    eqx.nn.MLP(width, width, 48, depth=1, key=b),
                    eqx.nn.LayerNorm((width, n_patches)),
                )
                for a, b in (keys[2:4], keys[4:6])
            ]
            self.norm = eqx.nn.LayerNorm((width, n_patches))

        def __call__(self, t, y):
            _, side, _ = y.shape
            y = self.conv_in(jnp.concatenate([y, jnp.full((1, side, side), t / 10)]))
            shape = y.shape
            y = y.reshape(width, -1)
            for mix_patches, mix_width, norm in self.blocks:
                y = y + jax.vmap(mix_patches)(norm(y))
                y = y + jax.vmap(mix_width, in_axes=1, out_axes=1)(norm(y))
            return self.conv_out(self.norm(y).reshape(shape))

    def one_loss(model, x, t, key):
        mean = x * jnp.exp(-0.5 * t)
        std = jnp.sqrt(jnp.maximum(1 - jnp.exp(-t), 1e-5))
        noise = jax.random.normal(key, x.shape)
        return (1 - jnp.exp(-t)) * jnp.mean((model(t, mean + std * noise) + noise / std) ** 2)

    def loss_of(model, images, labels, seed):
        key_t, key_e = jax.random.split(jax.random.key(seed))
        t = jax.random.uniform(key_t, (len(images),), minval=0, maxval=10 / len(images))
        t = t + (10 / len(images)) * jnp.arange(len(images))
        keys = jax.random.split(key_e, len(images))
        return jnp.mean(jax.vmap(one_loss, in_axes=(None, 0, 0, 0))(model, images.transpose(0, 3, 1, 2), t, keys))

    state, step = _trained(Mixer(jax.random.key(0)), optax.adabelief(3e-4), loss_of)
    batches = ((*batch, np.uint32(i)) for i, batch in enumerate(samples.digit_batches(48)))
    return state, step, batches


def bert(dtype):
    """Equinox's bert example in small: an encoder with dropout and padding, a sentence a row."""
    n_words, width, length = 331, 60, 47

    class Layer(eqx.Module):
        attention: eqx.nn.MultiheadAttention
        up: eqx.nn.Linear
        down: eqx.nn.Linear
        norms: list
        dropout: eqx.nn.Dropout

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.attention = eqx.nn.MultiheadAttention(4, width, dropout_p=0.1, key=keys[0])
            self.up = eqx.nn.Linear(width, 2 * width, key=keys[1])
            self.down = eqx.nn.Linear(2 * width, width, key=keys[2])
            self.norms = [eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)]
            self.dropout = eqx.nn.Dropout(0.1)

        def __call__(self, x, mask, key):
            key_a, key_d = jax.random.split(key)
            y = self.attention(x, x, x, mask=jnp.broadcast_to(mask, (length, length)), key=key_a)
            x = jax.vmap(self.norms[0])(x + y)
            y = jax.vmap(self.down)(jax.nn.gelu(jax.vmap(self.up)(x)))
            return jax.vmap(self.norms[1])(x + self.dropout(y, key=key_d))

    class Bert(eqx.Module):
        embed: eqx.nn.Embedding
        place: eqx.nn.Embedding
        layers: list
        head: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, 5)
            self.embed = eqx.nn.Embedding(n_words, width, key=keys[0])
            self.place = eqx.nn.Embedding(length, width, key=keys[1])
            self.layers = [Layer(keys[2]), Layer(keys[3])]
            self.head = eqx.nn.Linear(width, 2, key=keys[4])

        def __call__(self, text, key):
            x = jax.vmap(self.embed)(text) + jax.vmap(self.place)(jnp.arange(length))
            for layer, key_layer in zip(self.layers, jax.random.split(key, 2)):
                x = layer(x, text > 20, key_layer)
            return self.head(jnp.tanh(x[0]))

    def loss_of(model, text):
        model = jax.tree.map(lambda p: p.astype(dtype) if eqx.is_inexact_array(p) else p, model)
        keys = jax.random.split(jax.random.key(text[0, -1]), len(text))
        logits = jax.vmap(model)(text[:, :-1], keys).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, text[:, 3] % 2).mean()

    state, step = _trained(Bert(jax.random.key(0)), optax.adam(1e-3), loss_of)
    return state, step, samples.tokens(11, length, n_words)
