"""nki.isa.topk: many instructions here, where the chip has one. Source: nki.isa.topk, NKI 0.6."""

import math

from vtrn.nki import dtypes, isa, language as nl, tensor
from vtrn.nki.tensor import ndarray

_LANES = 16  # partitions of a GpSimd core, over which the elements go round
_SEARCHED = 16384  # elements of a row that max8 takes
_LEAST = -3.4e38  # below every finite bf16, above minus infinity


def _check(val_dst, idx_dst, src, n):
    for role, tile, dtype in (("val_dst", val_dst, "bfloat16"), ("idx_dst", idx_dst, "uint32"), ("src", src, "bfloat16")):
        if tile.dtype != dtype or tile.buffer is not tensor.sbuf or tile.ndim != 2:
            raise TypeError(f"topk: {role} is {tile.dtype} {tile.shape} in {tile.buffer.value}; it is {dtype} of two dimensions "
                            "in SBUF")
    rows, k = val_dst.shape
    if idx_dst.shape != (rows, k) or src.shape[0] != rows or rows % _LANES:
        raise ValueError(f"topk: val_dst {val_dst.shape}, idx_dst {idx_dst.shape}, src {src.shape}; they have as many partitions, "
                         f"a multiple of {_LANES}, and the results one shape")
    if not (8 <= n < 65536 and 1 <= k < 32768 and k <= n and src.shape[1] * _LANES >= n):
        raise ValueError(f"topk: n={n}, k={k}, {src.shape[1]} columns; n is 8 to 65535 and at most {_LANES} times the columns, "
                         "k 1 to 32767 and at most n")
    return rows // _LANES, k


def _unrolled(src, n_groups, n):
    """A row for each 16 partitions, in the order of their elements; by way of HBM, whose rows a pattern may cross."""
    out, rows = ndarray((n_groups, n), src.dtype), ndarray(src.shape, src.dtype, tensor.private_hbm)
    columns = src.shape[1]
    whole, rest = divmod(n, _LANES)
    if whole:
        isa.dma_copy(rows[:, 0:whole], src[:, 0:whole])
        isa.dma_copy(out[:, 0:whole * _LANES], rows.ap([[_LANES * columns, n_groups], [1, whole], [columns, _LANES]]))
    if rest:
        for first in range(0, n_groups * _LANES, _LANES):
            isa.dma_copy(rows[first:first + rest, whole:whole + 1], src[first:first + rest, whole:whole + 1])
        isa.dma_copy(out[:, whole * _LANES:n], rows.ap([[_LANES * columns, n_groups], [columns, rest]], offset=whole))
    return out


def _largest(values, k):
    """Numbers of the k largest elements of each row, descending; of equal ones the first come first."""
    rows, n = values.shape
    rounds = -(-k // 8)
    left, found = ndarray((rows, n), dtypes.float32), ndarray((rows, 8 * rounds), dtypes.uint32)
    isa.tensor_scalar(left, values, nl.maximum, _LEAST)
    eight = ndarray((rows, 8), dtypes.float32)
    for i in range(rounds):
        isa.max8(eight, left)
        isa.nc_find_index8(found[:, 8 * i:8 * (i + 1)], left, eight)
        if i + 1 < rounds:
            isa.nc_match_replace8(left, left, eight, -math.inf)
    return found[:, 0:k]


def _gathered(data, indices):
    out = ndarray(indices.shape, data.dtype)
    isa.nc_n_gather(out, data, indices)
    return out


def topk(val_dst, idx_dst, src, n, name=None):
    """The k largest of the n elements that go round each 16 partitions of src, ascending, with their numbers; each of the 16
    partitions gets them. Of equal ones the first are taken."""
    n_groups, k = _check(val_dst, idx_dst, src, int(n))
    values = _unrolled(src, n_groups, n)
    if n <= _SEARCHED:
        chosen = _largest(values, k)
    else:
        starts = range(0, n, _SEARCHED)
        sizes = [min(k, n - start, _SEARCHED) for start in starts]
        if sum(sizes) > _SEARCHED:
            raise NotImplementedError(f"topk: k={k} of n={n}; of more than {_SEARCHED} elements at most {_SEARCHED // len(sizes)} "
                                      "can be chosen here")
        numbers, at = ndarray((n_groups, sum(sizes)), dtypes.uint32), 0
        for start, size in zip(starts, sizes):
            part = _largest(values[:, start:min(start + _SEARCHED, n)], size)
            isa.tensor_scalar(numbers[:, at:at + size], part, nl.add, float(start))
            at += size
        chosen = _gathered(numbers, _largest(_gathered(values, numbers), k))
    for dst, row in ((idx_dst, chosen), (val_dst, _gathered(values, chosen))):
        step = row.strides[1]
        ascending = row._view(row.shape, (row.strides[0], -step), row.offset + (k - 1) * step, row._dtype)
        rows = ndarray(row.shape, row.dtype, tensor.private_hbm)
        ordered = ndarray(row.shape, row.dtype)
        isa.tensor_copy(ordered, ascending)
        isa.dma_copy(rows, ordered)
        isa.dma_copy(dst, rows.ap([[k, n_groups], [0, _LANES], [1, k]]))
