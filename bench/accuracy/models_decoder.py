"""Language models that write a token at a time: the pass over a prompt, and the pass for one token.

The published figures name a model and a length; the model's own configuration gives the rest. What
one such call reads from HBM is published too, and the parameters below add up to it.
"""

import dataclasses

import jax
import jax.numpy as jnp

from accuracy import layers

MODEL = layers.Precision(jnp.bfloat16, jnp.bfloat16)


@dataclasses.dataclass(frozen=True)
class Config:
    n_layers: int
    width: int
    n_heads: int
    n_kv_heads: int
    head: int  # elements a head
    inner: int  # of the two dense layers
    vocabulary: int
    activation: str = "silu"
    is_gated: bool = True  # the activation multiplies a second dense layer
    has_rms_norm: bool = True  # else a layer norm, with biases everywhere
    has_rotation: bool = True  # else learned positions
    is_tied: bool = False  # the output layer is the embedding
    has_head_norm: bool = False  # queries and keys are normalised
    norms: str = "before"  # "before" or "after" attention and the dense layers, or "both"


OPT = Config(24, 2048, 32, 32, 64, 8192, 50272, "relu", False, False, False, True)
OPT_SMALL = dataclasses.replace(OPT, width=1024, n_heads=16, n_kv_heads=16, inner=4096, activation="gelu_erf")
GEMMA3 = Config(26, 1152, 4, 1, 256, 6912, 262144, "gelu", is_tied=True, has_head_norm=True, norms="both")
CONFIGS = {
    "AFM-4.5B-Base": Config(36, 2560, 20, 4, 128, 18432, 128004, "relu2", False),
    "ERNIE-4.5-0.3B-PT": Config(18, 1024, 16, 2, 128, 3072, 103424, is_tied=True),
    "EXAONE-4.0-1.2B": Config(30, 2048, 32, 8, 64, 4096, 102400, is_tied=True, has_head_norm=True, norms="after"),
    "Janus-1.3B": Config(24, 2048, 16, 16, 128, 5632, 102400),
    "Phi-3-mini-4k-instruct": Config(32, 3072, 32, 32, 96, 8192, 32064),
    "biogpt": dataclasses.replace(OPT_SMALL, vocabulary=42384),
    "gemma-2b-it": Config(18, 2048, 8, 1, 256, 16384, 256000, "gelu", is_tied=True),
    "gemma-3-1b-it": GEMMA3,
    "gpt_bigcode-santacoder": dataclasses.replace(
        OPT, n_heads=16, n_kv_heads=1, head=128, vocabulary=49280, activation="gelu"
    ),
    "opt-1.3b": OPT,
    "vaultgemma-1b": dataclasses.replace(
        GEMMA3, n_kv_heads=4, vocabulary=256000, has_head_norm=False, norms="before"
    ),
    "xglm-564M": dataclasses.replace(OPT_SMALL, vocabulary=256008),
}
ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "gelu_erf": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


def norm_params(config, width):
    return layers.shape(width, dtype=MODEL.between) if config.has_rms_norm else layers.norm_params(MODEL, width)


def norm(config, params, x):
    if config.has_rms_norm:
        return layers.rms_norm(params, x)
    return layers.layer_norm(params, x.astype(jnp.float32), 1e-5).astype(x.dtype)


def layer_params(config):
    has_bias = not config.has_rms_norm
    kv_width = config.n_kv_heads * config.head
    sizes = {
        "q": (config.width, config.n_heads * config.head),
        "k": (config.width, kv_width),
        "v": (config.width, kv_width),
        "out": (config.n_heads * config.head, config.width),
        "up": (config.width, config.inner),
        "down": (config.inner, config.width),
    }
    if config.is_gated:
        sizes["gate"] = (config.width, config.inner)
    params = {name: layers.dense_params(MODEL, *size, has_bias) for name, size in sizes.items()}
    for place in ("before", "after"):
        if config.norms in (place, "both"):
            params[f"{place}_attention"] = norm_params(config, config.width)
            params[f"{place}_dense"] = norm_params(config, config.width)
    if config.has_head_norm:
        params["q_norm"] = layers.shape(config.head, dtype=MODEL.between)
        params["k_norm"] = layers.shape(config.head, dtype=MODEL.between)
    return params


def model_params(config):
    params = {
        "words": layers.shape(config.vocabulary, config.width, dtype=MODEL.between),
        "layers": [layer_params(config)] * config.n_layers,
        "norm": norm_params(config, config.width),
    }
    if not config.has_rotation:
        params["positions"] = layers.shape(2048, config.width, dtype=MODEL.between)
    if not config.is_tied:
        params["head"] = layers.dense_params(MODEL, config.width, config.vocabulary, has_bias=False)
    return params


def rotate(x, positions):
    """Rotary positions: pairs of elements of a head turn by an angle for each position."""
    half = x.shape[-1] // 2
    angle = positions[..., None].astype(jnp.float32) * (10000.0 ** (-jnp.arange(half) / half))
    cos, sin = jnp.cos(angle)[:, :, None, :], jnp.sin(angle)[:, :, None, :]
    low, high = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], -1).astype(x.dtype)


def attend(config, q, k, v, bias):
    """Groups of query heads share a key head. k and v are [batch, head, key, width]."""
    batch, n_rows, _, width = q.shape
    q = q.reshape(batch, n_rows, config.n_kv_heads, -1, width)
    scores = jnp.einsum("brhgw,bhkw->bhgrk", q, k, preferred_element_type=jnp.float32) * width**-0.5
    weights = jax.nn.softmax(scores + bias, axis=-1).astype(v.dtype)
    return jnp.einsum("bhgrk,bhkw->brhgw", weights, v).reshape(batch, n_rows, -1)


def heads_of(config, params, x, positions):
    """Queries, keys and values of the rows of x."""
    q, k, v = (layers.split_heads(layers.dense(MODEL, params[n], x), n_heads)
               for n, n_heads in (("q", config.n_heads), ("k", config.n_kv_heads), ("v", config.n_kv_heads)))
    if config.has_head_norm:
        q, k = layers.rms_norm(params["q_norm"], q), layers.rms_norm(params["k_norm"], k)
    if config.has_rotation:
        q, k = rotate(q, positions), rotate(k, positions)
    return q, k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)


def feed_forward(config, params, x):
    act = ACTIVATIONS[config.activation]
    wide = layers.dense(MODEL, params["up"], x)
    wide = act(layers.dense(MODEL, params["gate"], x)) * wide if config.is_gated else act(wide)
    return layers.dense(MODEL, params["down"], wide)


def around(config, params, part, x, function):
    """x and what the function makes of it, with the norms that the model has around it."""
    y = norm(config, params[f"before_{part}"], x) if f"before_{part}" in params else x
    y = function(y)
    return x + (norm(config, params[f"after_{part}"], y) if f"after_{part}" in params else y)


def decode_layer(config, params, x, positions, cache, bias):
    """One layer. cache is (keys, values) so far, or None for a prompt; returns the new one."""
    kept = {}

    def attention(y):
        q, k, v = heads_of(config, params, y, positions)
        if cache is not None:
            at = (0, 0, positions[0, 0], 0)
            k, v = (jax.lax.dynamic_update_slice(old, new, at) for old, new in zip(cache, (k, v)))
        kept["cache"] = (k, v)
        return layers.dense(MODEL, params["out"], attend(config, q, k, v, bias))

    x = around(config, params, "attention", x, attention)
    x = around(config, params, "dense", x, lambda y: feed_forward(config, params, y))
    return x, kept["cache"]


def last_logits(config, params, x):
    x = norm(config, params["norm"], x)[:, -1]
    if config.is_tied:
        return jnp.einsum("bw,vw->bv", x, params["words"], preferred_element_type=jnp.float32)
    return layers.dense(MODEL, params["head"], x).astype(jnp.float32)


def embed(config, params, tokens, positions):
    x = params["words"][tokens]
    return x if config.has_rotation else x + params["positions"][positions]


def prefill(config, params, tokens):
    """A prompt: the next token, and the keys and values of each layer."""
    n_rows = tokens.shape[1]
    positions = jnp.broadcast_to(jnp.arange(n_rows, dtype=jnp.int32), tokens.shape)
    x = embed(config, params, tokens, positions)
    bias = layers.causal_bias(n_rows, n_rows)
    caches = []
    for layer in params["layers"]:
        x, cache = decode_layer(config, layer, x, positions, None, bias)
        caches.append(cache)
    return jnp.argmax(last_logits(config, params, x), -1), caches


def decode(config, params, caches, token, position):
    """One token: the next, and the keys and values with its own put in."""
    positions = position[:, None]
    x = embed(config, params, token, positions)
    n_keys = caches[0][0].shape[2]
    bias = jnp.where(jnp.arange(n_keys) <= position[0], 0.0, jnp.finfo(jnp.float32).min)
    new = []
    for layer, cache in zip(params["layers"], caches):
        x, cache = decode_layer(config, layer, x, positions, cache, bias)
        new.append(cache)
    return jnp.argmax(last_logits(config, params, x), -1), new


def build_prefill(name, batch, n_rows):
    """The function and the shapes of its arguments."""
    config = CONFIGS[name]
    return (lambda w, t: prefill(config, w, t)), (model_params(config), layers.shape(batch, n_rows, dtype=jnp.int32))


def build_decode(name, batch, n_keys):
    """As build_prefill; the function may overwrite its second argument, the keys and values."""
    config = CONFIGS[name]
    cache = layers.shape(batch, config.n_kv_heads, n_keys, config.head, dtype=MODEL.between)
    token = layers.shape(batch, 1, dtype=jnp.int32)
    position = layers.shape(batch, dtype=jnp.int32)
    arguments = (model_params(config), [(cache, cache)] * config.n_layers, token, position)
    return (lambda w, c, t, i: decode(config, w, c, t, i)), arguments
