"""One program of each framework in the zoo, 20 steps on the chip and on the host. A framework that is not
installed is skipped: pip install 'vtrn[zoo]' brings all of them."""

import importlib
import sys

import conftest
import pytest
from paths import ROOT

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
sys.path.insert(0, str(ROOT / "bench"))
import zoo  # noqa: E402

EXAMPLES = {module: zoo.programs([module])[0] for module in zoo.PROGRAMS}


@pytest.mark.slow
@pytest.mark.parametrize("module", EXAMPLES)
def test_a_framework_trains_as_on_the_cpu(module):
    name = EXAMPLES[module]
    absent = zoo.missing(name)
    if absent:
        pytest.skip(f"{name} needs {', '.join(absent)}, which this Python has not: pip install 'vtrn[zoo]'")
    for dtype in zoo.dtypes(name):
        theirs = zoo.run(name, dtype, "cpu")
        ours = zoo.run(name, dtype, "neuron", is_profiled=True, VTRN_CHECK="1")
        assert zoo.loss_rel_max(ours, theirs) <= (2e-2 if dtype == "bfloat16" else 1e-4)
        assert zoo.reference_ops(ours)[0] == []


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
