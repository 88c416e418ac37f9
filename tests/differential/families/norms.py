"""Normalisations of sequences: layer, rms, group, batch; and the softmax over other dimensions."""

from . import family

EPSILONS = ("1e-5", "1e-6", "1e-3")


def in_float32(b, x):
    """Statistics are taken in float32 more often than not."""
    return b.cast(x, "float32") if b.chance(0.7) else x


def affine(b, y, features):
    if b.chance(0.7):
        y = b.same(f"{y} * {b.gain((features,))}", y)
    return b.same(f"{y} + {b.bias((features,))}", y) if b.chance(0.6) else y


@family("sequence", keeps_shape=True, is_wide=True)
def layer_norm(b, x):
    h = in_float32(b, x)
    mean = b.let(f"{h}.mean(-1, keepdims=True)", (*x.shape[:-1], "1"), h.dtype)
    # The difference of two means is only good for something in float32.
    style = b.choose("centred", "var", *["moments"] * (h.dtype == "float32"))
    if style == "centred":
        centred = b.same(f"{h} - {mean}", h)
        var = b.let(f"jnp.mean(jnp.square({centred}), axis=-1, keepdims=True)", mean.shape, h.dtype)
    else:
        text = "jnp.var({0}, axis=-1, keepdims=True)" if style == "var" else (
            "jnp.mean({0} * {0}, axis=-1, keepdims=True) - {1} * {1}")  # fmt: skip
        var = b.let(text.format(h, mean), mean.shape, h.dtype)
        centred = b.same(f"{h} - {mean}", h)
    scale = b.choose("{0} * lax.rsqrt({1} + {2})", "{0} / jnp.sqrt({1} + {2})")
    epsilon = b.choose(*EPSILONS) if style == "centred" and h.dtype == "float32" else "1e-3"
    y = b.same(scale.format(centred, var, epsilon), h)
    return affine(b, b.cast(y, x.dtype), x.shape[-1])


@family("sequence", keeps_shape=True, is_wide=True)
def rms_norm(b, x):
    h = in_float32(b, x)
    mean = b.choose("jnp.mean(jnp.square({}), -1, keepdims=True)", "({0} * {0}).mean(-1, keepdims=True)",
                    "jnp.mean({} ** 2, axis=-1, keepdims=True)")  # fmt: skip
    ms = b.let(mean.format(h), (*x.shape[:-1], "1"), h.dtype)
    y = b.cast(b.same(f"{h} * lax.rsqrt({ms} + {b.choose(*EPSILONS)})", h), x.dtype)
    gain = b.gain((x.shape[-1],))
    return b.same(b.choose(f"{y} * {gain}", f"{y} * (1 + {gain})"), y)


@family("sequence", keeps_shape=True, is_wide=True)
def group_norm(b, x):
    """Groups of features of each sequence; features that no group size divides make one group."""
    B, S, D = x.shape
    size = next((n for n in (b.choose(2, 4, 16, 32), 8, 3, 5) if b.size(D) % n == 0), 1)
    G = b.fixed("G", size)
    h = b.let(f"{x}.reshape({B}, {S}, {G}, {D}//{G})", (B, S, G, f"{D}//{G}"))
    axes = b.choose("(1, 3)", "(3,)")
    h = b.cast(h, "float32")
    y = b.same(f"({h} - {h}.mean({axes}, keepdims=True)) * lax.rsqrt({h}.var({axes}, keepdims=True) + 1e-4)", h)
    y = b.let(f"{y}.reshape({B}, {S}, {D})", x.shape, "float32")
    return affine(b, b.cast(y, x.dtype), D)


@family("sequence", keeps_shape=True, is_wide=True)
def batch_norm(b, x):
    """Statistics over all but the features, with running averages among the results of a step."""
    h = in_float32(b, x)
    D = x.shape[-1]
    mean = b.let(f"{h}.mean((0, 1))", (D,), h.dtype)
    var = b.let(b.choose(f"{h}.var((0, 1))", f"jnp.mean(jnp.square({h} - {mean}), (0, 1))"), (D,), h.dtype)
    y = b.cast(b.same(f"({h} - {mean}) * lax.rsqrt({var} + 1e-3)", h), x.dtype)
    return affine(b, y, D)


@family("sequence", keeps_shape=True, is_wide=True)
def softmax(b, x):
    axis = b.choose(-1, -1, 0, 1, "(1, 2)")
    h = in_float32(b, x)
    style = b.choose("library", "library", "log", "by hand", "sigmoid", "logsumexp")
    if style == "library":
        y = b.same(f"jax.nn.softmax({h}, axis={axis})", h)
    elif style == "log":
        y = b.same(f"jax.nn.log_softmax({h}, axis={axis}) * 0.1", h)
    elif style == "by hand":
        e = b.same(f"jnp.exp({h} - lax.stop_gradient({h}.max({axis}, keepdims=True)))", h)
        y = b.same(f"{e} / {e}.sum({axis}, keepdims=True)", h)
    elif style == "sigmoid":
        y = b.same(f"jax.nn.sigmoid({h} - {h}.mean({axis}, keepdims=True))", h)
    else:
        y = b.same(f"{h} - jax.scipy.special.logsumexp({h}, axis={axis}, keepdims=True)", h)
    return b.cast(y, x.dtype)
