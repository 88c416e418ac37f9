"""Large programs, as bench/peers.py times them.

    python bench/programs/peers.py NAME SECONDS [OUT]     # on the back end that JAX chooses

prints {"s": median seconds of a call}. NAME is PROGRAM_TYPE, as in gemm1024_fp32. With OUT the artifact is
written there, and nothing runs."""

import json
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from accuracy import layers, models_encoder, models_training, models_vision  # noqa: E402

PRECISIONS = {"fp32": layers.FP32, "bf16": layers.BF16}


def gemm(n, precision):
    x = layers.shape(n, n, dtype=precision.operand)
    return (lambda a, b: a @ b), (x, x)


def bert_layer(precision):
    """One layer of BERT-large at 512 rows."""
    config = models_encoder.CONFIGS["bert-large-cased"]
    params = models_encoder.layer_params(precision, config.width)
    x = layers.shape(1, 512, config.width, dtype=precision.between)
    return (lambda p, x: models_encoder.encoder_layer(precision, config, p, x, None)), (params, x)


def resnet50(precision):
    return models_vision.build("resnet50", 1, precision)


def gpt2_step(precision):
    return models_training.build("gpt2", 1, 256, precision)


# --- a training step of Llama-2-7B's shape, whose time alone can be known on a small host ---

WIDTH, INNER, N_LAYERS, N_HEADS, N_WORDS, N_TOKENS = 4096, 11008, 32, 32, 32000, 2048


def rotate(x):
    """Positions, by turning pairs of features."""
    n, half = x.shape[0], x.shape[-1] // 2
    angle = jnp.arange(n)[:, None] * 1e4 ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def llama_layer(x, p):
    y = layers.rms_norm(p["norm1"], x)
    q, k, v = (layers.split_heads(y @ p[name], N_HEADS) for name in ("q", "k", "v"))
    bias = layers.causal_bias(len(x), len(x))
    x = x + layers.attend(layers.BF16, rotate(q)[None], rotate(k)[None], v[None], bias)[0].reshape(x.shape) @ p["out"]
    y = layers.rms_norm(p["norm2"], x)
    return x + (jax.nn.silu(y @ p["gate"]) * (y @ p["up"])) @ p["down"], None


def llama_loss(p, tokens):
    x = lax.scan(jax.checkpoint(llama_layer), p["words"][tokens[:-1]], p["layers"])[0]
    logits = (layers.rms_norm(p["norm"], x) @ p["head"]).astype(jnp.float32)
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[1:, None], -1))


def llama7b_step(precision):
    """SGD on one sequence; the layers are a scan, each computed again on the way back."""

    def step(params, tokens):
        loss, grads = jax.value_and_grad(llama_loss)(params, tokens)
        return loss, jax.tree.map(lambda p, g: p - (1e-3 * g).astype(p.dtype), params, grads)

    def weights(*dims):
        return layers.shape(*dims, dtype=precision.operand)

    square = {name: weights(N_LAYERS, WIDTH, WIDTH) for name in ("q", "k", "v", "out")}
    wide = {name: weights(N_LAYERS, WIDTH, INNER) for name in ("gate", "up")}
    norms = {name: weights(N_LAYERS, WIDTH) for name in ("norm1", "norm2")}
    params = {
        "words": weights(N_WORDS, WIDTH), "norm": weights(WIDTH), "head": weights(WIDTH, N_WORDS),
        "layers": square | wide | norms | {"down": weights(N_LAYERS, INNER, WIDTH)},
    }  # fmt: skip
    return step, (params, layers.shape(N_TOKENS + 1, dtype=jnp.int32))


PROGRAMS = {
    "gemm1024": lambda p: gemm(1024, p),
    "gemm2048": lambda p: gemm(2048, p),
    "bert_layer": bert_layer,
    "resnet50": resnet50,
    "gpt2_step": gpt2_step,
    "llama7b_step": llama7b_step,
}


def fill(shape, rng):
    if jnp.issubdtype(shape.dtype, jnp.integer):
        return rng.integers(0, 1000, shape.shape).astype(shape.dtype)
    return (0.02 * rng.standard_normal(shape.shape)).astype(shape.dtype)


def main():
    name, kind = sys.argv[1].rsplit("_", 1)
    function, shapes = PROGRAMS[name](PRECISIONS[kind])
    if len(sys.argv) > 3:
        donated = (0,) if name.endswith("step") else ()
        artifact = export.export(jax.jit(function, donate_argnums=donated), platforms=["cpu"])(*shapes)
        pathlib.Path(sys.argv[3]).write_bytes(artifact.mlir_module_serialized)
        return
    rng = np.random.default_rng(1)
    arguments = jax.device_put(jax.tree.map(lambda s: fill(s, rng), shapes), jax.devices()[0])
    compiled = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    times, end = [], time.perf_counter() + float(sys.argv[2])
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - start)
    print(json.dumps({"s": statistics.median(times)}))


if __name__ == "__main__":
    main()
