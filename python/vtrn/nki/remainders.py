"""nki.language: remainders, exact or said not to be."""

import math
import warnings

import numpy as np

from vtrn.nki import dtypes, isa, language as nl, operators, tensor
from vtrn.nki._load import core
from vtrn.nki.language_more import _narrow
from vtrn.nki.tensor import ndarray

_float32, _int32, _uint8, _uint32 = dtypes.float32, dtypes.int32, dtypes.uint8, dtypes.uint32
_EXACT = isa.engine.gpsimd  # for integers of 32 bits


def _operands(what, x, y):
    """Both as tiles of one shape: a number becomes one, a column is repeated. A narrow integer beside one of 32 bits becomes one, too."""
    if not isinstance(x, core.Tensor) and not isinstance(y, core.Tensor):
        raise TypeError(f"nl.{what}: a tile and a tile or number, not two numbers")
    for z in (x, y):
        if not isinstance(z, core.Tensor) and not operators.is_number(z):
            raise operators.refusal(f"nl.{what}: an operand is {operators.text_of(z)}, and no tile or number")
    like = x if isinstance(x, core.Tensor) else y

    def tile(z):
        if isinstance(z, core.Tensor):
            return z
        if float(z).is_integer():
            return nl.full(like.shape, z, like.dtype)
        if dtypes.IS_32_BIT_INTEGER[like._dtype]:
            raise TypeError(f"nl.{what}: {z} beside a tile of {like.dtype}, which floats do not hold beyond 2^24; copy the tile "
                            "to nl.float32 where its numbers are below")
        return nl.full(like.shape, z, _float32)

    x, y = tile(x), tile(y)
    shape = tensor.common_shape(f"nl.{what}", x, y)
    x, y = tensor.spread(x, shape), tensor.spread(y, shape)
    if dtypes.IS_FLOAT[x._dtype] or dtypes.IS_FLOAT[y._dtype]:
        return x, y
    wide = {z.dtype for z in (x, y) if dtypes.IS_32_BIT_INTEGER[z._dtype]}
    if len(wide) == 2:
        raise TypeError(f"nl.{what}: x is {x.dtype}, y {y.dtype}; copy one to the other's type, which has its values")
    return tuple(nl.copy(z, dtype) if z.dtype != dtype or z._is_psum else z for z in (x, y) for dtype in wide) or (x, y)


def _add_where(rest, y, condition):
    """rest += y where condition is not 0."""
    raised = ndarray(rest.shape, rest.dtype)
    isa.tensor_tensor(raised, rest, y, nl.add)
    isa.tensor_copy_predicated(rest, raised, condition)


# -- integers of 32 bits

def _inverse(y):
    out = ndarray(y.shape, _float32)
    isa.tensor_copy(out, y)
    isa.reciprocal(out, out)
    return out


def _nearest_remainder(x, y, quotient=None):
    """x less y times the nearest quotient, of int32: the quotient comes from fp32, twice, since it has 24 digits. quotient: a tile
    of zeros that gets it."""
    rest, inverse = nl.copy(x), _inverse(y)
    product, whole = ndarray(x.shape, _int32), ndarray(x.shape, _int32)
    for _ in range(2):
        isa.tensor_tensor(whole, rest, inverse, nl.multiply)
        isa.tensor_tensor(product, whole, y, nl.multiply)
        isa.tensor_tensor(rest, rest, product, nl.subtract)
        if quotient is not None:
            isa.tensor_tensor(quotient, quotient, whole, nl.add)
    return rest


def _remainder_of_unsigned(x, y, quotient=None):
    """x less y times the floor of their quotient, of uint32: a quotient from fp32 that is not above it, twice, leaves
    less than 2 y. quotient: a tile of zeros that gets it."""
    rest, inverse, near = nl.copy(x), _inverse(y), ndarray(x.shape, _float32)
    product, whole, minus = (ndarray(x.shape, _uint32) for _ in range(3))
    for _ in range(2):
        isa.tensor_tensor(near, rest, inverse, nl.multiply)
        isa.tensor_scalar(whole, near, nl.multiply, 1 - 2.0**-20, op1=nl.subtract, operand1=0.5)
        isa.tensor_tensor(product, whole, y, nl.multiply)
        isa.tensor_tensor(rest, rest, product, nl.subtract)
        if quotient is not None:
            isa.tensor_tensor(quotient, quotient, whole, nl.add)
    isa.tensor_tensor(whole, rest, y, nl.greater_equal, _EXACT)
    isa.tensor_tensor(minus, rest, y, nl.subtract)
    isa.tensor_copy_predicated(rest, minus, whole)
    if quotient is not None:
        isa.tensor_tensor(quotient, quotient, whole, nl.add)
    return rest


def quotient_of_integers(x, y):
    """x / y without its fraction, exact, of int32 or uint32; x or y may be a whole number."""
    x, y = _operands("divide", x, y)
    _warn("divide", x, y)
    if x.dtype == _uint32:
        out = nl.zeros(x.shape, _uint32)
        _remainder_of_unsigned(x, y, out)
        return out
    out = nl.zeros(x.shape, _int32)
    rest = _nearest_remainder(x, y, out)
    # The nearest quotient is one too far from 0 where the rest has the other sign than x.
    step, is_beyond = ndarray(x.shape, _int32), _signs_differ(rest, x)
    isa.tensor_tensor(step, nl.sign(x, _float32), nl.sign(y, _float32), nl.multiply)
    isa.tensor_tensor(step, step, nl.copy(is_beyond, _int32), nl.multiply)
    isa.tensor_tensor(out, out, step, nl.subtract)
    return out


def _signs_differ(x, y):
    signs, out = nl.multiply(nl.sign(x, _float32), nl.sign(y, _float32)), ndarray(x.shape, _uint8)
    isa.tensor_scalar(out, signs, nl.less, 0.0)
    return out


def _remainder_of_signed(x, y):
    """With the sign of x, of int32. The nearest quotient leaves at most half of y: what has the other sign than x takes
    |y| once more toward it."""
    rest, minus, toward = _nearest_remainder(x, y), ndarray(x.shape, _int32), nl.copy(y)
    isa.tensor_scalar(minus, y, nl.multiply, -1, engine=_EXACT)
    isa.tensor_copy_predicated(toward, minus, _signs_differ(x, y))
    _add_where(rest, toward, _signs_differ(rest, x))
    return rest


# -- floats

_HIGH_BITS, _SIGN = 0xFFFFF000, 0x80000000  # of fp32: sign, exponent and 11 of 23 digits; sign
_QUOTIENT_DIGITS = 11  # that a step takes off: their products with 12 digits are exact
_STEPS = 3
_LARGEST_QUOTIENT = 2.0**(_STEPS * _QUOTIENT_DIGITS)
_TINY, _UNTINY = 2.0**-100, 2.0**64  # divisors below the first are scaled by the second: their inverse is finite then


def _raise_tiny(rest, size):
    """Scales both where size is tiny, and gives what takes it back."""
    scale = ndarray(rest.shape, _float32)
    isa.tensor_scalar(scale, size, nl.less, _TINY, op1=nl.multiply, operand1=_UNTINY)
    isa.tensor_scalar(scale, scale, nl.maximum, 1.0)
    isa.tensor_tensor(rest, rest, scale, nl.multiply)
    isa.tensor_tensor(size, size, scale, nl.multiply)
    isa.reciprocal(scale, scale)
    return scale


def _remainder_of_sizes(x, y):
    """|x| less |y| times the floor of their quotient, in fp32: exact up to the largest quotient, NaN beyond. The quotient
    is found as in a division by hand, 11 digits a step; y is taken in two parts of 12 digits, so that all products and
    differences are exact. No step takes off more than there is: the product might exceed the largest fp32."""
    rest, size, high, low, inverse, quotient, part = (ndarray(x.shape, _float32) for _ in range(7))
    whole, is_less, is_known = ndarray(x.shape, _int32), ndarray(x.shape, _uint8), ndarray(x.shape, _uint8)
    isa.tensor_scalar(rest, x, nl.abs_max, 0.0)
    isa.tensor_scalar(size, y, nl.abs_max, 0.0)
    isa.tensor_tensor(is_less, rest, size, nl.less)
    whole_x, unscale = nl.copy(rest), _raise_tiny(rest, size)
    isa.tensor_scalar(high.view(_uint32), size.view(_uint32), nl.bitwise_and, _HIGH_BITS)
    isa.tensor_tensor(low, size, high, nl.subtract)
    isa.reciprocal(inverse, size)
    isa.tensor_tensor(quotient, rest, inverse, nl.multiply)
    isa.tensor_scalar(is_known, quotient, nl.less, _LARGEST_QUOTIENT)  # not where it is infinite or NaN
    for step in reversed(range(_STEPS)):
        unit = 2.0**(step * _QUOTIENT_DIGITS)
        isa.scalar_tensor_tensor(quotient, rest, nl.multiply, 1 / unit, nl.multiply, inverse)
        isa.tensor_scalar(whole, quotient, nl.subtract, 0.5)
        for digits in (high, low):
            isa.scalar_tensor_tensor(part, whole, nl.multiply, unit, nl.multiply, digits)
            isa.tensor_tensor(rest, rest, part, nl.subtract)
    is_off = ndarray(x.shape, _uint8)
    isa.tensor_tensor(is_off, rest, size, nl.greater_equal)
    isa.tensor_tensor(part, rest, size, nl.subtract)
    isa.tensor_copy_predicated(rest, part, is_off)
    isa.tensor_scalar(is_off, rest, nl.less, 0.0)
    _add_where(rest, size, is_off)
    isa.tensor_tensor(rest, rest, unscale, nl.multiply)
    isa.tensor_copy_predicated(rest, whole_x, is_less)
    isa.tensor_tensor(is_known, is_known, is_less, nl.maximum)
    out = nl.full(x.shape, math.nan, _float32)
    isa.tensor_copy_predicated(out, rest, is_known)
    return out


def _warn(what, x, y):
    """Of what has no exact remainder here: quotients of floats that are too large, integers divided by 0."""
    if not tensor.launch.has_values:
        return
    divisor = np.asarray(y)
    if divisor.dtype.kind in "iu":
        n_zeros = int((divisor == 0).sum())
        if n_zeros and np.asarray(x).dtype.kind in "iu":
            warnings.warn(f"nl.{what}: {n_zeros} of {divisor.size} divisors are 0: what such an integer gives means nothing",
                          stacklevel=4)
    with np.errstate(all="ignore"):
        quotients = np.abs(np.asarray(x, np.float64) / divisor.astype(np.float64))
        largest = quotients[np.isfinite(quotients)].max(initial=0)
    if largest >= _LARGEST_QUOTIENT * (1 - 1e-6):
        warnings.warn(f"nl.{what}: quotients up to {largest:.6g}; remainders of floats are exact below {_LARGEST_QUOTIENT:.6g} "
                      "and NaN beyond: bring x nearer to y before, or take 32-bit integers", stacklevel=4)


def _with_sign_of(like, rest):
    """rest with the sign of like, which a remainder of 0 has, too."""
    sign = ndarray(like.shape, _float32)
    isa.tensor_copy(sign, like)
    isa.tensor_scalar(sign.view(_uint32), sign.view(_uint32), nl.bitwise_and, _SIGN)
    isa.tensor_scalar(rest, rest, nl.abs_max, 0.0)
    isa.tensor_tensor(rest.view(_uint32), rest.view(_uint32), sign.view(_uint32), nl.bitwise_or)
    return rest


def _truncating(x, y):
    if x.dtype == y.dtype == _uint32:
        return _remainder_of_unsigned(x, y)
    return _remainder_of_signed(x, y) if x.dtype == y.dtype == _int32 else _with_sign_of(x, _remainder_of_sizes(x, y))


def fmod(x, y, dtype=None):
    """The remainder of x / y with the sign of x. In fp32: exact below quotients of 2^33, NaN beyond; of 32-bit integers:
    exact."""
    x, y = _operands("fmod", x, y)
    _warn("fmod", x, y)
    return _narrow(_truncating(x, y), x, dtype)


def mod(x, y, dtype=None):
    """The remainder of x / y with the sign of y, as Python's %."""
    x, y = _operands("mod", x, y)
    _warn("mod", x, y)
    rest = _nearest_remainder(x, y) if x.dtype == y.dtype == _int32 else _truncating(x, y)
    if rest.dtype != _uint32:
        _add_where(rest, y, _signs_differ(rest, y))
    if rest.dtype == _float32:
        rest = _with_sign_of(y, rest)
    return _narrow(rest, x, dtype)
