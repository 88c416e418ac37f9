"""nki.isa: functions that are several instructions here, where the chip has one."""

import math

from vtrn.nki import dtypes, isa, language as nl, tensor
from vtrn.nki._load import core
from vtrn.nki.tensor import ndarray


def _generation4(what):
    gen = tensor.session().chip()["gen"]
    if gen < 4:
        raise NotImplementedError(f"{what}: NeuronCore-v{gen} has no such instruction; it is one of Trainium3's")


def _negative(x, rows):
    """-x of a number or of a [P, 1] tile."""
    if not isinstance(x, core.Tensor):
        return -float(x)
    out = ndarray((rows, 1), dtypes.float32)
    isa.tensor_scalar(out, x, nl.multiply, -1.0)
    return out


def _scale_and_bias(ops, imm0, imm1, reverse0, reverse1, rows):
    """What an activation takes for (data op0 imm0) op1 imm1."""
    if ops == ("multiply", "add"):
        return imm0, imm1
    if ops == ("multiply", "subtract"):
        return (_negative(imm0, rows), imm1) if reverse1 else (imm0, _negative(imm1, rows))
    if ops == ("multiply", "bypass"):
        return imm0, None
    if ops == ("add", "bypass"):
        return 1.0, imm0
    if ops == ("subtract", "bypass"):
        return (-1.0, imm0) if reverse0 else (1.0, _negative(imm0, rows))
    if ops == ("bypass", "bypass"):
        return 1.0, None
    raise ValueError(f"activate2: op0, op1 = {', '.join(ops)}; the Scalar engine has multiply with add, subtract or bypass, "
                     "and add, subtract or bypass with bypass")


_EXTREMES = ("maximum", "minimum", "abs_max", "abs_min")


def activate2(dst, op, data, imm0, imm1, op0, op1, relu_param=0.0, reverse0=False, reverse1=False, reduce_op=None,
              reduce_res=None, reduce_cmd=isa.reduce_cmd.idle, name=None, engine=isa.engine.scalar):
    _generation4("activate2")
    ops = tuple("bypass" if x is None else x.__name__ for x in (op0, op1))
    for reverse, used, what in ((reverse0, ops[0], "reverse0"), (reverse1, ops[1], "reverse1")):
        if reverse and used == "bypass":
            raise ValueError(f"activate2: {what} without an operation to reverse")
    isa._only_scalar("activate2", engine)
    shift = _scale_and_bias(ops, imm0, imm1, reverse0, reverse1, data.shape[0])
    if op is nl.prelu and isinstance(relu_param, core.Tensor):
        # max(y, 0) + slope min(y, 0), whose slope is a number a partition
        below = ndarray(data.shape, dtypes.float32)
        isa.activate(below, nl.copy, data, shift, _NO_REDUCTION)
        isa.tensor_scalar(below, below, nl.minimum, 0.0, op1=nl.multiply, operand1=relu_param)
        above = ndarray(data.shape, dtypes.float32)
        isa.activate(above, nl.relu, data, shift, _NO_REDUCTION)
        isa.tensor_tensor(above, above, below, nl.add)
        op, data, shift, relu_param = nl.copy, above, (1.0, None), 0.0
    slope = float(relu_param) if op is nl.prelu else 0.0  # other functions have no parameter
    if reduce_cmd is isa.reduce_cmd.idle or reduce_op is None or reduce_op.__name__ not in _EXTREMES:
        isa.activate(dst, op, data, shift, (reduce_op, reduce_res, reduce_cmd), slope)
        return
    isa.activate(dst, op, data, shift, _NO_REDUCTION, slope)
    _reduce_extreme(dst, reduce_op, reduce_res, reduce_cmd)


_NO_REDUCTION = (None, None, isa.reduce_cmd.idle)


def _reduce_extreme(data, op, result, cmd):
    """The largest or smallest of each row, joined with what was kept; on the Vector engine."""
    kept = tensor.launch.extremes
    if cmd in (isa.reduce_cmd.reset, isa.reduce_cmd.reset_reduce):
        kept.clear()
    if cmd is not isa.reduce_cmd.reset:
        here = ndarray((data.shape[0], 1), dtypes.float32)
        if op.__name__.startswith("abs_"):
            sizes = ndarray(data.shape, dtypes.float32)
            isa.tensor_scalar(sizes, data, nl.abs_max, 0.0)
            data, op = sizes, nl.maximum if op is nl.abs_max else nl.minimum
        isa.tensor_reduce(here, op, data, tuple(range(1, data.ndim)))
        if kept:
            isa.tensor_tensor(here, here, kept["row"], op)
        kept["row"] = here
    if result is not None:
        if not kept:
            raise ValueError("activate2: reduce_res, and nothing was reduced since the reset")
        isa.tensor_copy(result, kept["row"])


def rand2(dst, min, max, name=None):
    """Uniform in [min, max]: 24 random bits an element. The vendor's generator is XORWOW; this is docs/hardware.md's."""
    _generation4("rand2")
    bits, uniform = ndarray(dst.shape, dtypes.uint32), ndarray(dst.shape, dtypes.float32)
    isa.rng(bits)
    isa.tensor_scalar(bits, bits, nl.right_shift, 8)
    isa.tensor_copy(uniform, bits)
    if isinstance(min, core.Tensor) or isinstance(max, core.Tensor):
        low, width = (ndarray((dst.shape[0], 1), dtypes.float32) for _ in range(2))
        for to, x in ((low, min), (width, max)):
            isa.tensor_copy(to, x) if isinstance(x, core.Tensor) else isa.memset(to, float(x))
        isa.tensor_tensor(width, width, low, nl.subtract)
        isa.tensor_scalar(uniform, uniform, nl.multiply, 2.0**-24)
        isa.tensor_scalar(dst, uniform, nl.multiply, width, op1=nl.add, operand1=low)
        return
    isa.tensor_scalar(dst, uniform, nl.multiply, (float(max) - float(min)) * 2.0**-24, op1=nl.add, operand1=float(min))


def _backwards(row):
    """A view of a [1, n] tile from its last element to its first."""
    n, step = row.shape[1], row.strides[1]
    return row._view(row.shape, (row.strides[0], -step), row.offset + (n - 1) * step, row._dtype)


def sequence_bounds(dst, segment_ids, name=None):
    n = math.prod(segment_ids.shape)
    if segment_ids.shape[0] != 1 or dst.shape[0] != 1 or math.prod(dst.shape) != 2 * n:
        raise ValueError(f"sequence_bounds: segment_ids {segment_ids.shape}, dst {dst.shape}; they are (1, n) and (1, 2, n)")
    if any(x.dtype not in ("float32", "int32") for x in (dst, segment_ids)):
        raise TypeError(f"sequence_bounds: segment_ids {segment_ids.dtype}, dst {dst.dtype}; both are float32 or int32")
    ids, place, change, found = (ndarray((1, n), dtypes.float32) for _ in range(4))
    is_padding, nothing = ndarray((1, n), dtypes.uint8), ndarray((1, n), dtypes.float32)
    isa.tensor_copy(ids, segment_ids.reshape((1, n)))
    isa.iota(place, [[1, n]], offset=1)
    isa.tensor_scalar(is_padding, ids, nl.equal, 0.0)
    isa.memset(nothing, 0)
    # Where a segment begins: its place, counted from 1, is the largest so far.
    isa.memset(change[:, 0:1], 1)
    if n > 1:
        isa.tensor_tensor(change[:, 1:n], ids[:, 1:n], ids[:, 0:n - 1], nl.not_equal)
    _spread(found, change, place, nothing, False)
    isa.tensor_scalar(found, found, nl.subtract, 1.0)
    _store_bounds(dst, 0, found, is_padding, float(n))
    # Where it ends: the least from the right, which is the largest of n + 1 less it.
    isa.memset(change[:, n - 1:n], 1)
    if n > 1:
        isa.tensor_tensor(change[:, 0:n - 1], ids[:, 0:n - 1], ids[:, 1:n], nl.not_equal)
    isa.tensor_scalar(place, place, nl.multiply, -1.0, op1=nl.add, operand1=float(n + 1))
    _spread(found, change, place, nothing, True)
    isa.tensor_scalar(found, found, nl.multiply, -1.0, op1=nl.add, operand1=float(n + 1))
    _store_bounds(dst, 1, found, is_padding, -1.0)


def _spread(found, change, place, nothing, is_backwards):
    """found[i]: the largest of change * place up to i."""
    isa.tensor_tensor(found, change, place, nl.multiply)
    turn = _backwards if is_backwards else lambda x: x
    isa.tensor_tensor_scan(turn(found), turn(found), turn(nothing), 0.0, nl.maximum, nl.add)


def _store_bounds(dst, row, found, is_padding, padding):
    n = found.shape[1]
    isa.tensor_copy_predicated(found, padding, is_padding)
    isa.tensor_copy(dst.reshape((1, 2, n))[:, row], found)
