"""nki.language: tensors, types, loops and the operations on tiles, made of instructions."""

import builtins
import contextlib
import dataclasses
import importlib
import math

import numpy as np

from vtrn.nki import dtypes, isa, operators, tensor
from vtrn.nki._load import ACT, ALU, HBM, core
from vtrn.nki.dtypes import (  # noqa: F401 (names of the module)
    bfloat16, bool_, float4_e2m1fn_x4, float8_e4m3, float8_e4m3fn_x4, float8_e5m2_x4, float8_e4m3fn, float8_e5m2, float8_e8m0fnu, float16,
    float32, int8, int16, int32, int64,
    tfloat32, uint8, uint16, uint32)
from vtrn.nki.tensor import (  # noqa: F401
    MemoryRegion, hbm, ndarray, private_hbm, psum, sbuf, shared_hbm)

NkiTensor, DType = ndarray, dtypes.DType


class _NKIObjectType(type):
    """A field that a dataclass demands may be left out, as NKI's compiler has it: the object has no such attribute."""

    def __call__(cls, *args, **kwargs):
        missing = ()
        if dataclasses.is_dataclass(cls) and cls.__init__.__code__.co_filename == "<string>":  # made by dataclass
            fields = [f for f in dataclasses.fields(cls) if f.init]
            missing = [f.name for f in fields[len(args):] if f.name not in kwargs and
                       f.default is f.default_factory is dataclasses.MISSING]
        made = super().__call__(*args, **kwargs, **dict.fromkeys(missing))
        for name in missing:
            made.__dict__.pop(name, None)
        return made


class NKIObject(metaclass=_NKIObjectType):
    """Base of a kernel's own classes."""

    def __init_subclass__(cls, **kwargs):
        """NKI's compiler takes every attribute of a class for a field, which dataclasses do where it has a type."""
        super().__init_subclass__(**kwargs)
        typed = cls.__dict__.get("__annotations__", {})
        for name, value in list(vars(cls).items()):
            is_plain = not callable(value) and not hasattr(value, "__get__") and not isinstance(value, (list, dict, set))
            if is_plain and not name.startswith("__") and name not in typed:
                typed[name] = object
        cls.__annotations__ = typed

    def __init__(self, **kwargs):
        for name, value in kwargs.items():
            setattr(self, name, value)


class _TileSize:
    """Limits of the chip that the kernel runs on."""

    pmax, gemm_stationary_fmax, gemm_moving_fmax, bn_stats_fmax = 128, 128, 512, 512
    psum_min_align = sbuf_min_align = 4

    def _chip(self):
        from vtrn.nki import kernel

        found = core.current()
        return (found or kernel.idle_session()).chip()

    psum_bank_fmax_bytes = property(lambda self: self._chip()["psum_bank_bytes"])
    psum_bank_fmax = psum_fmax = property(lambda self: self._chip()["psum_bank_bytes"] // 4)
    psum_num_banks = property(lambda self: self._chip()["psum_bytes"] // self._chip()["psum_bank_bytes"])
    sbuf_fmax_bytes = total_available_sbuf_size = property(lambda self: self._chip()["sbuf_bytes"])
    sbuf_fmax = property(lambda self: self._chip()["sbuf_bytes"] // 4)
    sbuf_size_bytes = property(lambda self: self._chip()["sbuf_bytes"] * self.pmax)


tile_size = _TileSize()


def is_hbm(buffer):
    return tensor.region_of(buffer) in (private_hbm, shared_hbm)


def is_sbuf(buffer):
    return tensor.region_of(buffer) is sbuf


def is_psum(buffer):
    return tensor.region_of(buffer) is psum


def is_on_chip(buffer):
    return not is_hbm(buffer)


# -- operations: functions of tiles, and names for instructions

def _result(x, dtype):
    return ndarray(x.shape, x.dtype if dtype is None else dtype, buffer=sbuf)


def _binary(name, alu):
    def call(x, y, dtype=None):
        if isinstance(x, core.Tensor) and isinstance(y, core.Tensor):
            return _of_tiles(call, x, y, dtype)
        for z in (x, y):
            if not isinstance(z, core.Tensor) and not operators.is_number(z):
                raise operators.refusal(f"nl.{name}: an operand is {operators.text_of(z)}, and no tile or number")
        if isinstance(x, core.Tensor):
            out = _result(x, dtype)
            isa.tensor_scalar(out, x, call, y)
        elif isinstance(y, core.Tensor):
            out = _result(y, dtype)
            isa.tensor_scalar(out, y, call, x, reverse0=True)
        else:
            raise operators.refusal(f"nl.{name}: {operators.text_of(x)} and {operators.text_of(y)}: one is a tile")
        return out

    call.__name__ = call.__qualname__ = name
    isa.ALU_OF[call] = ALU[alu]
    return call


def _of_tiles(function, x, y, dtype):
    """Of two tiles. A column, of one element a partition, is repeated. Tiles of other dimensions and as many elements are
    taken in their order."""
    is_alike = x.shape == y.shape or (x.ndim != y.ndim and x.size == y.size and x.shape[0] == y.shape[0])
    shape = x.shape if is_alike else tensor.common_shape(f"nl.{function.__name__}", x, y)
    out = ndarray(shape, x.dtype if dtype is None else dtype)
    for data, column, is_swapped in ((x, y, False), (y, x, True)):
        if not is_alike and column.shape != shape == data.shape and math.prod(column.shape[1:]) == 1 and column.dtype == float32 and \
                isa.ALU_OF[function] < isa._FIRST_BITWISE:
            isa.tensor_scalar(out, data, function, column.reshape(column.shape[0], 1), reverse0=is_swapped)
            return out
    if x._is_psum and y._is_psum:
        y = copy(y)
    if not is_alike:
        x, y = tensor.spread(x, shape), tensor.spread(y, shape)
    isa.tensor_tensor(out, x, y, function)
    return out


add, subtract = _binary("add", "add"), _binary("subtract", "subtract")
multiply = _binary("multiply", "multiply")
maximum, minimum = _binary("maximum", "max"), _binary("minimum", "min")
abs_max, abs_min, power = _binary("abs_max", "abs_max"), _binary("abs_min", "abs_min"), _binary("power", "power")
equal, not_equal = _binary("equal", "is_equal"), _binary("not_equal", "not_equal")
less, less_equal = _binary("less", "is_lt"), _binary("less_equal", "is_le")
greater, greater_equal = _binary("greater", "is_gt"), _binary("greater_equal", "is_ge")
logical_and, logical_or = _binary("logical_and", "logical_and"), _binary("logical_or", "logical_or")
logical_xor = _binary("logical_xor", "logical_xor")
bitwise_and, bitwise_or = _binary("bitwise_and", "bitwise_and"), _binary("bitwise_or", "bitwise_or")
bitwise_xor = _binary("bitwise_xor", "bitwise_xor")
left_shift, right_shift = _binary("left_shift", "shift_left"), _binary("right_shift", "shift_right_logical")
bypass = _binary("bypass", "none")


def divide(x, y, dtype=None):
    """x times the reciprocal of y; of integers the quotient without its fraction, or that exactly rounded to a type of dtype."""
    if all(not dtypes.IS_FLOAT[z._dtype] for z in (x, y) if isinstance(z, core.Tensor)):
        from vtrn.nki import language_more

        return language_more.quotient(x, y, dtype)
    if not isinstance(y, core.Tensor):
        return multiply(x, 1.0 / y, dtype)
    inverse = _result(y, float32)
    isa.reciprocal(inverse, y)
    return multiply(x, inverse, dtype)


def invert(x, dtype=None):
    if x.dtype == bool_:  # the opposite answer, as NumPy has it
        return logical_not(x, dtype)
    out = _result(x, dtype)
    isa.tensor_scalar(out, x, invert, 0)
    return out


isa.ALU_OF[invert] = ALU["bitwise_not"]


def logical_not(x, dtype=None):
    return equal(x, 0.0, dtype)


def _unary(name, act):
    def call(x, dtype=None):
        out = _result(x, dtype)
        isa.activation(out, call, x)
        return out

    call.__name__ = call.__qualname__ = name
    isa.ACT_OF[call] = ACT[act]
    return call


exp, log, sqrt, rsqrt = _unary("exp", "exp"), _unary("log", "log"), _unary("sqrt", "sqrt"), _unary("rsqrt", "rsqrt")
tanh, sigmoid, relu = _unary("tanh", "tanh"), _unary("sigmoid", "sigmoid"), _unary("relu", "relu")
gelu, gelu_dx = _unary("gelu", "gelu"), _unary("gelu_dx", "gelu_dx")
gelu_apprx_tanh = _unary("gelu_apprx_tanh", "gelu_apprx_tanh")
gelu_apprx_sigmoid = _unary("gelu_apprx_sigmoid", "gelu_apprx_sigmoid")
gelu_apprx_sigmoid_dx = _unary("gelu_apprx_sigmoid_dx", "gelu_apprx_sigmoid_dx")
silu, silu_dx = _unary("silu", "silu"), _unary("silu_dx", "silu_dx")
softplus, mish = _unary("softplus", "softplus"), _unary("mish", "mish")
erf, erf_dx = _unary("erf", "erf"), _unary("erf_dx", "erf_dx")
square, abs, sign = _unary("square", "square"), _unary("abs", "abs"), _unary("sign", "sign")  # noqa: A001
arctan = _unary("arctan", "arctan")


def prelu(*_, **__):
    """max(x, 0) + relu_param * min(x, 0): a name for nisa.activate2, which has relu_param."""
    raise TypeError("nl.prelu is the op of nisa.activate2(op=nl.prelu, relu_param=), and no function of tiles")


def average(*_, **__):
    raise NotImplementedError("nl.average: NKI's documentation has the name and nothing that takes it; use nl.mean")


isa.ACT_OF[prelu] = ACT["prelu"]
isa.UNARY_OF.update({abs: (ALU["abs_max"], 0.0), relu: (ALU["max"], 0.0)})


def reciprocal(x, dtype=None):
    out = _result(x, dtype)
    isa.reciprocal(out, x)
    return out


isa.ACT_OF[reciprocal] = ACT["reciprocal"]


def copy(x, dtype=None):
    out = _result(x, dtype)
    isa.tensor_copy(out, x)
    return out


isa.ACT_OF[copy] = ACT["copy"]


def sin(x, dtype=None):
    """The activation function takes -pi to pi: the angle is reduced first, exactly for every fp32."""
    from vtrn.nki import angles

    out = _result(x, dtype)
    angles.sin_into(out, x)
    return out


isa.ACT_OF[sin] = ACT["sin"]


def negative(x, dtype=None):
    return multiply(x, -1.0, dtype)


for _ufunc, _alu in ((np.add, "add"), (np.subtract, "subtract"), (np.multiply, "multiply"), (np.maximum, "max"),
                     (np.minimum, "min"), (np.equal, "is_equal"), (np.less, "is_lt"), (np.greater, "is_gt"),
                     (np.less_equal, "is_le"), (np.greater_equal, "is_ge"), (np.max, "max"), (np.min, "min"), (np.sum, "add"),
                     (np.prod, "multiply"), (np.not_equal, "not_equal"), (np.logical_and, "logical_and"),
                     (np.logical_or, "logical_or"), (np.logical_xor, "logical_xor"), (np.bitwise_and, "bitwise_and"),
                     (np.bitwise_or, "bitwise_or"), (np.bitwise_xor, "bitwise_xor"), (np.power, "power")):
    isa.ALU_OF[_ufunc] = ALU[_alu]
for _ufunc, _act in ((np.exp, "exp"), (np.sqrt, "sqrt"), (np.square, "square"), (np.tanh, "tanh"), (np.log, "log"),
                     (np.abs, "abs"), (np.copy, "copy"), (np.sign, "sign")):
    isa.ACT_OF[_ufunc] = ACT[_act]


def _reduction(name, alu):
    def call(x, axis, dtype=None, keepdims=False):
        n, axes = x.ndim, tensor.axes_of(f"nl.{name}", x, axis)
        if axes[0] == 0:
            raise ValueError(f"nl.{name}: axis={axis}; dimension 0 of a tile counts partitions: transpose it first, or "
                             "multiply by ones")
        kept = [d for d in range(n) if d not in axes]
        whole = [1 if d in axes else x.shape[d] for d in range(n)]
        x = x.permute(kept + axes)
        shape = [x.shape[i] for i in range(len(kept))]
        out = ndarray(shape + [1] * (len(shape) < 2), x.dtype if dtype is None else dtype)
        isa.tensor_reduce(out, call, x, tuple(range(len(kept), n)))
        return out.reshape(whole) if keepdims else out

    call.__name__ = call.__qualname__ = name
    isa.ALU_OF[call] = ALU[alu]
    return call


sum, max, min = _reduction("sum", "add"), _reduction("max", "max"), _reduction("min", "min")  # noqa: A001
prod = _reduction("prod", "multiply")


def mean(x, axis, dtype=None, keepdims=False):
    axes = tensor.axes_of("nl.mean", x, axis)
    total = sum(x, axis, float32, keepdims)
    return multiply(total, 1.0 / math.prod(x.shape[a] for a in axes), x.dtype if dtype is None else dtype)


def where(condition, x, y, dtype=None):
    like = x if isinstance(x, core.Tensor) else y if isinstance(y, core.Tensor) else None
    tiles = [z for z in (condition, x, y) if isinstance(z, core.Tensor)]
    shape = tensor.common_shape("nl.where", *tiles)
    condition, x, y = (tensor.spread(z, shape) if isinstance(z, core.Tensor) else z for z in (condition, x, y))
    out = ndarray(shape, dtype or (like.dtype if like is not None else float32))
    isa.tensor_copy(out, y) if isinstance(y, core.Tensor) else isa.memset(out, y)
    if isinstance(x, core.Tensor) and x.dtype != out.dtype:
        x = copy(x, out.dtype)
    if dtypes.IS_FLOAT[condition._dtype]:
        condition = not_equal(condition, 0.0, uint8)
    isa.tensor_copy_predicated(out, x, condition)
    return out


def softmax(x, axis=-1, dtype=None):
    axes = tensor.axes_of("nl.softmax", x, axis)
    if 0 in axes or any(n != 1 and d not in axes for d, n in enumerate(x.shape) if d):
        raise ValueError(f"nl.softmax: axis={axis} of a tile of shape {x.shape}; it takes all free dimensions at once: view the "
                         "tile so (reshape), or take a part at a time")
    largest = max(x, axis, float32, keepdims=True)
    shifted = ndarray(x.shape, float32)
    isa.tensor_scalar(shifted, x, subtract, largest)
    total = ndarray((x.shape[0], 1), float32)
    isa.activation_reduce(shifted, exp, shifted, add, total)
    isa.reciprocal(total, total)
    out = _result(x, dtype)
    isa.tensor_scalar(out, shifted, multiply, total)
    return out


# -- making tiles

def full(shape, fill_value, dtype, buffer=sbuf, name=""):
    out = ndarray(shape, dtype, buffer, name)
    if out._is_on_chip:
        isa.memset(out, fill_value)
    else:
        isa.dma_copy(out, shared_constant(np.full(shape, fill_value, dtypes.numpy_of(out._dtype))))
    return out


def zeros(shape, dtype, buffer=sbuf, name=""):
    return full(shape, 0, dtype, buffer, name)


def ones(shape, dtype, buffer=sbuf, name=""):
    return full(shape, 1, dtype, buffer, name)


def zeros_like(x, dtype=None, buffer=None, name=""):
    return zeros(x.shape, x.dtype if dtype is None else dtype, x.buffer if buffer is None else buffer, name)


def empty_like(x, dtype=None, buffer=None, name=""):
    return ndarray(x.shape, x.dtype if dtype is None else dtype, x.buffer if buffer is None else buffer, name)


def shared_constant(constant, dtype=None):
    array = np.load(constant) if isinstance(constant, str) else np.asarray(constant)
    array = np.ascontiguousarray(array if dtype is None else array.astype(dtypes.numpy_of(dtypes.code_of(dtype))))
    data = array.reshape(-1).view(np.uint8)
    return tensor.session().tensor(ndarray, array.shape, dtypes.code_of(array.dtype), HBM, tensor.CONSTANT, data,
                                   None, shared_hbm, "")


def shared_identity_matrix(n, dtype=uint8, dst=None):
    known = tensor.launch.identities
    code = dtypes.code_of(dtype)
    if dst is None and (n, code) in known:
        return known[n, code]
    out = ndarray((n, n), dtype) if dst is None else dst
    isa.dma_copy(out, shared_constant(np.eye(n).astype(dtypes.numpy_of(code))))
    if dst is None:
        known[n, code] = out
    return out


def load(src, dtype=None):
    shape = src.shape if src.ndim > 1 else (1, *src.shape)
    out = ndarray(shape, src.dtype if dtype is None else dtype)
    isa.dma_copy(out, src)
    return out


def store(dst, value):
    if value._is_psum:
        value = copy(value)
    isa.dma_copy(dst, value)


def load_transpose2d(src, dtype=None):
    rows, columns = src.shape
    dtype = src.dtype if dtype is None else dtype
    if tensor.session().chip()["gen"] < 3 and dtypes.IS_FLOAT[src._dtype]:
        return _load_turned_by_tensor(src, dtype)
    out = ndarray((columns, rows), src.dtype)
    isa.dma_transpose(out, src)
    return out if out.dtype == dtype else copy(out, dtype)


def _load_turned_by_tensor(src, dtype):
    """Before NeuronCore-v3 no DMA engine transposes. Tensor turns blocks of 128 rows, and as many as a bank of PSUM holds leave
    it by one copy. Element by element over DMA, the attention of bench/accuracy/nki_kernels.csv (ACOMP-026 to 032) would take
    0.5 ms longer than it was measured."""
    rows, columns = src.shape
    out = ndarray((columns, rows), dtype)
    width = dtypes.numpy_of(src._dtype).itemsize
    bank = tile_size.psum_fmax * 4 // width // tile_size.pmax * tile_size.pmax  # columns of whole blocks
    for first in range(0, rows, bank):
        n = builtins.min(bank, rows - first)
        turned = ndarray((columns, n), src.dtype, buffer=psum)
        for at in range(0, n, tile_size.pmax):
            block = load(src[first + at:first + builtins.min(at + tile_size.pmax, n), :])
            isa.nc_transpose(turned[:, at:at + block.shape[0]], block)
        isa.tensor_copy(out[:, first:first + n], turned)
    return out


def broadcast_to(x, shape, dtype=None):
    if x.ndim != len(shape) or any(n not in (1, m) for n, m in zip(x.shape, shape)):
        raise ValueError(f"nl.broadcast_to: {x.shape} to {tuple(shape)}: dimensions of 1 grow, others stay")
    if x._is_psum:
        x = copy(x)
    strides = [0 if n != m else s for n, m, s in zip(x.shape, shape, x.strides)]
    out = ndarray(shape, x.dtype if dtype is None else dtype)
    isa.dma_copy(out, x._view(shape, strides, x.offset, x._dtype))
    return out


def expand_dims(x, axis):
    return x.expand_dim(axis)


def transpose(x, dtype=None):
    rows, columns = x.shape
    turned = ndarray((columns, rows), x.dtype, psum)
    isa.nc_transpose(turned, x)
    return copy(turned, dtype)


def matmul(x, y, transpose_x=False):
    stationary = x if transpose_x else transpose(x)
    out = ndarray((stationary.shape[1], y.shape[1]), float32, psum)
    isa.nc_matmul(out, stationary, y)
    return out


# -- control

def ds(start, size):
    start = start.__index__()
    return slice(start, start + size)


def affine_range(start, stop=None, step=1):
    start, stop, step = (int(n) if n is not None else None for n in (start, stop, step))
    return builtins.range(start) if stop is None else builtins.range(start, stop, step)


sequential_range = static_range = dynamic_range = range = affine_range  # noqa: A001


def fori_loop(lower, upper, body_fun, step=1):
    from vtrn.nki import scalars

    scalars.fori_loop(lower, upper, body_fun, step)


def while_loop(init, body_fun):
    value = init
    while int(value) != 0:
        value = body_fun(value)


@contextlib.contextmanager
def no_reorder():
    yield


def program_id(axis=0):
    program = tensor.launch.program
    return program[axis] if program else 0


def num_programs(axes=0):
    grid = tensor.launch.grid
    if not grid:
        return 1
    return grid[axes] if isinstance(axes, int) else math.prod(grid[a] for a in axes)


def program_ndim():
    return len(tensor.launch.grid)


def device_print(print_prefix, tensor):
    print(print_prefix, tensor)


# Of modules that are made of this one.
_OF_MODULE = {
    "language_more": ("cos", "tan", "ceil", "floor", "trunc", "var", "all", "rms_norm", "dropout",
                      "random_seed", "rand", "gather_flattened"),
    "remainders": ("fmod", "mod"),
    "grids": ("NkiBlockGrid", "NkiGrid", "NkiTileGrid", "alloc_blocks", "alloc_tiles", "blocks", "tiles"),
}
_COMPOSED = {name: module for module, names in _OF_MODULE.items() for name in names}


def __getattr__(name):
    if name in _COMPOSED:
        return getattr(importlib.import_module("vtrn.nki." + _COMPOSED[name]), name)
    raise AttributeError(f"module 'nki.language' has no attribute {name!r}")
