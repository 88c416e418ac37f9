"""Loops of NKI's first generation. The vendor's compiler traces the body of an affine or sequential loop once, so what the body
binds a name to is an expression of the loop's variable, and each turn begins with what names had before the loop. Source: the pages of
nl.affine_range and nl.static_range, "fully unroll the loop during NKI kernel tracing" of the latter alone."""

import contextlib
import ctypes
import dis
import functools
import inspect
import itertools
import sys
import warnings

from vtrn.nki import tensor
from vtrn.nki.beta1.index import Index, Mask

_loops = itertools.count()


class LoopIndex(int):
    """The value of a loop's variable; is_first in the loop's first turn."""

    def __new__(cls, value, is_first):
        self = super().__new__(cls, value)
        self.is_first = is_first
        return self


def _accesses(instruction):
    """(LOAD or STORE, local name) that it makes; newer Pythons have instructions of two."""
    name = instruction.opname
    if not name.startswith(("LOAD_FAST", "STORE_FAST", "LOAD_DEREF", "STORE_DEREF")) or name.endswith("AND_CLEAR"):
        return []
    names = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
    return list(zip((part for part in name.split("_") if part in ("LOAD", "STORE")), names))


@functools.lru_cache(maxsize=1024)
def _bound_in_body(code, at):
    """Local names that the body of the `for` whose iterator is asked at this place stores, and those of them that it reads before;
    none where it is no such place."""
    instructions = list(dis.get_instructions(code))
    head = max(k for k, i in enumerate(instructions) if i.offset <= at)
    if instructions[head].opname != "FOR_ITER":
        return (), ()
    accesses = [a for i in instructions[head + 1:] if i.offset < instructions[head].argval for a in _accesses(i)]
    first, stored = {}, set()
    for kind, name in accesses[1:]:  # behind the loop's variable, whose name may have been an index's
        first.setdefault(name, kind)
        if kind == "STORE":
            stored.add(name)
    return tuple(sorted(stored)), tuple(sorted(name for name in stored if first[name] == "LOAD"))


_WRITES_THROUGH = sys.version_info >= (3, 13)


@contextlib.contextmanager
def _locals(frame):
    """The locals of a function's frame by name; what is set is set there. They are not kept: the tiles among them would be, which
    have their memory as long as the kernel has them."""
    found = frame.f_locals
    try:
        yield found
    finally:
        if not _WRITES_THROUGH:
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
            found.clear()


class Bindings:
    """What a frame's names have before a loop: index expressions and masks that its body binds again, and numbers that it goes on
    from, which in the vendor's compiler are in each turn what they were in the first."""

    def __init__(self, frame, loop):
        self.values, self.numbers = {}, {}
        names, carried = _bound_in_body(frame.f_code, frame.f_lasti) if frame.f_code.co_flags & inspect.CO_OPTIMIZED else ((), ())
        if not names:
            return
        with _locals(frame) as now:
            self.values = {name: now[name] for name in names if isinstance(now.get(name), (Index, Mask))}
            self.numbers = {name: now[name] for name in carried if isinstance(now.get(name), (int, float))}
        if self.values or self.numbers:
            self.frame, self.loop = frame, loop

    def next_turn(self):
        if not self.values and not self.numbers:
            return
        with _locals(self.frame) as now:
            for name, before in self.numbers.items():
                if (value := now.get(name)) != before:
                    self._tell(name, before, value)
            now.update(self.values)
        self.numbers = {}

    def _tell(self, name, before, value):
        code = self.frame.f_code
        warnings.warn_explicit(
            f"{code.co_name}: {name} is {before} before a loop over nl.{self.loop} and {value} after a turn; the vendor's compiler "
            f"traces the body once, and has {before} in each turn; make it of the loop's variable, or loop over nl.static_range",
            UserWarning, code.co_filename, self.frame.f_lineno)


def static_range(*bounds, **unused):
    """Unrolled: each turn goes on from the names of the one before."""
    values = range(*(b.__index__() for b in bounds))
    for i in values:
        yield LoopIndex(i, i == values[0])


def sequential_range(*bounds, **unused):
    bindings = Bindings(sys._getframe(1), "sequential_range")
    for i in static_range(*bounds):
        if not i.is_first:
            bindings.next_turn()
        yield i


def affine_range(*bounds, **unused):
    """Turns in any order: a program may do what is alike in several at once."""
    session, loop = tensor.core.current(), next(_loops) % 2**32
    bindings = Bindings(sys._getframe(1), "affine_range")
    try:
        for i in static_range(*bounds):
            if not i.is_first:
                bindings.next_turn()
            if session is not None:
                session.mark_turn(loop)
            yield i
    finally:
        if session is not None:
            session.mark_turn(loop)
