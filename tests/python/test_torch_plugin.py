"""The hook that PyTorch loads: it answers for AWS's package where that is absent. Needs no PyTorch."""

import configparser
import json
import os
import subprocess
import sys
import tomllib

import pytest
from paths import ROOT

PYTHON_PATH = str(ROOT / "python")


def run(code, *more_paths, **variables):
    """What a fresh process prints as JSON."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PJRT_", "XLA_", "TORCH", "WORLD_", "NEURON_", "VTRN_TORCH"))}
    env |= {"PYTHONPATH": os.pathsep.join([*more_paths, PYTHON_PATH]), "VTRN_LIBRARY": "/where/it/is.so", **variables}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# As torch's __init__ does at its end.
AUTOLOAD = """
import json, os
from importlib.metadata import entry_points
for e in entry_points(group="torch.backends"):
    if e.value.startswith("vtrn"):
        e.load()()
"""


def test_a_source_tree_and_the_package_have_the_same_entry_points():
    written = configparser.ConfigParser()
    written.optionxform = str
    written.read(ROOT / "python/vtrn_in_tree-0.dist-info/entry_points.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    for group in written.sections():
        assert dict(written[group]) == project[group]


def test_torch_xla_finds_the_library_where_it_asks_aws_for_it():
    code = AUTOLOAD + """
from libneuronxla.libneuronpjrt_path import libneuronpjrt_path
import libneuronxla
libneuronxla.configure_environment()
print(json.dumps([libneuronpjrt_path(), os.environ.get("XLA_STABLEHLO_COMPILE")]))
"""
    assert run(code) == ["/where/it/is.so", "1"]
    assert run(code, PJRT_DEVICE="NEURON") == ["/where/it/is.so", "1"]
    assert run(code, XLA_STABLEHLO_COMPILE="0")[1] == "0"
    assert run(code, PJRT_DEVICE="CPU")[1] is None  # for XLA's own devices nothing changes


@pytest.mark.parametrize("spmd,world", [("1", "2"), ("0", None)])
def test_processes_of_torchrun_are_told_to_the_plugin_where_torch_xla_does_not(spmd, world):
    code = AUTOLOAD + """
import libneuronxla
libneuronxla.configure_environment()
print(json.dumps(os.environ.get("NEURON_PJRT_WORLD_SIZE")))
"""
    assert run(code, XLA_USE_SPMD=spmd, TORCHELASTIC_RUN_ID="none", WORLD_SIZE="2") == world
    assert run(code, XLA_USE_SPMD=spmd, WORLD_SIZE="2") is None


def test_aws_package_goes_first(tmp_path):
    """Also one that is found later, and one without the module that is asked for."""
    package = tmp_path / "libneuronxla"
    package.mkdir()
    (package / "__init__.py").write_text("")
    code = AUTOLOAD + """
try:
    from libneuronxla.libneuronpjrt_path import libneuronpjrt_path
    print(json.dumps(libneuronpjrt_path()))
except ImportError as error:
    print(json.dumps(str(error)))
"""
    assert run(code, str(tmp_path)) == "No module named 'libneuronxla.libneuronpjrt_path'"
    (package / "libneuronpjrt_path.py").write_text("def libneuronpjrt_path(): return 'theirs'")
    assert run(code, str(tmp_path)) == "theirs"
    late = AUTOLOAD + f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + code
    assert run(late) == "theirs"


def test_nothing_else_changes():
    code = f"""
import json, sys
before = set(sys.modules), len(sys.meta_path)
{AUTOLOAD}
{AUTOLOAD}
import importlib.util
print(json.dumps([len(sys.meta_path) - before[1], "libneuronxla" in sys.modules, "torch_xla" in sys.modules,
                  importlib.util.find_spec("libneuronxla.no_such_module") is None]))
"""
    assert run(code) == [1, False, False, True]
