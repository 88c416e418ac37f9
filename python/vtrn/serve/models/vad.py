"""silero-vad at 16 kHz: whether the next 32 ms of a stream are speech, by a short Fourier transform, four convolutions
and an LSTM cell whose state goes from call to call.

Weights are a dict of arrays by the names and in the layouts of the package's safetensors file.
"""

import jax
import jax.numpy as jnp

N_CONTEXT, N_NEW = 64, 512  # samples: the last ones of the call before, and those that are new
N_STATE = 128
_TAPS, _HOP = 256, 128  # of the Fourier transform
_STRIDES = {"conv1": 1, "conv2": 2, "conv3": 2, "conv4": 1}


def weight_shapes() -> dict[str, tuple[int, ...]]:
    shapes = {"stft_conv.weight": (_TAPS + 2, 1, _TAPS), "final_conv.weight": (1, N_STATE, 1), "final_conv.bias": (1,)}
    for name, n_in, n_out in (("conv1", _TAPS // 2 + 1, 128), ("conv2", 128, 64), ("conv3", 64, 64), ("conv4", 64, 128)):
        shapes |= {f"{name}.weight": (n_out, n_in, 3), f"{name}.bias": (n_out,)}
    for part in ("ih", "hh"):
        shapes |= {f"lstm_cell.weight_{part}": (4 * N_STATE, N_STATE), f"lstm_cell.bias_{part}": (4 * N_STATE,)}
    return shapes


def step(weights, samples, state):
    """samples fp32[b, 64 + 512], state fp32[b, 2, 128] (of the hidden values and the cell's; zeros at first) -> the
    probability of speech fp32[b, 1] and the new state. Sums in fp32."""

    def conv(x, name, stride, pad):
        w = weights[f"{name}.weight"]
        return jax.lax.conv_general_dilated(x.astype(w.dtype), w, (stride,), [(pad, pad)],
                                            dimension_numbers=("NCH", "OIH", "NCH"), preferred_element_type=jnp.float32)  # fmt: skip

    x = jnp.concatenate([samples, samples[:, -2 : -2 - _TAPS // 4 : -1]], 1)  # the end is mirrored
    x = conv(x[:, None], "stft_conv", _HOP, 0)
    n = _TAPS // 2 + 1
    x = jnp.sqrt(jnp.square(x[:, :n]) + jnp.square(x[:, n:]))
    for name, stride in _STRIDES.items():
        x = jax.nn.relu(conv(x, name, stride, 1) + weights[f"{name}.bias"][:, None])
    hidden, cell = state[:, 0], state[:, 1]
    gates = _dense(weights, "ih", x[:, :, 0]) + _dense(weights, "hh", hidden)
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
    last = jnp.sum(jax.nn.relu(hidden) * weights["final_conv.weight"][:, :, 0].astype(jnp.float32), -1, keepdims=True)
    return jax.nn.sigmoid(last + weights["final_conv.bias"]), jnp.stack([hidden, cell], 1)


def _dense(weights, part, x):
    w = weights[f"lstm_cell.weight_{part}"]
    product = jnp.dot(x.astype(w.dtype), w.T, preferred_element_type=jnp.float32)
    return product + weights[f"lstm_cell.bias_{part}"]
