"""Which program an index stands for: a table of family, wrapper, type, size and machine that cycles.

Nothing of this is luck: every family meets each pair of wrapper and type, then each of them with
every size, at another of its dimensions each time around, on each chip and number of threads.
"""

import dataclasses
import itertools
import random

from . import sizes, wrappers
from .builder import Builder, TooLarge
from .families import FAMILIES

CHIPS = ("trn1", "trn2", "trn3", "inf2")
CONFIGS = tuple(itertools.product(CHIPS, (1, 2), (True, False)))


@dataclasses.dataclass(frozen=True)
class Config:
    """Where a program runs. The other number of threads must give the same bits."""

    chip: str
    threads: int
    is_checked: bool

    def __str__(self):
        return f"{self.chip}, {self.threads} thread{'s' * (self.threads > 1)}{', checked' * self.is_checked}"


@dataclasses.dataclass(frozen=True)
class Case:
    seed: int
    index: int
    family: str
    wrapper: str
    dtype: str
    edge: int
    turn: int  # which dimension gets the edge
    config: Config


def wrappers_of(family):
    if family.kind == "free":
        names = ["forward"]
    else:
        names = list(wrappers.WITHOUT_GRADIENT)
    return names + list(wrappers.WITH_GRADIENT if family.has_gradient and family.kind != "free" else [])


def case(seed, index):
    order = sorted(FAMILIES)
    random.Random(f"families {seed}").shuffle(order)
    visit, position = divmod(index, len(order))
    family = FAMILIES[order[position]]
    pairs = list(itertools.product(wrappers_of(family), family.dtypes))
    random.Random(f"pairs {seed} {family.name}").shuffle(pairs)
    edges = [*sizes.EDGES, *sizes.WIDE * family.is_wide]
    random.Random(f"edges {seed} {family.name}").shuffle(edges)
    wrapper, dtype = pairs[visit % len(pairs)]
    # A cycle as long as that of the pairs would show each size with one pair only.
    n_edges = len(edges) + (len(pairs) % len(edges) == 0)
    edge = edges[visit % n_edges % len(edges)]
    config = CONFIGS[(position + visit + visit // len(CONFIGS)) % len(CONFIGS)]
    return Case(seed, index, family.name, wrapper, dtype, edge, visit // n_edges, Config(*config))


def chosen_families(c, rng):
    """The family of the case, sometimes with others of its kind before or behind it."""
    family = FAMILIES[c.family]
    if family.kind == "free":
        return [c.family]
    others = [f.name for f in FAMILIES.values()
              if f.kind == family.kind and not f.ends and (f.is_wide or c.edge <= sizes.EDGES[-1]) and (f.has_gradient or c.wrapper in wrappers.WITHOUT_GRADIENT)
              and (c.dtype in f.dtypes)]  # fmt: skip
    names = [c.family]
    for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 2))):
        names.insert(rng.randrange(len(names) + (not family.ends)), rng.choice(sorted(others)))
    return names


def attempt(c, names, edge, slot, calm, seed):
    b = Builder(seed, c.dtype, edge, slot, calm)
    family = FAMILIES[c.family]
    if family.kind == "free":
        b.outputs = list(family.build(b))
    else:
        wrappers.WRAPPERS[c.wrapper](b, names, family.kind)
    return b, b.finish(f"{' + '.join(names)}, {c.wrapper}, {c.dtype}, size {edge}, {c.config}")


def slots_of(c, names, edge, calm, seed):
    """How many dimensions could have the edge; a program that is too large has told some of them."""
    b = Builder(seed, c.dtype, edge, -1, calm)
    try:
        family = FAMILIES[c.family]
        if family.kind == "free":
            family.build(b)
        else:
            wrappers.WRAPPERS[c.wrapper](b, names, family.kind)
    except TooLarge:
        pass
    return b.n_slots


def program(c):
    """The program of a case. Where sizes make too much work, others are drawn: calmer ones, the edge at
    another dimension, fewer families, at last without the edge."""
    seed = random.Random(f"program {c.seed} {c.index}").randrange(2**31)
    for n in range(32):
        rng = random.Random(f"{seed} {n // 8}")
        names = chosen_families(c, rng) if n < 16 else [c.family]
        calm = (n % 8) / 7
        n_slots = slots_of(c, names, c.edge, calm, seed + n)
        slot = (c.turn + (n // 8 if n < 16 else n)) % n_slots if n_slots and n < 24 else -1
        try:
            return attempt(c, names, c.edge, slot, calm, seed + n)[1]
        except TooLarge:
            continue
    raise TooLarge(f"no program for {c}")
