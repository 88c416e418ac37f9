"""`pip install .` into a fresh virtual environment gives the package and the `vtrn` command."""

import json
import os
import subprocess
import sys

import pytest
from paths import ROOT

# What a user has who installed vtrn and set nothing.
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("VTRN_", "PYTHON", "PJRT_"))}


def call(*args, code=0, env=CLEAN, **kwargs):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=1800,
                          env=env, **kwargs)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.slow
def test_pip_install_gives_a_command_that_finds_its_chips_and_itself_in_order(tmp_path):
    bin_dir, away = tmp_path / "venv/bin", tmp_path / "away"
    away.mkdir()
    call(sys.executable, "-m", "venv", bin_dir.parent)
    # How fast the code is does not matter here, how long its compiler takes does.
    call(bin_dir / "pip", "install", "--quiet", "--disable-pip-version-check",
         "--config-settings=setup-args=-Doptimization=0", ROOT)

    chips = call(bin_dir / "vtrn", "chips", "--json", cwd=away)
    assert [c["name"] for c in json.loads(chips)["chips"]] == ["inf1", "inf2", "trn1", "trn2", "trn3"]
    on_path = {**CLEAN, "PATH": f"{bin_dir}:{CLEAN['PATH']}"}
    assert call("sh", "-c", "vtrn chips --json", env=on_path, cwd=away) == chips

    checks = json.loads(call(bin_dir / "vtrn", "doctor", "--json", cwd=away))["checks"]
    assert all(c["ok"] for c in checks if c["needed"]), checks
    version = call(bin_dir / "python", "-c", "import vtrn; print(vtrn.__version__)", cwd=away)
    assert call(bin_dir / "vtrn", "--version", cwd=away) == f"vtrn {version}"
    assert "no command nonsense" in call(bin_dir / "vtrn", "nonsense", code=2, cwd=away)

    # What PyTorch loads when it is imported, and torch_xla then asks for.
    code = """
from importlib.metadata import entry_points
for entry in entry_points(group="torch.backends"):
    entry.load()()
entry_points(group="torch_dynamo_backends")["neuron"].load()
from libneuronxla.libneuronpjrt_path import libneuronpjrt_path
print(libneuronpjrt_path())
"""
    library = call(bin_dir / "python", "-c", code, cwd=away)
    assert library.endswith("libvtrn.so\n") and os.path.exists(library.strip())
