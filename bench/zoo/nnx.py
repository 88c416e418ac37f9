"""Programs in Flax's NNX: modules that hold their state."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import samples


def _mean_loss(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()


def cnn(dtype):
    """The tutorial of NNX: batch normalisation, dropout, metrics kept on the device."""

    class CNN(nnx.Module):
        def __init__(self, rngs):
            self.conv1 = nnx.Conv(1, 32, (3, 3), dtype=dtype, rngs=rngs)
            self.norm = nnx.BatchNorm(32, dtype=dtype, rngs=rngs)
            self.conv2 = nnx.Conv(32, 64, (3, 3), dtype=dtype, rngs=rngs)
            self.dropout = nnx.Dropout(0.025, rngs=rngs)
            self.dense1 = nnx.Linear(7 * 7 * 64, 128, dtype=dtype, rngs=rngs)
            self.dense2 = nnx.Linear(128, 10, dtype=dtype, rngs=rngs)

        def __call__(self, x):
            x = nnx.avg_pool(nnx.relu(self.norm(self.dropout(self.conv1(x)))), (2, 2), (2, 2))
            x = nnx.avg_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
            return self.dense2(nnx.relu(self.dropout(self.dense1(x.reshape(len(x), -1)))))

    model = CNN(nnx.Rngs(0))
    model.train()
    optimizer = nnx.Optimizer(model, optax.adamw(5e-3, 0.9), wrt=nnx.Param)
    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))

    @nnx.jit
    def train(model, optimizer, metrics, images, labels):
        images = jnp.pad(images.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2), (0, 0)))

        def loss_of(model):
            logits = model(images)
            return _mean_loss(logits, labels), logits

        (loss, logits), grads = nnx.value_and_grad(loss_of, has_aux=True)(model)
        metrics.update(loss=loss, logits=logits, labels=labels)
        optimizer.update(model, grads)
        return loss

    def step(state, images, labels):
        train(model, optimizer, metrics, images, labels)
        return state, metrics.compute()["loss"]

    return None, step, samples.digit_batches(30)


def vit(dtype):
    """A vision transformer: patches by a convolution, a class token, post-norm free blocks."""
    width, heads, patch, side = 80, 5, 4, 32

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.norm1 = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(heads, width, dtype=dtype, decode=False, rngs=rngs)
            self.norm2 = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
            self.up = nnx.Linear(width, 3 * width, dtype=dtype, rngs=rngs)
            self.down = nnx.Linear(3 * width, width, dtype=dtype, rngs=rngs)

        def __call__(self, x):
            x = x + self.attention(self.norm1(x))
            return x + self.down(nnx.gelu(self.up(self.norm2(x))))

    class ViT(nnx.Module):
        def __init__(self, rngs):
            n = (side // patch) ** 2 + 1
            self.patches = nnx.Conv(3, width, (patch, patch), (patch, patch), padding="VALID", dtype=dtype, rngs=rngs)
            self.token = nnx.Param(jnp.zeros((1, 1, width)))
            self.place = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, n, width)))
            self.blocks = nnx.List([Block(rngs) for _ in range(2)])
            self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
            self.head = nnx.Linear(width, 10, dtype=dtype, rngs=rngs)

        def __call__(self, images):
            x = self.patches(images).reshape(len(images), -1, width)
            token = jnp.broadcast_to(self.token[...].astype(x.dtype), (len(x), 1, width))
            x = jnp.concatenate([token, x], axis=1) + self.place[...].astype(x.dtype)
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x)[:, 0])

    model = ViT(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.lamb(2e-3), wrt=nnx.Param)

    @nnx.jit
    def train(model, optimizer, images, labels):
        loss, grads = nnx.value_and_grad(lambda model: _mean_loss(model(images), labels))(model)
        optimizer.update(model, grads)
        return loss

    def step(state, images, labels):
        return state, train(model, optimizer, images, labels)

    return None, step, samples.photos(12, side)


def lora(dtype):
    """Fine-tuning: only the low-rank additions of a frozen network learn."""

    class MLP(nnx.Module):
        def __init__(self, rngs):
            self.layer1 = nnx.LoRALinear(64, 300, lora_rank=6, dtype=dtype, rngs=rngs)
            self.layer2 = nnx.LoRALinear(300, 300, lora_rank=6, dtype=dtype, rngs=rngs)
            self.layer3 = nnx.LoRALinear(300, 10, lora_rank=3, dtype=dtype, rngs=rngs)

        def __call__(self, x):
            return self.layer3(nnx.silu(self.layer2(nnx.silu(self.layer1(x)))))

    model = MLP(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.LoRAParam)

    @nnx.jit
    def train(model, optimizer, images, labels):
        def loss_of(model):
            return _mean_loss(model(images.reshape(len(images), -1)), labels)

        loss, grads = nnx.value_and_grad(loss_of, argnums=nnx.DiffState(0, nnx.LoRAParam))(model)
        optimizer.update(model, grads)
        return loss

    def step(state, images, labels):
        return state, train(model, optimizer, images, labels)

    return None, step, samples.digit_batches(50)


def autoencoder(dtype):
    """A convolutional autoencoder: strided convolutions down, transposed ones up."""

    class Autoencoder(nnx.Module):
        def __init__(self, rngs):
            def conv(n_in, n_out):
                return nnx.Conv(n_in, n_out, (3, 3), 2, dtype=dtype, rngs=rngs)

            def up(n_in, n_out):
                return nnx.ConvTranspose(n_in, n_out, (3, 3), 2, dtype=dtype, rngs=rngs)

            self.down1, self.down2 = conv(1, 24), conv(24, 40)
            self.norm = nnx.GroupNorm(40, 8, dtype=dtype, rngs=rngs)
            self.up1, self.up2 = up(40, 24), up(24, 1)

        def __call__(self, x):
            z = self.norm(self.down2(nnx.elu(self.down1(x))))
            return self.up2(nnx.elu(self.up1(nnx.elu(z))))

    model = Autoencoder(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.rmsprop(1e-3), wrt=nnx.Param)

    @nnx.jit
    def train(model, optimizer, images):
        def loss_of(model):
            return jnp.mean((model(images).astype(jnp.float32) - images) ** 2)

        loss, grads = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, grads)
        return loss

    def step(state, images, labels):
        return state, train(model, optimizer, images)

    return None, step, samples.digit_batches(36, 2)
