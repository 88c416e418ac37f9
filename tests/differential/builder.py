"""Builds a program statement by statement; the families of families/ call it."""

import contextlib
import random

from . import sizes
from .program import Function, Input, Let, Program


class TooLarge(Exception):
    """The sizes drawn make too much work; draw again."""


class Value(str):
    """A name in the program, with its shape (expressions in dimensions) and type."""

    shape = ()
    dtype = "float32"

    @staticmethod
    def of(name, shape, dtype):
        value = Value(name)
        value.shape, value.dtype = tuple(shape), dtype
        return value


class Scope:
    """A function being built: its statements and the inputs made within."""

    def __init__(self):
        self.body, self.inputs = [], []
        self.params, self.result = (), None
        self.name = None


class Builder:
    """edge is the size to reach, slot which of the dimensions that can reach it does.

    `mixed` keeps weights in float32 and computes in bfloat16. calm, from 0 to 1, makes the other
    dimensions smaller.
    """

    def __init__(self, seed, dtype, edge, slot, calm=0.0):
        self.rng = random.Random(seed)
        self.seed = seed
        self.is_mixed = dtype == "mixed"
        self.dtype = "bfloat16" if self.is_mixed else dtype
        self.edge, self.slot, self.calm = edge, slot, calm
        self.n_slots = 0
        self.sizes, self.inputs, self.scopes = {}, [], [Scope()]
        self.n_names, self.work_done = 0, 0
        self.outputs, self.donated, self.shapes = [], [], {}

    # Dimensions

    def dim(self, letter, most=None, multiple=1, small=sizes.SMALL, middle=0.3, least=1):
        """A new dimension. One of those whose `most` allows it gets the edge."""
        most = most or max(self.edge + multiple, sizes.EDGES[-1])
        size = sizes.rounded_up(self.edge, multiple)
        if least <= size <= most:
            is_edge = self.n_slots == self.slot
            self.n_slots += 1
        else:
            is_edge = False
        if not is_edge:
            kind = self.rng.random() / (1 - self.calm) if self.calm < 1 else 1
            choices = sizes.EDGES if kind < middle / 5 else sizes.MIDDLE if kind < middle else small
            choices = [n for n in choices if least <= sizes.rounded_up(n, multiple) <= most] or [least]
            size = sizes.rounded_up(self.rng.choice(choices), multiple)
        return self.fixed(letter, size)

    def fixed(self, letter, size):
        """A dimension of a size that is not drawn."""
        n = 1
        name = letter
        while name in self.sizes:
            n += 1
            name = f"{letter}{n}"
        self.sizes[name] = size
        return name

    def size(self, expr):
        return int(eval(str(expr), dict(self.sizes)))

    def count(self, shape):
        n = 1
        for d in shape:
            n *= self.size(d)
        return n

    def work(self, *dims):
        """Counts multiplications, so that a program stays fast."""
        self.work_done += self.count(dims)
        if self.work_done > sizes.MOST_WORK:
            raise TooLarge("work")

    # Values

    def name(self, letter):
        self.n_names += 1
        return f"{letter}{self.n_names}"

    def let(self, expr, shape, dtype=None, alternatives=()):
        value = Value.of(self.name("v"), shape, dtype or self.dtype)
        if self.count(shape) > sizes.MOST_ELEMENTS:
            raise TooLarge("value")
        self.shapes[str(value)] = value.shape
        self.scopes[-1].body.append(Let((str(value),), str(expr), tuple(alternatives)))
        return value

    def lets(self, expr, *types, unpacks=True, alternatives=()):
        """Unpacks a tuple into values of (shape, dtype)."""
        values = [Value.of(self.name("v"), shape, dtype) for shape, dtype in types]
        self.shapes.update((str(v), v.shape) for v in values)
        self.scopes[-1].body.append(Let(tuple(map(str, values)), str(expr), tuple(alternatives), unpacks))
        return values

    def same(self, expr, like):
        """A value of the shape and type of another."""
        return self.let(expr, like.shape, like.dtype)

    def input(self, shape, dtype=None, fill=("normal",), letter="x"):
        x = Input(self.name(letter), tuple(shape), dtype or self.dtype, tuple(fill), self.n_names)
        if self.count(shape) > sizes.MOST_ELEMENTS:
            raise TooLarge("input")
        self.inputs.append(x)
        self.scopes[-1].inputs.append(x.name)
        return Value.of(x.name, x.shape, x.dtype)

    def weight(self, shape, fan_in=None, dtype=None):
        """A parameter, scaled so that a contraction over fan_in keeps the size of values."""
        fan_in = fan_in or shape[0]
        w = self.input(shape, "float32" if self.is_mixed else dtype, ("normal", f"({fan_in})**-0.5"), "w")
        return self.let(f"{w}.astype({self.dtype})", shape) if self.is_mixed else w

    def gain(self, shape):
        """A scale around one."""
        return self.input(shape, self.dtype, ("uniform", 0.5, 1.5), "w")

    def bias(self, shape):
        return self.input(shape, self.dtype, ("normal", 0.3), "w")

    def cast(self, value, dtype):
        return value if value.dtype == dtype else self.let(f"{value}.astype({dtype})", value.shape, dtype)

    def matmul(self, x, w):
        """x[..., k] @ w[k, n]."""
        self.work(*x.shape, w.shape[-1])
        return self.let(f"{x} @ {w}", (*x.shape[:-1], w.shape[-1]), x.dtype)

    def choose(self, *options):
        return self.rng.choice(options)

    def chance(self, p):
        return self.rng.random() < p

    # Functions

    @contextlib.contextmanager
    def function(self, *params):
        """Statements made inside become the body; the caller sets params and result of the scope."""
        scope = Scope()
        scope.params = tuple(map(str, params))
        scope.name = self.name("f")
        self.scopes.append(scope)
        yield scope
        self.scopes.pop()
        self.scopes[-1].inputs += scope.inputs
        self.scopes[-1].body.append(Function(scope.name, scope.params, tuple(scope.body), str(scope.result)))

    def find(self, name):
        return next(x for x in self.inputs if x.name == name)

    def replace_input(self, name, **changes):
        import dataclasses

        i = next(i for i, x in enumerate(self.inputs) if x.name == name)
        self.inputs[i] = dataclasses.replace(self.inputs[i], **changes)

    def finish(self, label):
        if sum(self.count(x.shape) for x in self.inputs) > sizes.MOST_INPUT_ELEMENTS:
            raise TooLarge("inputs")
        return Program(self.seed, dict(self.sizes), tuple(self.inputs), tuple(self.scopes[0].body),
                       tuple(map(str, self.outputs)), tuple(self.donated), label, dict(self.shapes))  # fmt: skip
