"""Loops of NKI's first generation. The vendor's compiler traces the body of an affine or sequential loop once: what the body binds a
name to is an expression of the loop's variable, and each turn computes it from the values that names have before the loop. Python runs
the body turn by turn, so those values are restored here. Source: the page of nl.static_range, the only one of which the compiler "will
fully unroll the loop during NKI kernel tracing"."""

import dis
import functools
import itertools
import sys
import warnings

from vtrn.nki import tensor
from vtrn.nki.beta1 import frames
from vtrn.nki.beta1.index import Index, Mask

_loops = itertools.count()


class LoopIndex(int):
    """The value of a loop's variable; is_first in the loop's first turn."""

    def __new__(cls, value, is_first):
        self = super().__new__(cls, value)
        self.is_first = is_first
        return self


@functools.lru_cache(maxsize=1024)
def _bound_in_body(code, at):
    """Local names that the body of the `for` statement whose FOR_ITER is at this offset binds, and those of them that it reads first.
    ((), ()) where there is no FOR_ITER."""
    instructions = list(dis.get_instructions(code))
    head = max(k for k, i in enumerate(instructions) if i.offset <= at)
    if instructions[head].opname != "FOR_ITER":
        return (), ()
    body = [a for i in instructions[head + 1:] if i.offset < instructions[head].argval for a in frames.accesses(i)]
    first, bound = {}, set()
    for kind, where, name in body[1:]:  # the first one binds the loop's variable
        if where not in ("FAST", "DEREF"):
            continue
        first.setdefault(name, kind)
        if kind == "STORE":
            bound.add(name)
    return tuple(sorted(bound)), tuple(sorted(name for name in bound if first[name] == "LOAD"))


class Bindings:
    """The values that names of a frame have before a loop: index expressions and masks that its body binds again (values), and numbers
    of Python that it reads and then binds (numbers)."""

    def __init__(self, frame, loop):
        self.frame, self.loop, self.values, self.numbers = frame, loop, {}, {}
        names, carried = _bound_in_body(frame.f_code, frame.f_lasti)
        if not names:
            return
        with frames.local_values(frame) as now:
            self.values = {name: now[name] for name in names if isinstance(now.get(name), (Index, Mask))}
            self.numbers = {name: now[name] for name in carried if isinstance(now.get(name), (int, float))}

    def begin(self, turn):
        """Gives the names their values back before each turn but the first; before the second it warns of numbers that have changed."""
        if turn.is_first or not (self.values or self.numbers):
            return
        with frames.local_values(self.frame) as now:
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
    """The compiler unrolls it: a turn has the names' values of the turn before."""
    values = range(*(b.__index__() for b in bounds))
    for i in values:
        yield LoopIndex(i, i == values[0])


def sequential_range(*bounds, **unused):
    bindings = Bindings(sys._getframe(1), "sequential_range")
    for i in static_range(*bounds):
        bindings.begin(i)
        yield i


def affine_range(*bounds, **unused):
    """Turns in any order: a program may do what is alike in several at once."""
    session, loop = tensor.core.current(), next(_loops) % 2**32
    bindings = Bindings(sys._getframe(1), "affine_range")
    try:
        for i in static_range(*bounds):
            bindings.begin(i)
            if session is not None:
                session.mark_turn(loop)
            yield i
    finally:
        if session is not None:
            session.mark_turn(loop)
