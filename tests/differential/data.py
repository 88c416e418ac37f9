"""What inputs hold: each function draws an array of a shape; a reproducer prints their source."""

import numpy as np


def normal(rng, shape, scale=1.0):
    return rng.standard_normal(shape) * scale


def uniform(rng, shape, low=0.0, high=1.0):
    return rng.uniform(low, high, shape)


def distinct(rng, shape, gap=1.0):
    """Multiples of the gap around zero, no two alike: their order survives any rounding below it."""
    n = int(np.prod(shape))
    return ((rng.permutation(n) - n // 2) * gap).reshape(shape)


def distinct_rows(rng, shape, gap=1.0):
    """As distinct(), but along the last dimension only, so that long arrays stay small in value."""
    rows = np.argsort(rng.random(shape), axis=-1)
    return (rows - shape[-1] // 2) * gap


def integers(rng, shape, low=0, high=2):
    return rng.integers(low, high, shape)


def fixed(rng, shape, value=0):
    return np.full(shape, value)


def truth(rng, shape, share=0.5):
    return rng.random(shape) < share


def spiked(rng, shape):
    """Normal values among which a few are infinite, NaN, or zero of either sign."""
    x = rng.standard_normal(shape)
    for value in (np.inf, -np.inf, np.nan, 0.0, -0.0):
        x = np.where(rng.random(shape) < 0.04, value, x)
    return x
