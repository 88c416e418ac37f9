"""What PyTorch's users do with a model (torch_programs.py) gives on the virtual chip what PyTorch gives on the host.

The chip and the host compute in one process. As test_torch_xla.py, it runs where torch and torch_xla are: make test-torch."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import conftest
import pytest
from paths import ROOT

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
if importlib.util.find_spec("torch_xla") is None:
    pytest.skip("no torch_xla: make test-torch brings it", allow_module_level=True)

PROGRAMS = pathlib.Path(__file__).with_name("torch_programs.py")
NAMES = re.findall(r"@program\ndef (\w+)", PROGRAMS.read_text())
BOUNDS = {"mixed_precision_with_a_scaler": 2e-2, "a_model_in_bfloat16": 2e-2}


@pytest.fixture(scope="module")
def differences():
    env = {k: v for k, v in os.environ.items() if not k.startswith(("NEURON_", "PJRT_", "XLA_", "TORCH"))}
    env |= {"VTRN_LIBRARY": conftest.LIBRARY, "PYTHONPATH": str(ROOT / "python"), "PJRT_DEVICE": "NEURON"}
    done = subprocess.run([sys.executable, PROGRAMS], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_it_gives_what_the_host_gives(differences, name):
    assert isinstance(differences[name], float), differences[name]
    assert differences[name] <= BOUNDS.get(name, 1e-5)


def test_all_programs_ran(differences):
    assert set(differences) == set(NAMES) and len(NAMES) > 20
