"""The modules of examples/deepracer, imported for its tests alone: they have plain names, which other tests use too."""

import importlib
import sys

import paths
import pytest

EXAMPLE = paths.ROOT / "examples" / "deepracer"
NAMES = (
    "camera check evaluate files film learners lidar objects policy ppo report sac simtrace simulator tracks train world"
).split()
_before = {name: sys.modules.pop(name, None) for name in NAMES}
sys.path.insert(0, str(EXAMPLE))
MODULES = {name: importlib.import_module(name) for name in NAMES}
sys.path.remove(str(EXAMPLE))
for _name, _module in _before.items():
    sys.modules.pop(_name)
    if _module:
        sys.modules[_name] = _module


@pytest.fixture(autouse=True, scope="module")
def example():
    """While a module of tests runs, the plain names are the example's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(EXAMPLE), *(p for p in sys.path if p != str(paths.ROOT / "bench"))])
        for name, module in MODULES.items():
            patch.setitem(sys.modules, name, module)
        yield
    sys.modules.pop("gym_env", None)
