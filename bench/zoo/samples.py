"""Data of the zoo, the same for every run: digits that scikit-learn brings, and what a generator draws."""

import importlib.util
import os

import numpy as np


def digits():
    """(images [1797, 8, 8, 1] of 0 to 1, labels [1797])"""
    package = os.path.dirname(importlib.util.find_spec("sklearn").origin)
    table = np.loadtxt(os.path.join(package, "datasets/data/digits.csv.gz"), delimiter=",")
    order = np.random.default_rng(0).permutation(len(table))
    images = table[order, :-1].reshape(-1, 8, 8, 1) / 16.0
    return images.astype(np.float32), table[order, -1].astype(np.int32)


def batches(size: int, *arrays):
    """Batches of rows of all arrays, shuffled, without end."""
    rng = np.random.default_rng(1)
    while True:
        order = rng.permutation(len(arrays[0]))
        for at in range(0, len(order) - size + 1, size):
            yield tuple(array[order[at : at + size]] for array in arrays)


def digit_batches(size: int, scale: int = 1):
    """Digits, their pixels repeated scale times both ways."""
    images, labels = digits()
    yield from batches(size, images.repeat(scale, axis=1).repeat(scale, axis=2), labels)


def photos(size: int, side: int, n_classes: int = 10):
    """Batches of (images [size, side, side, 3], labels): a colour a class, and noise."""
    rng = np.random.default_rng(2)
    colours = rng.standard_normal((n_classes, 3))
    while True:
        labels = rng.integers(0, n_classes, size).astype(np.int32)
        noise = rng.standard_normal((size, side, side, 3))
        yield (colours[labels][:, None, None] + noise).astype(np.float32), labels


def tokens(size: int, length: int, n_words: int):
    """Batches of [size, length + 1] tokens of a Markov chain."""
    rng = np.random.default_rng(3)
    following = rng.integers(0, n_words, (n_words, 4))
    while True:
        text = np.empty((size, length + 1), np.int32)
        text[:, 0] = rng.integers(0, n_words, size)
        for i in range(length):
            text[:, i + 1] = following[text[:, i], rng.integers(0, 4, size)]
        yield (text,)


def always(*batch):
    """The same batch, or none, without end."""
    while True:
        yield batch
