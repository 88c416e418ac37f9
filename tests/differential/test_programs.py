"""A fixed slice of the random programs: the same plan as `make fuzz-programs`, each family with it."""

import os

import pytest

from . import plan
from .families import FAMILIES
from .pool import BUILD, Worker, shrunk
from .program import pruned, reproducer

SEED = int(os.environ.get("VTRN_TEST_SEED", "1"))
N_PROGRAMS = 56  # of the plan as it is; then the first of each family that they have not met
SHRINK_SECONDS = 60

if not os.path.exists(os.environ.get("VTRN_LIBRARY") or BUILD / "src" / "libvtrn.so"):
    pytest.skip("no libvtrn.so was built", allow_module_level=True)


@pytest.fixture(scope="module")
def workers():
    """One process a configuration, started when it is needed."""
    started = {}
    yield lambda config: started.setdefault(config, Worker(config))
    for worker in started.values():
        worker.stop()


def config_of(index):
    """Four machines instead of sixteen, for each process takes its time to start."""
    chip = plan.CHIPS[index % 4]
    return plan.Config(chip, 1 + index % 2, True)


def slice_of(seed):
    indices = list(range(N_PROGRAMS))
    met = {plan.case(seed, i).family for i in indices}
    i = N_PROGRAMS
    while met < set(FAMILIES):
        family = plan.case(seed, i).family
        if family not in met:
            met.add(family)
            indices.append(i)
        i += 1
    return indices


@pytest.mark.parametrize("index", slice_of(SEED))
def test_a_random_program_computes_what_jax_does_on_the_cpu(workers, index):
    case = plan.case(SEED, index)
    program = pruned(plan.program(case))
    worker = workers(config_of(index))
    outcome = worker.judge(program)
    if outcome.name == "ok":
        return
    small, last = shrunk(program, outcome, worker, SHRINK_SECONDS)
    pytest.fail(f"{program.label}: {outcome.name}: {outcome.text}\n\nshrunk to: {last.text}\n{reproducer(small)}")

