"""Loops of NKI's first generation. The vendor's compiler traces the body of an affine or sequential loop once, so what the body
binds a name to is an expression of the loop's variable, and each turn begins with what names had before the loop."""

import ctypes
import dis
import functools
import itertools
import sys

from vtrn.nki import tensor
from vtrn.nki.beta1.index import Index, Mask

_STORES = {"STORE_FAST", "STORE_DEREF"}
_loops = itertools.count()


class LoopIndex(int):
    """The value of a loop's variable; is_first in the loop's first turn."""

    def __new__(cls, value, is_first):
        self = super().__new__(cls, value)
        self.is_first = is_first
        return self


@functools.lru_cache(maxsize=1024)
def _stored_in_body(code, at):
    """Local names that the body of the `for` whose iterator is asked at this place stores; none where it is no such place."""
    instructions = list(dis.get_instructions(code))
    head = next(k for k, i in enumerate(instructions) if i.offset == at)
    if instructions[head].opname != "FOR_ITER":
        return ()
    body = instructions[head + 1:]
    variable = next((k for k, i in enumerate(body) if i.opname in _STORES), 0)  # an index of another loop may have had its name
    return tuple({i.argval for i in body[variable + 1:] if i.offset < instructions[head].argval and i.opname in _STORES})


class Bindings:
    """Index expressions and masks by the names of a frame that have them before a loop, and that its body binds again."""

    def __init__(self, frame):
        names = _stored_in_body(frame.f_code, frame.f_lasti)
        now = frame.f_locals if names else {}
        self.frame, self.values = frame, {name: now[name] for name in names if isinstance(now.get(name), (Index, Mask))}

    def restore(self):
        if not self.values:
            return
        self.frame.f_locals.update(self.values)
        if sys.version_info < (3, 13):  # later ones write through
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(self.frame), ctypes.c_int(0))


def static_range(*bounds, **unused):
    """Unrolled: each turn goes on from the names of the one before."""
    values = range(*(b.__index__() for b in bounds))
    for i in values:
        yield LoopIndex(i, i == values[0])


def sequential_range(*bounds, **unused):
    bindings = Bindings(sys._getframe(1))
    for i in static_range(*bounds):
        if not i.is_first:
            bindings.restore()
        yield i


def affine_range(*bounds, **unused):
    """Turns in any order: a program may do what is alike in several at once."""
    session, loop = tensor.core.current(), next(_loops) % 2**32
    bindings = Bindings(sys._getframe(1))
    try:
        for i in static_range(*bounds):
            if not i.is_first:
                bindings.restore()
            if session is not None:
                session.mark_turn(loop)
            yield i
    finally:
        if session is not None:
            session.mark_turn(loop)
