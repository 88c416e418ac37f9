"""python -m vtrn.nki tune: the tuner from the shell."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)

KERNEL = """import nki
import nki.language as nl

@nki.jit
def scaled(x, columns, factor):
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    for j in range(x.shape[1] // columns):
        part = slice(j * columns, (j + 1) * columns)
        nl.store(out[:, part], nl.multiply(nl.load(x[:, part]), factor))
    return out

def given():
    import numpy as np
    return {"x": np.ones((128, 4096), np.float32)}
"""


def tune(tmp_path, *arguments):
    (tmp_path / "kernel.py").write_text(KERNEL)
    return subprocess.run([sys.executable, "-m", "vtrn.nki", "tune", f"{tmp_path / 'kernel.py'}:scaled", *arguments],
                          capture_output=True, text=True)


@pytest.mark.parametrize("others", [("--shape", "x=128,4096:float32"), ("--args", "given")])
def test_the_fastest_variant_is_told_with_the_front(tmp_path, others):
    done = tune(tmp_path, "--space", "columns=128,1024,4096", *others, "--set", "factor=2.0", "--jobs", "1", "--json")
    found = json.loads(done.stdout)
    assert found["best"]["parameters"] == {"columns": 1024}  # one part is loaded while another is multiplied
    times = {v["parameters"]["columns"]: v["latency_ns"] for v in found["variants"]}
    assert times[128] > times[4096] > times[1024] > 0 and len(found["pareto"]) == 2


def test_the_table_is_for_people(tmp_path):
    done = tune(tmp_path, "--space", "columns=128,256", "--shape", "x=128,512", "--set", "factor=2.0", "--jobs", "1")
    assert "latency us" in done.stdout and "columns=256" in done.stdout and "Pareto front" in done.stdout


@pytest.mark.parametrize("arguments, said", [
    (("--shape", "x=128,512"), "--space names no parameter"),
    (("--space", "columns"), "NAME=VALUE is needed"),
    (("--space", "columns="), "a value behind = is needed"),
    (("--space", "=64"), "a name before = is needed"),
    (("--space", "columns=64", "--shape", "x=128,a"), "128,512:bfloat16"),
    (("--space", "columns=64", "--shape", "x=128,-4"), "a dimension is -4"),
    (("--space", "columns=64", "--shape", "x=128,512"), "factor"),
    (("--space", "columns=64", "--args", "absent"), "no such function"),
    (("--space", "columns=64", "--jobs", "0"), "--jobs 0: at least one process is needed"),
    (("--space", "columns=64", "--jobs", "-3"), "--jobs -3: at least one process is needed"),
])
def test_what_is_wrong_is_said(tmp_path, arguments, said):
    done = tune(tmp_path, *arguments)
    assert done.returncode != 0 and said in done.stderr and "Traceback" not in done.stderr
