"""Blocks of convolutional networks, NHWC."""

from .. import sizes
from ..builder import TooLarge
from . import family


def conv(b, x, out, kernel, stride=1, padding="SAME", groups=1, dilation=1):
    """x[N, H, W, C] * w[kh, kw, C / groups, out]."""
    n, h, w, c = x.shape
    kh, kw = kernel
    per_group = f"({c}//{groups})" if groups != 1 else c
    weight = b.weight((kh, kw, per_group, out), f"{kh}*{kw}*{per_group}")
    if padding == "SAME":
        oh, ow = f"(-(-{h}//{stride}))", f"(-(-{w}//{stride}))"
    else:
        oh, ow = (f"(-(-({d}-{dilation}*({k}-1))//{stride}))" for d, k in ((h, kh), (w, kw)))
    oh, ow = (h, w) if stride == 1 and padding == "SAME" else (oh, ow)
    b.work(n, oh, ow, out, kh, kw, per_group)
    if b.count((n, oh, ow, kh, kw, c)) > 4 * sizes.MOST_ELEMENTS:  # the oracle writes the windows out
        raise TooLarge("windows")
    extra = f", rhs_dilation=({dilation}, {dilation})" if dilation != 1 else ""
    extra += f", feature_group_count={groups}" if groups != 1 else ""
    return b.let(f"lax.conv_general_dilated({x}, {weight}, ({stride}, {stride}), '{padding}'{extra}, "
                 f"dimension_numbers=('NHWC', 'HWIO', 'NHWC'))", (n, oh, ow, out))  # fmt: skip


def relu(b, x):
    return b.same(b.choose("jax.nn.relu({})", "jnp.maximum({}, 0)").format(x), x)


@family("image")
def bottleneck(b, x):
    """ResNet's: 1x1 down, 3x3 (strided), 1x1 up, and a shortcut."""
    c = x.shape[-1]
    inner, out = b.dim("M", most=1025), b.dim("O")
    stride = b.choose(1, 2)
    h = relu(b, conv(b, x, inner, (1, 1)))
    h = relu(b, conv(b, h, inner, (3, 3), stride))
    h = conv(b, h, out, (1, 1))
    shortcut = conv(b, x, out, (1, 1), stride)
    return relu(b, b.same(f"{h} + {shortcut}", h))


@family("image", keeps_shape=True)
def residual_conv(b, x):
    """Two 3x3 convolutions around a shortcut."""
    c = x.shape[-1]
    k = b.choose(1, 3, 3, 5)
    inner = b.dim("M", most=1025)
    h = relu(b, conv(b, x, inner, (k, k)))
    h = conv(b, h, c, (3, b.choose(1, 3)))
    return b.same(f"{x} + {h}", x)


@family("image")
def convolution(b, x):
    """One convolution of any kernel, stride, padding, dilation."""
    n, h, w, c = x.shape
    out = b.dim("O")
    kernel = b.choose((1, 1), (3, 3), (5, 5), (1, 3), (3, 1), (2, 2), (7, 7))
    stride, dilation = b.choose((1, 1), (1, 1), (2, 1), (3, 1), (1, 2))
    is_small = any(b.size(d) <= dilation * (k - 1) for d, k in ((h, kernel[0]), (w, kernel[1])))
    padding = "SAME" if is_small or dilation > 1 or b.chance(0.6) else "VALID"
    y = conv(b, x, out, kernel, stride, padding, dilation=dilation)
    return b.same(f"{y} + {b.bias((out,))}", y) if b.chance(0.6) else y


@family("image", keeps_shape=True)
def depthwise_conv(b, x):
    c = x.shape[-1]
    k = b.choose(3, 3, 5, 7, 1)
    y = conv(b, x, c, (k, k), groups=c)
    y = b.same(b.choose("jax.nn.silu({})", "jax.nn.relu6({})", "jax.nn.gelu({})", "{} * 0.5").format(y), y)
    return conv(b, y, c, (1, 1)) if b.chance(0.5) and b.size(c) <= 1025 else y


@family("image", keeps_shape=True)
def grouped_conv(b, x):
    c = x.shape[-1]
    groups = next((n for n in (b.choose(2, 4, 8), 3, 2, 5, 7) if b.size(c) % n == 0), 1)
    g = b.fixed("G", groups)
    return relu(b, conv(b, x, c, (b.choose(1, 3), 3), groups=g))


@family("image", keeps_shape=True)
def dilated_conv(b, x):
    c = x.shape[-1]
    inner = b.dim("M", most=257)
    y = relu(b, conv(b, x, inner, (3, 3), dilation=b.choose(2, 3)))
    return conv(b, y, c, (1, 1))


@family("image")
def transposed_conv(b, x):
    n, h, w, c = x.shape
    out = b.dim("O", most=1025)
    k, s = b.choose((2, 2), (3, 2), (4, 2), (3, 1))
    weight = b.weight((k, k, c, out), f"{k}*{k}*{c}")
    b.work(n, h, w, out, k, k, c)
    y = (n, f"({s}*{h})", f"({s}*{w})", out)
    return b.let(f"lax.conv_transpose({x}, {weight}, ({s}, {s}), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))",
                 y)  # fmt: skip


@family("image")
def patches(b, x):
    """A vision transformer's: each patch is projected, by reshaping or by a strided convolution."""
    n, h, w, c = x.shape
    out = b.dim("O")
    p = next((k for k in (b.choose(2, 4), 3, 2) if b.size(h) % k == 0 and b.size(w) % k == 0), 1)
    hp, wp = f"({h}//{p})", f"({w}//{p})"
    if b.chance(0.4):
        return conv(b, x, out, (p, p), p, "VALID")
    b.work(n, h, w, c, out)
    y = b.let(f"{x}.reshape({n}, {hp}, {p}, {wp}, {p}, {c}).transpose(0, 1, 3, 2, 4, 5)"
              f".reshape({n}, {hp}, {wp}, {p}*{p}*{c})", (n, hp, wp, f"({p}*{p}*{c})"))  # fmt: skip
    return b.let(f"{y} @ {b.weight((f'({p}*{p}*{c})', out), f'{p}*{p}*{c}')}", (n, hp, wp, out))


@family("image")
def pooling(b, x):
    n, h, w, c = x.shape
    k, s = b.choose((2, 2), (3, 2), (3, 1), (2, 1), (3, 3))
    padding = "SAME" if min(b.size(h), b.size(w)) < k or b.chance(0.5) else "VALID"
    sizes = [f"(-(-{d}//{s}))" if padding == "SAME" else f"(({d}-{k})//{s}+1)" for d in (h, w)]
    window = f"(1, {k}, {k}, 1), (1, {s}, {s}, 1), '{padding}'"
    kind = b.choose("max", "max", "average", "min", "sum")
    shape = (n, *sizes, c)
    if kind == "max":
        return b.let(f"lax.reduce_window({x}, -jnp.inf, lax.max, {window})", shape)
    if kind == "min":
        return b.let(f"lax.reduce_window({x}, jnp.inf, lax.min, {window})", shape)
    y = b.let(f"lax.reduce_window({x}, 0.0, lax.add, {window})", shape)
    return b.same(f"{y} / {k * k}" if kind == "average" else f"{y} * 0.5", y)


@family("image", ends=True)
def global_pooling(b, x):
    """Features of whole images, and a classifier."""
    n, h, w, c = x.shape
    y = b.let(f"{x}.{b.choose('mean', 'max', 'mean')}((1, 2))", (n, c))
    if b.chance(0.3):
        return y
    out = b.dim("O")
    b.work(n, c, out)
    return b.let(f"{y} @ {b.weight((c, out), c)} + {b.bias((out,))}", (n, out))


@family("image", keeps_shape=True)
def image_batch_norm(b, x):
    c = x.shape[-1]
    h = b.cast(x, "float32")
    mean = b.let(f"{h}.mean((0, 1, 2))", (c,), "float32")
    var = b.let(b.choose(f"{h}.var((0, 1, 2))", f"jnp.mean(jnp.square({h}), (0, 1, 2)) - jnp.square({mean})"), (c,),
                "float32")  # fmt: skip
    gain = b.cast(b.gain((c,)), "float32")
    scale = b.let(f"{gain} * lax.rsqrt({var} + 1e-3)", (c,), "float32")
    y = b.cast(b.same(f"({h} - {mean}) * {scale}", h), x.dtype)
    return b.same(f"{y} + {b.bias((c,))}", y)


@family("image", keeps_shape=True)
def image_group_norm(b, x):
    n, h, w, c = x.shape
    size = next((k for k in (b.choose(2, 4, 8, 32), 3, 5) if b.size(c) % k == 0), 1)
    g = b.fixed("G", size)
    y = b.let(f"{x}.reshape({n}, {h}, {w}, {g}, {c}//{g}).astype(float32)", (n, h, w, g, f"{c}//{g}"), "float32")
    y = b.same(f"({y} - {y}.mean((1, 2, 4), keepdims=True)) * lax.rsqrt({y}.var((1, 2, 4), keepdims=True) + 1e-3)", y)
    y = b.let(f"{y}.reshape({n}, {h}, {w}, {c}).astype({x.dtype})", x.shape)
    return b.same(f"{y} * {b.gain((c,))} + {b.bias((c,))}", y)


@family("image", keeps_shape=True)
def squeeze_excite(b, x):
    n, h, w, c = x.shape
    r = b.dim("R", most=257)
    s = b.let(f"{x}.mean((1, 2))", (n, c))
    s = b.let(f"jax.nn.relu({s} @ {b.weight((c, r), c)})", (n, r))
    s = b.let(f"jax.nn.sigmoid({s} @ {b.weight((r, c), r)})", (n, c))
    return b.same(f"{x} * {s}[:, None, None, :]", x)


@family("image")
def branches(b, x):
    """Inception's: results of several kernels side by side in the channels."""
    n, h, w, c = x.shape
    one, two = b.dim("O", most=1025), b.dim("P", most=1025)
    y = conv(b, x, one, (1, 1))
    z = relu(b, conv(b, x, two, (3, 3)))
    pooled = b.same(f"lax.reduce_window({x}, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "
                    "'SAME')", x)  # fmt: skip
    return b.let(f"jnp.concatenate([{y}, {z}, {pooled}], axis=-1)", (n, h, w, f"({one}+{two}+{c})"))


@family("image")
def resampling(b, x):
    """Nearest neighbours, space to depth, shuffled channels, cropped and padded borders."""
    n, h, w, c = x.shape
    style = b.choose("nearest", "space", "shuffle", "border", "flip", "crop")
    if style == "nearest":
        return b.let(f"jnp.repeat(jnp.repeat({x}, 2, 1), 2, 2)", (n, f"(2*{h})", f"(2*{w})", c))
    if style == "shuffle":
        g = b.fixed("G", next((k for k in (2, 3, 5) if b.size(c) % k == 0), 1))
        return b.let(f"{x}.reshape({n}, {h}, {w}, {g}, {c}//{g}).swapaxes(3, 4).reshape({n}, {h}, {w}, {c}) * 0.5",
                     x.shape)  # fmt: skip
    if style == "border":
        mode = b.choose("constant", "edge", "reflect") if min(b.size(h), b.size(w)) > 1 else "constant"
        return b.let(f"jnp.pad({x}, ((0, 0), (1, 1), (1, 0), (0, 0)), mode='{mode}')", (n, f"({h}+2)", f"({w}+1)", c))
    if style == "flip":
        return b.let(f"{x}[:, ::-1, ::-1] + {x}.swapaxes(1, 2).swapaxes(1, 2)", x.shape)
    if style == "crop":
        return b.let(f"{x}[:, {h}//3:, :{w}//2 + 1] * 2", (n, f"({h}-{h}//3)", f"({w}//2+1)", c))
    if b.size(h) % 2 or b.size(w) % 2:
        x = b.let(f"jnp.pad({x}, ((0, 0), (0, {h}%2), (0, {w}%2), (0, 0)))", (n, f"({h}+{h}%2)", f"({w}+{w}%2)", c))
        n, h, w, c = x.shape
    return b.let(f"{x}.reshape({n}, {h}//2, 2, {w}//2, 2, {c}).transpose(0, 1, 3, 2, 4, 5)"
                 f".reshape({n}, {h}//2, {w}//2, 4*{c})", (n, f"({h}//2)", f"({w}//2)", f"(4*{c})"))  # fmt: skip
