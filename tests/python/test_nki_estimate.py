"""python -m vtrn.nki estimate: what a launch would be, before it computes."""

import json
import subprocess
import sys

import pytest

TEXT = '''import nki
import nki.isa as nisa
import nki.language as nl

@nki.jit
def kernel(a, n=3, columns=64, counts=None):
    out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
    tile = nl.load(a)
    keep = [nl.zeros((128, columns), nl.float32) for _ in range(2)]
    for _ in range(n):
        nisa.tensor_scalar(tile, tile, nl.add, 1.0)
    if counts is not None:
        register = nisa.register_alloc()
        nisa.register_load(register, nl.load(counts))
        for _ in range(register):
            nisa.tensor_scalar(tile, tile, nl.add, 1.0)
    for k in keep:
        nisa.tensor_tensor(tile, tile, k[:, 0:a.shape[1]], nl.add)
    nl.store(out, tile)
    return out
'''


@pytest.fixture
def estimate(tmp_path):
    (tmp_path / "k.py").write_text(TEXT)

    def call(*options):
        return subprocess.run([sys.executable, "-m", "vtrn.nki", "estimate", f"{tmp_path}/k.py:kernel", "--shape",
                               "a=128,32:float32", *options], capture_output=True, text=True)

    return call


def test_an_estimate_counts_instructions_by_line(estimate):
    found = json.loads(estimate("--json", "--set", "n=7").stdout)
    lines = {place.rpartition(":")[2]: n for place, n in found["lines"]}
    assert lines == {"8": 1, "9": 2, "11": 7, "18": 2, "19": 1} and found["n_instructions"] == 13
    assert found["latency_ns"] > 1000 and found["sbuf_peak_bytes"] >= 2 * 64 * 4 and not found["warnings"]
    text = estimate("--set", "n=7").stdout
    assert text.startswith("13 instructions\n        7  ") and "a partition holds 0.6 KiB of SBUF" in text
    on_two = json.loads(estimate("--json", "--lnc", "2").stdout)
    assert on_two["n_instructions"] == 18


def test_a_loop_that_unrolls_to_very_many_instructions_is_told(estimate):
    done = estimate("--set", "n=30000")
    assert done.returncode == 0 and "k.py:11 issues 30000 instructions: a loop of Python is unrolled" in done.stdout


def test_tiles_that_do_not_fit_are_told_with_who_lives_where(estimate, tmp_path):
    text = TEXT.replace("    for _ in range(n):\n", "    for k in keep:\n        nisa.tensor_scalar(k, k, nl.add, 1.0)\n"
                        "    for _ in range(n):\n")
    (tmp_path / "k.py").write_text(text)
    done = estimate("--set", "columns=40000")
    assert done.returncode == 0 and "warning: SBUF has no room for all tiles that live together: 40960000 bytes are saved" in done.stdout
    assert json.loads(estimate("--set", "columns=40000", "--json").stdout)["spill_reload_bytes"] == 40960000
    config = "@nki.jit(compile_config=nki.compiler.CompileConfig(nki_alloc_fallback=False))"
    (tmp_path / "k.py").write_text(text.replace("@nki.jit", config).replace("import nki\n", "import nki, nki.compiler\n"))
    done = estimate("--set", "columns=40000")
    assert done.returncode == 1 and "error: out of capacity: SBUF: a tile of 160000 bytes a partition does not fit" in done.stdout
    assert "first used at" in done.stdout and "k.py:9" in done.stdout
    assert json.loads(estimate("--set", "columns=40000", "--json").stdout)["error"].startswith("out of capacity: SBUF")


def test_a_kernel_whose_loops_read_data_is_computed(estimate, tmp_path):
    (tmp_path / "k.py").write_text(TEXT + "\n\nimport numpy as np\n\ndef more():\n    return {'counts': np.full((1, 1), 5, np.int32)}\n")
    found = json.loads(estimate("--args", "more", "--json").stdout)
    assert {place.rpartition(":")[2]: n for place, n in found["lines"]}["16"] == 5


def test_what_does_not_fit_together_is_one_line(estimate):
    done = estimate("--set", "nothing=3")
    assert done.returncode == 1 and done.stderr.startswith("estimate: ") and "Traceback" not in done.stderr


@pytest.mark.parametrize("shape", ["99999999999999,256", "9999999999999999999,9999999999999999999"])
def test_a_shape_beyond_the_hosts_memory_is_one_line(estimate, shape):
    done = estimate("--shape", f"a={shape}")
    assert done.returncode == 1 and "GiB of memory and the host has" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_file_that_is_no_python_is_one_line(estimate, tmp_path):
    (tmp_path / "k.py").write_text(TEXT + "\ndef broken(:\n")
    done = estimate()
    assert done.returncode == 1 and "k.py: invalid syntax" in done.stderr and len(done.stderr.splitlines()) == 1
