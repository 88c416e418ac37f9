"""Weights in a byte an element: int8, or fp8 (e4m3 of Neuron, at most 240), with a scale for each output feature.

The product is taken with the stored numbers in the matmuls' type and scaled afterwards, so the scale costs nothing a
weight. Symmetric, per channel: quantization_type per_channel_symmetric of NxD Inference.
"""

import ml_dtypes
import numpy as np

KINDS = {"int8": (np.int8, 127.0), "fp8": (ml_dtypes.float8_e4m3, 240.0)}


def is_matrix(name: str) -> bool:
    """Dense layers, and the embedding that is the output layer too: what is quantised."""
    return name.endswith(".weight") or name == "tokens"


def scale_axis(name: str) -> int:
    """The axis of a matrix that a scale is for: rows of the embedding, columns of a dense layer [in, out]."""
    return 0 if name == "tokens" else 1


def quantised(weight: np.ndarray, kind: str, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """fp32[n, m] -> the same in a byte, and fp32 scales along the axis: weight is near stored * scale."""
    dtype, largest = KINDS[kind]
    scale = np.abs(weight).max(1 - axis) / largest
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    ratio = weight / np.expand_dims(scale, 1 - axis)
    stored = np.rint(ratio).astype(dtype) if kind == "int8" else np.clip(ratio, -largest, largest).astype(dtype)
    return stored, scale


def quantise_all(weights: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    out = {}
    for name, w in weights.items():
        if is_matrix(name):
            out[name], out[f"{name}_scale"] = quantised(w, kind, scale_axis(name))
        else:
            out[name] = w
    return out
