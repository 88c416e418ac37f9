"""Convolutions and windows in NumPy: windows become dimensions, and a matmul or a reduction takes them."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .numpy_ops import is_float, padded

RULES = {}


def size(dims):
    return int(np.prod(list(dims), dtype=np.int64))


def windows_of(x, window, strides, dilation, padding, base_dilation, value):
    """x[d...] -> [windows along d..., positions in the window...]."""
    x = padded(x, value, [(low, high, b - 1) for (low, high), b in zip(padding, base_dilation)])
    spans = [(w - 1) * d + 1 for w, d in zip(window, dilation)]
    views = sliding_window_view(x, spans)
    return views[tuple([slice(None, None, s) for s in strides] + [slice(None, None, d) for d in dilation])]


def conv_general_dilated(eqn, x, w):
    p = eqn.params
    spec = p["dimension_numbers"]
    x, w = x.transpose(spec.lhs_spec), w.transpose(spec.rhs_spec)
    rank, groups, batch_groups = x.ndim - 2, p["feature_group_count"], p["batch_group_count"]
    n_out = w.shape[0]
    views = windows_of(x, (1, 1, *w.shape[2:]), (1, 1, *p["window_strides"]), (1, 1, *p["rhs_dilation"]),
                       ((0, 0), (0, 0), *p["padding"]), (1, 1, *p["lhs_dilation"]), 0)  # fmt: skip
    views = views.reshape(*views.shape[: 2 + rank], *views.shape[4 + rank :])  # [n, c, out..., kernel...]
    n, c, places, kernel = views.shape[0], views.shape[1], views.shape[2 : 2 + rank], w.shape[2:]
    g = max(groups, batch_groups)
    if batch_groups > 1:
        views = views.reshape(g, n // g, c, *views.shape[2:])
        n = n // g
    else:
        views = np.moveaxis(views.reshape(n, g, c // g, *views.shape[2:]), 1, 0)
        c = c // g
    # [g, n, c, out..., kernel...] -> [g, n * out, c * kernel]
    views = np.moveaxis(views, 2, 2 + rank).reshape(g, n * size(places), c * size(kernel))
    w = w.reshape(g, n_out // g, c * size(kernel)).transpose(0, 2, 1)
    if not is_float(eqn.outvars[0].aval.dtype):
        views, w = (a.astype(eqn.outvars[0].aval.dtype) for a in (views, w))
    out = (views @ w).reshape(g, n, *places, n_out // g)
    out = np.moveaxis(out, 0, -2).reshape(n, *places, n_out)
    return np.moveaxis(out, -1, 1).transpose(np.argsort(spec.out_spec))


def lowest(dtype):
    return -np.inf if is_float(dtype) else np.iinfo(dtype).min


def highest(dtype):
    return np.inf if is_float(dtype) else np.iinfo(dtype).max


def window_reduction(name, function, start):
    def reduce_window(eqn, x):
        p = eqn.params
        views = windows_of(x, p["window_dimensions"], p["window_strides"], p["window_dilation"], p["padding"],
                           p["base_dilation"], start(x.dtype))  # fmt: skip
        return function(views, axis=tuple(range(x.ndim, 2 * x.ndim))).astype(x.dtype)

    RULES[name] = reduce_window


def select_and_scatter_add(eqn, source, operand):
    """The gradient of a maximum over windows: each goes to the first of the largest elements."""
    p = eqn.params
    is_max = p["select_prim"].name == "ge"
    value = lowest(operand.dtype) if is_max else highest(operand.dtype)
    padding, window, rank = p["padding"], p["window_dimensions"], operand.ndim
    shape = [n + low + high for n, (low, high) in zip(operand.shape, padding)]
    views = windows_of(operand, window, p["window_strides"], (1,) * rank, padding, (1,) * rank, value)
    flat = views.reshape(*views.shape[:rank], -1)
    winner = (np.argmax if is_max else np.argmin)(flat, -1)
    offsets = np.unravel_index(winner, window)
    places = np.indices(winner.shape)
    at = tuple(place * s + o for place, s, o in zip(places, p["window_strides"], offsets))
    out = np.zeros(shape, source.dtype)
    np.add.at(out, at, source)
    return out[tuple(slice(low, n - high) for n, (low, high) in zip(shape, padding))]


RULES["conv_general_dilated"] = conv_general_dilated
RULES["select_and_scatter_add"] = select_and_scatter_add
window_reduction("reduce_window_max", np.max, lowest)
window_reduction("reduce_window_min", np.min, highest)
window_reduction("reduce_window_sum", np.sum, lambda dtype: 0)
