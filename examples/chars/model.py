"""A causal transformer over characters, in plain JAX: text, parameters, Adam step.

The text is the reference manual that every CPython carries (pydoc_data.topics: what help() prints),
half a million characters of English prose and code: it is there on any machine that can run this
script, needs no network and no file of ours."""

import jax
import jax.numpy as jnp
import numpy as np

N_LAYERS, N_HEADS, WIDTH, CONTEXT, BATCH = 2, 4, 128, 128, 16
VOCABULARY = "\n" + "".join(map(chr, range(32, 127)))  # 96 characters
N_CHARS = len(VOCABULARY)
LEARNING_RATE, BETA1, BETA2, EPSILON = 1e-3, 0.9, 0.99, 1e-8


def load_text():
    """(training, held-out) arrays of character numbers; the last tenth is held out."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[key] for key in sorted(topics))
    number = {c: i for i, c in enumerate(VOCABULARY)}
    data = np.array([number.get(c, number["?"]) for c in text], np.int32)
    n = len(data) * 9 // 10
    return data[:n], data[n:]


def init_params(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed + 1)

    def normal(*shape, scale=0.02):
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    def layer():
        return {
            "scale1": np.ones(WIDTH, np.float32),
            "shift1": np.zeros(WIDTH, np.float32),
            "qkv": normal(WIDTH, 3 * WIDTH, scale=WIDTH**-0.5),
            "out": normal(WIDTH, WIDTH, scale=WIDTH**-0.5 / (2 * N_LAYERS) ** 0.5),
            "scale2": np.ones(WIDTH, np.float32),
            "shift2": np.zeros(WIDTH, np.float32),
            "up": normal(WIDTH, 4 * WIDTH, scale=WIDTH**-0.5),
            "up_bias": np.zeros(4 * WIDTH, np.float32),
            "down": normal(4 * WIDTH, WIDTH, scale=(4 * WIDTH) ** -0.5 / (2 * N_LAYERS) ** 0.5),
            "down_bias": np.zeros(WIDTH, np.float32),
        }

    return {
        "embed": normal(N_CHARS, WIDTH),
        "position": normal(CONTEXT, WIDTH),
        "layers": [layer() for _ in range(N_LAYERS)],
        "scale": np.ones(WIDTH, np.float32),
        "shift": np.zeros(WIDTH, np.float32),
        "head": normal(WIDTH, N_CHARS),
    }


def _norm(x, scale, shift):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + 1e-5) * scale + shift


def logits_of(params: dict, tokens, dtype):
    """tokens [B, T] -> logits [B, T, 96], fp32; matmuls take and give dtype, gradients' too."""

    def matmul(a, b):
        return jnp.matmul(a.astype(dtype), b.astype(dtype)).astype(jnp.float32)

    n, t = tokens.shape
    mask = jnp.tril(jnp.ones((t, t), bool))
    x = params["embed"][tokens] + params["position"][:t]
    for p in params["layers"]:
        qkv = matmul(_norm(x, p["scale1"], p["shift1"]), p["qkv"])
        q, k, v = qkv.reshape(n, t, 3, N_HEADS, WIDTH // N_HEADS).transpose(2, 0, 3, 1, 4)
        scores = matmul(q, k.transpose(0, 1, 3, 2)) * (WIDTH // N_HEADS) ** -0.5
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
        mixed = matmul(weights, v).transpose(0, 2, 1, 3).reshape(n, t, WIDTH)
        x = x + matmul(mixed, p["out"])
        hidden = jax.nn.gelu(matmul(_norm(x, p["scale2"], p["shift2"]), p["up"]) + p["up_bias"])
        x = x + matmul(hidden, p["down"]) + p["down_bias"]
    return matmul(_norm(x, params["scale"], params["shift"]), params["head"])


def loss_of(params: dict, tokens, targets, dtype):
    log_p = jax.nn.log_softmax(logits_of(params, tokens, dtype))
    return -jnp.mean(jnp.sum(log_p * jax.nn.one_hot(targets, N_CHARS), axis=-1))


def train_step(params: dict, moments: dict, tokens, targets, dtype, mean=lambda v: v):
    """(params, moments, loss) after one step of Adam; params and moments are fp32. mean: over the
    devices that have a part of the batch each."""
    loss, grads = mean(jax.value_and_grad(loss_of)(params, tokens, targets, dtype))
    count = moments["count"] + 1.0
    first = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, moments["first"], grads)
    second = jax.tree.map(lambda m, g: BETA2 * m + (1 - BETA2) * g * g, moments["second"], grads)
    scale1, scale2 = 1 / (1 - BETA1**count), 1 / (1 - BETA2**count)
    params = jax.tree.map(
        lambda p, m, v: p - LEARNING_RATE * (m * scale1) / (jnp.sqrt(v * scale2) + EPSILON),
        params,
        first,
        second,
    )
    return params, {"count": count, "first": first, "second": second}, loss


def data_parallel_step(mesh, dtype):
    """train_step over all devices of the mesh, whose one axis cuts the batch."""
    [axis] = mesh.axis_names
    whole, cut = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(axis)

    def step(params, moments, tokens, targets):
        return train_step(params, moments, tokens, targets, dtype, lambda v: jax.lax.pmean(v, axis))

    return jax.jit(
        jax.shard_map(step, mesh=mesh, in_specs=(whole, whole, cut, cut), out_specs=whole, check_vma=False),
        donate_argnums=(0, 1),
    )


def init_moments(params: dict) -> dict:
    zeros = jax.tree.map(np.zeros_like, params)
    return {"count": np.float32(0), "first": zeros, "second": jax.tree.map(np.copy, zeros)}


def batches(data, n_steps: int, seed: int = 0):
    """n_steps batches of random windows: (tokens, targets), both [BATCH, CONTEXT]."""
    rng = np.random.default_rng(seed + 2)
    for _ in range(n_steps):
        at = rng.integers(0, len(data) - CONTEXT - 1, BATCH)
        windows = data[at[:, None] + np.arange(CONTEXT + 1)]
        yield windows[:, :-1], windows[:, 1:]
