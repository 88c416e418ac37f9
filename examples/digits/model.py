"""A small convolutional network for 8x8 digits, in plain JAX: data, parameters, training step."""

import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

N_TRAIN, N_CLASSES, BATCH = 1500, 10, 50
LEARNING_RATE, MOMENTUM = 0.05, 0.9


def load_data(seed: int = 0):
    """((images [1500, 8, 8, 1], labels [1500]), the same for the 297 that are held out)."""
    # scikit-learn's file without scikit-learn, which takes longer to import than to train a while
    package = os.path.dirname(importlib.util.find_spec("sklearn").origin)
    table = np.loadtxt(os.path.join(package, "datasets/data/digits.csv.gz"), delimiter=",")
    order = np.random.default_rng(seed).permutation(len(table))
    images = (table[order, :-1].reshape(-1, 8, 8, 1) / 16.0).astype(np.float32)
    labels = table[order, -1].astype(np.int32)
    return (images[:N_TRAIN], labels[:N_TRAIN]), (images[N_TRAIN:], labels[N_TRAIN:])


def init_params(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed + 1)

    def normal(*shape):
        fan_in = np.prod(shape[:-1])
        return (rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)

    return {
        "conv1": normal(3, 3, 1, 16),
        "bias1": np.zeros(16, np.float32),
        "conv2": normal(3, 3, 16, 32),
        "bias2": np.zeros(32, np.float32),
        "dense": normal(2 * 2 * 32, N_CLASSES),
        "bias3": np.zeros(N_CLASSES, np.float32),
    }


def _conv(x, kernel, bias):
    y = lax.conv_general_dilated(
        x, kernel, window_strides=(1, 1), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(y + bias)


def _max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def logits_of(params: dict, images):
    """images [N, 8, 8, 1] -> logits [N, 10]"""
    x = _max_pool(_conv(images, params["conv1"], params["bias1"]))
    x = _max_pool(_conv(x, params["conv2"], params["bias2"]))
    return x.reshape(x.shape[0], -1) @ params["dense"] + params["bias3"]


def loss_of(params: dict, images, labels):
    log_p = jax.nn.log_softmax(logits_of(params, images))
    return -jnp.mean(jnp.sum(log_p * jax.nn.one_hot(labels, N_CLASSES), axis=-1))


def train_step(params: dict, velocity: dict, images, labels):
    """(params, velocity, loss) after one step of SGD with momentum."""
    loss, grads = jax.value_and_grad(loss_of)(params, images, labels)
    velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, grads)
    params = jax.tree.map(lambda p, v: p - LEARNING_RATE * v, params, velocity)
    return params, velocity, loss


def batches(images, labels, n_steps: int, seed: int = 0):
    """n_steps shuffled batches, epoch after epoch."""
    rng = np.random.default_rng(seed + 2)
    per_epoch = len(images) // BATCH
    for step in range(n_steps):
        if step % per_epoch == 0:
            order = rng.permutation(len(images))
        i = order[step % per_epoch * BATCH :][:BATCH]
        yield images[i], labels[i]
