"""The choice of the next token from logits, on the device: greedy, or at random by temperature, top-k and top-p.

No sort: the least probability that still counts is found by bisection over the bits of a float, so the choice is
exact; all tokens as likely as the last one that counts do too. The random number is an argument.
"""

import jax
import jax.numpy as jnp

N_BLOCK = 128  # tokens a row, so that the vocabulary is spread over the partitions
ONE_BITS = 0x3F800000  # of 1.0: probabilities relative to the most likely token are in (0, 1]
N_HALVINGS = 30


def greedy(logits):
    """logits fp32[b, vocabulary] -> int32[b]: the first of the largest."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _least(p, is_enough, lowest):
    """The largest float t of (lowest, 1] with is_enough(p >= t), for each sequence; lowest where there is none.

    is_enough is monotone: what is enough with t is enough with less. p fp32[b, rows, N_BLOCK]."""
    low = jax.lax.bitcast_convert_type(lowest, jnp.int32)
    high = jnp.full_like(low, ONE_BITS + 1)
    for _ in range(N_HALVINGS):
        middle = low + ((high - low) >> 1)
        is_in = is_enough(p >= jax.lax.bitcast_convert_type(middle, jnp.float32)[:, None, None])
        low, high = jnp.where(is_in, middle, low), jnp.where(is_in, high, middle)
    return jax.lax.bitcast_convert_type(low, jnp.float32)


def _total(x):
    """fp32[b, rows, N_BLOCK] -> fp32[b]"""
    return x.sum(-1).sum(-1)


def log_probability(logits, tokens):
    """logits fp32[b, vocabulary], tokens int32[b] -> fp32[b]: of each token, before temperature, top-k and top-p."""
    b, vocabulary = logits.shape
    padded = jnp.pad(logits, ((0, 0), (0, -vocabulary % N_BLOCK)), constant_values=-jnp.inf)
    x = padded.reshape(b, -1, N_BLOCK)
    top = x.max(-1).max(-1)
    total = _total(jnp.exp(x - top[:, None, None]))
    index = jnp.arange(x.shape[1] * N_BLOCK, dtype=jnp.int32).reshape(1, -1, N_BLOCK)
    chosen = _total(jnp.where(index == tokens[:, None, None], x, 0.0))
    return chosen - top - jnp.log(total)


def sample(logits, temperature, top_k, top_p, uniform):
    """One token for each sequence: logits fp32[b, vocabulary], the rest fp32[b].

    temperature: 0 takes the most likely token. top_k: how many tokens count, 0 for all. top_p: of these, the most
    likely ones whose shares sum up to top_p. uniform: a random number of [0, 1).
    """
    b, vocabulary = logits.shape
    likeliest = greedy(logits)
    padded = jnp.pad(logits, ((0, 0), (0, -vocabulary % N_BLOCK)), constant_values=-jnp.inf)
    x = padded.reshape(b, -1, N_BLOCK)
    x = x - x.max(-1).max(-1)[:, None, None]
    p = jnp.exp(x / jnp.maximum(temperature, 1e-6)[:, None, None])
    nothing = jnp.zeros_like(top_p)
    k = jnp.where(top_k > 0, top_k, float(vocabulary))
    least = _least(p, lambda is_in: _total(is_in.astype(jnp.float32)) >= k, nothing)
    kept = jnp.where(p >= least[:, None, None], p, 0.0)
    share = jnp.minimum(top_p, 1.0) * _total(kept)
    nucleus = _least(kept, lambda is_in: _total(jnp.where(is_in, kept, 0.0)) >= share, nothing)
    kept = jnp.where(kept >= nucleus[:, None, None], kept, 0.0)

    rows = kept.sum(-1)
    ends = jnp.cumsum(rows, axis=-1)
    goal = uniform * ends[:, -1]
    is_before = ends <= goal[:, None]
    row = is_before.astype(jnp.float32).sum(-1)
    before = jnp.where(is_before, rows, 0.0).sum(-1)
    is_row = jnp.arange(rows.shape[1], dtype=jnp.float32)[None] == row[:, None]
    row_ends = before[:, None] + jnp.cumsum(jnp.where(is_row[:, :, None], kept, 0.0).sum(1), axis=-1)
    column = (row_ends <= goal[:, None]).astype(jnp.float32).sum(-1)
    token = (row * N_BLOCK + column).astype(jnp.int32)
    is_found = (row < rows.shape[1]) & (column < N_BLOCK) & (temperature > 0)  # sums may round up to the goal
    return jnp.where(is_found, token, likeliest)
