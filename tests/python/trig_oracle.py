"""Sine, cosine and tangent of fp32 numbers, to float64: angles are reduced in Python's integers."""

import numpy as np


def arctan_of_inverse(n, one):
    """arctan(1/n) in units of 1/one, by its series."""
    total = term = one // n
    k = 1
    while term:
        term //= -n * n
        k += 2
        total += term // k
    return total


BITS = 512  # behind the point; more than the 149 + 128 that any fp32 needs
PI = 4 * (4 * arctan_of_inverse(5, 1 << BITS + 32) - arctan_of_inverse(239, 1 << BITS + 32)) >> 32
TWO_OVER_PI = (2 << 2 * BITS) // PI


def reduced(x):
    """x >= 0 of fp32 as (n mod 4, r) with x = n pi/2 + r, |r| <= pi/4."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    mantissa = (mantissa * 2.0**24).astype(np.uint64)
    n, r = np.zeros(x.shape, np.int64), np.zeros(x.shape)
    for e in np.unique(exponent):
        at = exponent == e
        if e < -30:
            r[at] = x[at]  # below 2^-30, the smallest part of x is below 2^-53
            continue
        # m * 2/pi * 2^(e - 24) mod 4, in words of 32 bits, the lowest first; 126 bits of fraction
        factor = TWO_OVER_PI << 126 >> (BITS + 24 - int(e)) & (1 << 128) - 1
        carry, words = np.zeros(at.sum(), np.uint64), []
        for i in range(4):
            product = mantissa[at] * np.uint64(factor >> 32 * i & 0xFFFFFFFF) + carry
            words.append((product & np.uint64(0xFFFFFFFF)).astype(np.float64))
            carry = product >> np.uint64(32)
        quarter = np.floor(words[3] / 2.0**30 + 0.5)
        rest = words[3] - quarter * 2.0**30
        low = (words[2] + (words[1] + words[0] * 2.0**-32) * 2.0**-32) * 2.0**-32
        n[at], r[at] = quarter.astype(np.int64) % 4, (rest + low) * 2.0**-30 * (np.pi / 2)
    return n, r


def exact(name, x):
    """sin, cos or tan of finite fp32 numbers as float64."""
    x = np.asarray(x, np.float32)
    n, r = reduced(np.abs(x))
    sin, cos = np.sin(r), np.cos(r)
    sines = np.choose(n, [sin, cos, -sin, -cos]) * np.where(np.signbit(x), -1.0, 1.0)
    cosines = np.choose(n, [cos, -sin, -cos, sin])
    return {"sin": sines, "cos": cosines, "tan": sines / cosines}[name]
