"""Makes a failing program small: it keeps whatever change leaves the failure as it is.

Changes are to the program's text and sizes: fewer outputs, a statement replaced by one of its
operands or by a fresh input, a function by a simpler text, smaller dimensions, float32, no donation.
A candidate that JAX refuses to trace fails in another way and is dropped.
"""

import dataclasses
import re
import time

from .program import FLOAT_TYPES, Input, Let, names_in, pruned, renumbered, without_aliases
from .shrink_text import (
    changed_body, fewer_arguments, fewer_elements, inlined, rebuilt, subexpressions, untupled, walk,
)  # fmt: skip


def shrink(program, fails, types_of, seconds=60.0, most_tries=300):
    """fails(program) -> whether it fails the same way; types_of(program) -> {name: (shape, dtype)}."""
    search = Search(fails, types_of, time.monotonic() + seconds, most_tries)
    program = pruned(program)
    while not search.is_over():
        before = program
        for step in STEPS:
            program = search.improve(program, step)
        if program == before:
            break
    return renumbered(program)


class Search:
    def __init__(self, fails, types_of, until, n_left):
        self.fails, self.types_of, self.until, self.n_left = fails, types_of, until, n_left
        self.seen = set()

    def is_over(self):
        return time.monotonic() > self.until or self.n_left <= 0

    def improve(self, program, step):
        """Takes the first candidate that fails and asks for candidates again."""
        is_better = True
        while is_better and not self.is_over():
            is_better = False
            for candidate in step(program, self.types_of):
                candidate = pruned(without_aliases(candidate))
                key = repr(candidate)
                if key in self.seen or not candidate.outputs:
                    continue
                self.seen.add(key)
                self.n_left -= 1
                if self.fails(candidate):
                    program, is_better = candidate, True
                    break
                if self.is_over():
                    break
        return program


# Each step yields candidates, the boldest first.


def fewer_outputs(program, types_of):
    if len(program.outputs) > 1:
        for name in program.outputs:
            yield dataclasses.replace(program, outputs=(name,))
        for name in program.outputs:
            yield dataclasses.replace(program, outputs=tuple(o for o in program.outputs if o != name))
    for name in names_of(program.body):  # a value on the way to the output may be wrong already
        if (name,) != program.outputs:
            yield dataclasses.replace(program, outputs=(name,))


def without_donation(program, types_of):
    if program.donated:
        yield dataclasses.replace(program, donated=())


def cuts(program, types_of):
    """A value becomes an input, and all that made it goes; late values first."""
    types = types_of(program)
    for i, s in reversed(list(enumerate(program.body))):
        for name in s.targets if isinstance(s, Let) else ():
            if name in types:
                yield with_input(program, (i,), name, types[name])


def simpler_texts(program, types_of):
    for path, statement in walk(program.body):
        if isinstance(statement, Let):
            for text in statement.alternatives:
                changed = dataclasses.replace(statement, expr=text, alternatives=())
                yield rebuilt(program, path, (changed,))


def replaced(program, types_of):
    """A statement becomes one of its operands, or a value inside a function becomes an input."""
    types = types_of(program)
    for path, statement in reversed(list(walk(program.body))):
        if not isinstance(statement, Let) or len(statement.targets) != 1:
            continue
        target = statement.targets[0]
        for operand in dict.fromkeys(names_in(statement.expr)):
            if operand != statement.expr and types.get(operand) == types.get(target):
                yield rebuilt(program, path, (Let((target,), operand),))
        if len(path) > 1 and target in types:
            yield with_input(program, path, target, types[target])


def smaller(program, types_of):
    for name, size in sorted(program.dims.items(), key=lambda item: -item[1]):
        tried = [1, 2, 3, size // 4, size // 2, *(n for n in (16, 32, 33, 128, 129, 512, 513) if n < size), size - 1]
        for n in sorted({n for n in tried if 0 < n < size}):
            yield dataclasses.replace(program, dims={**program.dims, name: n})


def plainer(program, types_of):
    """float32 everywhere, then plain data."""
    text = repr(program)
    if any(t in text for t in FLOAT_TYPES[1:]):
        yield retyped(program)
    for i, x in enumerate(program.inputs):
        if x.fill[0] == "normal" and len(x.fill) > 1:
            plain = dataclasses.replace(x, fill=("normal",))
            yield dataclasses.replace(program, inputs=(*program.inputs[:i], plain, *program.inputs[i + 1 :]))


# Pieces of programs


def names_of(body):
    return [t for s in body if isinstance(s, Let) for t in s.targets]


def fresh_input(program, name, kind):
    """An input in place of a value; its shape in dimensions, where the builder has told it so."""
    shape, dtype = kind
    fill = ("normal",) if dtype in FLOAT_TYPES else ("truth",) if dtype == "bool" else ("integers", 0, 2)
    fresh = "x" + name[1:]
    while any(x.name == fresh for x in program.inputs):
        fresh += "0"
    told = program.shapes.get(name)
    if told is not None and evaluated(told, program.dims) == tuple(shape):
        shape = told
    return Input(fresh, tuple(map(str, shape)), dtype, fill, int(fresh[1:]))


def evaluated(shape, dims):
    try:
        return tuple(int(eval(str(d), dict(dims))) for d in shape)
    except NameError:  # a dimension that was pruned
        return None


def with_input(program, path, name, kind):
    """The value of that name becomes an input; a statement that also binds others stays for those."""
    x = fresh_input(program, name, kind)
    statement = statement_at(program.body, path)
    kept = (statement,) if len(statement.targets) > 1 else ()
    body = changed_body(program.body, path, (*kept, Let((name,), x.name)))
    return dataclasses.replace(program, body=body, inputs=(*program.inputs, x))


def statement_at(body, path):
    for i in path[:-1]:
        body = body[i].body
    return body[path[-1]]


def retyped(program):
    def text(t):
        return re.sub(r"\b(bfloat16|float16)\b", "float32", t)

    def statement(s):
        if isinstance(s, Let):
            return dataclasses.replace(s, expr=text(s.expr), alternatives=tuple(map(text, s.alternatives)))
        return dataclasses.replace(s, body=tuple(map(statement, s.body)), result=text(s.result))

    inputs = tuple(dataclasses.replace(x, dtype=text(x.dtype)) for x in program.inputs)
    return dataclasses.replace(program, inputs=inputs, body=tuple(map(statement, program.body)))


STEPS = (
    fewer_outputs, without_donation, cuts, simpler_texts, inlined, untupled, fewer_elements, fewer_arguments,
    replaced, smaller, subexpressions, plainer,
)  # fmt: skip
