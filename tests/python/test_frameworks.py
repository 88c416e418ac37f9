"""One program of each framework in the zoo, 20 steps on the chip and on the host. A framework that is not
installed is skipped: pip install 'vtrn[zoo]' brings all of them."""

import importlib
import json
import sys

import conftest
import pytest
from paths import ROOT

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
sys.path.insert(0, str(ROOT / "bench"))
import train  # noqa: E402
import zoo  # noqa: E402

EXAMPLES = {module: zoo.programs([module])[0] for module in zoo.PROGRAMS}


# Both types in one process: it imports the framework once, and compiles once what they have in common.
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import zoo
for dtype in sys.argv[4:]:
    zoo.work(sys.argv[2], dtype, f"{sys.argv[3]}/result-{dtype}.json")
"""


def run(name, platform, folder, **variables):
    """What zoo.work() wrote for each type, with the profiles of the chip's programs."""
    folder.mkdir()
    train.execute(["-c", SCRIPT, zoo.ROOT / "bench", name, folder, *zoo.dtypes(name)], train.environment(platform, **variables))
    results = [json.loads((folder / f"result-{dtype}.json").read_text()) for dtype in zoo.dtypes(name)]
    assert {r["platform"] for r in results} == {platform}
    return results, [json.loads(path.read_text()) for path in folder.rglob("profile.json")]


@pytest.mark.slow
@pytest.mark.parametrize("module", EXAMPLES)
def test_a_framework_trains_as_on_the_cpu(module, tmp_path):
    name = EXAMPLES[module]
    absent = zoo.missing(name)
    if absent:
        pytest.skip(f"{name} needs {', '.join(absent)}, which this Python has not: pip install 'vtrn[zoo]'")
    # XLA compiles for the CPU in two thirds of the time where it does not optimize.
    theirs, _ = run(name, "cpu", tmp_path / "cpu", XLA_FLAGS="--xla_backend_optimization_level=0")
    ours, profiles = run(name, "neuron", tmp_path / "neuron", VTRN_CHECK="1", VTRN_PROFILE=str(tmp_path / "neuron"))
    for dtype, our, their in zip(zoo.dtypes(name), ours, theirs):
        assert zoo.loss_rel_max(our, their) <= (2e-2 if dtype == "bfloat16" else 1e-4)
    assert profiles and zoo.reference_ops({"profiles": profiles})[0] == []


@pytest.mark.parametrize("module", zoo.PROGRAMS)
def test_the_table_of_programs_is_true(module):
    """Each function of a module is in the table, in the column that its arguments say."""
    if zoo.missing(f"{module}."):
        pytest.skip(f"{module} needs {', '.join(zoo.missing(f'{module}.'))}: pip install 'vtrn[zoo]'")
    sys.path.insert(0, str(zoo.ZOO))
    try:
        loaded = importlib.import_module(module)
    finally:
        sys.path.remove(str(zoo.ZOO))
    functions = {n: f for n, f in vars(loaded).items() if getattr(f, "__module__", None) == module}
    functions = {n: f for n, f in functions.items() if hasattr(f, "__code__") and n[0] != "_"}
    _, both, fp32 = zoo.PROGRAMS[module]
    assert sorted(functions) == sorted(f"{both} {fp32}".split())
    assert {n for n, f in functions.items() if f.__code__.co_argcount == 1} == set(both.split())
