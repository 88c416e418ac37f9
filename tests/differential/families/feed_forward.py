"""The layers between attention layers: gated and plain."""

from . import family

ACTIVATIONS = (
    "jax.nn.silu({})", "jax.nn.gelu({})", "jax.nn.gelu({}, approximate=False)", "jax.nn.relu({})",
    "jnp.tanh({})", "jax.nn.sigmoid({})",
)  # fmt: skip


def activate(b, x):
    return b.same(b.choose(*ACTIVATIONS).format(x), x)


@family("sequence", keeps_shape=True)
def gated_mlp(b, x):
    D = x.shape[-1]
    F = b.dim("F")
    gate = b.matmul(x, b.weight((D, F), D))
    up = b.matmul(x, b.weight((D, F), D))
    if b.chance(0.8):
        gate = activate(b, gate)
    h = b.same(f"{gate} * {up}", gate)
    return b.matmul(h, b.weight((F, D), F)) if b.chance(0.8) else b.let(f"{h}.sum(-1, keepdims=True) + {x}", x.shape)


@family("sequence", keeps_shape=True)
def mlp(b, x):
    D = x.shape[-1]
    F = b.dim("F")
    h = b.matmul(x, b.weight((D, F), D))
    if b.chance(0.7):
        h = b.same(f"{h} + {b.bias((F,))}", h)
    h = activate(b, h)
    y = b.matmul(h, b.weight((F, D), F))
    return b.same(f"{y} + {b.bias((D,))}", y) if b.chance(0.7) else y
