"""Programs of sharded arrays over a mesh of 4 x 2, with axes d and m: kinds of operations, of shardings and of
what training does. `PROGRAMS[name]` is (function, arguments, specs of the arguments, specs of the results or
None, tolerance); a function that needs the mesh takes it as its first argument."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

AXES = {"d": 4, "m": 2}
PROGRAMS = {}
_rng = np.random.default_rng(12)


def normal(*shape):
    return _rng.normal(size=shape).astype(np.float32)


def integers(high, *shape):
    return _rng.integers(0, high, size=shape).astype(np.int32)


def add(name, function, arguments, specs, out=None, tolerance=1e-5):
    assert name not in PROGRAMS
    PROGRAMS[name] = (function, arguments, specs, out, tolerance)


def constrained(x, mesh, spec):
    """As the sharding that the program asks for; on one device there is none."""
    return x if mesh is None else lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


X = normal(8, 16)
D, M, DM, OVER_M, WHOLE = P("d", None), P("m", None), P("d", "m"), P(None, "m"), P()

# Layers and their gradients.


def mlp(x, w1, w2):
    return jax.nn.relu(x @ w1) @ w2


def cross_entropy(w, x, y):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x @ w), y[:, None], 1))


def step(w, x, y):
    gradient = jax.grad(lambda w: jnp.mean((mlp(x, *w) - y) ** 2))(w)
    return jax.tree.map(lambda w, g: w - 0.1 * g, w, gradient)


WEIGHTS = (normal(16, 32), normal(32, 16))
add("mlp", mlp, (X, *WEIGHTS), (D, OVER_M, M), D)
add("mlp to shards", mlp, (X, *WEIGHTS), (D, OVER_M, M), DM)
add("mlp gradient", jax.grad(lambda w, x: jnp.sum(mlp(x, *w) ** 2)), (WEIGHTS, X), ((OVER_M, M), D))
add("training step", step, (WEIGHTS, X, normal(8, 16)), ((OVER_M, M), D, D), (OVER_M, M))
add("product of shards", lambda a, b: a @ b, (X, normal(16, 32)), (DM, M))
add("batched product", jax.vmap(jnp.dot), (normal(8, 4, 16), normal(8, 16, 4)), (P("d", None, "m"), P("d", "m", None)))
add("bf16 product", lambda x, w: (x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)).astype(jnp.float32),
    (X, normal(16, 8)), (DM, M), None, 2e-2)
add("softmax", jax.nn.softmax, (X,), (DM,))
add("logsumexp", lambda x: jax.nn.logsumexp(x, 1), (X,), (DM,))
add("layer norm", lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5), (X,), (DM,))
add("embedding", lambda e, i: e[i], (normal(32, 16), integers(32, 8, 4)), (M, D))
add("embedding gradient", jax.grad(lambda e, i: jnp.sum(jnp.sin(e[i]))), (normal(32, 16), integers(32, 8, 4)), (M, D))
add("embedding gradient, whole rows", jax.grad(lambda e, i: jnp.sum(jnp.sin(e[i]))),
    (normal(32, 16), integers(32, 8, 4)), (OVER_M, D), OVER_M)
add("cross entropy", cross_entropy, (normal(16, 32), X, integers(32, 8)), (OVER_M, D, P("d")))
add("cross entropy gradient", jax.grad(cross_entropy), (normal(16, 32), X, integers(32, 8)), (OVER_M, D, P("d")))
add("one hot", lambda i: jax.nn.one_hot(i, 16).sum(0), (integers(16, 8),), (P("d"),))
add("segment sum", lambda x, i: jax.ops.segment_sum(x, i, 4), (X, integers(4, 8)), (DM, P("d")))


def attention(q, k, v):
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / 4
    scores = jnp.where(jnp.tril(jnp.ones((8, 8), bool)), scores, -1e9)
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v)


def attention_gradient(*qkv):
    return jax.grad(lambda *qkv: jnp.sum(attention(*qkv) ** 2), argnums=(0, 1, 2))(*qkv)


def experts(x, gate, w):
    share, chosen = lax.top_k(jax.nn.softmax(x @ gate), 2)
    weight = (jax.nn.one_hot(chosen, 4) * share[..., None]).sum(1)
    return jnp.einsum("te,td,edf->tef", weight, x, w).sum(1)


QKV = tuple(normal(4, 8, 4, 8) for _ in range(3))
HEADS, SEQUENCE = (P("d", None, "m", None),) * 3, (P("d", "m", None, None),) * 3
add("attention over heads", attention, QKV, HEADS)
add("attention over the sequence", attention, QKV, SEQUENCE, SEQUENCE[0])
add("attention gradient over heads", attention_gradient, QKV, HEADS)
add("attention gradient over the sequence", attention_gradient, QKV, SEQUENCE)
add("experts", experts, (X, normal(16, 4), normal(4, 16, 8)), (D, WHOLE, P("m", None, None)))
add("experts gradient", jax.grad(lambda w, g, x: jnp.sum(experts(x, g, w) ** 2), argnums=(0, 1)),
    (normal(4, 16, 8), normal(16, 4), X), (P("d", None, "m"), WHOLE, D))


def convolve(x, k):
    return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


IMAGES, KERNEL = normal(8, 8, 8, 4), normal(3, 3, 4, 8)
BATCH, FEATURES = P("d", None, None, None), P(None, None, None, "m")
add("convolution", convolve, (IMAGES, KERNEL), (BATCH, FEATURES))
add("convolution gradient", jax.grad(lambda k, x: jnp.sum(convolve(x, k) ** 2), argnums=(0, 1)), (KERNEL, IMAGES),
    (FEATURES, BATCH))
add("convolution of rows", convolve, (IMAGES, KERNEL), (P("d", "m", None, None), WHOLE))
add("convolution of input features", convolve, (IMAGES, KERNEL), (P("d", None, None, "m"), P(None, None, "m", None)))
add("pooling", max_pool, (IMAGES,), (BATCH,))
add("pooling of rows", max_pool, (IMAGES,), (P("d", "m", None, None),))
add("pooling gradient", jax.grad(lambda x: jnp.sum(max_pool(x) ** 2)), (IMAGES,), (BATCH,))

# Movement.

add("concatenate", lambda a, b: jnp.concatenate([a, b, a], 0), (X, normal(8, 16)), (DM, D))
add("pad", lambda x: jnp.pad(x, ((1, 2), (0, 3))), (X,), (DM,))
add("roll", lambda x: jnp.roll(x, 3, 0), (X,), (DM,))
add("reverse", lambda x: x[::-1, ::-1], (X,), (DM,))
add("strided slice", lambda x: x[1:7:2, 3:], (X,), (DM,))
add("slice of whole columns", lambda x: x[2:5] + 1, (X,), (OVER_M,))
add("dynamic slice", lambda x, i: lax.dynamic_slice(x, (i, 0), (3, 16)), (X, np.int32(2)), (DM, WHOLE))
add("dynamic update", lambda x, u, i: lax.dynamic_update_slice(x, u, (i, i)), (X, normal(3, 5), np.int32(2)),
    (DM, WHOLE, WHOLE))
add("rows set", lambda x, i, u: x.at[i].set(u), (X, np.array([1, 5, 3], np.int32), normal(3, 16)),
    (DM, WHOLE, OVER_M))
add("rows added", lambda x, i, u: x.at[i].add(u), (X, integers(8, 16), normal(16, 16)), (OVER_M, P("d"), DM))
add("rows added to the whole", lambda x, i, u: x.at[i].add(u), (X, integers(8, 16), normal(16, 16)),
    (WHOLE, P("d"), D), WHOLE)
add("rows of a divided table, clamped", lambda e, i: e.at[i].get(mode="clip"), (normal(32, 16), integers(80, 8, 4) - 20),
    (M, D))
add("flags of a divided table", lambda e, i: (e > 0)[i], (normal(32, 16), integers(32, 8).astype(np.uint8)), (M, P("d")))
add("integers of a divided table", lambda e, i: e[i], (integers(99, 32), integers(32, 8)), (P("d"), WHOLE))
add("rows set in a divided table", lambda x, i, u: x.at[i].set(u, mode="drop"),
    (normal(32, 16), np.array([40, 5, 31, -50, 0], np.int32), normal(5, 16)), (D, WHOLE, WHOLE), D)
add("rows added to a divided table", lambda x, i, u: x.at[i].add(u), (normal(32, 16), integers(32, 8), normal(8, 16)),
    (M, P("d"), D), M)
add("largest rows in a divided table", lambda x, i, u: x.at[i].max(u), (normal(32, 16), integers(32, 8), normal(8, 16)),
    (M, P("d"), D), M)
add("gather in rows", lambda a, i: jnp.take_along_axis(a, i, 1), (X, integers(16, 8, 5)), (D, D))
add("reshape", lambda x: x.reshape(4, 2, 16).transpose(2, 0, 1).reshape(16, 8), (X,), (DM,))
add("reshape to heads", lambda x: x.reshape(8, 4, 4).transpose(1, 0, 2).reshape(4, 32), (X,), (DM,))
add("reshape to a vector", lambda x: (x * 2).reshape(-1) + 1, (X,), (DM,))
add("reshape with ones", lambda x: (x.reshape(1, 8, 1, 16, 1) + 1).reshape(8, 16), (X,), (DM,))
add("iota", lambda x: x + jnp.arange(16) + jnp.arange(8)[:, None] * 100, (X,), (DM,))
add("constant", lambda x: x * np.arange(128, dtype=np.float32).reshape(8, 16), (X,), (DM,))
add("uneven", lambda x: (x @ np.ones((16, 7), np.float32))[:5] * jnp.arange(7), (X,), (DM,))
add("uneven rows", lambda x: jnp.concatenate([x, x[:3]], 0).sum(1), (X,), (DM,))
add("transpose, asked for", lambda mesh, x: constrained(x.T, mesh, P("m", "d")) * 2, (X,), (DM,))
add("axes swapped", lambda mesh, x: constrained(x, mesh, P("m", "d")), (X,), (DM,))
add("gathered", lambda mesh, x: constrained(x, mesh, P()) + 1, (X,), (DM,))
add("all in rows", lambda mesh, x: constrained(x, mesh, P(("d", "m"), None)) + 1, (X,), (DM,))
add("rows in another order", lambda mesh, x: constrained(x, mesh, P(("m", "d"), None)) + 1, (X,), (P(("d", "m")),))

# Reductions, orders, loops, random numbers, factorisations.

add("reductions", lambda x: (x.sum(), x.max(), x.min(0), x.prod(1), jnp.any(x > 2), jnp.all(x > -9, 0)), (X,), (DM,))
add("integers", lambda x: (x.sum(0), (x * 3 + 1) % 7, x.max(1)), (integers(100, 8, 16),), (DM,))
add("argmax", lambda x: (jnp.argmax(x, 1), jnp.argmin(x, 0)), (X,), (DM,))
add("argmax of equals", lambda x: (jnp.argmax(x > 0, 1), jnp.argmax(x * np.nan, 0)), (X,), (DM,))
add("argmax of all", lambda x: jnp.argmax(x), (X,), (DM,))
add("cumsum", lambda x: jnp.cumsum(x, 1), (X,), (DM,))
add("cumsum of rows", lambda x: jnp.cumsum(x, 0), (X,), (DM,))
add("cummax", lambda x: lax.cummax(x, 1), (X,), (DM,))
add("sort", lambda x: jnp.sort(x, 1), (X,), (DM,))
add("argsort", lambda x: jnp.argsort(x, 0), (X,), (DM,))
add("top k", lambda x: lax.top_k(x, 3), (X,), (DM,))
add("scan", lambda x: lax.scan(lambda c, v: (c * 0.5 + v, c.sum()), x[0], x), (X,), (DM,))
add("scan over weights", lambda w, x: lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0], (normal(3, 16, 16), X),
    (P(None, None, "m"), D))
add("while", lambda x: lax.while_loop(lambda c: c[1].sum() < 100, lambda c: (c[0] + 1, c[1] * 1.5 + 1),
                                      (0, jnp.abs(x))), (X,), (DM,))  # fmt: skip
add("rows in a loop", lambda x: lax.fori_loop(0, 5, lambda i, c: c.at[i].add(c[i + 1]), x), (X,), (DM,))
add("cond", lambda x, p: lax.cond(p > 0, lambda x: x.sum(0), lambda x: x[0] * 2, x), (X, np.float32(1)), (DM, WHOLE))
add("random numbers", lambda k, x: x + jax.random.normal(jax.random.wrap_key_data(k), (8, 16)),
    (np.array([1, 2], np.uint32), X), (WHOLE, DM))
add("dropout", lambda k, x: jnp.where(jax.random.bernoulli(jax.random.wrap_key_data(k), 0.5, x.shape), x, 0),
    (np.array([1, 2], np.uint32), X), (WHOLE, DM))
add("fft", lambda x: jnp.abs(jnp.fft.fft(x, axis=1)), (X,), (DM,), None, 1e-4)
add("cholesky", lambda a: jnp.linalg.cholesky(a @ a.transpose(0, 2, 1) + 8 * jnp.eye(8)), (normal(8, 8, 8),),
    (P("d", "m", None),), None, 1e-4)
add("triangular solve", lambda a, b: jax.scipy.linalg.solve_triangular(jnp.tril(a) + 8 * jnp.eye(16), b, lower=True),
    (normal(16, 16), normal(16, 8)), (D, OVER_M), None, 1e-4)

# A language model: scanned layers that are computed again in the gradient, tied embeddings, Adam. Weights are
# divided over both axes (FSDP and tensor parallel), the batch over d.

WIDTH, HEADS_OF_MODEL, WORDS, LAYERS = 16, 2, 32, 3


def norm(x, scale):
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def layer(x, w):
    q, k, v = (jnp.einsum("btd,dhk->bthk", norm(x, w["scale"]), w[name]) for name in "qkv")
    mask = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
    scores = jax.nn.softmax(jnp.where(mask, jnp.einsum("bthk,bshk->bhts", q, k), -1e9))
    x = x + jnp.einsum("bhts,bshk,hkd->btd", scores, v, w["o"])
    return x + jax.nn.gelu(norm(x, w["scale"]) @ w["up"]) @ w["down"]


def model_loss(weights, tokens):
    x = weights["words"][tokens[:, :-1]]
    x, _ = lax.scan(lambda x, w: (jax.checkpoint(layer)(x, w), None), x, weights["layers"])
    logits = jax.nn.log_softmax(norm(x, 1.0) @ weights["words"].T)
    return -jnp.mean(jnp.take_along_axis(logits, tokens[:, 1:, None], -1))


def model_step(state, tokens):
    weights, m, v, count = state
    loss, gradient = jax.value_and_grad(model_loss)(weights, tokens)
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
    v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, v, gradient)
    count += 1
    weights = jax.tree.map(lambda w, m, v: w - 0.01 * (m / (1 - 0.9**count)) / (jnp.sqrt(v / (1 - 0.99**count)) + 1e-3), weights, m, v)
    return (weights, m, v, count), loss


def model_state():
    k = WIDTH // HEADS_OF_MODEL
    shapes = {"q": (WIDTH, HEADS_OF_MODEL, k), "k": (WIDTH, HEADS_OF_MODEL, k), "v": (WIDTH, HEADS_OF_MODEL, k),
              "o": (HEADS_OF_MODEL, k, WIDTH), "up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH), "scale": (WIDTH,)}
    weights = {"words": 0.3 * normal(WORDS, WIDTH),
               "layers": {name: 0.3 * normal(LAYERS, *shape) for name, shape in shapes.items()}}
    zeros = jax.tree.map(np.zeros_like, weights)
    return weights, zeros, zeros, np.float32(0)


MODEL_SPECS = {"words": P("m", "d"), "layers": {
    "q": P(None, "d", "m", None), "k": P(None, "d", "m", None), "v": P(None, "d", "m", None), "o": P(None, "m", None, "d"),
    "up": P(None, "d", "m"), "down": P(None, "m", "d"), "scale": P(None, None)}}  # fmt: skip
STATE_SPECS = (MODEL_SPECS, MODEL_SPECS, MODEL_SPECS, P())
add("language model step", model_step, (model_state(), integers(WORDS, 8, 9)), (STATE_SPECS, P("d", None)),
    (STATE_SPECS, P()))

# What the program divides by itself, wholly or along some axes, in what it does not.


def divided(function, in_specs, out_specs, **more):
    """A function of the mesh and operands; without a mesh the caller gives what it should be."""
    def run(mesh, *operands):
        return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, **more)(*operands)

    return run


def product(a, b):
    return lax.psum(a @ b, "m")


def with_index(a):
    return lax.all_gather(a, "d", tiled=True) * lax.axis_index("d")


def passed_on(a):
    return lax.ppermute(with_index(a), "d", [(0, 1), (1, 2), (2, 3), (3, 0)])


def indexed(x):
    """What with_index gives on one device: four copies, each times its number."""
    return jnp.concatenate([i * x for i in range(4)])


def either(of_mesh, of_one):
    return lambda mesh, *operands: of_one(*operands) if mesh is None else of_mesh(mesh, *operands)


W = normal(16, 8)
_product = divided(product, (P("d", "m"), M), D)
_product_over_m = divided(product, (P(None, "m"), M), P(None, None), axis_names={"m"})
add("shard_map", either(_product, jnp.matmul), (X, W), (DM, M))
add("shard_map of other shards", either(lambda mesh, a, b: jnp.sin(_product(mesh, a * 2, b)),
                                        lambda a, b: jnp.sin(a * 2 @ b)), (X, W), (D, OVER_M))  # fmt: skip
add("shard_map over one axis", either(lambda mesh, a, b: jnp.sin(_product_over_m(mesh, a * 2, b)),
                                      lambda a, b: jnp.sin(a * 2 @ b)), (X, W), (DM, M))  # fmt: skip
add("shard_map that gathers", either(lambda mesh, a: divided(with_index, P("d", "m"), P("d", "m"))(mesh, a) + 1,
                                     lambda a: indexed(a) + 1), (X,), (WHOLE,))  # fmt: skip
add("shard_map that passes on", either(
    lambda mesh, a: divided(passed_on, P("d"), P("d"), axis_names={"d"})(mesh, a) + 1,
    lambda a: jnp.roll(indexed(a), 8, 0) + 1), (X,), (DM,))  # fmt: skip

add("shard_map of several results", either(
    lambda mesh, a, b: divided(lambda a, b: (lax.psum(a @ b, "m"), a * 2), (P(None, "m"), M), (P(None, None), P(None, "m")),
                               axis_names={"m"})(mesh, a, b), lambda a, b: (a @ b, a * 2)), (X, W), (DM, M))  # fmt: skip

NEEDS_MESH = {name for name in PROGRAMS if name.startswith("shard_map")} | {
    "transpose, asked for", "axes swapped", "gathered", "all in rows", "rows in another order"}  # fmt: skip


def function_of(name, mesh):
    function = PROGRAMS[name][0]
    return (lambda *arguments: function(mesh, *arguments)) if name in NEEDS_MESH else function
