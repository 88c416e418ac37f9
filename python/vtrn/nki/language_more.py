"""nki.language: functions of tiles that take many instructions. Source: the API pages of nki.language, NKI 0.6."""

import math
from builtins import all as all_of

from vtrn.nki import angles, dtypes, isa, language as nl, tensor
from vtrn.nki.tensor import ndarray

_float32, _int32, _uint8, _uint32 = nl.float32, nl.int32, nl.uint8, nl.uint32
_WHOLE = 2.0**23  # fp32 has no fractions from here on


def _wide(x):
    """x in fp32, in a tile of its own."""
    out = ndarray(x.shape, _float32)
    isa.tensor_copy(out, x)
    return out


def _narrow(x, like, dtype):
    dtype = like.dtype if dtype is None else dtype
    return x if x.dtype == dtype else nl.copy(x, dtype)


# -- whole numbers

def _floor(x):
    """The floor of an fp32 tile: the nearest number, or one less. Whole numbers, infinities and NaN stay."""
    nearest, out = ndarray(x.shape, _int32), ndarray(x.shape, _float32)
    above, has_fraction = ndarray(x.shape, _float32), ndarray(x.shape, _uint8)
    isa.tensor_copy(nearest, x)
    floor = _wide(nearest)
    isa.tensor_tensor(above, floor, x, nl.greater)
    isa.tensor_tensor(floor, floor, above, nl.subtract)
    isa.tensor_scalar(has_fraction, x, nl.abs_max, 0.0, op1=nl.less, operand1=_WHOLE)
    isa.tensor_copy(out, x)
    isa.tensor_copy_predicated(out, floor, has_fraction)
    return out


def quotient(x, y, dtype=None):
    """Of integer tiles, or of one and a number: x / y without an error where it is a whole number, as the reciprocal alone gives
    it one. As integers without their fractions: NumPy's arrays are cast so."""
    like = x if isinstance(x, ndarray) else y
    kind = like.dtype if dtype is None else dtype
    tiles = [z for z in (x, y) if isinstance(z, ndarray)]
    wide = {z.dtype for z in tiles if dtypes.IS_32_BIT_INTEGER[z._dtype]}
    is_whole = all_of(isinstance(z, ndarray) or float(z).is_integer() for z in (x, y))
    if len(wide) == 1 and is_whole and not dtypes.IS_FLOAT[dtypes.code_of(kind)]:  # more digits than fp32 has
        from vtrn.nki import remainders

        x, y = (nl.copy(z, *wide) if isinstance(z, ndarray) and z.dtype not in wide else z for z in (x, y))
        return _narrow(remainders.quotient_of_integers(x, y), like, kind)
    x, y = (_wide(z) if isinstance(z, ndarray) else z for z in (x, y))
    inverse = nl.reciprocal(y) if isinstance(y, ndarray) else math.inf if y == 0 else 1.0 / y
    near = nl.multiply(x, inverse)
    whole = _wide(nl.copy(near, _int32))
    rest = nl.subtract(x, nl.multiply(whole, y))
    found = nl.add(whole, nl.multiply(rest, inverse))
    return _narrow(found if dtypes.IS_FLOAT[dtypes.code_of(kind)] else trunc(found), like, kind)


def floor(x, dtype=None):
    """The largest whole number that is not above x."""
    if not dtypes.IS_FLOAT[x._dtype]:
        return nl.copy(x, dtype)
    return _narrow(_floor(_wide(x)), x, dtype)


def ceil(x, dtype=None):
    """The least whole number that is not below x."""
    if not dtypes.IS_FLOAT[x._dtype]:
        return nl.copy(x, dtype)
    out = _floor(nl.negative(x, _float32))
    isa.tensor_scalar(out, out, nl.multiply, -1.0)
    return _narrow(out, x, dtype)


def trunc(x, dtype=None):
    """x without its fraction."""
    if not dtypes.IS_FLOAT[x._dtype]:
        return nl.copy(x, dtype)
    sign, size = ndarray(x.shape, _float32), ndarray(x.shape, _float32)
    isa.activation(sign, nl.sign, x)
    isa.tensor_scalar(size, x, nl.abs_max, 0.0)
    out = _floor(size)
    isa.tensor_tensor(out, out, sign, nl.multiply)
    return _narrow(out, x, dtype)


# -- angles

def cos(x, dtype=None):
    out = ndarray(x.shape, x.dtype if dtype is None else dtype)
    angles.cos_into(out, x)
    return out


def tan(x, dtype=None):
    out = ndarray(x.shape, x.dtype if dtype is None else dtype)
    angles.tan_into(out, x)
    return out


# -- reductions

def _last_axes(what, x, axis):
    """The axes counted from 0, which are the last ones; and the number of their elements."""
    n, axes = x.ndim, tensor.axes_of(f"nl.{what}", x, axis)
    if axes != list(range(n - len(axes), n)) or axes[0] == 0:
        raise ValueError(f"nl.{what}: axis={axis} of {n} dimensions; it takes the last free dimensions")
    return tuple(axes), math.prod(x.shape[a] for a in axes)


def var(x, axis, dtype=None, keepdims=False):
    """The mean square of the differences from the mean. The result keeps the dimensions, as the API page says."""
    axes, n = _last_axes("var", x, axis)
    mean = nl.mean(x, axes, _float32, keepdims=True)
    rest = ndarray(x.shape, _float32)
    isa.tensor_tensor(rest, x, tensor.spread(mean, x.shape), nl.subtract)
    isa.tensor_tensor(rest, rest, rest, nl.multiply)
    return nl.multiply(nl.sum(rest, axes, keepdims=True), 1.0 / n, x.dtype if dtype is None else dtype)


def all(x, axis, dtype=None):  # noqa: A001 (its name)
    """1 where no element along the axes is 0."""
    axes, _ = _last_axes("all", x, axis)
    return nl.min(nl.not_equal(x, 0.0, _float32), axes, x.dtype if dtype is None else dtype)


def rms_norm(x, w, axis, n, epsilon=1e-06, dtype=None, compute_dtype=None):
    """x / sqrt(sum(x^2) / n + epsilon) * w."""
    axes, _ = _last_axes("rms_norm", x, axis)
    kind = _float32 if compute_dtype is None else compute_dtype
    squares = nl.multiply(x, x, kind)
    scale = nl.sum(squares, axes, _float32, keepdims=True)
    isa.tensor_scalar(scale, scale, nl.multiply, 1.0 / n, op1=nl.add, operand1=float(epsilon))
    isa.activation(scale, nl.rsqrt, scale)
    out = ndarray(x.shape, kind)
    isa.tensor_tensor(out, x, tensor.spread(scale, x.shape), nl.multiply)
    if w.shape[0] != x.shape[0]:
        w = nl.broadcast_to(w, (x.shape[0], *w.shape[1:]))
    result = ndarray(x.shape, x.dtype if dtype is None else dtype)
    isa.tensor_tensor(result, out, tensor.spread(w, x.shape), nl.multiply)
    return result


# -- chance

def random_seed(seed):
    """seed: a number of 32 bits, or a tile of one element."""
    if not isinstance(seed, ndarray):
        number, seed = seed.__index__(), ndarray((1, 1), _uint32)
        isa.memset(seed, number % 2**32)
    isa.set_rng_seed(seed)


def rand(shape, dtype, buffer=nl.sbuf, name=""):
    """Uniform in [0, 1): 24 random bits an element, rounded to dtype."""
    shape = tuple(shape)
    out = ndarray(shape, dtype, buffer, name)
    if not out._is_on_chip:
        rows = out.reshape((1, *shape)) if len(shape) == 1 else out
        for first in range(0, rows.shape[0], nl.tile_size.pmax):
            part = rows[first:min(first + nl.tile_size.pmax, rows.shape[0])]
            isa.dma_copy(part, rand(part.shape, dtype))
        return out
    bits, uniform = ndarray(shape, _uint32), ndarray(shape, _float32)
    isa.rng(bits)
    isa.tensor_scalar(bits, bits, nl.right_shift, 8)
    isa.tensor_copy(uniform, bits)
    isa.tensor_scalar(out, uniform, nl.multiply, 2.0**-24)
    return out


def dropout(x, rate, dtype=None):
    """x with each element 0 with probability rate; what stays is not scaled."""
    out = ndarray(x.shape, x.dtype)
    isa.dropout(out, x, rate)
    return _narrow(out, x, dtype)


# -- gathers

def gather_flattened(data, indices, axis=0, dtype=None):
    """out[p, i] is element indices[p, i] of data's partition p."""
    if axis != 0:
        raise ValueError(f"nl.gather_flattened: axis={axis}; elements are gathered in each partition, which is axis=0")
    out = ndarray(indices.shape, data.dtype)
    if indices.dtype != _uint32:
        indices = nl.copy(indices, _uint32)
    isa.nc_n_gather(out, data, indices)
    return _narrow(out, data, dtype)
