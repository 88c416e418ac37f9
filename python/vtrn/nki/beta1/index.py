"""Index expressions of NKI's first generation: nl.arange, nl.mgrid, and what is made of them by + - *, // and % of an integer,
and comparison."""

import numpy as np

from vtrn.nki import operators


def _integer(x):
    return isinstance(x, (int, np.integer)) or (hasattr(x, "__index__") and not isinstance(x, Index))


def _is_term(x):
    return isinstance(x, Index) or _integer(x)


_AFFINE = "index expressions are sums, differences and products with integers, and quotients and remainders of // and % by one"
_NOT_AFFINE = ("by // and % the numbers of a subscript have equal steps only where quotient and remainder of one expression number "
               "neighbouring dimensions, or where the expression stays within one multiple; view the tensor by more dimensions "
               "(reshape) and take an index of each")
_COMPARISONS = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal"}


class Index:
    """const + sum of step[a] * (number along axis a) + sum of floors[f] * (the quotient f), rounded down. Axes count from the
    last one, as NumPy aligns them. step: {axis: step}; sizes: last axis first; floors: {(const, ((axis, step), ...), divisor):
    factor}, of quotients that are not affine themselves. Two of them may be together: i // n * n + i % n is i."""

    __slots__ = ("const", "step", "sizes", "floors")

    def __init__(self, const, step, sizes, floors=None):
        self.const, self.step, self.sizes = const, step, sizes
        self.floors = {f: factor for f, factor in (floors or {}).items() if factor}

    @property
    def shape(self):
        return self.sizes[::-1]

    @property
    def ndim(self):
        return len(self.sizes)

    def __getitem__(self, key):
        """None adds an axis, : keeps one."""
        key = key if isinstance(key, tuple) else (key,)
        if Ellipsis not in key:
            key = (*key, Ellipsis)
        at, n = key.index(Ellipsis), self.ndim - sum(k is not None for k in key) + 1
        key = (*key[:at], *[slice(None)] * n, *key[at + 1:])
        sizes, step, old, moved = [], {}, 0, {}
        for k in reversed(key):
            if k is None:
                sizes.append(1)
            elif k == slice(None) and old < self.ndim:
                if old in self.step:
                    step[len(sizes)] = self.step[old]
                moved[old] = len(sizes)
                sizes.append(self.sizes[old])
                old += 1
            else:
                raise IndexError(f"an index expression takes : and None, not {k!r}")
        if old != self.ndim:
            raise IndexError(f"an index expression of {self.ndim} axes; the subscript names {old}")
        floors = {(c, tuple((moved[a], s) for a, s in steps), n): factor for (c, steps, n), factor in self.floors.items()}
        return Index(self.const, step, tuple(sizes), floors)

    def __add__(self, other):
        if _integer(other):
            return Index(self.const + other.__index__(), self.step, self.sizes, self.floors)
        if not isinstance(other, Index):
            return self._refused("add", other)
        step = dict(self.step)
        for a, s in other.step.items():
            step[a] = step.get(a, 0) + s
        floors = dict(self.floors)
        for f, factor in other.floors.items():
            floors[f] = floors.get(f, 0) + factor
        return Index(self.const + other.const, step, broadcast(self, other), floors)

    __radd__ = __add__

    def __mul__(self, other):
        if not _integer(other):
            return self._refused("mul", other)
        n = other.__index__()
        return Index(self.const * n, {a: s * n for a, s in self.step.items()}, self.sizes,
                     {f: factor * n for f, factor in self.floors.items()})

    __rmul__ = __mul__

    def __floordiv__(self, other):
        if not _integer(other) or other.__index__() < 1:
            return self._refused("floordiv", other)
        n = other.__index__()
        if self.floors:
            return self._floor_of_floor(n)
        outer = {a: s // n for a, s in self.step.items() if s % n == 0}
        inner = {a: s for a, s in self.step.items() if s % n}
        rest = Index(self.const % n, inner, self.sizes)
        low, high = rest.bounds()
        if low // n == high // n:
            return Index(self.const // n + low // n, outer, self.sizes)
        return Index(self.const // n, outer, self.sizes, {(rest.const, tuple(sorted(inner.items())), n): 1})

    def _floor_of_floor(self, n):
        (floor, factor), *others = self.floors.items()
        if others or factor != 1 or any(self.step.values()):
            return self._refused("floordiv", n)
        const, steps, m = floor
        return Index(const + self.const * m, dict(steps), self.sizes) // (m * n)

    def __mod__(self, other):
        if not _integer(other) or other.__index__() < 1:
            return self._refused("mod", other)
        return self - other.__index__() * (self // other)

    def bounds(self):
        """The least and the largest of its numbers."""
        if not self.floors:
            ends = [s * (self.sizes[a] - 1) for a, s in self.step.items()]
            return self.const + sum(e for e in ends if e < 0), self.const + sum(e for e in ends if e > 0)
        axes = sorted({*self.step, *(a for _, steps, _ in self.floors for a, _ in steps)})
        along = dict(zip(axes, np.ix_(*(np.arange(self.sizes[a]) for a in axes))))
        numbers = self.const + sum(s * along[a] for a, s in self.step.items())
        for (const, steps, n), factor in self.floors.items():
            numbers = numbers + factor * ((const + sum(s * along[a] for a, s in steps)) // n)
        return int(numbers.min()), int(numbers.max())

    def affine(self):
        """Itself; an error where it has quotients."""
        if self.floors:
            raise operators.refusal(f"{self!r}: {_NOT_AFFINE}")
        return self

    def limit(self):
        """An affine expression that is <= 0 where this one is."""
        if not self.floors:
            return self
        ((const, steps, n), factor), *others = self.floors.items()
        if others or factor not in (1, -1) or any(self.step.values()):
            raise operators.refusal(f"{self!r} <= 0: a mask is a box of elements, and that of a remainder, or of a quotient beside "
                                    "another number, is none; compare the expression that is divided, or one for each dimension")
        expression = Index(const, dict(steps), self.sizes)
        return expression + (self.const * n - n + 1) if factor == 1 else self.const * n - expression

    def __neg__(self):
        return self * -1

    def __pos__(self):
        return self

    def __sub__(self, other):
        return self + -1 * other if _is_term(other) else self._refused("sub", other)

    def __rsub__(self, other):
        return -self + other if _is_term(other) else self._refused("sub", other)

    def __lt__(self, other):
        return self._compared("lt", other, lambda: [self - other + 1])

    def __le__(self, other):
        return self._compared("le", other, lambda: [self - other])

    def __gt__(self, other):
        return self._compared("gt", other, lambda: [other - self + 1])

    def __ge__(self, other):
        return self._compared("ge", other, lambda: [other - self])

    def __eq__(self, other):
        if other is None:
            return False
        return self._compared("eq", other, lambda: [self - other, other - self])

    def __ne__(self, other):
        if other is None:
            return True
        raise operators.refusal(f"{operators.expression('ne', self, other)}: a mask is made by <, <=, >, >= and ==; what is left by "
                                "!= are two parts: write one instruction for each")

    __hash__ = None

    def _refused(self, name, other):
        if hasattr(other, "buffer"):  # a tile says what stands for the numbers
            return NotImplemented
        raise operators.refusal(f"{operators.expression(name, self, other)}: {_AFFINE}; nisa.iota(expression, dtype) gives the "
                                "numbers as a tile, which takes others")

    def _compared(self, name, other, terms):
        if not _is_term(other):
            raise operators.refusal(f"{operators.expression(name, self, other)}: {_AFFINE}; compare with an integer or another one")
        return Mask(terms(), (self, _COMPARISONS[name], other))

    def __bool__(self):
        raise operators.refusal(f"bool({self!r}): an index expression stands for all of its numbers, and has no truth for `if`, "
                                "`while`, `and`, `or` and `not`; compare it, for a mask, or branch on the loop's variable")

    def __repr__(self):
        quotients = "".join(f" + {factor} * (({const} + {dict(steps)}) // {n})" for (const, steps, n), factor in self.floors.items())
        return f"<index {self.const} + {self.step}{quotients} over {self.shape}>"


operators.refuse(Index, f"{_AFFINE}, which become steps and numbers of an access pattern",
                 "view the tensor by more dimensions (reshape) and take an index of each, or compute the numbers in a tile "
                 "(nisa.iota(expression, dtype))")


def broadcast(*indices):
    """Sizes of all, last axis first."""
    n = max(i.ndim for i in indices)
    sizes = [1] * n
    for i in indices:
        for a, size in enumerate(i.sizes):
            if size != 1 and sizes[a] not in (1, size):
                raise operators.refusal(f"index expressions of shapes {', '.join(str(i.shape) for i in indices)} do not broadcast: each "
                                        "has as many axes as the part has dimensions, None for those of the others (nl.arange(n)[:, None])")
            sizes[a] = max(sizes[a], size)
    return tuple(sizes)


class Mask:
    """Where every one of some index expressions is <= 0. comparison: the one that made it, for affine_select."""

    __slots__ = ("terms", "comparison")

    def __init__(self, terms, comparison=None):
        self.terms, self.comparison = [t.limit() for t in terms if isinstance(t, Index)], comparison
        if any(not isinstance(t, Index) and t > 0 for t in terms):
            raise ValueError("a mask that holds nowhere")

    def __and__(self, other):
        if other is None or (isinstance(other, (bool, np.bool_)) and other):
            return self
        if isinstance(other, (bool, np.bool_)):
            return nowhere()
        if not isinstance(other, Mask):
            raise operators.refusal(f"{operators.expression('and', self, other)}: {_JOINED}; a tile of answers (nl.less(x, y)) is "
                                    "no mask: nl.where and nisa.tensor_copy_predicated take it")
        return Mask(self.terms + other.terms)

    __rand__ = __and__

    def __bool__(self):
        raise operators.refusal("a mask has no truth of its own: write & in the place of `and`, (0 <= i) & (i < n) in the place of "
                                "0 <= i < n")

    def __eq__(self, other):
        if other is None:
            return False
        raise operators.refusal(f"{operators.expression('eq', self, other)}: masks are not compared; {_JOINED}")

    __hash__ = object.__hash__

    def __repr__(self):
        return "<mask>"

    def is_nowhere(self):
        """Whether a term of loops' variables alone leaves nothing."""
        return any(term.const > 0 and not any(term.step.values()) for term in self.terms)

    def on(self, shape, par):
        """The mask with an axis for each dimension of shape. Index expressions of fewer axes begin with the partitions, dimension
        par, as i[:, None] does beside x[i, :]; those of one axis count the last dimension. Of more axes those of one number drop out."""
        terms = [t for t in self.terms if t.sizes]
        sizes = broadcast(*terms) if terms else ()
        n, own = len(shape), len(sizes)
        if own in (n, 0) or own == 1:
            return self
        if own < n:
            shift = n - own - (par if par + own <= n else n - own)
            place = {a: a + shift for a in range(own)}
        else:
            kept = [a for a in range(own) if sizes[a] != 1]
            if len(kept) > n:
                raise operators.refusal(f"a mask of index expressions over {sizes[::-1]} and a tile of shape {tuple(shape)}: each of its "
                                        "dimensions has one of theirs; give the mask index expressions of the tile's dimensions")
            ones = [a for a in range(own) if sizes[a] == 1]
            while len(kept) < n:  # the middle ones drop out: the outermost counts partitions, the innermost the last dimension
                kept.append(ones.pop() if own - 1 in ones else ones.pop(0))
            place = {a: i for i, a in enumerate(sorted(kept))}
        return Mask([Index(t.const, {place[a]: s for a, s in t.step.items() if a in place}, (1,) * n) for t in self.terms], self.comparison)

    def boxes(self, shape, par=0):
        """The elements of shape for which the mask holds, as boxes: (start, stop) for each dimension, outermost first. Terms
        over two dimensions cut the outer one into runs that have the same elements of the inner one. par: the dimension
        that counts partitions."""
        return self.on(shape, par)._boxes(shape)

    def box(self, shape, par=0):
        """(start, stop) for each dimension of shape, outermost first."""
        return self.on(shape, par)._box(shape)

    def _boxes(self, shape):
        sloped = [t for t in self.terms if self._is_sloped(t, shape)]
        box = Mask([t for t in self.terms if not self._is_sloped(t, shape)])._box(shape)
        if not sloped or any(lo >= hi for lo, hi in box):
            return [box]
        found, axes = [], {tuple(sorted(a for a, s in t.step.items() if s and a < len(shape) and shape[-1 - a] > 1)) for t in sloped}
        if len(axes) != 1 or len(*axes) != 2:
            dims = sorted(tuple(sorted(len(shape) - 1 - a for a in t)) for t in axes)
            raise NotImplementedError(operators.placed(
                f"a mask whose terms are over dimensions {', '.join(map(str, dims))} of a tile together: those over two are cut into boxes "
                "where all are over the same two; use nisa.affine_select"))
        (inner, outer), = axes
        (first, end), (start, stop) = box[-1 - inner], box[-1 - outer]
        last = None
        for i in range(start, stop):
            columns = first, end
            for term in sloped:
                step, rest = term.step[inner], -(term.const + term.step[outer] * i)  # step * j <= rest
                columns = (columns[0], min(columns[1], rest // step + 1)) if step > 0 else (max(columns[0], -(rest // -step)), columns[1])
            if columns[0] >= columns[1]:
                last = None
            elif columns == last:
                found[-1][-1 - outer] = found[-1][-1 - outer][0], i + 1
            else:
                last = columns
                found.append(list(box))
                found[-1][-1 - outer], found[-1][-1 - inner] = (i, i + 1), columns
        return [tuple(b) for b in found]

    @staticmethod
    def _is_sloped(term, shape):
        moving = {a: s for a, s in term.step.items() if s and a < len(shape) and shape[-1 - a] > 1}
        least = term.const + sum(min(0, s * (shape[-1 - a] - 1)) for a, s in moving.items())
        most = term.const + sum(max(0, s * (shape[-1 - a] - 1)) for a, s in moving.items())
        return len(moving) > 1 and least <= 0 < most

    def _box(self, shape):
        bounds = [[0, n] for n in shape]
        for term in self.terms:
            moving = {a: s for a, s in term.step.items() if s and a < len(shape) and shape[-1 - a] > 1}
            least = term.const + sum(min(0, s * (shape[-1 - a] - 1)) for a, s in moving.items())
            most = term.const + sum(max(0, s * (shape[-1 - a] - 1)) for a, s in moving.items())
            if most <= 0:
                continue
            if least > 0:
                return [(0, 0)] * len(shape)
            if len(moving) > 1:
                raise NotImplementedError(operators.placed("a mask over several dimensions at once is no box of elements, and those of "
                                                           "loads, stores and copies alone are cut into such; use nisa.affine_select"))
            (a, s), = moving.items()
            b = bounds[-1 - a]
            if s > 0:
                b[1] = min(b[1], -term.const // s + 1)
            else:
                b[0] = max(b[0], -(term.const // s))
        return [(lo, max(lo, hi)) for lo, hi in bounds]


def nowhere():
    """A mask that leaves no element."""
    return Mask([Index(1, {}, ())])


_JOINED = "masks are joined by & alone, as each names a box of elements"
operators.refuse(Mask, _JOINED, {
    **dict.fromkeys((*operators.BINARY, *operators.UNARY), "give mask= as it is, or take nisa.affine_select"),
    **dict.fromkeys(("or", "xor"), "write one instruction for each part, with its own mask="),
    "invert": "write the opposite comparison: i >= n in the place of ~(i < n)"})
operators.refuse(Mask, _JOINED, "compare index expressions, and join the masks", ("lt", "le", "gt", "ge"))


def arange(*args):
    numbers = range(*(a.__index__() for a in args))
    return Index(numbers.start, {0: numbers.step}, (len(numbers),))


class _Grid:
    """nl.mgrid[a:b, c:d]: an index expression for each dimension, over all of them; .p .x .y .z by name."""

    def __init__(self, indices):
        self.indices = indices

    def __iter__(self):
        return iter(self.indices)

    def __getitem__(self, i):
        return self.indices[i]

    def __len__(self):
        return len(self.indices)

    p = property(lambda self: self.indices[0])
    x = property(lambda self: self.indices[-1] if len(self.indices) == 2 else self.indices[1])
    y = property(lambda self: self.indices[2])
    z = property(lambda self: self.indices[3])


class _MakeGrid:
    def __getitem__(self, key):
        key = key if isinstance(key, tuple) else (key,)
        ranges = [range(k.start or 0, k.stop, k.step or 1) for k in key]
        sizes = tuple(len(r) for r in reversed(ranges))
        n = len(ranges)
        return _Grid([Index(r.start, {n - 1 - d: r.step}, sizes) for d, r in enumerate(ranges)])


mgrid = _MakeGrid()


def refuse_mask(mask, what, x):
    """An instruction that does not mask takes masks that leave all of x."""
    mask = mask_of(mask)
    if mask is not None and mask.boxes(x.shape, x.par or 0) != [[(0, n) for n in x.shape]]:
        raise NotImplementedError(f"{what}: a mask; use a part of its operands, as x[0:n], in its place")


def mask_of(mask):
    if mask is None:
        return None
    if isinstance(mask, (bool, np.bool_)):  # of loops' variables alone
        return None if mask else nowhere()
    if not isinstance(mask, Mask):
        raise TypeError(f"mask {mask!r}: a comparison of index expressions")
    return mask
