"""A training step of GPT-2: loss, gradients, and the update of every weight in place."""

import jax
import jax.numpy as jnp

from accuracy import layers
from accuracy.models_encoder import GPT2_CONFIGS, gpt2_layer, gpt2_params


def gpt2_loss(p, config, params, tokens):
    """Mean cross entropy of the next token; the output layer is the embedding.

    The logits are a product in the model's dtype, as `flax.linen.Embed.attend` or an autocast `lm_head`
    makes them; the loss takes them in fp32. So their gradient is rounded to that dtype on its way back, and
    the two products behind it have operands of it, as all others.
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    n_rows = inputs.shape[1]
    x = (params["words"][inputs] + params["positions"][:n_rows]).astype(p.between)
    bias = layers.causal_bias(n_rows, n_rows)[None, None].astype(p.between)
    for layer in params["layers"]:
        x, _ = gpt2_layer(p, config, layer, x, bias)
    x = layers.layer_norm(params["norm"], x, 1e-5)
    logits = jnp.einsum("brw,vw->brv", x, params["words"].astype(x.dtype)).astype(jnp.float32)
    score = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, -1) - score)


def build(name, batch, n_rows, precision=layers.BF16, rate=1e-3):
    """The step, the shapes of its arguments, and which of them it takes over."""
    config = GPT2_CONFIGS[name]

    def step(params, tokens):
        loss, gradient = jax.value_and_grad(lambda w: gpt2_loss(precision, config, w, tokens))(params)
        return jax.tree.map(lambda w, g: w - rate * g, params, gradient), loss

    params = gpt2_params(precision, config)
    return step, (params, layers.shape(batch, n_rows + 1, dtype=jnp.int32))
