"""A BERT encoder of sentences: token ids to one unit vector each, by the mean over tokens.

Shapes: b sentences, s tokens, w features. Weights are a dict of arrays, dense layers as [in, out].
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    n_layers: int
    width: int
    n_heads: int
    inner: int
    vocabulary: int
    max_tokens: int
    n_types: int = 2
    epsilon: float = 1e-12


def weight_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    w, inner = config.width, config.inner
    shapes = {"tokens": (config.vocabulary, w), "positions": (config.max_tokens, w), "types": (config.n_types, w),
              "norm.scale": (w,), "norm.bias": (w,)}  # fmt: skip
    for i in range(config.n_layers):
        for name in ("q", "k", "v", "o"):
            shapes |= {f"{i}.{name}.weight": (w, w), f"{i}.{name}.bias": (w,)}
        shapes |= {f"{i}.up.weight": (w, inner), f"{i}.up.bias": (inner,), f"{i}.down.weight": (inner, w),
                   f"{i}.down.bias": (w,)}  # fmt: skip
        for name in ("attention_norm", "norm"):
            shapes |= {f"{i}.{name}.scale": (w,), f"{i}.{name}.bias": (w,)}
    return shapes


def _norm(x, weights, name, epsilon):
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt(variance + epsilon)
    return scaled * weights[f"{name}.scale"].astype(jnp.float32) + weights[f"{name}.bias"].astype(jnp.float32)


def _dense(x, weights, name, dtype):
    """In `dtype`, summed up in fp32. Quantised weights have a scale for each output feature."""
    product = jax.lax.dot_general(
        x.astype(dtype), weights[f"{name}.weight"].astype(dtype), (((x.ndim - 1,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    )  # fmt: skip
    scale = weights.get(f"{name}.weight_scale")
    product = product if scale is None else product * scale
    return product + weights[f"{name}.bias"].astype(jnp.float32)


def _attention(config, weights, i, x, mask, dtype):
    """x[b, s, w], mask[b, s]: 0 where a token counts, a large negative number elsewhere."""
    b, s, w = x.shape
    head = w // config.n_heads
    q, k, v = (
        _dense(x, weights, f"{i}.{name}", dtype).astype(dtype).reshape(b, s, config.n_heads, head)
        for name in ("q", "k", "v")
    )
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) * head**-0.5
    shares = jax.nn.softmax(scores + mask[:, None, None, :], axis=-1)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", shares.astype(dtype), v, preferred_element_type=jnp.float32)
    return _dense(mixed.reshape(b, s, w), weights, f"{i}.o", dtype)


def encode(config: EncoderConfig, weights, ids, is_token, dtype=jnp.float32):
    """ids int32[b, s], is_token int32[b, s] (1 or 0) -> fp32[b, w] of length 1. dtype: of matmuls."""
    is_token = is_token.astype(jnp.float32)
    mask = (is_token - 1) * 1e9
    tokens = weights["tokens"][ids].astype(jnp.float32)
    if "tokens_scale" in weights:
        tokens = tokens * weights["tokens_scale"][ids][:, :, None]
    x = tokens + weights["positions"][: ids.shape[1]].astype(jnp.float32)
    x = _norm(x + weights["types"][0].astype(jnp.float32), weights, "norm", config.epsilon)
    for i in range(config.n_layers):
        x = _norm(x + _attention(config, weights, i, x, mask, dtype), weights, f"{i}.attention_norm", config.epsilon)
        inner = jax.nn.gelu(_dense(x, weights, f"{i}.up", dtype), approximate=False)
        x = _norm(x + _dense(inner, weights, f"{i}.down", dtype), weights, f"{i}.norm", config.epsilon)
    total = (x * is_token[:, :, None]).sum(1)
    mean = total / jnp.maximum(is_token.sum(1, keepdims=True), 1e-9)
    return mean / jnp.maximum(jnp.sqrt(jnp.square(mean).sum(-1, keepdims=True)), 1e-12)
