"""nki.isa: what moves elements and computes nothing, by DMA and by the engines."""

from vtrn.nki import dtypes, isa_mx, tensor
from vtrn.nki._load import ALU, GPSIMD, OPCODE, SYNC, TENSOR, VECTOR, core
from vtrn.nki.isa_base import (
    _ACCUMULATE, _CHOSEN, _DONE, _IMPLIED, _OOB_SKIP, _REVERSE0, _alu, _dma, _engine, _issue, _memset, _shuffle, dge_mode,
    engine, oob_mode)
from vtrn.nki.tensor import ndarray


def dma_copy(dst, src, priority=None, oob_mode=oob_mode.error, dge_mode=dge_mode.unknown, engine=engine.unknown,
             name=None, dst_rmw_op=None, unique_indices=True):
    flags = 0
    if dst_rmw_op is not None:
        if _alu(dst_rmw_op) != ALU["add"]:
            raise ValueError("dma_copy: dst_rmw_op is nl.add or None")
        flags = _ACCUMULATE
    if isinstance(dst, tensor.ndarray) and isinstance(src, tensor.ndarray) and dst._indirect is src._indirect is None:
        _dma(dst, src, _engine(engine, _QUEUE_OF.get(dge_mode, SYNC if dst._is_on_chip else GPSIMD)), flags)
        return _DONE
    for role, operand in (("dst", dst), ("src", src)):
        if not isinstance(operand, tensor.ndarray):
            raise TypeError(f"dma_copy: {role} is a {type(operand).__name__}, not a tensor; give the kernel an array")
        if isinstance(operand._indirect, tensor.Outside):
            return _skip("dma_copy", operand._indirect, oob_mode)
    if src._indirect is not None:
        _gather(dst, src, oob_mode)
    else:
        _scatter(dst, src, oob_mode, flags)
    return _DONE


# Who makes descriptors where dge_mode says so; else nki_finish.c chooses.
_QUEUE_OF = {dge_mode.hwdge: SYNC | _CHOSEN, dge_mode.swdge: GPSIMD | _CHOSEN}


def _skip(what, outside, mode):
    """The operand's scalar_offset is none of its tensor: nothing is moved, or it is an error."""
    if mode is not _SKIP:
        raise IndexError(f"{what}: {outside}; give a number of the dimension, or oob_mode.skip")
    return _DONE


def _gather(dst, src, mode):
    index, n_rows = src._indirect
    flags = _OOB_SKIP if mode is oob_mode.skip else 0
    _issue(OPCODE["dma_gather"], GPSIMD, flags, 0, 0, 0, dst, src, index, None, 0, n_rows, 0)


def _scatter(dst, src, mode, flags):
    index, n_rows = dst._indirect
    flags |= _OOB_SKIP if mode is oob_mode.skip else 0
    _issue(OPCODE["dma_scatter"], GPSIMD, flags, 0, 0, 0, dst, src, index, None, 0, n_rows, 0)


def dma_compute(dst, srcs, reduce_op, scales=None, unique_indices=True, oob_mode=oob_mode.error, name=None):
    """Sums in fp32: more than two sources, or one that is narrower than what it is added to, by way of HBM."""
    if _alu(reduce_op) != ALU["add"]:
        raise ValueError("dma_compute: reduce_op is nl.add")
    if scales is not None and any(scale != 1.0 for scale in scales):
        raise ValueError(f"dma_compute: scales={scales}: all are 1.0")
    if not 2 <= len(srcs) <= 16:
        raise ValueError(f"dma_compute: {len(srcs)} sources; it takes 2 to 16")
    for operand in (dst, *srcs):
        if isinstance(operand._indirect, tensor.Outside):
            return _skip("dma_compute", operand._indirect, oob_mode)
    indirect = [s for s in srcs if s._indirect is not None]
    if indirect or dst._indirect is not None:
        return _indirect_sum(dst, srcs, indirect, oob_mode)
    into = dst if len(srcs) == 2 and dst.dtype in (srcs[0].dtype, dtypes.float32) and not _overlap(dst, srcs[1]) else \
        ndarray(dst.shape, dtypes.float32, tensor.private_hbm)
    if into is not dst or not _is_same_view(dst, srcs[0]):
        dma_copy(into, srcs[0])
    for source in srcs[1:]:
        _dma(into, source, SYNC if into._is_on_chip else GPSIMD, _ACCUMULATE)
    if into is not dst:
        dma_copy(dst, into)
    return _DONE


def _overlap(a, b):
    return a._storage_id == b._storage_id


def _is_same_view(a, b):
    return (a._storage_id, a.offset, a.shape, a.strides) == (b._storage_id, b.offset, b.shape, b.strides)


def _indirect_sum(dst, srcs, indirect, mode):
    if len(srcs) != 2:
        raise ValueError(f"dma_compute: {len(srcs)} sources with vector_offset; it takes two")
    if dst._indirect is not None:  # dst[indices] += the other
        others = [s for s in srcs if s._indirect is None]
        if len(others) != 1:
            raise ValueError("dma_compute: a scatter adds one tile to what dst's indices select")
        _scatter(dst, others[0], mode, _ACCUMULATE)
        return _DONE
    other = srcs[1] if indirect[0] is srcs[0] else srcs[0]
    if not _is_same_view(dst, other):
        raise ValueError("dma_compute: a gather adds to dst: the other source is dst")
    rows = ndarray(dst.shape, indirect[0].dtype)
    if mode is _SKIP:
        memset(rows, 0)
    _gather(rows, indirect[0], mode)
    _dma(dst, rows, SYNC, _ACCUMULATE)
    return _DONE


_SKIP = oob_mode.skip
_DMA_TRANSPOSE = OPCODE["dma_transpose"]


def dma_transpose(dst, src, axes=None, priority=None, dge_mode=dge_mode.unknown, oob_mode=oob_mode.error, name=None):
    n = src.ndim
    order = list(range(n))
    order[0], order[-1] = n - 1, 0
    if axes is not None and list(axes) != order:
        raise ValueError(f"dma_transpose: axes={tuple(axes)} of {n} dimensions; it swaps the first and the last, "
                         f"{tuple(order)}")
    if tuple(dst.shape) != tuple(src.shape[d] for d in order):
        raise ValueError(f"dma_transpose: dst has shape {dst.shape}; the transpose of {src.shape} has "
                         f"{tuple(src.shape[d] for d in order)}")
    if isinstance(src._indirect, tensor.Outside):
        return _skip("dma_transpose", src._indirect, oob_mode)
    if src._indirect is not None:
        src = _gathered(src, oob_mode)
    _transpose_parts(dst, src)
    return _DONE


def _gathered(src, mode):
    """What the row numbers select, in HBM: a gather brings at most 128 rows into SBUF at a time."""
    rows = ndarray(src.shape, src.dtype)
    if mode is _SKIP:
        memset(rows, 0)
    _gather(rows, src, mode)
    return rows


def _transpose_parts(dst, src):
    """The dimensions between first and last stay: one transpose for each of their numbers."""
    if src.ndim > 2:
        for i in range(src.shape[1]):
            _transpose_parts(_without(dst, 1, i), _without(src, 1, i))
        return
    _issue(_DMA_TRANSPOSE, SYNC, 0, 0, 0, 0, dst, src, None, None, 0, 0, 0)


def _without(x, dim, i):
    """The part with number i of dimension dim."""
    keep = [d for d in range(x.ndim) if d != dim]
    return x._view([x.shape[d] for d in keep], [x.strides[d] for d in keep], x.offset + i * x.strides[dim], x._dtype)


_TENSOR_COPY = OPCODE["tensor_copy"]


def tensor_copy(dst, src, engine=engine.unknown, name=None, dtype=None):
    if dtypes.IS_BITS[dst._dtype] and dst._dtype == src._dtype:
        dst, src = isa_mx.bits(dst), isa_mx.bits(src)
    _issue(_TENSOR_COPY, _engine(engine, VECTOR), 0, 0, 0, 0, dst, src, None, None, 0, 0, 0)
    return _DONE


def tensor_copy_dynamic_src(dst, src, engine=engine.unknown, name=None):
    """tensor_copy of 0.2 and 0.3 from a place that .ap(scalar_offset=) gives."""
    return tensor_copy(dst, src, engine)


def tensor_copy_dynamic_dst(dst, src, engine=engine.unknown, name=None):
    """The same to such a place."""
    return tensor_copy(dst, src, engine)


def implied_copy(dst, src):
    """A copy that the kernel has no call for: the program is without it where src is made for it alone."""
    if dtypes.IS_BITS[dst._dtype]:
        tensor_copy(dst, src)
        return
    _issue(_TENSOR_COPY, VECTOR | _IMPLIED, 0, 0, 0, 0, dst, src, None, None, 0, 0, 0)


_LDWEIGHTS, _MATMUL = OPCODE["ldweights"], OPCODE["matmul"]


def spread_row(dst, ones, row):
    """dst[i, j] = ones[0, i] * row[0, j] by Tensor; none of the kernel's own operations, as MFU counts them."""
    _issue(_LDWEIGHTS, TENSOR, 0, 0, 0, 0, None, ones, None, None, 0, 0, 0)
    _issue(_MATMUL, TENSOR, 0, 0, 0, 0, dst, row, None, None, 0, 0, 0)


_COPY_PREDICATED = OPCODE["tensor_copy_predicated"]


def tensor_copy_predicated(dst, src, predicate, reverse_pred=False, name=None):
    if not isinstance(src, core.Tensor):
        filled = ndarray(dst.shape, dst.dtype)
        memset(filled, src)
        src = filled
    _issue(_COPY_PREDICATED, VECTOR, _REVERSE0 if reverse_pred else 0, 0, 0, 0, dst, src, predicate, None, 0, 0, 0)
    return _DONE


def memset(dst, value, engine=engine.unknown, name=None):
    if dtypes.IS_BITS[dst._dtype] and value == 0:
        dst = isa_mx.bits(dst)
    is_integer = dtypes.IS_32_BIT_INTEGER[dst._dtype]
    if is_integer and not -2**31 <= value < 2**32:  # NaN, too
        raise ValueError(tensor._placed(f"memset: {value} for elements of {dst.dtype}, which have 32 bits; give a number that they hold"))
    _memset(dst, _engine(engine, VECTOR), int(value) if is_integer else float(value))
    return _DONE


def nc_stream_shuffle(dst, src, shuffle_mask, name=None):
    _shuffle(dst, src, bytes(shuffle_mask))
    return _DONE
