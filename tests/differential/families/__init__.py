"""The families of programs, by name.

A family is a function of (builder, activation) that gives an activation: `sequence` families take
[batch, positions, features], `image` families [batch, height, width, channels]. A `free` family
makes its own inputs and gives a list of results. What keeps the shape may be repeated.
"""

import dataclasses
import importlib


@dataclasses.dataclass(frozen=True)
class Family:
    name: str
    kind: str  # sequence, image, free
    build: object
    keeps_shape: bool
    has_gradient: bool
    dtypes: tuple
    ends: bool  # its result has other dimensions than an activation
    is_wide: bool  # work grows with one dimension alone, so that may be very large


FLOATS = ("float32", "bfloat16", "mixed", "float16")
FAMILIES = {}


def family(kind, keeps_shape=False, has_gradient=True, dtypes=FLOATS, ends=False, is_wide=False):
    def register(build):
        FAMILIES[build.__name__] = Family(
            build.__name__, kind, build, keeps_shape, has_gradient, dtypes, ends, is_wide)  # fmt: skip
        return build

    return register


MODULES = (
    "attention", "feed_forward", "convolution", "norms", "experts", "recurrent", "tokens", "sequences", "moves",
    "integers", "programs", "models", "soup",
)  # fmt: skip
for module in MODULES:
    importlib.import_module(f"{__name__}.{module}")
