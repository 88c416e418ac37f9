"""Layers that the models of the accuracy benchmark share, and the precision that they compute in.

Parameters are nested dicts of arrays, or of shapes where a model is only lowered. Each function of
shapes (`dense_params`) mirrors the function that uses them (`dense`).
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Precision:
    """The dtype of matrix operands, and that of everything between two matrix products."""

    operand: jnp.dtype
    between: jnp.dtype


# The vendor's default for an fp32 model: operands of matrix products are cast to bf16, which their
# compiler does to the weights once; sums, norms and softmax stay in fp32.
MATMUL_BF16 = Precision(jnp.bfloat16, jnp.float32)
BF16 = Precision(jnp.bfloat16, jnp.bfloat16)
FP32 = Precision(jnp.float32, jnp.float32)


def shape(*dims, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(dims, dtype)


def product(precision, spec, a, b):
    """An einsum with operands and result in the precision's dtypes."""
    return jnp.einsum(
        spec,
        a.astype(precision.operand),
        b.astype(precision.operand),
        preferred_element_type=precision.between,
    )


def dense_params(precision, n_in, n_out, has_bias=True):
    params = {"w": shape(n_in, n_out, dtype=precision.operand)}
    if has_bias:
        params["b"] = shape(n_out, dtype=precision.between)
    return params


def dense(precision, params, x):
    y = product(precision, "...i,io->...o", x, params["w"])
    return y + params["b"] if "b" in params else y


def norm_params(precision, width):
    return {"scale": shape(width, dtype=precision.between), "shift": shape(width, dtype=precision.between)}


def layer_norm(params, x, eps=1e-12):
    mean = jnp.mean(x, -1, keepdims=True)
    variance = jnp.var(x, -1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + eps) * params["scale"] + params["shift"]


def rms_norm(scale, x, eps=1e-5):
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + eps)
    return wide.astype(x.dtype) * scale


def split_heads(x, n_heads):
    return x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads)


def attend(precision, q, k, v, bias):
    """Attention of [batch, row, head, width] with an additive bias that broadcasts to
    [batch, head, row, key]. The softmax is in the precision between products."""
    scale = q.shape[-1] ** -0.5
    scores = product(precision, "bqhd,bkhd->bhqk", q, k) * scale
    if bias is not None:
        scores = scores + bias.astype(scores.dtype)
    weights = jax.nn.softmax(scores, axis=-1)
    return product(precision, "bhqk,bkhd->bqhd", weights, v)


def causal_bias(n_rows, n_keys, dtype=jnp.float32):
    """0 where a row may see a key, the lowest number elsewhere; the last row sees every key."""
    row = jnp.arange(n_rows)[:, None] + (n_keys - n_rows)
    return jnp.where(jnp.arange(n_keys)[None, :] <= row, 0.0, jnp.finfo(dtype).min).astype(dtype)


def conv_params(precision, size, n_in, n_out, has_bias=False):
    params = {"w": shape(size, size, n_in, n_out, dtype=precision.operand)}
    if has_bias:
        params["b"] = shape(n_out, dtype=precision.between)
    return params


def conv(precision, params, x, stride=1, padding="SAME"):
    y = jax.lax.conv_general_dilated(
        x.astype(precision.operand),
        params["w"],
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=precision.between,
    )
    return y + params["b"] if "b" in params else y


def batch_norm_params(precision, width):
    return {name: shape(width, dtype=precision.between) for name in ("scale", "shift", "mean", "variance")}


def batch_norm(params, x, eps=1e-5):
    """With the statistics of training: a scale and a shift for each channel."""
    scale = params["scale"] * jax.lax.rsqrt(params["variance"] + eps)
    return x * scale + (params["shift"] - params["mean"] * scale)


def max_pool(x, size, stride, padding="VALID"):
    lowest = -jnp.inf
    return jax.lax.reduce_window(x, lowest, jax.lax.max, (1, size, size, 1), (1, stride, stride, 1), padding)
