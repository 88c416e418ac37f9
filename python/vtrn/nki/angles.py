"""nki.language's sine, cosine and tangent, exact in the angle for every fp32.

The Scalar engine's sine is made for -pi to pi. |x| is reduced to r = |x| - n pi/2 within pi/4 (within 1 where n is 0),
n says whether the sine or the cosine of r is the result, and its sign. No engine fuses a product with a sum: where a
product must be exact, the significands of its factors have at most 24 bits together, or the factors are 32-bit integers
on GpSimd. The compiler does the same (src/compiler/emit/elementwise_trig.c), with more digits behind r.
Source: Payne and Hanek, "Radian reduction for trigonometric functions", SIGNUM Newsletter 1983; Cody and Waite,
"Software Manual for the Elementary Functions", 1980."""

import math

from vtrn.nki import dtypes, isa, language as nl
from vtrn.nki._load import ALU
from vtrn.nki.tensor import ndarray

_SIGN, _SIGNIFICAND, _LEADING_ONE, _IS_ODD = 0x80000000, 0x007FFFFF, 0x00800000, 0x40000000
_PIECE = 1024  # elements of a partition that are worked on at a time: a dozen tiles of 4 KiB are needed
_SHIFT_LEFT, _SHIFT_RIGHT, _OR, _AND, _XOR = nl.left_shift, nl.right_shift, nl.bitwise_or, nl.bitwise_and, nl.bitwise_xor


def _shift_right_keeping_sign():
    """Names the ALU's operation, for which nki.language has no name."""


isa.ALU_OF[_shift_right_keeping_sign] = ALU["shift_right_arith"]


class _Word:
    """A tile of 32-bit elements under the three types that instructions read it as."""

    def __init__(self, shape):
        self.f = ndarray(shape, dtypes.float32)
        self.u, self.i = self.f.view(dtypes.uint32), self.f.view(dtypes.int32)


def _bits(dst, a, op0, operand0, op1=None, operand1=None):
    isa.tensor_scalar(dst, a, op0, operand0, op1=op1, operand1=operand1)


def _exact(dst, a, op, b):
    isa.tensor_tensor(dst, a, b, op, isa.engine.gpsimd)


def _near(dst, a, op, b):
    isa.tensor_tensor(dst, a, b, op, isa.engine.vector)


# -- angles below 2^16: of the 16-bit floats, but bfloat16, and of what is narrower

_HALF_PI = 0xC90FDAA22168C234C4C6628B  # its first 96 bits, of which the first weighs 1
_WHOLE = 1.5 * 2.0**23  # adding this leaves no room for a fraction: an integer is left in the low bits


def _half_pi_bits(first, n):
    return (_HALF_PI >> (96 - first - n) & ((1 << n) - 1)) * 2.0**(1 - first - n)


# n has at most 16 bits: its products with 8 of them are exact, and so are the first three differences.
_PARTS = (*(_half_pi_bits(first, 8) for first in (0, 8, 16, 24)), _half_pi_bits(32, 24))


def _reduce_bounded(x, shift):
    """r, and a tile whose two highest bits are n + shift mod 4."""
    rest, n, turns = (_Word(x.shape) for _ in range(3))
    bias = _WHOLE + shift
    isa.tensor_scalar(rest.f, x, nl.abs_max, 0.0)
    isa.tensor_scalar(n.f, rest.f, nl.multiply, 2 / math.pi, op1=nl.add, operand1=bias)
    isa.tensor_scalar(turns.f, n.f, nl.subtract, bias)
    _bits(n.u, n.u, _SHIFT_LEFT, 30)
    for part in _PARTS:
        isa.scalar_tensor_tensor(rest.f, turns.f, nl.multiply, -part, nl.add, rest.f)
    return rest, n


# -- any angle
#
# With |x| = m 2^(k - 23), m of 24 bits and k from 0 to 127, |x| 2/pi is m times F = 2/pi 2^(k - 23). Bits of F that weigh
# 4 or more do not count: m times them is a multiple of 4. The next 96 bits are the words w0, w1, w2. m w0 mod 2^32 and the
# low half of m (w1 >> 8) are exact on GpSimd; the latter, taken from the rounded fp32 product, leaves the high half nearly,
# so the nearest integer is it; m times the rest is small. The bits of 2/pi from the one that weighs 2^24 on are a constant
# string; F begins at bit k of it.

_TWO_OVER_PI = (0x00000051, 0x7CC1B727, 0x220A94FE, 0x13ABE8FA, 0x9A6EE06D, 0xB14ACC9E, 0x21C820FF)


def _take_two_over_pi(twice, words, spare):
    """Puts w0, w1, w2 into the first three of five words: the string is shifted by 64, by 32, and by less.
    twice: 2 |x|, whose exponent field is 128 + k. spare: three words."""
    is_far, shift, unshift = spare
    is_odd_word = unshift
    _bits(is_far.u, twice.u, _SHIFT_LEFT, 2, _shift_right_keeping_sign, 31)
    _bits(is_odd_word.u, twice.u, _AND, 1 << 28)
    for i, word in enumerate(words):
        _bits(word.u, is_far.u, _AND, _TWO_OVER_PI[i] ^ _TWO_OVER_PI[i + 2], _XOR, _TWO_OVER_PI[i])
    for word, after in zip(words, words[1:]):
        isa.tensor_copy_predicated(word.u, after.u, is_odd_word.u)
    low = is_far, words[4]
    _bits(shift.u, twice.u, _SHIFT_RIGHT, 23, _AND, 31)
    isa.tensor_scalar(unshift.u, shift.u, nl.multiply, -1.0, op1=nl.add, operand1=32.0)
    _near(low[0].u, words[1].u, _SHIFT_RIGHT, unshift.u)
    for i in range(3):
        _near(words[i].u, words[i].u, _SHIFT_LEFT, shift.u)
        if i < 2:
            _near(low[(i + 1) % 2].u, words[i + 2].u, _SHIFT_RIGHT, unshift.u)
        _near(words[i].u, words[i].u, _OR, low[i % 2].u)


def _multiply_two_over_pi(m, words, n, low, half):
    """Of m F: n, and what is left in units of 2^-30 as a sum of two tiles."""
    w0, w1, w2, product, tail = words
    high = w2
    _exact(w0.u, m.u, nl.multiply, w0.u)
    _bits(product.u, w1.u, _SHIFT_RIGHT, 8)
    _exact(low.u, m.u, nl.multiply, product.u)
    _bits(tail.u, w1.u, _AND, 0xFF)
    isa.scalar_tensor_tensor(tail.f, tail.u, nl.multiply, 2.0**32, nl.add, w2.u)
    _near(high.f, m.u, nl.multiply, product.u)
    _near(tail.f, m.u, nl.multiply, tail.f)
    _near(high.f, high.f, nl.subtract, low.u)
    _bits(w1.u, low.u, _SHIFT_RIGHT, 24)
    isa.tensor_scalar(high.u, high.f, nl.multiply, 2.0**-32)
    _bits(low.u, low.u, _AND, 0xFFFFFF)
    _bits(high.u, high.u, _SHIFT_LEFT, 8)
    _near(w1.u, w1.u, _OR, high.u)
    _exact(w0.u, w0.u, nl.add, w1.u)
    # w0 is m F mod 4 in units of 2^-30: n is the nearest integer, 30 bits with a sign are left.
    isa.tensor_scalar(n.u, w0.u, nl.add, half, engine=isa.engine.gpsimd)
    _bits(w0.i, w0.i, _SHIFT_LEFT, 2, _shift_right_keeping_sign, 2)
    isa.tensor_copy(w1.f, w0.i)
    isa.tensor_copy(high.i, w1.f)
    _exact(m.f, w0.i, nl.subtract, high.i)
    isa.scalar_tensor_tensor(m.f, low.u, nl.multiply, 2.0**-24, nl.add, m.f)
    isa.scalar_tensor_tensor(m.f, tail.f, nl.multiply, 2.0**-64, nl.add, m.f)
    return w1, m


def _reduce_any(x, shift):
    """As _reduce_bounded. An |x| below 1 is left as it is: m is 0 then, and r becomes |x| at the end. The same sum makes
    a NaN of infinity and NaN."""
    twice, m, n, a, b = (_Word(x.shape) for _ in range(5))
    words = [_Word(x.shape) for _ in range(5)]
    small = twice
    isa.tensor_scalar(twice.f, x, nl.abs_max, 0.0, op1=nl.multiply, operand1=2.0)
    _bits(m.u, x.view(dtypes.uint32), _AND, _SIGNIFICAND, _OR, _LEADING_ONE)
    isa.scalar_tensor_tensor(m.u, twice.f, nl.greater_equal, 2.0, nl.multiply, m.u)
    _take_two_over_pi(twice, words, (n, a, b))
    isa.scalar_tensor_tensor(small.f, twice.f, nl.less, 2.0, nl.multiply, x)
    first, second = _multiply_two_over_pi(m, words, n, a, 0x20000000 + (shift << 30))
    _near(first.f, first.f, nl.add, second.f)
    isa.tensor_scalar(first.f, first.f, nl.multiply, math.pi / 2 * 2.0**-30)
    isa.scalar_tensor_tensor(first.f, small.f, nl.abs_max, 0.0, nl.add, first.f)
    return first, n


def _is_bounded(code):
    """Whether numbers of this type are below 2^16."""
    dtype = dtypes.numpy_of(code)
    return dtype.itemsize == 1 or (dtype.itemsize == 2 and dtypes.by_code[code] != dtypes.bfloat16)


# -- waves

def _quarter_turn_off(out, r):
    """The angle whose sine is the cosine of r."""
    isa.tensor_scalar(out, r, nl.abs_max, 0.0, op1=nl.multiply, operand1=-1.0)
    isa.tensor_scalar(out, out, nl.add, math.pi / 2)


def _reduced(x, shift):
    """r, n as words, and x in fp32."""
    wide = x
    if x.dtype != dtypes.float32:
        wide = ndarray(x.shape, dtypes.float32)
        isa.tensor_copy(wide, x)
    return *(_reduce_bounded if _is_bounded(x._dtype) else _reduce_any)(wide, shift), wide


def _sign(out, found, n):
    """found, with the highest bit of n as its sign, into out."""
    _bits(n.u, n.u, _AND, _SIGN)
    signed = out if out.dtype == dtypes.float32 else found.f
    _near(signed.view(dtypes.uint32), found.u, _XOR, n.u)
    if signed is not out:
        isa.tensor_copy(out, signed)


def _wave(out, x, shift):
    r, n, wide = _reduced(x, shift)
    other, is_odd = _Word(x.shape), _Word(x.shape)
    _quarter_turn_off(other.f, r.f)
    _bits(is_odd.u, n.u, _AND, _IS_ODD)
    isa.tensor_copy_predicated(r.f, other.f, is_odd.u)
    isa.activation(r.f, nl.sin, r.f)
    if shift == 0:  # a cosine has the sign of n alone
        _near(n.u, n.u, _XOR, wide.view(dtypes.uint32))
    _sign(out, r, n)


def sin_into(out, x):
    _by_pieces(lambda o, i: _wave(o, i, 0), out, x)


def cos_into(out, x):
    _by_pieces(lambda o, i: _wave(o, i, 1), out, x)


def tan_into(out, x):
    _by_pieces(_tangent, out, x)


def _tangent(out, x):
    """sin r / cos r, or where n is odd -cos r / sin r."""
    r, n, wide = _reduced(x, 0)
    above, below, is_odd = (_Word(x.shape) for _ in range(3))
    _quarter_turn_off(below.f, r.f)
    isa.activation(above.f, nl.sin, r.f)
    isa.activation(r.f, nl.sin, below.f)
    _bits(is_odd.u, n.u, _AND, _IS_ODD)
    isa.tensor_copy(below.f, r.f)
    isa.tensor_copy_predicated(below.f, above.f, is_odd.u)
    isa.tensor_copy_predicated(above.f, r.f, is_odd.u)
    isa.reciprocal(below.f, below.f)
    _near(above.f, above.f, nl.multiply, below.f)
    _bits(n.u, n.u, _SHIFT_LEFT, 1)
    _near(n.u, n.u, _XOR, wide.view(dtypes.uint32))
    _sign(out, above, n)


def _by_pieces(f, out, x):
    """f(out, x) on parts of at most _PIECE elements of a partition: what is between them takes as much room."""
    if math.prod(x.shape[1:]) <= _PIECE:
        f(out, x)
        return
    dim = next(d for d in range(1, x.ndim) if x.shape[d] > 1)
    n_inner = math.prod(x.shape[dim + 1:])
    step = max(1, _PIECE // n_inner)
    for first in range(0, x.shape[dim], step):
        key = (slice(None),) * dim + (slice(first, min(first + step, x.shape[dim])),)
        _by_pieces(f, out[key], x[key])
