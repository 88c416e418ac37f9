"""NkiScalar: one integer that a kernel reads from memory and computes with. Source: NKI 0.7, "NKI Scalar Values"."""

import operator

import numpy as np

from vtrn.nki import dtypes, isa, language as nl, tensor
from vtrn.nki.tensor import VirtualRegister, ndarray

_BITS = {"int32": 32, "int64": 64}


class NkiScalar:
    """An integer of 32 or 64 bits. It never widens: sums and products wrap."""

    def __init__(self, state, dtype=None, is_comparison=False):
        self.dtype = dtypes.int32 if dtype is None else dtype
        bits = _BITS.get(str(self.dtype))
        if bits is None:
            raise TypeError(f"NkiScalar of {self.dtype}: int32 or int64")
        self.value = (int(state) + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)
        self.is_comparison = is_comparison

    def _other(self, op, other):
        if isinstance(other, NkiScalar):
            if other.dtype != self.dtype:
                raise TypeError(f"NkiScalar {op}: {self.dtype} and {other.dtype}; both are of one width")
            return other._number(op)
        if isinstance(other, (bool, np.bool_)) or not isinstance(other, (int, np.integer)):
            raise TypeError(f"NkiScalar {op} {type(other).__name__}: the other operand is an int or an NkiScalar")
        return int(other)

    def _number(self, what):
        if self.is_comparison:
            raise TypeError(f"NkiScalar {what}: the result of a comparison is recorded and cannot be used; compare tiles "
                            "(nl.less and its like), or loop with nl.while_loop")
        return self.value

    def _computed(self, op, other, function):
        return NkiScalar(function(self._number(op), self._other(op, other)), self.dtype)

    def __add__(self, other):
        return self._computed("+", other, lambda x, y: x + y)

    def __sub__(self, other):
        return self._computed("-", other, lambda x, y: x - y)

    def __rsub__(self, other):
        return self._computed("-", other, lambda x, y: y - x)

    def __mul__(self, other):
        return self._computed("*", other, lambda x, y: x * y)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self):
        return NkiScalar(-self._number("-"), self.dtype)

    def __pos__(self):
        return NkiScalar(self._number("+"), self.dtype)

    def _compared(op):
        def compare(self, other):
            self._other(op, other)
            if self.dtype != dtypes.int32:
                raise TypeError(f"NkiScalar {op}: comparisons of {self.dtype} do not compile; those of int32 do")
            return NkiScalar(0, self.dtype, is_comparison=True)

        return compare

    __lt__, __le__, __gt__, __ge__ = map(_compared, ("<", "<=", ">", ">="))
    __eq__, __ne__ = map(_compared, ("==", "!="))
    __hash__ = None

    def __bool__(self):
        raise TypeError("an NkiScalar has no truth: its value is not known while a kernel is traced; use nl.while_loop, or "
                        "nl.fori_loop with a bound of 0 or 1")

    def __index__(self):
        if not tensor.register_loops:  # NKI 0.7
            raise TypeError("an NkiScalar is no Python int: its value is not known while a kernel is traced; address with "
                            ".ap(scalar_offset=) or .select(), loop with nl.fori_loop")
        return self._number("as an index")

    __int__ = __index__

    def __repr__(self):
        return f"<NkiScalar {self.dtype} {'comparison' if self.is_comparison else self.value}>"


def number_of(value, what):
    """The int of a scalar, register or int."""
    return value._number(what) if isinstance(value, NkiScalar) else int(value)


def _check_one(what, role, tile):
    if not isinstance(tile, ndarray) or tile.size != 1 or tile._is_psum:
        raise ValueError(f"{what}: {role} is a tensor of one element in SBUF or HBM, not {tile!r}")
    if str(tile.dtype) not in _BITS:
        raise TypeError(f"{what}: {role} is {tile.dtype}; scalars are int32 or int64")


def scalar_load(src):
    _check_one("scalar_load", "src", src)
    return NkiScalar(tensor.read_number("scalar_load: src", src), src.dtype)


def scalar_store(dst, value):
    _check_one("scalar_store", "dst", dst)
    if not isinstance(value, NkiScalar):
        raise TypeError(f"scalar_store: value is {value!r}; it takes an NkiScalar, and nisa.memset a constant")
    if dst.dtype != value.dtype:
        raise TypeError(f"scalar_store: dst is {dst.dtype}, value {value.dtype}; both have one width")
    put_number(dst, value._number("in scalar_store"))


def put_number(dst, number):
    """Writes a number to a tensor of one element, in SBUF or HBM."""
    if dst._is_on_chip and str(dst.dtype) != "int64":
        isa.memset(dst, number)
        return
    isa.dma_copy(dst, nl.shared_constant(np.full(dst.shape, number, dtypes.numpy_of(dst._dtype))))


def _bound(what, value):
    if isinstance(value, NkiScalar) and value.dtype != dtypes.int32:
        raise TypeError(f"fori_loop: {what} is {value.dtype}; a bound has 32 bits")
    if isinstance(value, (NkiScalar, VirtualRegister)):
        return number_of(value, f"as {what} of fori_loop")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"fori_loop: {what} is {value!r}; a bound is an int, a register or an NkiScalar") from None


def fori_loop(lower, upper, body_fun, step=1):
    """body_fun(i) for i from lower to upper: i is a VirtualRegister where a bound is one, else an NkiScalar."""
    if not isinstance(step, (int, np.integer)) or step < 1:
        raise ValueError(f"fori_loop: step={step!r}; it is a positive int")
    kind = VirtualRegister if any(isinstance(x, VirtualRegister) for x in (lower, upper)) else NkiScalar
    i, end = _bound("lower", lower), _bound("upper", upper)
    while i < end:
        body_fun(kind(i))
        i += int(step)
