"""ResNet-50 and ViT-B/16 as inference runs them: images [b, height, width, 3] to logits fp32[b, 1000].

Weights are a dict of arrays: dense layers [in, out], convolutions [height, width, in, out], both in the type that is
multiplied in; a batch norm is folded into the scale and the bias behind its convolution, in fp32.
"""

import jax
import jax.numpy as jnp

N_CLASSES = 1000
SIZE = 224  # pixels of an image's side
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # ResNet-50's blocks, and channels inside one
WIDTH, N_HEADS, N_LAYERS, INNER, PATCH = 768, 12, 12, 3072, 16  # ViT-B/16


def _blocks():
    """(name, channels in, inside, out, stride) of ResNet-50's."""
    n_in = 64
    for stage, (count, inner) in enumerate(STAGES):
        for i in range(count):
            yield f"{stage}.{i}", n_in, inner, 4 * inner, 2 if stage and i == 0 else 1
            n_in = 4 * inner


def _conv_shapes(name: str, size: int, n_in: int, n_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size, size, n_in, n_out), f"{name}.scale": (n_out,), f"{name}.bias": (n_out,)}


def resnet50_shapes() -> dict[str, tuple[int, ...]]:
    shapes = _conv_shapes("stem", 7, 3, 64)
    for name, n_in, inner, n_out, stride in _blocks():
        for part, size, a, b in (("a", 1, n_in, inner), ("b", 3, inner, inner), ("c", 1, inner, n_out)):
            shapes |= _conv_shapes(f"{name}.{part}", size, a, b)
        if stride > 1 or n_in != n_out:
            shapes |= _conv_shapes(f"{name}.short", 1, n_in, n_out)
    return shapes | {"head.weight": (4 * STAGES[-1][1], N_CLASSES), "head.bias": (N_CLASSES,)}


def _conv(weights, name, x, stride=1):
    w = weights[f"{name}.weight"]
    pad = w.shape[0] // 2
    x = jax.lax.conv_general_dilated(x.astype(w.dtype), w, (stride, stride), [(pad, pad)] * 2,
                                     dimension_numbers=("NHWC", "HWIO", "NHWC"), preferred_element_type=jnp.float32)  # fmt: skip
    return x * weights[f"{name}.scale"] + weights[f"{name}.bias"]


def _dense(weights, name, x):
    w = weights[f"{name}.weight"]
    return jnp.dot(x.astype(w.dtype), w, preferred_element_type=jnp.float32) + weights[f"{name}.bias"]


def resnet50(weights, images):
    x = jax.nn.relu(_conv(weights, "stem", images, 2)).astype(weights["stem.weight"].dtype)
    x = jax.lax.reduce_window(x, -jnp.array(jnp.inf, x.dtype), jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1),
                              ((0, 0), (1, 1), (1, 1), (0, 0)))  # fmt: skip
    for name, _, _, _, stride in _blocks():
        short = _conv(weights, f"{name}.short", x, stride) if f"{name}.short.weight" in weights else x
        y = jax.nn.relu(_conv(weights, f"{name}.a", x))
        y = jax.nn.relu(_conv(weights, f"{name}.b", y, stride))
        x = jax.nn.relu(_conv(weights, f"{name}.c", y) + short).astype(x.dtype)
    return _dense(weights, "head", x.astype(jnp.float32).mean((1, 2)))


def vit_b16_shapes() -> dict[str, tuple[int, ...]]:
    shapes = {"patch.weight": (PATCH, PATCH, 3, WIDTH), "patch.bias": (WIDTH,), "first": (WIDTH,),
              "positions": ((SIZE // PATCH) ** 2 + 1, WIDTH), "norm.scale": (WIDTH,), "norm.bias": (WIDTH,)}  # fmt: skip
    for i in range(N_LAYERS):
        for name, n_in, n_out in (("q", WIDTH, WIDTH), ("k", WIDTH, WIDTH), ("v", WIDTH, WIDTH), ("o", WIDTH, WIDTH),
                                  ("up", WIDTH, INNER), ("down", INNER, WIDTH)):  # fmt: skip
            shapes |= {f"{i}.{name}.weight": (n_in, n_out), f"{i}.{name}.bias": (n_out,)}
        for name in ("norm_a", "norm_b"):
            shapes |= {f"{i}.{name}.scale": (WIDTH,), f"{i}.{name}.bias": (WIDTH,)}
    return shapes | {"head.weight": (WIDTH, N_CLASSES), "head.bias": (N_CLASSES,)}


def _norm(weights, name, x):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-12)
    return scaled * weights[f"{name}.scale"] + weights[f"{name}.bias"]


def _attention(weights, i, x):
    b, n, _ = x.shape
    dtype = weights[f"{i}.q.weight"].dtype
    q, k, v = (_dense(weights, f"{i}.{m}", x).reshape(b, n, N_HEADS, -1).astype(dtype) for m in "qkv")
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    shares = jax.nn.softmax(scores, axis=-1).astype(dtype)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", shares, v, preferred_element_type=jnp.float32)
    return _dense(weights, f"{i}.o", mixed.reshape(b, n, WIDTH))


def vit_b16(weights, images):
    w = weights["patch.weight"]
    x = jax.lax.conv_general_dilated(images.astype(w.dtype), w, (PATCH, PATCH), "VALID",
                                     dimension_numbers=("NHWC", "HWIO", "NHWC"), preferred_element_type=jnp.float32)  # fmt: skip
    x = (x + weights["patch.bias"]).reshape(x.shape[0], -1, WIDTH)
    first = jnp.broadcast_to(weights["first"], (x.shape[0], 1, WIDTH))
    x = jnp.concatenate([first, x], 1) + weights["positions"]
    for i in range(N_LAYERS):
        x = x + _attention(weights, i, _norm(weights, f"{i}.norm_a", x))
        inner = jax.nn.gelu(_dense(weights, f"{i}.up", _norm(weights, f"{i}.norm_b", x)), approximate=False)
        x = x + _dense(weights, f"{i}.down", inner)
    return _dense(weights, "head", _norm(weights, "norm", x)[:, 0])
