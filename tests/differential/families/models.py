"""Whole small models made of the other families."""

from . import FAMILIES, family


def part(b, name, x):
    return FAMILIES[name].build(b, x)


@family("sequence")
def transformer(b, x):
    """Embedding, one or two layers, logits."""
    x = part(b, "embedding", x) if b.chance(0.7) else x
    x = part(b, "positions", x) if b.chance(0.5) else x
    norm = b.choose("layer_norm", "rms_norm")
    for _ in range(b.choose(1, 1, 2)):
        x = b.same(f"{x} + {part(b, 'attention', part(b, norm, x))}", x)
        inner = b.choose("gated_mlp", "mlp", "moe_one_hot", "moe_capacity")
        x = b.same(f"{x} + {part(b, inner, part(b, norm, x))}", x)
    return part(b, "unembedding", part(b, norm, x))


@family("image", ends=True)
def resnet(b, x):
    """A stem, blocks with normalisation between, a classifier."""
    x = part(b, "convolution", x)
    if b.chance(0.5):
        x = part(b, "pooling", x)
    norm = b.choose("image_batch_norm", "image_group_norm")
    for _ in range(b.choose(1, 1, 2)):
        x = part(b, b.choose("bottleneck", "residual_conv", "depthwise_conv"), part(b, norm, x))
    return part(b, "global_pooling", x)


@family("image", ends=True)
def vision_transformer(b, x):
    """Patches become a sequence, with a token for the class in front."""
    x = part(b, "patches", x)
    n, h, w, d = x.shape
    tokens = f"({h}*{w})"
    x = b.let(f"{x}.reshape({n}, {tokens}, {d})", (n, tokens, d))
    if b.chance(0.6):
        cls = b.bias((d,))
        length = f"({tokens}+1)"
        x = b.let(f"jnp.concatenate([jnp.broadcast_to({cls}, ({n}, 1, {d})), {x}], axis=1)", (n, length, d))
    x = b.same(f"{x} + {part(b, 'attention', part(b, 'layer_norm', x))}", x)
    x = b.same(f"{x} + {part(b, 'mlp', part(b, 'layer_norm', x))}", x)
    return b.let(b.choose(f"{x}[:, 0]", f"{x}.mean(1)", f"{x}.max(1)"), (n, d))
