"""neuronxcc.nki.isa: instructions that return their result, made of those of vtrn.nki."""

import math

import numpy as np

from vtrn.nki import dtypes, isa, language as nl, tensor
from vtrn.nki.beta1 import language as old, later, tensor as t
from vtrn.nki.beta1.index import Index, Mask, mask_of, refuse_mask
from vtrn.nki.beta1.later import Product
from vtrn.nki.beta1.tensor import Tensor, like
from vtrn.nki.errors import NkiNameError, NkiValidationError
from vtrn.nki.isa import (  # noqa: F401 (names of the module)
    constants, dge_mode, engine, get_nc_version, gpsimd_engine, nc_version, oob_mode, reduce_cmd, scalar_engine,
    tensor_engine, unknown_engine, vector_engine)


def raw(x):
    return x.raw() if isinstance(x, Tensor) else x


def result(x, dtype, shape=None):
    return like(x.shape if shape is None else shape, dtype or x.dtype, x.par or 0)


def tensor_copy(src, *, mask=None, dtype=None, engine=unknown_engine, **unused):
    return old.apply(lambda d, s: isa.tensor_copy(d, s, engine), (src,), result(src, dtype), mask, True)


def tensor_copy_dynamic_src(src, *, mask=None, dtype=None, engine=unknown_engine, **unused):
    """src: a tile with a number from a tile in its subscript (beta1/dynamic.py)."""
    return tensor_copy(src.settled(), mask=mask, dtype=dtype, engine=engine)


def tensor_copy_dynamic_dst(*, dst, src, mask=None, dtype=None, engine=unknown_engine, **unused):
    """dst: a tile with a number from a tile in its subscript."""
    t.assign(dst.settled(), tensor_copy(src, mask=mask, dtype=dtype or dst.dtype, engine=engine))


def tensor_copy_predicated(*, src, dst, predicate, mask=None, dtype=None, reverse_pred=False, **unused):
    mask = mask_of(mask)
    src, predicate = (_spread_to(dst, "tensor_copy_predicated", name, x)
                      if mask is not None or getattr(x, "size", dst.size) != dst.size else x
                      for name, x in (("src", src), ("predicate", predicate)))
    to = dst.boxed(mask)
    if to is not None:
        src = src.boxed(mask).raw() if isinstance(src, Tensor) else src
        isa.tensor_copy_predicated(to.raw(), src, predicate.boxed(mask).raw(), reverse_pred)
    return dst


def _spread_to(dst, what, name, x):
    """An operand whose dimensions of 1 are repeated as dst has them."""
    if not isinstance(x, Tensor):
        return x
    shape = x.shape[:1] + (1,) * (dst.ndim - x.ndim) + x.shape[1:]
    if len(shape) != dst.ndim or any(n not in (1, m) for n, m in zip(shape, dst.shape)):
        raise NkiValidationError(tensor._placed(
            f"{what}: {name} of shape {tuple(x.shape)} has {x.size // x.shape[0]} elements a partition, and dst of shape "
            f"{tuple(dst.shape)} has {dst.size // dst.shape[0]}; they have as many, or dimensions of 1 that are repeated: give it one for each dimension that it "
            f"lacks (x.expand_dims), or a copy of dst's shape"))
    return t.broadcast_view(x, dst.shape)


def memset(shape, value, dtype, *, mask=None, engine=unknown_engine, **unused):
    out = like(shape, dtype)
    return old.apply(lambda d: isa.memset(d, value, engine), (), out, mask)


def nc_matmul(stationary, moving, *, is_stationary_onezero=False, is_moving_onezero=False, is_transpose=False, mask=None,
              tile_position=(), tile_size=(), perf_mode="none", **unused):
    mode = getattr(perf_mode, "value", perf_mode)
    options = {"perf_mode": isa.matmul_perf_mode.double_row} if "double_row" in str(mode) else {}
    if leaves_nothing("nc_matmul", mask, (stationary, moving)):
        return Product(stationary, moving, **options).keep([])
    stationary, moving = (t.read_by_tensor("nc_matmul", name, x) for name, x in (("stationary", stationary), ("moving", moving)))
    if is_transpose and isa.transposes(stationary.raw(), moving.raw()):
        return nc_transpose(stationary)
    return Product(stationary, moving, **options)


def leaves_nothing(what, mask, operands=()):
    """Whether a product's mask leaves nothing. A term of elements counts for neither operand alone: it is one that leaves all of
    them, or one that an operand has as its subscript, or is refused."""
    mask = mask_of(mask)
    if mask is None:
        return False
    known = [term for x in operands if isinstance(x, later.Masked) for term in x.terms]
    for term in mask.terms:
        low, high = term.bounds()
        if low <= 0 < high and not any((term.const, term.step, term.sizes) == (k.const, k.step, k.sizes) for k in known):
            raise NotImplementedError(tensor._placed(
                f"{what}: a mask of elements, and a product takes one of loops' variables: rows and columns of both operands have "
                "names of their own; mask the operand (x[i < n]), and what is stored"))
    return any(term.bounds()[0] > 0 for term in mask.terms)


VECTOR_TRANSPOSES = 32  # rows and columns, no more. Source: nki.isa.nc_transpose, "Vector Engine can handle shape (32, 32) or smaller"


def nc_transpose(data, *, mask=None, dtype=None, engine=unknown_engine, **unused):
    v = data.raw()
    free = math.prod(v.shape[1:])
    if engine is unknown_engine and not dtypes.IS_FLOAT[v._dtype] and max(v.shape[0], free) <= VECTOR_TRANSPOSES:
        engine = vector_engine  # Tensor multiplies floats alone
    on_vector = engine is isa.engine.vector
    if not on_vector:
        t.check_read_by_tensor("nc_transpose", "data", data)
    out = (Tensor if on_vector else t.Turned)(
        tensor.ndarray((free, v.shape[0]), dtype or data.dtype, tensor.sbuf if on_vector else tensor.psum))
    part, source = out, data
    if mask is not None:
        source = data.boxed(mask_of(mask))
        if source is None:
            return out.keep([])
        part = out.part(source.shape[1::-1], out.base.strides, out.base.offset, 0)
    to, by = part.raw(), source.raw()
    if on_vector and max(to.shape) > VECTOR_TRANSPOSES:
        _transpose_blocks(to, by if by.ndim == 2 else by.reshape((by.shape[0], free)))
    else:
        isa.nc_transpose(to, by, engine)
    return out if mask is None else out.keep([tuple((0, n) for n in part.shape)])


def _transpose_blocks(to, by):
    """By Vector instructions of 32 rows and columns each. The page of nc_transpose has no larger tiles, but the vendor's compiler takes
    them. Source: ucb-bar/autocomp, examples/trn-tutorial/5_sd_attention_trace.py, whose candidates transpose (128, 64) by
    nisa.vector_engine and were checked and measured on the chip."""
    for i in range(0, by.shape[0], VECTOR_TRANSPOSES):
        for j in range(0, by.shape[1], VECTOR_TRANSPOSES):
            rows, columns = slice(i, min(i + VECTOR_TRANSPOSES, by.shape[0])), slice(j, min(j + VECTOR_TRANSPOSES, by.shape[1]))
            isa.nc_transpose(to[columns, rows], by[rows, columns], isa.engine.vector)


def tensor_tensor(data1, data2, op, *, dtype=None, mask=None, engine=unknown_engine, **unused):
    return old.binary_tiles(op, data1, data2, dtype or old.result_type(data1, data2), mask, engine)


def tensor_scalar(data, op0, operand0, reverse0=False, op1=None, operand1=None, reverse1=False, *, dtype=None, mask=None,
                  engine=unknown_engine, **unused):
    def call(d, x):
        a, b = (old.column_part(v, mask, data) for v in (operand0, operand1))
        isa.tensor_scalar(d, x, op0, _fp32(a), reverse0, op1, _fp32(b), reverse1, engine)

    return old.apply(call, (old.on_chip(data),), result(data, dtype), mask)


def _fp32(x):
    """A per-partition operand is fp32: others were cast by the compiler of that generation."""
    if isinstance(x, tensor.ndarray) and x.dtype != dtypes.float32 and dtypes.IS_FLOAT[x._dtype]:
        wide = tensor.ndarray(x.shape, dtypes.float32)
        isa.tensor_copy(wide, x)
        return wide
    return x


def scalar_tensor_tensor(*, data, op0, operand0, op1, operand1, reverse0=False, reverse1=False, dtype=None, mask=None,
                         **unused):
    def call(d, x, y):
        isa.scalar_tensor_tensor(d, x, op0, _fp32(old.column_part(operand0, mask, data)), op1, y, reverse0, reverse1)

    if isinstance(operand1, Tensor) and not old.is_column(operand1, data):
        return old.apply(call, (data, t.broadcast_view(operand1, data.shape)), result(data, dtype), mask)
    return tensor_scalar(data, op0, operand0, reverse0, op1, operand1, reverse1, dtype=dtype, mask=mask)


def tensor_scalar_reduce(*, data, op0, operand0, reduce_op, reduce_res, reverse0=False, dtype=None, mask=None, **unused):
    def call(d, x):
        isa.tensor_scalar_reduce(d, x, op0, _fp32(old.column_part(operand0, mask, data)), reduce_op,
                                 old.column_part(reduce_res, mask, data), reverse0)

    return old.apply(call, (data,), result(data, dtype), mask)


_SUMS = isa.ALU_OF[nl.add], isa.ALU_OF[nl.multiply]


def tensor_reduce(op, data, axis, *, mask=None, dtype=None, negate=False, keepdims=False, **unused):
    kind = old.sum_type(data) if isa.ALU_OF.get(op) in _SUMS else data.dtype
    return old.reduce(op, data, axis, dtype or kind, mask, negate, True if data.ndim == 2 else keepdims)


def tensor_partition_reduce(op, data, *, mask=None, dtype=None, **unused):
    refuse_mask(mask, "tensor_partition_reduce", data)
    out = like((1, *data.shape[1:]), dtype or data.dtype)
    isa.tensor_partition_reduce(out.raw(), op, data.raw())
    return out


def tensor_tensor_scan(data0, data1, initial, op0, op1, reverse0=False, reverse1=False, *, dtype=None, mask=None,
                       **unused):
    out = like(data1.shape, dtype or old.result_type(data0, data1))

    def call(d, x, y):
        isa.tensor_tensor_scan(d, x, y, old.column_part(initial, mask, out), op0, op1, reverse0, reverse1)

    found = old.apply(call, (t.broadcast_view(data0, out.shape), t.broadcast_view(data1, out.shape)), out, mask)
    return found if mask is not None else found.keep(None)  # each element is made of those before it


def reciprocal(data, *, dtype=None, mask=None, **unused):
    return old.apply(isa.reciprocal, (data,), result(data, dtype), mask)


def activation(op, data, *, bias=None, scale=1.0, reduce_op=None, reduce_res=None, reduce_cmd=reduce_cmd.idle, mask=None,
               dtype=None, **unused):
    def call(d, x):
        a, s, res = (old.column_part(v, mask, data) for v in (bias, scale, reduce_res))
        isa.activation(d, op, x, a, _fp32(s), reduce_op, res, reduce_cmd)

    return old.apply(call, (old.on_chip(data),), result(data, dtype), mask)


def activation_reduce(op, data, *, reduce_op, reduce_res, bias=None, scale=1.0, mask=None, dtype=None, **unused):
    return activation(op, data, bias=bias, scale=scale, reduce_op=nl.add if reduce_op is not None else None,
                      reduce_res=reduce_res, reduce_cmd=isa.reduce_cmd.reset_reduce, mask=mask, dtype=dtype)


def _pattern(expr, n_axes):
    """(offset, step of the partition, [step, number] of the free axes) of an index expression."""
    sizes, step = expr.sizes, expr.affine().step
    free = [[step.get(a, 0), sizes[a]] for a in range(n_axes - 1)][::-1]
    return expr.const, step.get(n_axes - 1, 0), free


def iota(expr, dtype, *, mask=None, **unused):
    out = like(expr.shape, dtype)
    offset, partition_step, pattern = _pattern(expr, expr.ndim)
    isa.iota(out.raw(), pattern, offset, partition_step)
    return out.keep(old.kept_by(mask, out))


def affine_select(pred, on_true_tile, on_false_value, *, mask=None, dtype=None, **unused):
    x, name, y = pred.comparison
    n = on_true_tile.ndim
    difference, = Mask([(x - y).affine()]).on(on_true_tile.shape, on_true_tile.par or 0).terms
    padded = Index(difference.const, difference.step, on_true_tile.shape[::-1])
    offset, partition_step, pattern = _pattern(padded, n)
    out = result(on_true_tile, dtype)
    if on_true_tile.base._is_psum:  # which GpSimd does not read: the vendor's kernels leave the copy to its compiler
        on_true_tile = t.binary_free_copy(on_true_tile, on_true_tile.dtype)
    isa.affine_select(out.raw(), pattern, partition_step, on_true_tile.raw(), on_false_value, getattr(nl, name), offset)
    return out.keep(old.kept_by(mask, out))


def _maximum(op):
    """nl.max and np.amax are reductions by nl.maximum."""
    return None if op in (np.amax, old.max) else op


def range_select(*, on_true_tile, comp_op0, comp_op1, bound0, bound1, reduce_cmd=reduce_cmd.reset_reduce, reduce_res=None,
                 reduce_op=None, range_start=0, on_false_value=old.fp32.min, mask=None, dtype=None, **unused):
    def call(d, x):
        low, high, res = (old.column_part(v, mask, on_true_tile) for v in (bound0, bound1, reduce_res))
        isa.range_select(d, x, comp_op0, comp_op1, low, high, reduce_cmd, res, _maximum(reduce_op), range_start, on_false_value)

    return old.apply(call, (on_true_tile,), result(on_true_tile, dtype), mask)


def select_reduce(*, dst, predicate, on_true, on_false, reduce_res=None, reduce_cmd=reduce_cmd.idle, reduce_op=None,
                  reverse_pred=False, mask=None, dtype=None, **unused):
    refuse_mask(mask, "select_reduce", dst)
    isa.select_reduce(dst.raw(), predicate.raw(), on_true.raw(), raw(on_false), raw(reduce_res), reduce_cmd, _maximum(reduce_op),
                      reverse_pred)
    return dst


def tensor_scalar_cumulative(*, dst, src, op0, op1, imm0, imm1=None, reduce_cmd=reduce_cmd.reset_reduce, mask=None,
                             **unused):
    refuse_mask(mask, "tensor_scalar_cumulative", dst)
    isa.tensor_scalar_cumulative(dst.raw(), src.raw(), op0, op1, raw(imm0), raw(imm1), reduce_cmd)
    return dst


def bn_stats(data, *, mask=None, dtype=None, **unused):
    return _of_rows(isa.bn_stats, data, 6, dtype, mask)


def bn_aggr(data, *, mask=None, dtype=None, **unused):
    return _of_rows(isa.bn_aggr, data, 2, dtype, mask)


def _of_rows(instruction, data, n, dtype, mask):
    out, (part, to) = like((data.shape[0], n), dtype or data.dtype), _masked_rows(data, mask)
    if part is not None:
        instruction(_rows_of(out, to, mask), part.raw())
    return out


def _masked_rows(data, mask):
    """What the mask leaves of data, or None; and its partitions."""
    return data.boxed(mask_of(mask)), old.box_of(mask, data)[0]


def _rows_of(out, rows, mask):
    """The partitions of a result of a row each, which has no others where there is a mask."""
    if mask is not None:
        out.keep([(rows, *((0, n) for n in out.shape[1:]))])
    return out.raw()[rows[0]:rows[1]]


def dropout(data, prob, *, mask=None, dtype=None, **unused):
    def call(d, x):
        isa.dropout(d, x, old.column_part(prob, mask, data))

    return old.apply(call, (data,), result(data, dtype), mask)


def max8(*, src, mask=None, dtype=None, **unused):
    return _of_rows(isa.max8, src, 8, dtype, mask)


def nc_find_index8(*, data, vals, mask=None, dtype=None, **unused):
    return _of_rows(lambda d, x: isa.nc_find_index8(d, x, old.column_part(vals, mask, data)), data, 8, dtype or dtypes.uint32, mask)


def nc_match_replace8(*, data, vals, imm, dst_idx=None, mask=None, dtype=None, **unused):
    def call(d, x):
        found, index = (old.column_part(v, mask, data) for v in (vals, dst_idx))
        isa.nc_match_replace8(d, x, found, imm, index)

    return old.apply(call, (data,), result(data, dtype), mask)


def sequence_bounds(*, segment_ids, dtype=None, **unused):
    out = tensor.ndarray((1, 2, segment_ids.size), dtype or segment_ids.dtype)
    isa.sequence_bounds(out, raw(segment_ids))
    return Tensor(out)


def local_gather(src_buffer, index, num_elem_per_idx=1, num_valid_indices=None, *, mask=None, **unused):
    refuse_mask(mask, "local_gather", src_buffer)
    n = num_valid_indices or 16 * math.prod(index.shape[1:])
    out = like((src_buffer.shape[0], n * num_elem_per_idx), src_buffer.dtype)
    isa.local_gather(out.raw(), src_buffer.raw(), index.raw(), num_elem_per_idx, n)
    return out if num_elem_per_idx == 1 else out.reshape((src_buffer.shape[0], n, num_elem_per_idx))


def nc_stream_shuffle(src, dst, shuffle_mask, *, dtype=None, mask=None, **unused):
    refuse_mask(mask, "nc_stream_shuffle", dst)
    isa.nc_stream_shuffle(dst.raw(), src.raw(), shuffle_mask)


def dma_copy(*, dst, src, mask=None, dst_rmw_op=None, oob_mode=oob_mode.error, dge_mode=dge_mode.unknown, **unused):
    mask = mask_of(mask)
    if src.par == dst.par == 0 and src.shape == (1, *dst.shape) and src.base.strides[1] == 0:  # x[i * 0, j]: one row, again and again
        src = src.part(dst.shape, src.base.strides[1:], src.base.offset, 0)
    to, by = dst.boxed(mask), src.boxed(mask)
    if to is not None and by is not None:
        isa.dma_copy(to.raw(), by.raw(), oob_mode=oob_mode, dst_rmw_op=dst_rmw_op)


def dma_transpose(src, *, axes=None, mask=None, dtype=None, **unused):
    refuse_mask(mask, "dma_transpose", src)
    v = src.raw()
    order = list(range(v.ndim))
    order[0], order[-1] = order[-1], order[0]
    if axes is not None and list(axes) != order:
        raise ValueError(f"dma_transpose: axes={tuple(axes)} of a tensor of {v.ndim} dimensions; they are {tuple(order)}: the first and the "
                         "last change places")
    out = Tensor(tensor.ndarray([v.shape[d] for d in order], dtype or src.dtype))
    isa.dma_transpose(out.raw(), v, tuple(order))
    return out


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise NkiNameError(f"neuronxcc.nki.isa.{name} is not there; docs/nki.md lists what is")
