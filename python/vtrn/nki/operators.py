"""Python's operators that tensors, index expressions and masks of NKI do not have: each says so with the kernel's line,
the operands and what to write in its place."""

import numbers
import os
import sys

import numpy as np

from vtrn.nki._load import core
from vtrn.nki.errors import NkiTypeError

SIGN_OF = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "matmul": "@",
           "lshift": "<<", "rshift": ">>", "and": "&", "or": "|", "xor": "^", "divmod": "divmod", "lt": "<", "le": "<=",
           "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "neg": "-", "pos": "+", "invert": "~", "abs": "abs",
           "round": "round", "float": "float", "int": "int", "complex": "complex", "contains": "in", "bool": "bool", "len": "len",
           "trunc": "math.trunc", "floor": "math.floor", "ceil": "math.ceil"}
BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift", "rshift", "and", "or", "xor", "divmod")
UNARY = ("neg", "pos", "invert", "abs", "round", "float", "int", "complex", "trunc", "floor", "ceil")


_FOLDERS = tuple(os.path.dirname(file) + os.sep for file in (__file__, np.__file__))


def placed(text):
    """The text of an error with the place in the kernel, which a function of NumPy may have called for."""
    frame = sys._getframe(1) if core.current() is not None else None
    while frame is not None and frame.f_code.co_filename.startswith(_FOLDERS):
        frame = frame.f_back
    return f"{text}\n  at {frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else text


def refusal(text):
    return NkiTypeError(placed(text))


def text_of(x):
    """An operand as an error shows it."""
    if hasattr(x, "buffer") and hasattr(x, "shape") and not isinstance(x, np.ndarray):
        return f"{x.buffer.value}[{', '.join(map(str, x.shape))}] {x.dtype}"
    if isinstance(x, np.ndarray):
        return f"array{list(x.shape)} {x.dtype}"
    text = repr(x)
    return text if len(text) <= 60 else f"{type(x).__name__}"


def expression(name, x, y=None, is_binary=True):
    """The operation as Python has it: 'sbuf[3, 4] float32 % 2', 'abs(sbuf[3, 4] float32)'."""
    sign = SIGN_OF[name]
    if sign.isidentifier() and sign != "in" or "." in sign:
        return f"{sign}({text_of(x)}{f', {text_of(y)}' if is_binary else ''})"
    return f"{text_of(x)} {sign} {text_of(y)}" if is_binary else f"{sign}{text_of(x)}"


def is_number(x):
    """Whether an instruction can take it as an immediate: numbers, arrays of one, registers."""
    return isinstance(x, (numbers.Real, np.generic)) or (isinstance(x, np.ndarray) and x.ndim == 0) or \
        hasattr(x, "__index__") or hasattr(x, "is_comparison")


def _refuse(cls, name, rule, remedy, is_swapped, is_binary):
    def call(self, other=None, *_):
        x, y = (other, self) if is_swapped else (self, other)
        raise refusal(f"{expression(name, x, y, is_binary)}: {rule}; {remedy}")

    call.__name__ = f"__{'r' if is_swapped else ''}{name}__"
    call.__qualname__ = f"{cls.__qualname__}.{call.__name__}"
    setattr(cls, call.__name__, call)


def refuse(cls, rule, remedies, names=(*BINARY, *UNARY)):
    """Gives the class the operators of names that it does not have; each raises. remedies: what to write by name, or for all of
    them."""
    for name in names:
        is_binary = name not in UNARY
        for is_swapped in (False, True)[:1 + (name in BINARY)]:
            if f"__{'r' if is_swapped else ''}{name}__" not in cls.__dict__:
                _refuse(cls, name, rule, remedies if isinstance(remedies, str) else remedies[name], is_swapped, is_binary)


_OF_UFUNC = {np.add: "add", np.subtract: "sub", np.multiply: "mul", np.true_divide: "truediv", np.floor_divide: "floordiv",
             np.remainder: "mod", np.power: "pow", np.matmul: "matmul", np.left_shift: "lshift", np.right_shift: "rshift",
             np.bitwise_and: "and", np.bitwise_or: "or", np.bitwise_xor: "xor", np.less: "lt", np.less_equal: "le", np.greater: "gt",
             np.greater_equal: "ge", np.equal: "eq", np.not_equal: "ne"}
_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}


def array_ufunc(self, ufunc, method, *inputs, **kwargs):
    """A function of NumPy computes on the host, where a kernel's time would not count it. Operators between arrays or their
    numbers and a tile are such functions, too: those are the tile's."""
    name = _OF_UFUNC.get(ufunc)
    if method == "__call__" and name and len(inputs) == 2 and not kwargs:
        is_swapped = inputs[0] is not self
        other = inputs[0 if is_swapped else 1]
        other = other[()] if isinstance(other, np.ndarray) and not other.ndim else other  # a number
        mirrored = _MIRRORED.get(name, f"r{name}") if is_swapped else name
        return getattr(type(self), f"__{mirrored}__")(self, other)
    call = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
    raise refusal(f"np.{call}({', '.join(map(text_of, inputs))}): NumPy computes on the host, and a kernel on the chip; the functions "
                  "of tiles are those of nl, and np.asarray(x) the values to look at")


FUNCTION_OF = {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "mod": "mod", "pow": "power",
               "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "left_shift", "rshift": "right_shift"}
COMPOSED = ("divide", "mod")  # no operation of an instruction
_QUOTIENT = "nl.floor(nl.divide(x, y)) rounds a quotient down, nl.mod(x, y) is the remainder"
_VALUE = "what a kernel branches on is a Python number or a register (nisa.register_load)"
# What to write for an operation on tiles.
OF_TILES = {
    **{name: f"nl.{f}(x, y) gives a tile" + (f", nisa.tensor_tensor(dst, x, y, nl.{f}) writes one" if f not in COMPOSED else "")
       for name, f in FUNCTION_OF.items()},
    "floordiv": _QUOTIENT, "divmod": _QUOTIENT, "matmul": "nl.matmul(x, y), or nisa.nc_matmul",
    "neg": "nl.negative(x) gives a tile", "invert": "nl.invert(x) gives a tile", "abs": "nl.abs(x) gives a tile",
    "pos": "the tile itself is meant, or nl.copy(x)", "round": "nl.copy(x, dtype=nl.int32) rounds to the nearest whole number",
    "trunc": "nl.trunc(x) gives a tile", "floor": "nl.floor(x) gives a tile", "ceil": "nl.ceil(x) gives a tile",
    "float": _VALUE, "int": _VALUE, "complex": _VALUE}
