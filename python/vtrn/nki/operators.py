"""Python's operators that tensors, index expressions and masks of NKI do not have: each says so with the kernel's line,
the operands and what to write in its place."""

import numbers

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


def refusal(text):
    """The error with the place in the kernel."""
    place = core.place()
    return NkiTypeError(f"{text}\n  at {place}" if place else text)


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
