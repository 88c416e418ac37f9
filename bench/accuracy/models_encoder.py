"""BERT and its relatives, and GPT-2 as a feature extractor: one forward pass over whole rows."""

import dataclasses

import jax
import jax.numpy as jnp

from accuracy import layers


@dataclasses.dataclass(frozen=True)
class Config:
    n_layers: int
    width: int
    n_heads: int
    vocabulary: int
    n_positions: int = 512
    is_pooled: bool = True
    has_token_types: bool = True
    n_labels: int = 0
    embedding: int = 0  # width of the embeddings, where it is not the model's
    is_shared: bool = False  # all layers use the weights of one
    has_tanh_gelu: bool = False


BERT_BASE = Config(12, 768, 12, 28996)
CONFIGS = {
    "bert-base-cased": BERT_BASE,
    "bert-base-uncased": dataclasses.replace(BERT_BASE, vocabulary=30522),
    "bert-base-cased-finetuned-mrpc": dataclasses.replace(BERT_BASE, n_labels=2),
    "bert-large-cased": Config(24, 1024, 16, 28996),
    "bert-large-uncased": Config(24, 1024, 16, 30522),
    "roberta-base": dataclasses.replace(BERT_BASE, vocabulary=50265, n_positions=514),
    "camembert-base": dataclasses.replace(BERT_BASE, vocabulary=32005, n_positions=514),
    "distilbert-base-cased": Config(6, 768, 12, 28996, is_pooled=False, has_token_types=False),
    "distilbert-base-cased-distilled-squad": Config(6, 768, 12, 28996, is_pooled=False, has_token_types=False),
    "distilbert-base-uncased": Config(6, 768, 12, 30522, is_pooled=False, has_token_types=False),
    "albert-base-v2": Config(12, 768, 12, 30000, embedding=128, is_shared=True, has_tanh_gelu=True),
}
GPT2_CONFIGS = {
    "gpt2": Config(12, 768, 12, 50257, 1024, is_pooled=False, has_token_types=False),
    "gpt2-medium": Config(24, 1024, 16, 50257, 1024, is_pooled=False, has_token_types=False),
    "gpt2-large": Config(36, 1280, 20, 50257, 1024, is_pooled=False, has_token_types=False),
}


def layer_params(p, width):
    dense = {name: layers.dense_params(p, width, width) for name in ("q", "k", "v", "out")}
    return dense | {
        "up": layers.dense_params(p, width, 4 * width),
        "down": layers.dense_params(p, 4 * width, width),
        "norm1": layers.norm_params(p, width),
        "norm2": layers.norm_params(p, width),
    }


def encoder_params(p, config):
    embedding = config.embedding or config.width
    params = {
        "words": layers.shape(config.vocabulary, embedding, dtype=p.between),
        "positions": layers.shape(config.n_positions, embedding, dtype=p.between),
        "norm": layers.norm_params(p, embedding),
        "layers": [layer_params(p, config.width)] * (1 if config.is_shared else config.n_layers),
    }
    if config.has_token_types:
        params["types"] = layers.shape(2, embedding, dtype=p.between)
    if config.embedding:
        params["widen"] = layers.dense_params(p, embedding, config.width)
    if config.is_pooled:
        params["pooler"] = layers.dense_params(p, config.width, config.width)
    if config.n_labels:
        params["labels"] = layers.dense_params(p, config.width, config.n_labels)
    return params


def encoder_layer(p, config, params, x, bias):
    """Attention and the two dense layers, each with its norm behind the sum."""
    q, k, v = (layers.split_heads(layers.dense(p, params[n], x), config.n_heads) for n in ("q", "k", "v"))
    attended = layers.attend(p, q, k, v, bias).reshape(x.shape)
    x = layers.layer_norm(params["norm1"], x + layers.dense(p, params["out"], attended))
    wide = jax.nn.gelu(layers.dense(p, params["up"], x), approximate=config.has_tanh_gelu)
    return layers.layer_norm(params["norm2"], x + layers.dense(p, params["down"], wide))


def encoder(p, config, params, tokens, mask):
    """Hidden states of [batch, row], and what the pooler or the classifier makes of them."""
    x = params["words"][tokens] + params["positions"][: tokens.shape[1]]
    if config.has_token_types:
        x = x + params["types"][0]
    x = layers.layer_norm(params["norm"], x)
    if config.embedding:
        x = layers.dense(p, params["widen"], x)
    bias = (1 - mask[:, None, None, :].astype(p.between)) * jnp.finfo(p.between).min
    for i in range(config.n_layers):
        x = encoder_layer(p, config, params["layers"][0 if config.is_shared else i], x, bias)
    if not config.is_pooled:
        return x
    pooled = jnp.tanh(layers.dense(p, params["pooler"], x[:, 0]))
    return layers.dense(p, params["labels"], pooled) if config.n_labels else (x, pooled)


def gpt2_layer_params(p, width):
    return {
        "qkv": layers.dense_params(p, width, 3 * width),
        "out": layers.dense_params(p, width, width),
        "up": layers.dense_params(p, width, 4 * width),
        "down": layers.dense_params(p, 4 * width, width),
        "norm1": layers.norm_params(p, width),
        "norm2": layers.norm_params(p, width),
    }


def gpt2_params(p, config):
    return {
        "words": layers.shape(config.vocabulary, config.width, dtype=p.between),
        "positions": layers.shape(config.n_positions, config.width, dtype=p.between),
        "layers": [gpt2_layer_params(p, config.width)] * config.n_layers,
        "norm": layers.norm_params(p, config.width),
    }


def gpt2_layer(p, config, params, x, bias):
    """One block; also the keys and values, which a decoder keeps."""
    qkv = layers.dense(p, params["qkv"], layers.layer_norm(params["norm1"], x, 1e-5))
    q, k, v = (layers.split_heads(part, config.n_heads) for part in jnp.split(qkv, 3, axis=-1))
    x = x + layers.dense(p, params["out"], layers.attend(p, q, k, v, bias).reshape(x.shape))
    wide = jax.nn.gelu(layers.dense(p, params["up"], layers.layer_norm(params["norm2"], x, 1e-5)))
    return x + layers.dense(p, params["down"], wide), (k, v)


def gpt2(p, config, params, tokens, mask):
    """Hidden states and the keys and values of each layer, which the published model returns too."""
    n_rows = tokens.shape[1]
    x = params["words"][tokens] + params["positions"][:n_rows]
    bias = layers.causal_bias(n_rows, n_rows)[None, None]
    bias = bias + (1 - mask[:, None, None, :].astype(jnp.float32)) * -1e9
    kept = []
    for layer in params["layers"]:
        x, pair = gpt2_layer(p, config, layer, x, bias.astype(p.between))
        kept.append(pair)
    return layers.layer_norm(params["norm"], x, 1e-5), kept


def build(name, batch, n_rows, precision=layers.MATMUL_BF16):
    """The function and the shapes of its arguments."""
    tokens = layers.shape(batch, n_rows, dtype=jnp.int32)
    if name in GPT2_CONFIGS:
        config, forward, make = GPT2_CONFIGS[name], gpt2, gpt2_params
    else:
        config, forward, make = CONFIGS[name], encoder, encoder_params
    params = make(precision, config)
    return (lambda w, t, m: forward(precision, config, w, t, m)), (params, tokens, tokens)
