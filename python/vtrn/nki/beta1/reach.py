"""What index expressions of the first generation reach beyond their dimension."""

import math


class Reach:
    """The numbers that an index expression has over a part: const and steps by dimension. of: the tensor, which of its
    dimensions they count, and how long that is."""

    __slots__ = ("const", "step", "shape", "of")

    def __init__(self, const, step, shape, of):
        self.const, self.step, self.shape, self.of = const, step, tuple(shape), of

    def bounds(self):
        ends = [s * (self.shape[d] - 1) for d, s in self.step.items()]
        return self.const + sum(e for e in ends if e < 0), self.const + sum(e for e in ends if e > 0)

    def is_beyond(self):
        low, high = self.bounds()
        return math.prod(self.shape) > 0 and (low < 0 or high >= self.of[2])

    def boxed(self, box):
        const = self.const + sum(s * box[d][0] for d, s in self.step.items())
        return Reach(const, self.step, [hi - lo for lo, hi in box], self.of)

    def expanded(self, axis):
        step = {d + (axis <= d): s for d, s in self.step.items()}
        return Reach(self.const, step, (*self.shape[:axis], 1, *self.shape[axis:]), self.of)

    def text(self):
        return beyond_text(*self.of[:2], *self.bounds())


def beyond_text(whole, d, low, high):
    return (f"a subscript of dimension {d} of a tensor in {whole.buffer.value} of shape {whole.shape} goes from {low} to "
            f"{high}, and the dimension has {whole.shape[d]} elements; mask what is beyond, or read less")
