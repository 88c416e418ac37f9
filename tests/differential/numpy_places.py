"""Slices, gathers and scatters at places that data decide, in NumPy."""

import numpy as np

from .numpy_ops import is_float

RULES = {}


def start_of(x, window, indices):
    return [min(max(int(i), 0), n - w) for i, n, w in zip(indices, x.shape, window)]


def dynamic_slice(eqn, x, *indices):
    window = eqn.params["slice_sizes"]
    return x[tuple(slice(i, i + w) for i, w in zip(start_of(x, window, indices), window))]


def dynamic_update_slice(eqn, x, update, *indices):
    out = np.array(x)
    out[tuple(slice(i, i + w) for i, w in zip(start_of(x, update.shape, indices), update.shape))] = update
    return out


def mode_of(eqn):
    return "clip" if eqn.params["mode"].name == "CLIP" else "drop"


def places(shape, window, index_map, batching, indices, mode):
    """The windows of an array at indices[..., k] -> (an index array a dimension, mask of windows inside).

    window has a length for each dimension of the array, batching pairs a dimension of the array with
    one of the indices. The index arrays have the shape [indices..., window...].
    """
    batch = indices.shape[:-1]
    starts = [np.zeros(batch, np.int64) for _ in shape]
    for k, d in enumerate(index_map):
        starts[d] = indices[..., k].astype(np.int64)
    for d, j in batching:
        line = np.arange(batch[j]).reshape([-1 if i == j else 1 for i in range(len(batch))])
        starts[d] = np.broadcast_to(line, batch)
    inside = np.ones(batch, bool)
    for d, (n, w) in enumerate(zip(shape, window)):
        inside &= (starts[d] >= 0) & (starts[d] <= n - w)
        starts[d] = np.clip(starts[d], 0, max(0, n - w))
    rank = len(shape)
    full = []
    for d, w in enumerate(window):
        steps = np.arange(w).reshape([-1 if i == d else 1 for i in range(rank)])
        full.append(starts[d].reshape(*batch, *[1] * rank) + steps)
    return full, inside if mode == "drop" else np.ones(batch, bool)


def fill_value(eqn, dtype):
    value = eqn.params["fill_value"]
    if value is not None:
        return value
    if is_float(dtype):
        return np.nan
    if dtype == np.bool_:
        return True
    return np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max


def gather(eqn, x, indices):
    n, window = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    batching = list(zip(n.operand_batching_dims, n.start_indices_batching_dims))
    at, inside = places(x.shape, window, n.start_index_map, batching, indices, mode_of(eqn))
    out = x[tuple(np.broadcast_arrays(*at))] if x.ndim else np.broadcast_to(x, inside.shape)
    outside = ~inside.reshape(*inside.shape, *[1] * x.ndim)
    if outside.any():
        out = np.where(outside, fill_value(eqn, x.dtype), out).astype(x.dtype)
    dropped = set(n.collapsed_slice_dims) | set(n.operand_batching_dims)
    n_batch = inside.ndim
    kept = [d for d in range(x.ndim) if d not in dropped]
    out = out.reshape(*inside.shape, *[window[d] for d in kept])
    rank = out.ndim
    order, batch_dims = [0] * rank, iter(range(n_batch))
    for i, d in enumerate(n.offset_dims):
        order[d] = n_batch + i
    for d in range(rank):
        if d not in n.offset_dims:
            order[d] = next(batch_dims)
    return out.transpose(order)


def scatter(combine):
    def rule(eqn, x, indices, updates):
        n = eqn.params["dimension_numbers"]
        dropped = set(n.inserted_window_dims) | set(n.operand_batching_dims)
        kept = [d for d in range(x.ndim) if d not in dropped]
        window = [1] * x.ndim
        for d, u in zip(kept, n.update_window_dims):
            window[d] = updates.shape[u]
        batching = list(zip(n.operand_batching_dims, n.scatter_indices_batching_dims))
        at, inside = places(x.shape, window, n.scatter_dims_to_operand_dims, batching, indices, mode_of(eqn))
        batch_dims = [d for d in range(updates.ndim) if d not in n.update_window_dims]
        values = updates.transpose([*batch_dims, *n.update_window_dims])
        values = values.reshape(*inside.shape, *window)
        flat = np.ravel_multi_index(np.broadcast_arrays(*at), x.shape) if x.ndim else np.zeros(values.shape, np.int64)
        mask = np.broadcast_to(inside.reshape(*inside.shape, *[1] * x.ndim), flat.shape)
        out = np.array(x).reshape(-1)
        combine(out, flat[mask], values[mask])
        return out.reshape(x.shape)

    return rule


def add(out, at, values):
    if is_float(out.dtype):
        out += np.bincount(at, values, minlength=out.size)
    else:
        np.add.at(out, at, values)


def put(out, at, values):
    out[at] = values


RULES.update({
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "gather": gather,
    "scatter": scatter(put),
    "scatter-add": scatter(add),
    "scatter-mul": scatter(np.multiply.at),
    "scatter-min": scatter(np.minimum.at),
    "scatter-max": scatter(np.maximum.at),
})  # fmt: skip
