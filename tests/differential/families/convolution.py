"""Blocks of convolutional networks, NHWC."""

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
