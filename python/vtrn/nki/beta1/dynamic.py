"""Subscripts of the first generation that count from a number in a tile, as tensor_copy_dynamic_src and _dst take them."""

from vtrn.nki import operators
from vtrn.nki.beta1.index import Index

_TAKES = ("a subscript with a number from a tile is that number, and an index expression or an integer added to it or taken from it; "
          "compute others in the tile before")


class Dynamic:
    """The number that a tile of one element has, plus rest, an index expression or an integer."""

    __slots__ = ("tile", "rest")
    buffer = None  # index expressions leave operators to it, as to a tile

    def __init__(self, tile, rest):
        self.tile, self.rest = tile, rest

    def __add__(self, other):
        if not isinstance(other, Index) and not hasattr(other, "__index__"):
            raise operators.refusal(f"{operators.expression('add', self, other)}: {_TAKES}")
        return Dynamic(self.tile, self.rest + other)

    __radd__ = __add__

    def __sub__(self, other):
        return self + -1 * other

    def subscript(self):
        """An index expression or an integer: the tile's number is known when the instruction runs."""
        return self.rest + self.tile.base._index("a subscript of tensor_copy_dynamic_src or _dst", self.tile.base)

    def __repr__(self):
        return f"<{self.rest!r} from a number in a tile on>"


operators.refuse(Dynamic, _TAKES, "compute the number in its tile")


def of(name, x, other):
    """x + other or x - other of a tile of one element, where other makes a subscript of it; else None."""
    if name not in ("add", "sub") or not isinstance(other, Index) or x.size != 1:
        return None
    return Dynamic(x, other if name == "add" else -other)
