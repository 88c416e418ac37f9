"""neuronxcc.nki.language: operations that return tiles, made of those of vtrn.nki."""

import builtins
import math
import sys

import ml_dtypes
import numpy as np

from vtrn.nki import angles, dtypes, isa, language as nl, operators, tensor
from vtrn.nki.beta1 import blocks, later, loops, tensor as t
from vtrn.nki.beta1.index import Index, arange, mask_of, mgrid, refuse_mask  # noqa: F401 (names of the module)
from vtrn.nki.beta1.later import Product
from vtrn.nki.beta1.loops import affine_range, sequential_range, static_range  # noqa: F401
from vtrn.nki.beta1.tensor import Tensor, like, make, par_dim  # noqa: F401
from vtrn.nki.dtypes import (  # noqa: F401
    bfloat16, bool_, float4_e2m1fn_x4, float8_e4m3, float8_e4m3fn, float8_e4m3fn_x4, float8_e5m2, float8_e5m2_x4,
    float16, float32, int8, int16, int32, tfloat32, uint8, uint16, uint32)
from vtrn.nki.errors import NkiNameError
from vtrn.nki.language import (  # noqa: F401
    ds, hbm, num_programs, private_hbm, program_id, program_ndim, psum, sbuf, shared_hbm, tile_size)

dslice = ds
_largest, _least = builtins.max, builtins.min


class fp32:
    min, max = float(np.finfo(np.float32).min), float(np.finfo(np.float32).max)


def finfo(dtype):
    """Limits of a floating-point type: min, max, eps, tiny and the others of NumPy's."""
    return ml_dtypes.finfo(dtypes.numpy_of(dtypes.code_of(dtype)))


class constants:
    @staticmethod
    def sizeinbytes(dtype):
        return dtypes.numpy_of(dtypes.code_of(dtype)).itemsize


class nc:
    """Cores of a launch grid's dimension: nl.nc(2) * n counts as 2 n programs, here all on one core."""

    def __init__(self, n):
        self.n = n

    def __mul__(self, other):
        return self.n * other

    __rmul__ = __mul__

    def __index__(self):
        return self.n


def spmd_dim(n, cores):
    """A grid's dimension of n times the cores."""
    return n.__index__() * cores.__index__()


def static_cast(input_data, dtype):
    if isinstance(input_data, Tensor):
        return copy(input_data, dtype=dtype)
    return np.asarray(input_data).astype(dtypes.numpy_of(dtypes.code_of(dtype)))


def device_print(prefix, x, *, mask=None, **unused):
    """Prints a tile's values on the host; mask: of loops' variables, as those of tiles are there or not."""
    if mask_of(mask) is None or not mask_of(mask).is_nowhere():
        nl.device_print(prefix, x.raw() if isinstance(x, Tensor) else x)


# -- tensors

def ndarray(shape, dtype, *, buffer=None, name="", lazy_initialization=False, **unused):
    if getattr(buffer, "slot", None):
        return blocks.make_blocks(shape, dtype, buffer.region, buffer.slot, name)
    return make(shape, dtype, t.tensor.sbuf if buffer is None else _region(buffer), name, getattr(buffer, "is_manual", False))


def _region(buffer):
    return getattr(buffer, "region", buffer)  # an allocation of nki.compiler


def full(shape, fill_value, dtype, *, buffer=None, name="", mask=None, **unused):
    out = ndarray(shape, dtype, buffer=buffer, name=name)
    part = out.boxed(mask_of(mask))
    if part is not None:
        t.assign(part, fill_value)
    return out.keep(kept_by(mask, out)) if mask is not None else out


def zeros(shape, dtype, *, buffer=None, name="", **unused):
    return full(shape, 0, dtype, buffer=buffer)


def ones(shape, dtype, *, buffer=None, name="", **unused):
    return full(shape, 1, dtype, buffer=buffer)


def zeros_like(a, dtype=None, *, buffer=None, name="", **unused):
    out = empty_like(a, dtype, buffer=buffer)
    t.assign(out, 0)
    return out


def empty_like(a, dtype=None, *, buffer=None, name="", **unused):
    return ndarray(_marked(a), dtype or a.dtype, buffer=a.buffer if buffer is None else buffer)


def _marked(x):
    return tuple(par_dim(n) if d == x.par else n for d, n in enumerate(x.shape))


def shared_constant(constant, dtype=None, **unused):
    return Tensor(nl.shared_constant(constant, dtype))


def shared_identity_matrix(n, dtype=uint8, **unused):
    return shared_constant(np.eye(n), dtype)


def load(src, *, mask=None, dtype=None, mode=isa.oob_mode.error, **unused):
    """mode: oob_mode.skip leaves rows out that the tensor has not."""
    shape = src.shape if src.ndim > 1 else (src.shape[0], 1) if src.shape[0] <= tile_size.pmax else (1, *src.shape)
    if mode == isa.oob_mode.skip and isinstance(src.indirect, tuple):
        return later.Skipping(src, shape, dtypes.by_code[dtypes.code_of(dtype or src.dtype)],
                          lambda target: _copy_masked(target, src, mask, mode))
    out = like(shape, dtype or src.dtype)
    _copy_masked(out, src, mask, mode)
    return out.keep([]) if isinstance(src.indirect, tensor.Outside) else out


def _copy_masked(target, source, mask, mode=isa.oob_mode.error):
    mask = mask_of(mask)
    if target.ndim != source.ndim:
        if mask is not None:
            source, target = (x if x.ndim == builtins.max(source.ndim, target.ndim) else x.expand_dims(0)
                              for x in (source, target))
    if mask is None:
        t.move(target, source, mode)
        return
    boxes = [b for b in mask.boxes(target.shape, target.par or source.par or 0) if builtins.all(lo < hi for lo, hi in b)]
    for box in boxes:
        if len(boxes) == 1:
            t.move(target.box_part(box), source.box_part(box), mode)
        else:
            t.transfer(target.box_part(box), source.box_part(box), mode)
    target.keep(boxes)


def store(dst, value, *, mask=None, mode=isa.oob_mode.error, **unused):
    """mode: as of load."""
    mask = mask_of(mask)
    if not isinstance(value, Tensor):
        part = dst.boxed(mask)
        if part is not None:
            t.assign(part, value)
        return
    if mask is not None and value.shape != dst.shape:
        value = t.broadcast_view(value, dst.shape)
    _copy_masked(dst, value, mask, mode)


def load_transpose2d(src, *, mask=None, dtype=None, **unused):
    refuse_mask(mask, "nl.load_transpose2d", src)
    return Tensor(nl.load_transpose2d(src.raw(), dtype))


def gather_flattened(data, indices, *, mask=None, dtype=None, **unused):
    out = like(indices.shape, data.dtype, indices.par or 0)
    isa.nc_n_gather(out.raw(), data.raw(), indices.raw())
    return _cast(out, dtype).keep(kept_by(mask, out))


def _cast(x, dtype):
    return x if dtype is None or dtypes.code_of(dtype) == x.base._dtype else t.binary_free_copy(x, dtype)


def copy(src, *, mask=None, dtype=None, **unused):
    out = like(src.shape, dtype or src.dtype, src.par or 0)
    _copy_masked(out, src, mask)
    return out if mask is not None else out.keep(src.kept_now())


def broadcast_to(src, *, shape, **unused):
    return t.broadcast_view(src, shape)


def expand_dims(data, axis):
    return data.expand_dims(axis)


# -- operations

def type_of_number(x):
    """Source: "Weakly Typed Scalar Type Inference", nki.api.shared of the first generation: the widest type of its kind, unless
    it is one of NumPy's."""
    if isinstance(x, (np.generic, np.ndarray)):
        kind = x.dtype if x.dtype.itemsize <= 4 else np.dtype(np.float32 if x.dtype.kind == "f" else np.int32)
        return dtypes.by_code[dtypes.code_of(kind)]
    return uint8 if isinstance(x, bool) else float32 if isinstance(x, float) else int32


def result_type(x, y):
    """Of two tiles, or of a tile and a number. Source: "NKI Type Promotion", nki.api.shared of the first generation."""
    kinds = [v.dtype if isinstance(v, Tensor) else type_of_number(v) for v in (x, y)]
    floats = [kind for kind in kinds if dtypes.IS_FLOAT[dtypes.code_of(kind)]]
    if len(set(kinds)) == 1:
        return kinds[0]
    if len(set(floats)) == 1:
        return floats[0]
    if not floats:
        wide = np.promote_types(*(dtypes.numpy_of(dtypes.code_of(kind)) for kind in kinds))
        return float32 if wide.itemsize > 4 else dtypes.by_code[dtypes.code_of(wide)]
    if float16 in floats and bfloat16 in floats:
        return float32
    return next((kind for kind in (float32, tfloat32, bfloat16, float16) if kind in floats), bfloat16)


def quotient_type(x, y):
    """Of a quotient or remainder: uint32 beside a number that it holds stays, where the page's rule for int32 gives float32, which
    holds fewer numbers."""
    number = next((v for v in (x, y) if not isinstance(v, Tensor)), None)
    if number is not None and type_of_number(number) == int32 and number >= 0 and (y if number is x else x).dtype == uint32:
        return uint32
    return result_type(x, y)


def kept_by(mask, out):
    """The boxes of a result that a mask leaves; None: all."""
    mask = mask_of(mask)
    return None if mask is None else mask.boxes(out.shape, out.par or 0)


def box_of(mask, x):
    """The elements of x that the mask leaves."""
    mask = mask_of(mask)
    return [(0, n) for n in x.shape] if mask is None else mask.box(x.shape, x.par or 0)


def column_part(x, mask, data):
    """Of a per-partition operand the partitions of data that the mask leaves, as instructions take it."""
    if not isinstance(x, Tensor):
        return x
    lo, hi = box_of(mask, data)[data.par or 0]
    return x.raw()[lo:hi]


def apply(f, inputs, out, mask, is_elementwise=False):
    """f(result, inputs...) on what the mask leaves of them. Without one the result has what the inputs have.
    is_elementwise: an instruction may become several."""
    mask = mask_of(mask)
    boxes = [(t.broadcast_view(x, out.shape) if isinstance(x, Tensor) and x.shape != out.shape else x) for x in inputs] \
        if mask is not None else inputs
    part = out.boxed(mask)
    if part is not None:
        parts = [x.boxed(mask).raw() if isinstance(x, Tensor) else x for x in boxes]
        if is_elementwise:
            t.in_patterns(f, part.raw(), *parts)
        else:
            f(part.raw(), *parts)
    if mask is not None:
        return out.keep([mask.box(out.shape, out.par or 0)])
    return out.keep(_kept_of(inputs, out))


def _kept_of(inputs, out):
    """The boxes that elementwise inputs have together; None: all elements."""
    whole = tuple((0, n) for n in out.shape)
    found = [whole]
    for x in inputs:
        boxes = x.kept_now() if isinstance(x, Tensor) and x.ndim == out.ndim else None
        if boxes is not None:
            spread = [[ends if n == m else (0, m) for ends, n, m in zip(box, x.shape, out.shape)] for box in boxes]
            both = [tuple((_largest(p[0], q[0]), _least(p[1], q[1])) for p, q in zip(one, two)) for one in found for two in spread]
            found = [box for box in both if builtins.all(lo < hi for lo, hi in box)]
    return None if found == [whole] else found


def is_column(x, other):
    """[P, 1] beside [P, F]: an operand of a tensor_scalar."""
    return isinstance(x, Tensor) and x.ndim == other.ndim == 2 and x.par == other.par == 0 and x.shape[1] == 1 and \
        other.shape[1] > 1 and x.shape[0] == other.shape[0]


def operands(name, *given):
    """Tiles and numbers, one at least a tile; arrays become constants."""
    found = [Tensor(nl.shared_constant(v)) if isinstance(v, np.ndarray) and v.ndim else v for v in given]
    for v in found:
        if not isinstance(v, Tensor) and not operators.is_number(v):
            raise operators.refusal(f"nl.{name}: an operand is {operators.text_of(v)}, and no tile or number")
    if not any(isinstance(v, Tensor) for v in found):
        raise operators.refusal(f"nl.{name}: {', '.join(map(operators.text_of, found))}: one is a tile")
    return found


_ANSWERS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "logical_and", "logical_or", "logical_xor")
_OF_BITS = ("bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift")


def _kind(name, x, y):
    """The type of an operation's result: a boolean for answers, as their page has it; a number has the bits of the tile's type."""
    if name in _ANSWERS:
        return bool_
    if name in _OF_BITS and not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        return x.dtype if isinstance(x, Tensor) else y.dtype
    return result_type(x, y)


def _binary(name):
    op = getattr(nl, name)

    def call(x, y, *, mask=None, dtype=None, **unused):
        x, y = operands(name, x, y)
        kind = dtype or _kind(name, x, y)
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            data, number, reverse = (x, y, False) if isinstance(x, Tensor) else (y, x, True)
            return apply(lambda d, v: isa.tensor_scalar(d, v, op, number, reverse0=reverse), (data,),
                         like(data.shape, kind, data.par or 0), mask, True)
        return binary_tiles(op, x, y, kind, mask)

    call.__name__ = name
    isa.ALU_OF[call] = isa.ALU_OF[op]
    return call


def on_chip(x):
    return x if x.base._is_on_chip else load(x)


def binary_tiles(op, x, y, kind, mask, engine=isa.engine.unknown, out=None):
    """out: where the result goes, if not to a tile of its own."""
    x, y = on_chip(x), on_chip(y)
    n = builtins.max(x.ndim, y.ndim)
    x, y = (t.broadcast_view(v, (1,) * (n - v.ndim) + v.shape) if v.ndim < n else v for v in (x, y))
    shape = tuple(builtins.max(a, b) for a, b in zip(x.shape, y.shape))
    out = like(shape, kind, x.par or 0) if out is None else out
    is_bits = isa.ALU_OF[op] >= isa._FIRST_BITWISE
    for data, column, reverse in ((x, y, False), (y, x, True)):
        if mask is None and is_column(column, data) and column.dtype == float32 and not is_bits:
            isa.tensor_scalar(out.raw(), data.raw(), op, column.raw(), reverse0=reverse)
            return out.keep(_kept_of((data, column), out))
    if x.base._is_psum and y.base._is_psum:
        y = t.binary_free_copy(y, y.dtype)
    x, y = t.broadcast_view(x, shape), t.broadcast_view(y, shape)
    return apply(lambda d, a, b: isa.tensor_tensor(d, a, b, op, engine), (x, y), out, mask, True)


for _name in ("add", "subtract", "multiply", "maximum", "minimum", "power", "equal", "not_equal", "less", "less_equal",
              "greater", "greater_equal", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or",
              "bitwise_xor", "left_shift", "right_shift", "abs_max", "abs_min"):
    globals()[_name] = _binary(_name)


def update(name, x, y):
    """x becomes name(x, y)."""
    op, is_tile = getattr(nl, name), isinstance(y, Tensor)
    is_direct = x.base._is_on_chip and op in isa.ALU_OF and x.kept_now() is None
    is_direct &= not is_tile or (y.kept_now() is None and y.base._storage_id != x.base._storage_id and y.ndim <= x.ndim)
    if not is_direct or isinstance(y, np.ndarray) or isinstance(x, Product):
        t.assign(x, globals()[name](x, y, dtype=x.dtype))
    elif is_tile:
        binary_tiles(op, x, y, x.dtype, None, out=x)
    else:
        isa.tensor_scalar(x.raw(), x.raw(), op, y)


def divide(x, y, *, mask=None, dtype=None, **unused):
    x, y = operands("divide", x, y)
    kind = quotient_type(x, y)
    if not dtypes.IS_FLOAT[dtypes.code_of(kind)]:
        return _quotient(x, y, mask=mask, dtype=dtype)
    if not isinstance(y, Tensor):
        return multiply(x, 1.0 / y, mask=mask, dtype=dtype or kind)  # noqa: F821
    return multiply(x, reciprocal(y, mask=mask, dtype=float32), mask=mask, dtype=dtype or kind)  # noqa: F821


def reciprocal(x, *, mask=None, dtype=None, **unused):
    return apply(isa.reciprocal, (on_chip(x),), like(x.shape, dtype or x.dtype, x.par or 0), mask, True)


isa.ACT_OF[reciprocal] = isa.ACT_OF[nl.reciprocal]


def _unary(name):
    op = getattr(nl, name)

    def call(x, *, mask=None, dtype=None, **unused):
        x = on_chip(x)
        return apply(lambda d, v: isa.activation(d, op, v), (x,), like(x.shape, dtype or x.dtype, x.par or 0), mask, True)

    call.__name__ = name
    isa.ACT_OF[call] = isa.ACT_OF[op]
    if op in isa.UNARY_OF:
        isa.UNARY_OF[call] = isa.UNARY_OF[op]
    return call


for _name in ("exp", "log", "sqrt", "rsqrt", "tanh", "sigmoid", "relu", "gelu", "gelu_dx", "gelu_apprx_tanh", "silu",
              "gelu_apprx_sigmoid", "gelu_apprx_sigmoid_dx", "silu_dx", "softplus", "mish", "erf", "erf_dx", "square", "abs", "sign",
              "arctan"):
    globals()[_name] = _unary(_name)
isa.ACT_OF[copy] = isa.ACT_OF[nl.copy]


def _wave(name, into):
    """Of any angle: the activation function of the Scalar engine takes -pi to pi."""
    def call(x, *, mask=None, dtype=None, **unused):
        x = on_chip(x)
        return apply(into, (x,), like(x.shape, dtype or x.dtype, x.par or 0), mask)

    call.__name__ = name
    return call


sin, cos, tan = _wave("sin", angles.sin_into), _wave("cos", angles.cos_into), _wave("tan", angles.tan_into)
isa.ACT_OF[sin] = isa.ACT_OF[nl.sin]


def _composed(name):
    """Of many instructions, whose result is copied to where the mask leaves it."""
    function = getattr(nl, name)

    def call(*given, mask=None, dtype=None, **named):
        given = [*given, *(named[k] for k in ("x", "y") if k in named)]
        tiles = [on_chip(x) if isinstance(x, Tensor) else x for x in operands(name, *given)]
        first = next(x for x in tiles if isinstance(x, Tensor))
        kind = dtype or (quotient_type(*tiles) if len(tiles) == 2 else first.dtype)
        shape = np.broadcast_shapes(*(x.shape for x in tiles if isinstance(x, Tensor)))
        tiles = [t.broadcast_view(x, shape) if isinstance(x, Tensor) and x.shape != shape else x for x in tiles]
        numbers = {i: x for i, x in enumerate(tiles) if not isinstance(x, Tensor)}

        def compute(to, *parts):
            rest = iter(parts)
            isa.tensor_copy(to, function(*(numbers[i] if i in numbers else next(rest) for i in range(len(tiles))), dtype=kind))

        return apply(compute, [x for x in tiles if isinstance(x, Tensor)], like(shape, kind, first.par or 0), mask)

    call.__name__ = name
    return call


_quotient = _composed("divide")  # of integers
floor, ceil, trunc, mod, fmod = map(_composed, ("floor", "ceil", "trunc", "mod", "fmod"))


def negative(x, *, mask=None, dtype=None, **unused):
    return multiply(x, -1.0, mask=mask, dtype=dtype or x.dtype)  # noqa: F821


def invert(x, *, mask=None, dtype=None, **unused):
    if x.dtype == bool_:  # the opposite answer, as NumPy has it
        return logical_not(x, mask=mask, dtype=dtype)
    found = apply(lambda d, v: isa.tensor_scalar(d, v, nl.invert, 0), (x,), like(x.shape, x.dtype, x.par or 0), mask)
    return _cast(found, dtype).keep(found.kept)


def logical_not(x, *, mask=None, dtype=None, **unused):
    """1 where an element is 0."""
    return equal(x, 0.0, mask=mask, dtype=dtype)  # noqa: F821


def reduce(op, x, axis, kind, mask, negate=False, keepdims=False):
    x = on_chip(x)
    axes = t.tensor.axes_of(f"a reduction by nl.{getattr(op, '__name__', op)}", x, axis)
    if x.par in axes:
        raise ValueError(f"a reduction over dimension {x.par}, which counts partitions: transpose first")
    kept = [d for d in range(x.ndim) if d not in axes]
    out = like([x.shape[d] if d in kept else 1 for d in range(x.ndim)], kind, x.par or 0)
    box = box_of(mask, x)
    to_box = [ends if d in kept else (0, 1) for d, ends in enumerate(box)]
    if builtins.all(lo < hi for lo, hi in box):
        source = x.box_part(box)
        source.check_inside()
        order = kept + axes
        v, w = source.base, out.box_part(to_box).base
        v = v._view([v.shape[d] for d in order], [v.strides[d] for d in order], v.offset, v._dtype)
        to = w._view([w.shape[d] for d in kept] + [1] * (len(kept) < 2), [w.strides[d] for d in kept] + [1] * (len(kept) < 2),
                     w.offset, w._dtype)
        isa.tensor_reduce(to, op, v, tuple(range(len(kept), x.ndim)), negate=negate)
    else:
        to_box = [(0, 0)] * x.ndim
    if not keepdims and len(kept) > 1:
        v = out.base
        out = Tensor(v._view([v.shape[d] for d in kept], [v.strides[d] for d in kept], v.offset, v._dtype), kept.index(x.par or 0))
        to_box = [to_box[d] for d in kept]
    elif not keepdims and x.ndim > 2:  # partitions alone are left, of one element each
        v = out.base
        out = Tensor(v._view([v.shape[kept[0]], 1], [v.strides[kept[0]], 1], v.offset, v._dtype), 0)
        to_box = [to_box[kept[0]], (0, 1)]
    return out.keep(None if mask is None else [tuple(to_box)])


def sum_type(x):
    """Of the sum and the product of x: its own, but for answers, whose number no boolean holds."""
    return int32 if x.dtype == bool_ else x.dtype


def _reduction(name, op):
    def call(x, axis, *, mask=None, dtype=None, keepdims=False, **unused):
        return reduce(op, x, axis, dtype or (sum_type(x) if name in ("sum", "prod") else x.dtype), mask, keepdims=keepdims)

    call.__name__ = name
    isa.ALU_OF[call] = isa.ALU_OF[op]
    return call


sum, prod = _reduction("sum", nl.add), _reduction("prod", nl.multiply)  # noqa: A001
max, min = _reduction("max", nl.maximum), _reduction("min", nl.minimum)  # noqa: A001


def mean(x, axis, *, mask=None, dtype=None, keepdims=False, **unused):
    """Of what the mask leaves. Source: its page: float32 is the type of integers' mean."""
    axes = t.tensor.axes_of("nl.mean", x, axis)
    total = reduce(nl.add, x, axis, float32, mask, keepdims=keepdims)
    out = like(total.shape, dtype or (x.dtype if dtypes.IS_FLOAT[dtypes.code_of(x.dtype)] else float32), total.par or 0)
    ends = box_of(mask, x)
    n = math.prod(ends[a][1] - ends[a][0] for a in axes)
    for box in [tuple((0, n) for n in total.shape)] if total.kept is None else total.kept:
        if builtins.all(lo < hi for lo, hi in box):
            isa.tensor_scalar(out.box_part(box).raw(), total.box_part(box).raw(), nl.multiply, 1.0 / n)
    return out.keep(total.kept)


def var(x, axis, *, mask=None, dtype=None, keepdims=False, **unused):
    """The mean square of the differences from the mean."""
    rest = subtract(x, mean(x, axis, dtype=float32, mask=mask, keepdims=True), dtype=float32, mask=mask)  # noqa: F821
    return mean(square(rest, mask=mask), axis, dtype=dtype or x.dtype, mask=mask, keepdims=keepdims)  # noqa: F821


def all(x, axis, *, mask=None, dtype=None, keepdims=False, **unused):  # noqa: A001 (its name)
    """1 where no element along the axes is 0."""
    return reduce(nl.minimum, not_equal(x, 0.0, mask=mask, dtype=float32), axis, dtype or bool_, mask,  # noqa: F821
                  keepdims=keepdims)


def _of_part(f, x, kind, mask):
    """f of the part of x that the mask leaves, which has that part's shape."""
    if mask_of(mask) is None:
        return f(x)
    out, part = like(x.shape, kind, x.par or 0), x.boxed(mask_of(mask))
    if part is not None:
        t.assign(out.boxed(mask_of(mask)), f(part))
    return out.keep(kept_by(mask, out))


def rms_norm(x, w, axis, n, epsilon=1e-06, *, dtype=None, compute_dtype=None, mask=None, **unused):
    """x / sqrt(sum(x^2) / n + epsilon) * w. Source: its page: compute_dtype is that of the result, too."""
    kind = compute_dtype or dtype or x.dtype

    def of(part):
        scale = reduce(nl.add, square(part, dtype=float32), axis, float32, None, keepdims=True)  # noqa: F821
        isa.tensor_scalar(scale.raw(), scale.raw(), nl.multiply, 1.0 / n, op1=nl.add, operand1=float(epsilon))
        isa.activation(scale.raw(), nl.rsqrt, scale.raw())
        weights = w if mask_of(mask) is None or not isinstance(w, Tensor) else t.broadcast_view(w, x.shape).boxed(mask_of(mask))
        return multiply(multiply(part, scale, dtype=kind), weights, dtype=kind)  # noqa: F821

    return _of_part(of, x, kind, mask)


def where(condition, x, y, *, mask=None, dtype=None, **unused):
    parts = [v.raw() if isinstance(v, Tensor) else v for v in (condition, x, y)]
    out = Tensor(nl.where(*parts, dtype or result_type(x, y)))
    return out.keep(kept_by(mask, out))


def softmax(x, axis, *, dtype=None, compute_dtype=None, mask=None, **unused):
    """Source: its page: over the last dimensions; compute_dtype is that of the result, too."""
    axes, par, kind = t.tensor.axes_of("nl.softmax", x, axis), x.par or 0, dtype or compute_dtype or x.dtype
    if par in axes:
        raise ValueError(f"nl.softmax: axis={axis} of a tile of shape {tuple(x.shape)}, whose dimension {par} counts partitions; "
                         "transpose it first (nl.transpose)")

    def of(part):
        if builtins.all(d in axes for d, n in enumerate(part.shape) if d != par and n != 1):
            return Tensor(nl.softmax(part.raw(), [0 if a == par else a + (a < par) for a in axes], kind))
        shifted = subtract(part, max(part, axis, dtype=float32, keepdims=True), dtype=float32)  # noqa: F821
        powers = exp(shifted)  # noqa: F821
        return multiply(powers, reciprocal(sum(powers, axis, keepdims=True)), dtype=kind)  # noqa: F821

    return _of_part(of, x, kind, mask)


def transpose(x, *, mask=None, dtype=None, **unused):
    from vtrn.nki.beta1 import isa as old_isa

    refuse_mask(mask, "nl.transpose", x)
    if not dtypes.IS_FLOAT[dtypes.code_of(x.dtype)] and builtins.max(x.shape) <= old_isa.VECTOR_TRANSPOSES:
        return _cast(old_isa.nc_transpose(x), dtype)
    rows, columns = x.raw().shape
    turned = nl.ndarray((columns, rows), x.dtype, psum)
    isa.nc_transpose(turned, x.raw())
    out = nl.ndarray((columns, rows), dtype or x.dtype, sbuf)
    (isa.implied_copy if out.dtype == turned.dtype else isa.tensor_copy)(out, turned)
    return Tensor(out)


def matmul(x, y, *, transpose_x=False, mask=None, **unused):
    from vtrn.nki.beta1 import isa as old_isa

    if old_isa.leaves_nothing("nl.matmul", mask, (x, y)):
        return Product(x, y).keep([])
    for name, tile in (("x", x), ("y", y)):
        if tile.base._is_psum:
            t.check_read_by_tensor("nl.matmul", name, tile)
    if transpose_x:
        stationary = x
    elif isinstance(x, later.Masked):
        stationary = later.Masked(transpose(x.plain()), x.box[::-1], x.terms)
    else:
        stationary = transpose(x)
    return Product(on_chip(stationary), on_chip(y))


def loop_reduce(x, op, loop_indices, mask=None, dtype=None, **unused):
    """op over the turns of the loops whose variables loop_indices names; to be stored in a part of a tensor or in a variable,
    which holds the result so far in each turn."""
    loop_indices = tuple(loop_indices) if isinstance(loop_indices, (list, tuple)) else (loop_indices,)
    if not loop_indices or not builtins.all(isinstance(i, loops.LoopIndex) for i in loop_indices):
        raise TypeError("nl.loop_reduce: loop_indices are variables of loops over nl.affine_range and its like")
    found = later.LoopSum(on_chip(x), op, builtins.all(i.is_first for i in loop_indices), mask_of(mask))
    return later.stored_by_name(found, sys._getframe(1), dtype)


def atomic_rmw(dst, value, op, *, mask=None, **unused):
    """dst becomes op(dst, value): rows of a tensor in HBM that a tile names, and a sum. A row that is named twice gets both."""
    if isa.ALU_OF.get(op) != isa.ALU_OF[nl.add]:
        raise ValueError(f"nl.atomic_rmw: op is {operators.text_of(op)}; it is np.add")
    if not isinstance(dst, Tensor) or dst.indirect is None:
        raise ValueError("nl.atomic_rmw: dst is a part of a tensor in HBM whose row numbers a tile has, as x[index, j]")
    if not isinstance(value, Tensor):
        value = full(dst.shape, value, dst.dtype)
    mask = mask_of(mask)
    to, by = dst.boxed(mask), value.boxed(mask)
    if to is not None:
        isa.dma_copy(to.raw(), on_chip(by).raw(), dst_rmw_op=nl.add)


def all_reduce(x, op, program_axes, *, dtype=None, mask=None, parallel_reduce=True, asynchronous=False, **unused):
    """op over the tiles of a launch's programs, which all get the result. The two of kernel[2] exchange theirs, and wait for each
    other so; the one of a launch without a grid has its own. Kernels name the axis by its number or by the program's."""
    grid, mask = tensor.launch.grid, mask_of(mask)
    if math.prod(grid) == 1:
        return copy(x, mask=mask, dtype=dtype)
    axes = program_axes if isinstance(program_axes, (list, tuple)) else [program_axes]
    if grid != (2,) or len(axes) != 1:
        raise NotImplementedError(tensor._placed(
            f"nl.all_reduce: over {program_axes} of a launch grid {grid}; the two programs of kernel[2] have it, over their only axis: "
            "launch two, or store each program's tile in shared_hbm and add them in a kernel behind this one"))
    if not x.base._is_on_chip or x.base._is_psum:
        x = copy(x)
    other, theirs = 1 - tensor.launch.program[0], like(x.shape, x.dtype, x.par or 0)
    mine, to = x.boxed(mask), theirs.boxed(mask)
    if to is not None:
        isa.sendrecv(src=mine.raw(), dst=to.raw(), send_to_rank=other, recv_from_rank=other, pipe_id=0)
    return binary_tiles(op, x, theirs, dtype or x.dtype, mask)


def rand(shape, dtype=float32, **unused):
    """Uniform in [0, 1); outside of a kernel an array."""
    if tensor.core.current() is None:
        return np.random.default_rng().random(shape, np.float32).astype(dtypes.numpy_of(dtypes.code_of(dtype)))
    bits = like(shape, uint32)
    isa.rng(bits.raw())
    out = like(shape, dtype)
    isa.tensor_scalar(bits.raw(), bits.raw(), nl.right_shift, 8)
    isa.tensor_scalar(out.raw(), bits.raw(), nl.multiply, 2.0**-24)
    return out


def random_seed(seed, *, mask=None, **unused):
    """seed: a number, or a tile of one element."""
    mask = mask_of(mask)
    if mask is not None and not mask.is_nowhere():
        raise ValueError("nl.random_seed: a mask of elements, and a seed is one number; take a mask of loops' variables, or none")
    if mask is not None:
        return
    nl.random_seed(seed.raw() if isinstance(seed, Tensor) else seed)


def dropout(x, rate, *, dtype=None, mask=None, **unused):
    """x with each element 0 with probability rate, a number or a tile of one element; what stays is not scaled."""
    if isinstance(rate, Tensor) and rate.size == 1:
        rate = t.broadcast_view(rate, (x.shape[x.par or 0], 1))
    return apply(lambda d, v: isa.dropout(d, v, column_part(rate, mask, x)), (x,), like(x.shape, dtype or x.dtype, x.par or 0), mask)


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise NkiNameError(f"neuronxcc.nki.language.{name} is not there; docs/nki.md lists what is")
