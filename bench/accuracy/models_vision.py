"""Image models: residual networks, VGG, U-Net, ViT and CLIP, as inference runs them."""

import dataclasses

import jax
import jax.numpy as jnp

from accuracy import layers
from accuracy.models_encoder import layer_params

# Blocks of the four stages, and whether a block has three convolutions.
RESNETS = {"resnet18": ((2, 2, 2, 2), False), "resnet34": ((3, 4, 6, 3), False), "resnet50": ((3, 4, 6, 3), True)}
# Output channels of each convolution; 0 is a pooling layer.
VGG11 = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)


def conv_norm_params(p, size, n_in, n_out):
    return {"conv": layers.conv_params(p, size, n_in, n_out), "norm": layers.batch_norm_params(p, n_out)}


def conv_norm(p, params, x, stride=1, pad=None):
    size = params["conv"]["w"].shape[0]
    pad = size // 2 if pad is None else pad
    x = layers.conv(p, params["conv"], x, stride, [(pad, pad), (pad, pad)])
    return layers.batch_norm(params["norm"], x)


def resnet_blocks(name):
    """(input channels, inner channels, output channels, stride) of each block."""
    counts, is_deep = RESNETS[name]
    n_in, blocks = 64, []
    for stage, count in enumerate(counts):
        inner = 64 << stage
        n_out = inner * (4 if is_deep else 1)
        for i in range(count):
            blocks.append((n_in, inner, n_out, 2 if stage > 0 and i == 0 else 1))
            n_in = n_out
    return blocks, is_deep


def resnet_params(p, name):
    blocks, is_deep = resnet_blocks(name)
    params = {"stem": conv_norm_params(p, 7, 3, 64), "blocks": []}
    for n_in, inner, n_out, stride in blocks:
        sizes = [(3, n_in, inner), (3, inner, n_out)]
        if is_deep:
            sizes = [(1, n_in, inner), (3, inner, inner), (1, inner, n_out)]
        block = {"convs": [conv_norm_params(p, *size) for size in sizes]}
        if stride != 1 or n_in != n_out:
            block["shortcut"] = conv_norm_params(p, 1, n_in, n_out)
        params["blocks"].append(block)
    return params | {"head": layers.dense_params(p, blocks[-1][2], 1000)}


def resnet_block(p, is_deep, params, x, stride):
    shortcut = conv_norm(p, params["shortcut"], x, stride, 0) if "shortcut" in params else x
    strided = 1 if is_deep else 0  # the convolution that has the stride
    for i, conv in enumerate(params["convs"]):
        x = conv_norm(p, conv, x, stride if i == strided else 1)
        if i + 1 < len(params["convs"]):
            x = jax.nn.relu(x)
    return jax.nn.relu(x + shortcut)


def resnet(p, name, params, x):
    blocks, is_deep = resnet_blocks(name)
    x = jax.nn.relu(conv_norm(p, params["stem"], x, 2))
    x = layers.max_pool(x, 3, 2, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for (_, _, _, stride), block in zip(blocks, params["blocks"]):
        x = resnet_block(p, is_deep, block, x, stride)
    return layers.dense(p, params["head"], jnp.mean(x, (1, 2)))


def vgg_params(p):
    convs, n_in = [], 3
    for n_out in VGG11:
        if n_out:
            convs.append(layers.conv_params(p, 3, n_in, n_out, has_bias=True))
            n_in = n_out
    heads = [(7 * 7 * 512, 4096), (4096, 4096), (4096, 1000)]
    return {"convs": convs, "heads": [layers.dense_params(p, *head) for head in heads]}


def vgg(p, params, x):
    convs = iter(params["convs"])
    for n_out in VGG11:
        x = jax.nn.relu(layers.conv(p, next(convs), x)) if n_out else layers.max_pool(x, 2, 2)
    x = x.reshape(x.shape[0], -1)
    for head in params["heads"][:-1]:
        x = jax.nn.relu(layers.dense(p, head, x))
    return layers.dense(p, params["heads"][-1], x)


def pair_params(p, n_in, n_out):
    return [conv_norm_params(p, 3, n_in, n_out), conv_norm_params(p, 3, n_out, n_out)]


def unet_params(p, n_classes=2):
    widths = [64, 128, 256, 512, 1024]
    up = []
    for i in range(4, 0, -1):
        raise_params = layers.conv_params(p, 2, widths[i], widths[i - 1], has_bias=True)
        up.append({"raise": raise_params, "pair": pair_params(p, widths[i], widths[i - 1])})
    return {
        "down": [pair_params(p, n_in, n_out) for n_in, n_out in zip([3] + widths, widths)],
        "up": up,
        "head": layers.conv_params(p, 1, 64, n_classes, has_bias=True),
    }


def conv_pair(p, params, x):
    for conv in params:
        x = jax.nn.relu(conv_norm(p, conv, x))
    return x


def double_size(p, params, x):
    """A transposed 2x2 convolution with stride 2."""
    y = jax.lax.conv_transpose(
        x.astype(p.operand), params["w"], (2, 2), "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"), preferred_element_type=p.between,
    )
    return y + params["b"]


def unet(p, params, x):
    kept = []
    for i, pair in enumerate(params["down"]):
        x = conv_pair(p, pair, layers.max_pool(x, 2, 2) if i else x)
        kept.append(x)
    for step, skip in zip(params["up"], reversed(kept[:-1])):
        x = conv_pair(p, step["pair"], jnp.concatenate([skip, double_size(p, step["raise"], x)], -1))
    return layers.conv(p, params["head"], x)


@dataclasses.dataclass(frozen=True)
class Tower:
    """A transformer whose norms stand before attention and before the dense layers."""

    n_layers: int
    width: int
    n_heads: int
    has_quick_gelu: bool = False


VIT_BASE = Tower(12, 768, 12)
CLIP_IMAGE = Tower(12, 768, 12, True)
CLIP_TEXT = Tower(12, 512, 8, True)
CLIP_POSITIONS, CLIP_JOINT = 77, 512
# The published script encodes "a photo of a ..." for each of 100 classes in every call, padded to the
# longest of them: two marks, four words and a name of up to four tokens.
CLIP_PROMPTS, CLIP_TEXT_ROWS = 100, 10


def tower(p, config, params, x, bias=None):
    for layer in params:
        y = layers.layer_norm(layer["norm1"], x, 1e-5)
        q, k, v = (layers.split_heads(layers.dense(p, layer[n], y), config.n_heads) for n in ("q", "k", "v"))
        x = x + layers.dense(p, layer["out"], layers.attend(p, q, k, v, bias).reshape(x.shape))
        wide = layers.dense(p, layer["up"], layers.layer_norm(layer["norm2"], x, 1e-5))
        wide = wide * jax.nn.sigmoid(1.702 * wide) if config.has_quick_gelu else jax.nn.gelu(wide, approximate=False)
        x = x + layers.dense(p, layer["down"], wide)
    return x


def patches_params(p, patch, width, n_patches):
    return {
        "patch": layers.conv_params(p, patch, 3, width, has_bias=True),
        "first": layers.shape(width, dtype=p.between),
        "positions": layers.shape(n_patches + 1, width, dtype=p.between),
    }


def embed_patches(p, params, x):
    """A row a patch, and the class row before them."""
    patch, width = params["patch"]["w"].shape[0], params["first"].shape[0]
    x = layers.conv(p, params["patch"], x, patch, "VALID").reshape(x.shape[0], -1, width)
    first = jnp.broadcast_to(params["first"], (x.shape[0], 1, width))
    return jnp.concatenate([first, x], 1) + params["positions"]


def vit_params(p):
    return patches_params(p, 16, 768, 196) | {
        "layers": [layer_params(p, 768)] * VIT_BASE.n_layers,
        "norm": layers.norm_params(p, 768),
        "head": layers.dense_params(p, 768, 1000),
    }


def vit(p, params, x):
    x = tower(p, VIT_BASE, params["layers"], embed_patches(p, params, x))
    return layers.dense(p, params["head"], layers.layer_norm(params["norm"], x, 1e-12)[:, 0])


def clip_params(p):
    image = patches_params(p, 32, 768, 49) | {
        "before": layers.norm_params(p, 768),
        "layers": [layer_params(p, 768)] * CLIP_IMAGE.n_layers,
        "after": layers.norm_params(p, 768),
        "joint": layers.dense_params(p, 768, CLIP_JOINT, has_bias=False),
    }
    text = {
        "words": layers.shape(49408, 512, dtype=p.between),
        "positions": layers.shape(CLIP_POSITIONS, 512, dtype=p.between),
        "layers": [layer_params(p, 512)] * CLIP_TEXT.n_layers,
        "norm": layers.norm_params(p, 512),
        "joint": layers.dense_params(p, 512, CLIP_JOINT, has_bias=False),
    }
    return {"image": image, "text": text, "temperature": layers.shape(dtype=p.between)}


def clip_text(p, params, tokens):
    x = params["words"][tokens] + params["positions"][:CLIP_TEXT_ROWS]
    x = tower(p, CLIP_TEXT, params["layers"], x, layers.causal_bias(CLIP_TEXT_ROWS, CLIP_TEXT_ROWS)[None, None])
    ends = jnp.argmax(tokens, -1)  # the end-of-text token has the highest number
    x = layers.layer_norm(params["norm"], x, 1e-5)[jnp.arange(tokens.shape[0]), ends]
    return layers.dense(p, params["joint"], x)


def clip_image(p, params, x):
    x = layers.layer_norm(params["before"], embed_patches(p, params, x), 1e-5)
    x = tower(p, CLIP_IMAGE, params["layers"], x)[:, 0]
    return layers.dense(p, params["joint"], layers.layer_norm(params["after"], x, 1e-5))


def clip(p, params, images, tokens):
    """The similarity of each image to each prompt; a call encodes the prompts too."""
    pair = clip_image(p, params["image"], images), clip_text(p, params["text"], tokens)
    image, text = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in pair)
    return layers.product(p, "id,td->it", image, text) * jnp.exp(params["temperature"])


def build(name, batch, precision=layers.MATMUL_BF16, image=224):
    """The function and the shapes of its arguments."""
    p = precision
    x = layers.shape(batch, image, image, 3, dtype=p.between)
    if name in RESNETS:
        return (lambda w, i: resnet(p, name, w, i)), (resnet_params(p, name), x)
    if name == "vgg11":
        return (lambda w, i: vgg(p, w, i)), (vgg_params(p), x)
    if name == "UNet":
        return (lambda w, i: unet(p, w, i)), (unet_params(p), x)
    if name == "google/vit-base-patch16-224":
        return (lambda w, i: vit(p, w, i)), (vit_params(p), x)
    if name == "openai/clip-vit-base-patch32":
        tokens = layers.shape(CLIP_PROMPTS, CLIP_TEXT_ROWS, dtype=jnp.int32)
        return (lambda w, i, t: clip(p, w, i, t)), (clip_params(p), x, tokens)
    raise KeyError(name)
