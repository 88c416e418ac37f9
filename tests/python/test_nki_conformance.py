"""The suites docs and samples of the conformance runner, on a tree of our own."""

import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402
from vtrn.conformance import float8_casts, nkilib_stubs  # noqa: E402
from vtrn.nki import dtypes  # noqa: E402

KERNEL = """import numpy as np
import nki
import nki.language as nl

@nki.jit
def kernel(a):
    out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
    nl.store(out, nl.add(nl.load(a), 1.0))
    return out
"""
SCRIPT = KERNEL + """
if __name__ == "__main__":
    a = np.ones((4, 8), np.float32)
    print("NKI and NumPy match" if (kernel(a) == a + {what}).all() else "NKI and NumPy differ")
"""
TESTS = KERNEL.replace("import nki\n", "import unittest\nimport nki\n", 1) + """
class Things(unittest.TestCase):
    def test_right(self):
        self.assertTrue((kernel(np.zeros((1, 1), np.float32)) == 1).all())

    def test_wrong(self):
        self.assertTrue((kernel(np.zeros((1, 1), np.float32)) == 2).all())
"""


def test_scripts_and_unit_tests_are_told_apart_by_what_they_say(tmp_path):
    examples, tests = tmp_path / "sdk/nki/examples", tmp_path / "sdk/nki/test"
    for folder in (examples, tests):
        folder.mkdir(parents=True)
    (examples / "right.py").write_text(SCRIPT.format(what=1))
    (examples / "wrong.py").write_text(SCRIPT.format(what=2))
    (examples / "alone.py").write_text(KERNEL)
    (examples / "broken.py").write_text("f(")
    (examples / "layout-violation.py").write_text(KERNEL + "\nkernel(np.ones((129, 8), np.float32))\n")
    (tests / "test_things.py").write_text(TESTS)
    done = subprocess.run([sys.executable, "-m", "vtrn.conformance", "docs", str(tmp_path / "sdk"), "--json", "--out",
                           str(tmp_path / "out")], capture_output=True, text=True)
    document = json.loads(done.stdout)
    assert document["passed"] == 3 and document["failed"] == 2 and document["skipped"] == 2, done.stdout + done.stderr
    assert {(r["unit"], r["case"]) for r in document["failures"]} == {
        ("nki/examples/wrong.py", "script"), ("nki/test/test_things.py", "Things.test_wrong")}


LIBRARY = {  # what the suite nkilib looks for in a checkout
    "test/__init__.py": "", "test/utils/__init__.py": "", "test/pytest.ini": "[pytest]\nmarkers =\n    trace_only: is\n",
    "test/utils/test_orchestrator.py": """
import numpy as np

INF_ARTIFACT_DIR_NAME = "results"

class Orchestrator:
    def _run_simulator_inference(self, kernel):
        raise AttributeError("the simulation mode has no ranks")

    def __dump_tensors__(self, folder, tensors, name_of):
        for name, array in tensors.items():
            self.written[folder, name_of(name)] = array
""",
    "test/utils/common_dataclasses.py": """
def normalize_golden_output(golden, rank=0):
    return golden.for_rank(rank)
""",
    "test/utils/simulation_setup.py": """
_LARGE_SHAPE_PATTERNS = ["4096"]

def simulate_kernel(kernel_func, kernel_input, lnc_count):
    import nki
    return nki.cpu_simulate(kernel_func)[lnc_count](**dict(kernel_input.items()))
""",
    "test/utils/coverage_parametrized_tests.py": """
def _create_all_pairs(values, filter_func=None):
    with open("DRAWN", "a") as f:
        f.write("x")
    return [(a, b) for a in values[0] for b in values[1] if filter_func([a, b])]
""",
    "test/utils/pytest_test_metadata.py": """
def discover_pytest_test_metadata_marks(root):
    with open("DISCOVERED", "a") as f:
        f.write("x")
    return {"fast": "is"}
""",
    "test/conftest.py": """
from .utils.pytest_test_metadata import discover_pytest_test_metadata_marks

def pytest_addoption(parser):
    for name in ("--test-mode", "--platform-target", "--output-directory"):
        parser.addoption(name)
    parser.addoption("--force-local-cleanup", action="store_true")
    parser.addini("artifacts_dir", "")

def pytest_configure_node(node):  # of pytest-xdist, which need not be installed
    pass

def pytest_configure(config):
    for name, text in discover_pytest_test_metadata_marks(config.rootpath).items():
        config.addinivalue_line("markers", f"{name}: {text}")
""",
    "test/integration/nkilib/test_sums.py": """
import numpy as np
import pytest
import nki
import nki.language as nl
from test.utils import coverage_parametrized_tests as drawing, simulation_setup

@nki.jit
def total(a, b):
    out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
    nl.store(out, nl.add(nl.load(a), nl.load(b)))
    return out

PAIRS = drawing._create_all_pairs([[1, True, 2.0], [0.0, None, 3]], lambda row: row[1] is not None)

@pytest.mark.fast
@pytest.mark.parametrize("x, y", PAIRS)
def test_sum(x, y):
    a, b = (np.full((4, 8), n, np.float32) for n in (x, y))
    assert (simulation_setup.simulate_kernel(total, {"a": a, "b": b}, 2) == x + y).all() and x is not True

class PerRank:
    def __init__(self, of):
        self.for_rank = of

def test_ranks():
    from types import SimpleNamespace as Some
    from test.utils.test_orchestrator import Orchestrator
    import nki.collectives as ncc

    def shared(a):
        out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        ncc.all_reduce([a], [out], ncc.ReplicaGroup([[0, 1, 2]]), nl.add)
        return out

    self = Orchestrator()
    self.written, self.fs_config = {}, Some(artifacts_output_directory_path="here")
    of_rank = lambda rank: np.full((2, 2), rank + 1, np.float32)
    kernel = Some(kernel_func=shared, inference_args=Some(collective_ranks=3), kernel_input=PerRank(lambda r: {"a.must_alias_input": of_rank(r)}),
                  compiler_input=Some(logical_nc_config=1, platform_target=Some(get_nc_gen=lambda: "gen3")),
                  validation_args=Some(golden_output=PerRank(lambda r: {"y": of_rank(r)})))
    assert self._run_simulator_inference(kernel) == "here/results"
    assert sorted(self.written) == [(f"here/results/output_worker_{r}", "y") for r in range(3)]
    assert all((x == 6).all() for x in self.written.values())
    kernel.inference_args.collective_ranks, kernel.kernel_input = 1, {}
    with pytest.raises(AttributeError, match="no ranks"):
        self._run_simulator_inference(kernel)

@pytest.mark.trace_only
def test_trace():
    pass
""" + "#" * 12_000,
}


def nkilib(tmp_path, files, *options):
    """The summary of a run over a checkout that has the files."""
    for name, text in files.items():
        file = tmp_path / "library" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "tmp").mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, "-m", "vtrn.conformance", "nkilib", str(tmp_path / "library"), "--json", "--jobs",
                           "1", "--out", str(tmp_path / "out"), *options], capture_output=True, text=True,
                          env=os.environ | {"TMPDIR": str(tmp_path / "tmp")})
    return json.loads(done.stdout), done


def test_parts_of_a_file_of_nki_library_share_what_the_first_has_drawn(tmp_path):
    document, done = nkilib(tmp_path, LIBRARY)
    assert (document["passed"], document["failed"], document["skipped"]) == (5, 2, 1), done.stdout + done.stderr
    assert {r["case"] for r in document["failures"]} == {"test_sum[True-0.0]", "test_sum[True-3]"}
    records = [json.loads(line) for line in (tmp_path / "out/nkilib.jsonl").read_text().splitlines()]
    assert {r["unit"] for r in records if "unit" in r} == {"test_sums.py#1/2", "test_sums.py#2/2"}
    assert (tmp_path / "library/DRAWN").read_text() == (tmp_path / "library/DISCOVERED").read_text() == "x"


def test_slow_tests_are_a_run_of_their_own(tmp_path):
    files = LIBRARY | {"test/integration/nkilib/test_sums.py": "def test_4096():\n    pass\n\ndef test_small():\n    pass\n"}
    nkilib(tmp_path, files)
    nkilib(tmp_path, {}, "--slow")
    records = [json.loads(line) for line in (tmp_path / "out/nkilib.jsonl").read_text().splitlines()]
    assert [(r["unit"], r["case"]) for r in records if "case" in r] == [
        ("test_sums.py", "test_4096"), ("test_sums.py", "test_small"), ("slow/test_sums.py", "test_4096")]


def test_fast_tests_are_a_run_of_their_own(tmp_path):
    text = "import pytest\n\n@pytest.mark.fast\ndef test_quick():\n    pass\n\ndef test_other():\n    pass\n"
    nkilib(tmp_path, LIBRARY | {"test/integration/nkilib/test_sums.py": text}, "--fast")
    records = [json.loads(line) for line in (tmp_path / "out/nkilib.jsonl").read_text().splitlines()]
    assert [(r["unit"], r["case"]) for r in records if "case" in r] == [("fast/test_sums.py", "test_quick")]


def test_a_pytest_that_fails_itself_says_why(tmp_path):
    conftest = "def pytest_collection_finish(session):\n    raise LookupError('no such plugin')\n"
    document, _ = nkilib(tmp_path, LIBRARY | {"test/integration/nkilib/conftest.py": conftest})
    assert document["failures"] and {r["reason"].rpartition(": ")[2] for r in document["failures"]} == {"no such plugin"}


def test_a_test_that_uses_too_much_memory_runs_again_alone(tmp_path):
    large = "import time\n\ndef test_large():\n    x = bytearray(1_500_000_000)\n    time.sleep(5)\n"
    files = LIBRARY | {"test/integration/nkilib/test_sums.py": large + "\ndef test_small():\n    pass\n"}
    document, done = nkilib(tmp_path, files, "--memory", "1.2")
    assert document["passed"] == document["executed"] == 2, done.stdout + done.stderr
    records = [json.loads(line) for line in (tmp_path / "out/nkilib.jsonl").read_text().splitlines()]
    assert [r.get("deferred", r.get("case")) for r in records] == ["test_large", "test_small", None, "test_large"]
    assert "more than 1.2 GB" in records[0]["reason"]
    assert not list((tmp_path / "tmp").glob("*/out-*"))  # nor what the ended worker had there


def test_weights_are_drawn_as_the_library_draws_them():
    from vtrn.conformance import nkilib_inputs

    def slowly():
        return (np.random.randint(0, 7), np.random.randint(0, 3), np.random.choice([-1, 1]), np.random.random())

    np.random.seed(3)
    want = [slowly() for _ in range(3000)] + [np.random.random()]
    np.random.seed(3)
    got = [tuple(row) for row in zip(*nkilib_inputs.draw_blocks(3000))] + [np.random.random()]
    assert got == want


def test_weights_of_the_same_state_are_drawn_once():
    from vtrn.conformance import nkilib_inputs

    drawn = []

    def weights(shape, scale=1.0):
        drawn.append(shape)
        return [np.random.random(shape) * scale]

    again = nkilib_inputs.remembered_weights(weights)
    for seed, shape, n in ((1, (2, 3), 1), (1, (2, 3), 1), (2, (2, 3), 2), (2, (3, 2), 3)):
        np.random.seed(seed)
        got, after = again(shape, scale=2.0), np.random.random()
        np.random.seed(seed)
        np.testing.assert_array_equal(got[0], np.random.random(shape) * 2.0)
        assert after == np.random.random() and len(drawn) == n and not got[0].flags.writeable


def test_packed_floats_are_looked_up_in_a_table_of_the_librarys():
    torch = pytest.importorskip("torch")
    if not hasattr(torch, "from_numpy"):
        pytest.skip("torch is a folder of that name")
    from vtrn.conformance import nkilib_inputs

    def nibbles(packed):  # four of a word, the lowest first
        raw = packed.view(np.uint16).astype(np.int32)
        return torch.from_numpy(np.stack([(raw >> shift) & 15 for shift in (0, 4, 8, 12)], -1).reshape(*raw.shape[:-1], -1) * 0.5)

    words = np.random.default_rng(0).integers(0, 2**16, (6, 10)).astype(np.uint16)
    for of in (words, words.T, words[:, ::3]):
        assert torch.equal(nkilib_inputs.faster_unpack(nibbles, np.uint16)(of), nibbles(np.ascontiguousarray(of)))


replaces_casts = pytest.mark.skipif(not float8_casts.can_replace(), reason="NumPy does not replace casts of ml_dtypes 0.7 and later")
CASTS = """import hashlib, sys
import ml_dtypes, numpy as np
if sys.argv[1] == "faster":
    from vtrn.conformance import float8_casts
    assert float8_casts.install()
digest = hashlib.sha256()
upper = np.arange(1 << 16, dtype=np.uint32) << 16
wide = np.concatenate([upper, upper + 1, upper - 1, upper + 0x8000, np.random.default_rng(0).integers(0, 2**32, 1 << 16, np.uint32)])
wide = wide.view(np.float32)
with np.errstate(all="ignore"):
    wider = [wide.astype(np.float64), np.nextafter(wide.astype(np.float64), 0), wide.astype(np.float64) * 1e-3]
    for name in ("float8_e4m3", "float8_e4m3fn", "float8_e5m2"):
        dtype = getattr(ml_dtypes, name)
        for of in (wide, wide[::3], wide.reshape(-1, 2).T, wide[:1], wide[:0], wide.byteswap().view(">f4"), *wider):
            narrow = of.astype(dtype)
            digest.update(np.ascontiguousarray(narrow).view(np.uint8).tobytes())
            digest.update(np.ascontiguousarray(narrow[::2].astype(np.float32)).view(np.uint8).tobytes())
print(digest.hexdigest())
"""


@replaces_casts
def test_faster_casts_give_what_those_of_the_package_give():
    own, faster = (subprocess.run([sys.executable, "-c", CASTS, which], capture_output=True, text=True) for which in ("own", "faster"))
    assert own.returncode == faster.returncode == 0, own.stderr + faster.stderr
    assert own.stdout == faster.stdout and len(own.stdout) > 60


def test_casts_that_numpy_does_not_replace_are_left_alone(monkeypatch):
    monkeypatch.setattr(ml_dtypes, "__version__", "0.7.0.dev20261201")
    monkeypatch.setattr(float8_casts, "core", None)  # it would fail where it went on
    assert not float8_casts.install()


@replaces_casts
def test_casts_that_were_used_are_not_replaced():
    use = "import ml_dtypes, numpy as np\nnp.ones(3, np.float32).astype(ml_dtypes.float8_e5m2)\n"
    late = subprocess.run([sys.executable, "-c", use + "from vtrn.conformance import float8_casts\nfloat8_casts.install()"],
                          capture_output=True, text=True)
    assert late.returncode == 1 and "call it first" in late.stderr


def close_as_a_whole(a, b, rtol=1e-05, atol=1e-08, equal_nan_inf=False, verbose=0, mode="max", logfile=None, min_pass_rate=1.0):
    """What nki-library's comparison answers and says, of the arrays as wholes."""
    scale = np.amax(np.abs(b)[np.isfinite(b)])
    with np.errstate(invalid="ignore"):
        difference = np.abs(a.astype(float) - b.astype(float))
    difference = np.where(np.isinf(a) & np.isinf(b) & (np.sign(a) == np.sign(b)), 0.0, difference)
    close, is_finite = difference <= atol + rtol * scale, bool((np.isfinite(a) == np.isfinite(b)).all())
    if verbose and not is_finite:
        print("ERROR: There are indices with finite-infinite mismatches\n")
    if verbose:
        relative = (difference.max() - atol) / scale if difference.max() >= atol else 0.0
        print(f"INFO: allclose comparison summary: largest abs diff = {difference.max():g}, rel diff = {relative * 100.0:g} % "
              f"(check against current rel tolerance of {rtol * 100.0:g} %)\n")
    if (close.all() and is_finite) or min_pass_rate >= 1.0:
        return close.all() and is_finite
    passed = close.mean() >= min_pass_rate and is_finite
    if verbose:
        print(f"INFO: pass rate = {close.mean():.2%} (required: {min_pass_rate:.2%}) - {'PASSED' if passed else 'FAILED'}\n")
    return passed


def test_comparison_in_blocks_answers_as_one_of_the_whole():
    from vtrn.conformance import nkilib_compare

    in_blocks = nkilib_compare.faster_close(close_as_a_whole, 10, 70)
    want = nkilib_compare._outcomes(close_as_a_whole, True)
    assert nkilib_compare._outcomes(in_blocks, True) == want
    assert {answer for answer, _ in want} == {True, False} and any("FAILED" in text for _, text in want)
    assert nkilib_compare._checked(close_as_a_whole, nkilib_compare.faster_close) is not close_as_a_whole
    other = lambda *args, **options: True  # noqa: E731: of which the faster one would not be the same
    assert nkilib_compare._checked(other, nkilib_compare.faster_close) is other


def test_a_reference_of_the_same_inputs_is_computed_once():
    from vtrn.conformance import nkilib_compare

    calls = []

    def reference(arrays, n):
        calls.append(n)
        return {"sum": sum(v.sum() for v in arrays.values() if isinstance(v, np.ndarray)) + n}

    once = nkilib_compare.remembered_reference(reference)
    a, b = np.ones(3), np.ones(3)
    assert once({"x": a, "k": 2, "none": None}, 1).pop("sum") == 4
    assert once({"none": None, "k": 2, "x": a}, 1) == {"sum": 4} and calls == [1]
    for arrays, n in (({"x": b, "k": 2, "none": None}, 1), ({"x": b, "k": 3, "none": None}, 1), ({"x": b, "k": 3, "none": None}, 2)):
        once(arrays, n)
    assert calls == [1, 1, 1, 2]
    nkilib_compare.forget()
    assert not nkilib_compare._remembered


ADDITION = """import logging
import neuronxcc.nki as nki
import neuronxcc.nki.language as nl
logging.disable(logging.OFF)

@nki.jit
def vector_add_naive(a_vec, b_vec):
    out = nl.ndarray(shape=a_vec.shape, dtype=a_vec.dtype, buffer=nl.hbm)
    nl.store(out, value=nl.add(nl.load(a_vec), nl.load(b_vec)))
    return out

@nki.jit
def vector_add_tiled(a_vec, b_vec):
    out = nl.ndarray(shape=a_vec.shape, dtype=a_vec.dtype, buffer=nl.hbm)
    for i in nl.affine_range(a_vec.shape[0] // 128):
        part = slice(i * 128, (i + 1) * 128)
        nl.store(out[part], value=nl.load(a_vec[part]))
    return out
"""
HANDOUT = """import neuronxcc.nki as nki

@nki.compiler.skip_middle_end_transformations
@nki.jit
def fused_conv2d_maxpool(X, W, bias, pool_size=1):
    raise RuntimeError("Please fill your implementation of the kernel")
"""


def test_the_assignments_kernels_tell_their_latency(tmp_path):
    for part, name, text in (("part1", "kernels.py", ADDITION), ("part2", "conv2d.py", HANDOUT)):
        (tmp_path / "a" / part).mkdir(parents=True)
        (tmp_path / "a" / part / name).write_text(text)
    done = subprocess.run([sys.executable, "-m", "vtrn.conformance", "asst4", str(tmp_path), "--json", "--out",
                           str(tmp_path / "out")], capture_output=True, text=True)
    document = json.loads(done.stdout)
    assert document["passed"] == 1 and document["failed"] == 1, done.stdout + done.stderr
    (unit, case, note), = document["notes"]
    assert case == "vector_add_naive of 128" and note.endswith(" us") and float(note[:-3]) > 5
    (failure,) = document["failures"]
    assert failure["case"] == "vector_add_tiled of 25600" and "differs from NumPy" in failure["reason"]
    assert document["skips"]["the handout leaves this kernel to the student"] == 9


def test_the_assignments_reference_is_a_convolution_with_a_maximum():
    import numpy as np

    from vtrn.conformance import asst4_suite

    rng = np.random.default_rng(0)
    x, w, bias = rng.random((2, 3, 7, 8)), rng.random((4, 3, 3, 3)), rng.random(4)
    got = asst4_suite.convolution(x, w, bias, 2)
    plain = np.zeros((2, 4, 5, 6))
    for b, o, i, j in np.ndindex(*plain.shape):
        plain[b, o, i, j] = (x[b, :, i:i + 3, j:j + 3] * w[o]).sum() + bias[o]
    for b, o, i, j in np.ndindex(*got.shape):
        assert abs(got[b, o, i, j] - plain[b, o, 2 * i:2 * i + 2, 2 * j:2 * j + 2].max()) < 1e-4
    assert got.shape == (2, 4, 2, 3)


@pytest.mark.parametrize("name", ["float8_e4m3fn_x4", "float8_e5m2_x4", "float4_e2m1fn_x4"])
def test_packed_arrays_hold_what_ml_dtypes_rounds_to(name):
    values = np.random.default_rng(1).normal(size=(8, 64)).astype(np.float32) * 3
    packed = nkilib_stubs.static_cast(values, name)
    element = getattr(ml_dtypes, name.removesuffix("_x4"))
    assert packed.shape == (8, 16) and packed.dtype == nkilib_stubs.PACKED[name]
    assert [n for n in nkilib_stubs.PACKED if getattr(vtrn.nki.language, n) == packed.dtype] == [name]
    assert np.array_equal(nkilib_stubs.static_cast(packed, np.float32), values.astype(element).astype(np.float32))
    codes = values.astype(element).view(np.uint8).reshape(8, 16, 4).astype(np.uint32)
    width = 8 if "float8" in name else 4
    bits = sum((codes[..., i] & (1 << width) - 1) << width * i for i in range(4))
    assert np.array_equal(packed.view(packed.dtype[name]), bits)


def test_a_kernel_knows_the_packed_type_of_an_array(monkeypatch):
    nl, seen = vtrn.nki.language, []

    def kernel(a):
        seen.append(a.dtype)
        out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.load(a))
        return out

    packed = nkilib_stubs.pack(np.ones((32, 16), np.float32), "float8_e5m2_x4")
    assert np.array_equal(vtrn.nki.jit(kernel)(packed), packed.view(np.uint32))  # the bits
    monkeypatch.setattr(dtypes, "results_say_packed", True)
    result = vtrn.nki.jit(kernel)(packed)
    assert result.dtype == packed.dtype and np.array_equal(result, packed)
    assert seen == [nl.float8_e5m2_x4] * 2
