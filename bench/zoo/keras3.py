"""Programs in Keras 3 on its JAX back end, trained as Keras trains: train_on_batch of a compiled model."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from keras import layers

import samples


def _trained(model, optimizer, loss, dtype):
    model.compile(optimizer=optimizer, loss=loss)

    def step(state, x, y):
        model.reset_metrics()
        return state, model.train_on_batch(x, y)

    return None, step


def _start(dtype):
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_dtype_policy("float32" if str(dtype) == "float32" else "mixed_bfloat16")


def convnet(dtype):
    """Keras's mnist_convnet."""
    _start(dtype)
    model = keras.Sequential([
        keras.Input((24, 24, 1)),
        layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2),
        layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(2),
        layers.Flatten(), layers.Dropout(0.5),
        layers.Dense(10, activation="softmax", dtype="float32"),
    ])
    state, step = _trained(model, "adam", "sparse_categorical_crossentropy", dtype)
    return state, step, samples.digit_batches(64, 3)


def text(dtype):
    """Keras's text_classification_with_transformer: embeddings, one block, pooling."""
    _start(dtype)
    text = keras.Input((40,), dtype="int32")
    x = layers.Embedding(1000, 32)(text) + layers.Embedding(40, 32)(np.arange(40)[None])
    y = layers.MultiHeadAttention(2, 32, dropout=0.1)(x, x)
    x = layers.LayerNormalization(epsilon=1e-6)(x + y)
    y = layers.Dense(32)(layers.Dense(33, activation="gelu")(x))
    x = layers.LayerNormalization(epsilon=1e-6)(x + layers.Dropout(0.1)(y))
    x = layers.Dense(20, activation="relu")(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(text, layers.Dense(2, activation="softmax", dtype="float32")(x))
    state, step = _trained(model, keras.optimizers.AdamW(1e-3), "sparse_categorical_crossentropy", dtype)
    return state, step, ((t[:, :-1], t[:, 5] % 2) for t, in samples.tokens(32, 40, 1000))


def recurrent(dtype):
    """A forecast of a series: bidirectional LSTM and GRU, Huber loss."""
    _start(dtype)
    model = keras.Sequential([
        keras.Input((30, 3)),
        layers.Bidirectional(layers.LSTM(25, return_sequences=True)), layers.GRU(20),
        layers.Dense(3, dtype="float32"),
    ])
    state, step = _trained(model, keras.optimizers.RMSprop(1e-3), "huber", dtype)
    rng = np.random.default_rng(0)
    t = np.arange(31)[None, :, None] * 0.2 + rng.uniform(0, 6, (500, 1, 1)) + np.arange(3) * 2
    series = (np.sin(t) + 0.1 * rng.standard_normal(t.shape)).astype(np.float32)
    return state, step, samples.batches(25, series[:, :-1], series[:, -1])


def separable(dtype):
    """A small Xception: separable and depthwise convolutions, batch normalisation, residuals, squeeze and excite."""
    _start(dtype)
    images = keras.Input((28, 28, 3))
    x = layers.Rescaling(0.5)(images)
    x = layers.Activation("swish")(layers.BatchNormalization()(layers.Conv2D(16, 3, strides=2, padding="same")(x)))
    for width in (24, 32):
        y = layers.SeparableConv2D(width, 3, padding="same")(layers.Activation("relu")(x))
        y = layers.BatchNormalization()(y)
        y = layers.DepthwiseConv2D(3, padding="same")(y)
        gate = layers.Dense(width, activation="sigmoid")(layers.GlobalAveragePooling2D()(y))
        y = layers.MaxPooling2D(3, strides=2, padding="same")(y * layers.Reshape((1, 1, width))(gate))
        x = y + layers.Conv2D(width, 1, strides=2, padding="same")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(images, layers.Dense(10, dtype="float32")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    state, step = _trained(model, keras.optimizers.SGD(0.01, momentum=0.9), loss, dtype)
    return state, step, samples.photos(14, 28)
