"""A llama decoder: the pass over a chunk of a prompt, the pass for one token of several sequences, and the choice
of the next token, all on the device.

Keys and values of past tokens are a tensor a layer each, [n_slots, capacity, n_kv_heads, head]: a sequence has a
slot, a token a row. Programs take them donated and write the new rows only. Weights are a dict of arrays, dense
layers as [in, out]; a quantised one is int8 or fp8 with a scale for each output feature beside it.
"""

import dataclasses

import jax
import jax.numpy as jnp

NEVER = -1e30  # in place of scores that do not count: finite, so that rows of nothing else have no NaN


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    n_layers: int
    width: int
    n_heads: int
    n_kv_heads: int
    head: int
    inner: int
    vocabulary: int
    max_tokens: int
    rope_base: float = 1e4
    epsilon: float = 1e-5

    def cache_bytes_per_token(self, bytes_per_element: int) -> int:
        return 2 * self.n_layers * self.n_kv_heads * self.head * bytes_per_element


def weight_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """The output layer is the embedding."""
    w, inner, kv = config.width, config.inner, config.n_kv_heads * config.head
    shapes = {"tokens": (config.vocabulary, w), "norm.scale": (w,)}
    for i in range(config.n_layers):
        shapes |= {
            f"{i}.attention_norm.scale": (w,), f"{i}.q.weight": (w, config.n_heads * config.head),
            f"{i}.k.weight": (w, kv), f"{i}.v.weight": (w, kv), f"{i}.o.weight": (config.n_heads * config.head, w),
            f"{i}.mlp_norm.scale": (w,), f"{i}.gate.weight": (w, inner), f"{i}.up.weight": (w, inner),
            f"{i}.down.weight": (inner, w),
        }  # fmt: skip
    return shapes


def _norm(config, weights, name, x):
    x = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + config.epsilon)
    return x * scale * weights[f"{name}.scale"].astype(jnp.float32)


def _dense(weights, name, x, dtype):
    """x[rows, in] -> fp32[rows, out]. Weights of another type than dtype are quantised: their scale follows."""
    w = weights[f"{name}.weight"]
    product = jnp.dot(x.astype(dtype), w.astype(dtype), preferred_element_type=jnp.float32)
    scale = weights.get(f"{name}.weight_scale")
    return product if scale is None else product * scale


def rotation(config: DecoderConfig, positions):
    """Cosine and sine fp32[positions, head / 2] of the rotary embedding."""
    half = config.head // 2
    frequencies = config.rope_base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions.astype(jnp.float32)[:, None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def _rotate(x, cos, sin):
    """x fp32[rows, heads, head]: elements i and i + head / 2 are a pair."""
    a, b = jnp.split(x, 2, axis=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def _mlp(weights, i, x, dtype):
    inner = jax.nn.silu(_dense(weights, f"{i}.gate", x, dtype)) * _dense(weights, f"{i}.up", x, dtype)
    return _dense(weights, f"{i}.down", inner, dtype)


def _qkv(config, weights, i, x, angles, dtype):
    """Queries, keys and values of rows x[rows, w]: [rows, heads, head], rotated."""
    normed = _norm(config, weights, f"{i}.attention_norm", x)
    q, k, v = (_dense(weights, f"{i}.{n}", normed, dtype).reshape(x.shape[0], -1, config.head) for n in ("q", "k", "v"))
    return _rotate(q, *angles), _rotate(k, *angles), v


def _logits(config, weights, x, dtype):
    """x[rows, w] -> fp32[rows, vocabulary]."""
    normed = _norm(config, weights, "norm", x).astype(dtype)
    w = weights["tokens"]
    product = jax.lax.dot_general(
        normed, w.astype(dtype), (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
    scale = weights.get("tokens_scale")
    return product if scale is None else product * scale


def _embed(weights, ids):
    x = weights["tokens"][ids].astype(jnp.float32)
    scale = weights.get("tokens_scale")
    return x if scale is None else x * scale[ids][:, None]


def decode_step(config: DecoderConfig, length: int, weights, cache, tokens, positions, dtype):
    """One token of each of the first b slots: tokens int32[b], positions int32[b] (of the token) -> logits
    fp32[b, vocabulary] and the cache. Rows up to `length`, the bucket, are read. A slot that takes no part
    still writes the row of its position.
    """
    b = tokens.shape[0]
    groups = config.n_heads // config.n_kv_heads
    capacity = cache[0].shape[1]
    angles = rotation(config, positions)
    x = _embed(weights, tokens)
    is_past = jnp.arange(length)[None, :] <= positions[:, None]
    mask = jnp.where(is_past, 0.0, NEVER)
    rows = jnp.arange(b, dtype=jnp.int32) * capacity + positions
    cache = list(cache)
    for i in range(config.n_layers):
        q, k, v = _qkv(config, weights, i, x, angles, dtype)
        for j, new in ((2 * i, k), (2 * i + 1, v)):
            cache[j] = _write_rows(cache[j], new, rows)
        keys, values = (cache[j][:b, :length].astype(dtype) for j in (2 * i, 2 * i + 1))
        q = q.reshape(b, config.n_kv_heads, groups, config.head).astype(dtype)
        scores = jnp.einsum("bkgd,blkd->bkgl", q, keys, preferred_element_type=jnp.float32) * config.head**-0.5
        shares = jax.nn.softmax(scores + mask[:, None, None, :], axis=-1).astype(dtype)
        mixed = jnp.einsum("bkgl,blkd->bkgd", shares, values, preferred_element_type=jnp.float32)
        x = x + _dense(weights, f"{i}.o", mixed.reshape(b, -1), dtype)
        x = x + _mlp(weights, i, _norm(config, weights, f"{i}.mlp_norm", x), dtype)
    return _logits(config, weights, x, dtype), tuple(cache)


def _write_rows(tensor, new, rows):
    """tensor[slots, capacity, heads, head] with row rows[i] of slots * capacity replaced by new[i, heads, head]."""
    flat = tensor.reshape(-1, tensor.shape[2] * tensor.shape[3])
    new = new.reshape(new.shape[0], -1).astype(tensor.dtype)
    if new.shape[0] == 1:
        return jax.lax.dynamic_update_slice(flat, new, (rows[0], 0)).reshape(tensor.shape)
    written = flat.at[rows].set(new, mode="promise_in_bounds", unique_indices=True)
    return written.reshape(tensor.shape)


def prefill_chunk(config: DecoderConfig, length: int, weights, cache, ids, slot, start, n_tokens, dtype):
    """A chunk of one sequence's prompt: ids int32[s], of which the first n_tokens count, stand at positions start and
    after -> logits fp32[1, vocabulary] behind the last of them, and the cache. The chunk's rows are written to the
    slot, those of padding too: the next chunk or token overwrites them before anything reads them. length: how many
    rows are read, at least start + s.
    """
    x, cache = _chunk(config, length, weights, cache, ids, slot, start, dtype)
    last = jax.lax.dynamic_slice(x, (n_tokens - 1, jnp.int32(0)), (1, config.width))
    return _logits(config, weights, last, dtype), cache


def chunk_logits(config: DecoderConfig, length: int, weights, cache, ids, dtype):
    """Logits fp32[s, vocabulary] behind each token of a text that begins with ids int32[s]: to score it."""
    zero = jnp.int32(0)
    x, _ = _chunk(config, length, weights, cache, ids, zero, zero, dtype)
    return _logits(config, weights, x, dtype)


def _chunk(config, length, weights, cache, ids, slot, start, dtype):
    """Hidden states fp32[s, w] and the cache."""
    s = ids.shape[0]
    groups = config.n_heads // config.n_kv_heads
    positions = start + jnp.arange(s, dtype=jnp.int32)
    angles = rotation(config, positions)
    x = _embed(weights, ids)
    mask = jnp.where(jnp.arange(length)[None, :] <= positions[:, None], 0.0, NEVER)
    zero = jnp.int32(0)
    cache = list(cache)
    for i in range(config.n_layers):
        q, k, v = _qkv(config, weights, i, x, angles, dtype)
        parts = []
        for j, new in ((2 * i, k), (2 * i + 1, v)):
            kept = cache[j].dtype
            cache[j] = jax.lax.dynamic_update_slice(cache[j], new[None].astype(kept), (slot, start, zero, zero))
            if length == s:  # then start is 0, and the chunk attends to itself
                parts.append(new.astype(kept).astype(dtype))
            else:
                whole = jax.lax.dynamic_slice(cache[j], (slot, zero, zero, zero), (1, length, *cache[j].shape[2:]))
                parts.append(whole[0].astype(dtype))
        keys, values = parts
        q = q.reshape(s, config.n_kv_heads, groups, config.head).astype(dtype)
        scores = jnp.einsum("skgd,lkd->kgsl", q, keys, preferred_element_type=jnp.float32) * config.head**-0.5
        shares = jax.nn.softmax(scores + mask[None, None], axis=-1).astype(dtype)
        mixed = jnp.einsum("kgsl,lkd->skgd", shares, values, preferred_element_type=jnp.float32)
        x = x + _dense(weights, f"{i}.o", mixed.reshape(s, -1), dtype)
        x = x + _mlp(weights, i, _norm(config, weights, f"{i}.mlp_norm", x), dtype)
    return x, tuple(cache)


def empty_cache(config: DecoderConfig, n_slots: int, capacity: int, dtype):
    shape = (n_slots, capacity, config.n_kv_heads, config.head)
    return tuple(jnp.zeros(shape, dtype) for _ in range(2 * config.n_layers))
