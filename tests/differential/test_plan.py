"""Coverage of the plan is counted, not hoped for."""

import collections

import pytest

from . import plan, sizes
from .families import FAMILIES
from .program import pruned, source

N_VISITS = 36 * 5


@pytest.fixture(scope="module")
def cases():
    by_family = collections.defaultdict(list)
    for i in range(len(FAMILIES) * N_VISITS):
        c = plan.case(1, i)
        by_family[c.family].append(c)
    return by_family


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_family_meets_everything(cases, name):
    family, mine = FAMILIES[name], cases[name]
    assert len(mine) == N_VISITS
    pairs = {(w, t) for w in plan.wrappers_of(family) for t in family.dtypes}
    assert {(c.wrapper, c.dtype) for c in mine} == pairs
    assert {c.edge for c in mine} == {*sizes.EDGES, *sizes.WIDE * family.is_wide}
    assert {c.config for c in mine} == {plan.Config(*c) for c in plan.CONFIGS}
    # Each size comes with several pairs and on several machines.
    by_edge = collections.defaultdict(set)
    for c in mine:
        by_edge[c.edge].add((c.wrapper, c.dtype, c.config))
    assert min(map(len, by_edge.values())) >= min(len(pairs), 4)


def test_sizes_of_the_plan_reach_the_programs():
    n_reached, n = 0, 300
    for i in range(n):
        c = plan.case(2, i)
        # A dimension may be rounded up to a multiple.
        n_reached += any(0 <= d - c.edge < 4 for d in pruned(plan.program(c)).dims.values())
    assert n_reached >= 0.95 * n


def test_every_program_does_something():
    for i in range(300):
        program = pruned(plan.program(plan.case(3, i)))
        assert program.outputs and program.inputs
        assert len(source(program).splitlines()) >= 3


def test_another_seed_gives_other_programs():
    assert plan.program(plan.case(1, 0)) != plan.program(plan.case(2, 0))
