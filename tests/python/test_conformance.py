"""The runner of other people's suites: what it counts, and what it survives."""

import json
import os
import subprocess
import sys

import conftest
import pytest
from paths import BUILD, ROOT
from vtrn.conformance import runner, worker

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)

JAX_TESTS = """
import os, time, unittest
import jax.numpy as jnp

class Things(unittest.TestCase):
    def test_good(self):
        x = jnp.ones(3)
        self.assertEqual({d.platform for d in x.devices()}, {"neuron"})
        self.assertEqual(int(x.sum()), 3)

    def test_bad(self):
        self.fail("as told")

    def test_crash(self):
        os._exit(7)

    def test_hang(self):
        if not os.path.exists("HURRY"):
            time.sleep(60)

    def test_not_for_us(self):
        self.addCleanup(self.fail, "the skip left something behind")
        self.skipTest("not supported on neuron")

    def id(self):  # as absl names a test whose parameter is a function
        return f"{super().id()} (of={(lambda: 0)})"

    def test_one_of_its_parts_fails(self):
        for i in range(3):
            with self.subTest(i=i):
                self.assertNotEqual(i, 1)
"""

INTERPRETED = """
func.func @right() {
  %0 = stablehlo.constant dense<[1, -2]> : tensor<2xi32>
  %1 = stablehlo.abs %0 : tensor<2xi32>
  check.expect_eq_const %1, dense<[1, 2]> : tensor<2xi32>
  func.return
}

// -----

func.func @wrong() {
  %0 = stablehlo.constant dense<[(1.0, 2.0)]> : tensor<1xcomplex<f32>>
  %1 = stablehlo.add %0, %0 : tensor<1xcomplex<f32>>
  check.expect_almost_eq_const %1, dense<[(2.0, 4.1)]> : tensor<1xcomplex<f32>>
  func.return
}

// -----

func.func @within_its_own_tolerance() {
  %0 = stablehlo.constant dense<5.0> : tensor<f32>
  %1 = stablehlo.constant dense<5.3> : tensor<f32>
  check.expect_almost_eq_const %0, dense<5.3> : tensor<f32> {tolerance = 0.1 : f32}
  check.expect_almost_eq %0, %1, tolerance = 0.1 : tensor<f32>
  func.return
}

// -----

func.func @subnormals_stay_where_constants_are_computed() {
  %0 = stablehlo.constant dense<[0x00000001, 0x80000001]> : tensor<2xf32>
  %1 = stablehlo.ceil %0 : tensor<2xf32>
  check.expect_eq_const %1, dense<[1.0, -0.0]> : tensor<2xf32>
  func.return
}

// -----

func.func @on_two_devices() {
  %0 = stablehlo.constant dense<1> : tensor<i32>
  %1 = "interpreter.run_parallel"(%0) {programs = [[@a, @b]]} : (tensor<i32>) -> tensor<i32>
  check.expect_eq_const %1, dense<1> : tensor<i32>
  func.return
}
"""

TESTDATA = """
module @jit_main {
  func.func public @main() -> tensor<2xf32> {
    %0 = call @inputs() : () -> tensor<2xf32>
    %1 = stablehlo.add %0, %0 : tensor<2xf32>
    %2 = stablehlo.constant dense<[2.0, 4.0]> : tensor<2xf32>
    stablehlo.custom_call @check.expect_close(%1, %2) {has_side_effect = true} : (tensor<2xf32>, tensor<2xf32>) -> ()
    return %1 : tensor<2xf32>
  }
  func.func private @inputs() -> tensor<2xf32> {
    %0 = stablehlo.constant dense<[1.0, 2.0]> : tensor<2xf32>
    return %0 : tensor<2xf32>
  }
}
"""


def conformance(tmp_path, *args):
    env = os.environ | {"PYTHONPATH": str(ROOT / "python"), "VTRN_LIBRARY": str(BUILD / "src" / "libvtrn.so")}
    return subprocess.run(
        [sys.executable, "-m", "vtrn.conformance", *args, "--out", tmp_path / "out", "--jobs", "1", "--json"],
        env=env, capture_output=True, text=True, timeout=120)


def outcomes(tmp_path, suite):
    lines = (tmp_path / "out" / f"{suite}.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    cases = [(r["case"].partition(" (")[0].removesuffix(".mlir"), r["outcome"]) for r in records if "case" in r]
    return {name.rpartition(".")[2]: outcome for name, outcome in cases}


def test_a_crash_and_a_hang_cost_one_test_each_and_a_run_goes_on(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "things_test.py").write_text(JAX_TESTS)
    done = conformance(tmp_path, "jax", tmp_path, "--timeout", "4")
    assert outcomes(tmp_path, "jax") == {
        "test_good": "passed", "test_bad": "failed", "test_crash": "crashed", "test_hang": "hung",
        "test_not_for_us": "skipped", "test_one_of_its_parts_fails": "failed"}
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert (document["executed"], document["passed"], document["passed_share"]) == (5, 1, 0.2)
    assert document["skips"] == {"not supported on neuron": 1}
    assert any("AssertionError: as told" in f["reason"] for f in document["failures"])
    assert any("exit 7" in f["reason"] for f in document["failures"])
    # What is done is not run again; what an interrupt cut off is.
    results = tmp_path / "out" / "jax.jsonl"
    kept = [line for line in results.read_text().splitlines() if "test_hang" not in line and "finished" not in line]
    results.write_text("\n".join(kept) + "\n")
    (tmp_path / "HURRY").touch()
    conformance(tmp_path, "jax", tmp_path, "--timeout", "4")
    assert outcomes(tmp_path, "jax")["test_hang"] == "passed"
    assert len(results.read_text().splitlines()) == len(kept) + 2
    # What failed in the chosen units runs once more when that is asked for, and counts as it then ends.
    (tmp_path / "tests" / "one_test.py").write_text("raise ImportError")
    document = json.loads(conformance(tmp_path, "jax", tmp_path, "--only", "one_test").stdout)
    assert (document["executed"], document["failed"]) == (6, 3)
    (tmp_path / "tests" / "one_test.py").write_text("# nothing\n")
    document = json.loads(conformance(tmp_path, "jax", tmp_path, "--only", "one_test", "--again").stdout)
    assert (document["executed"], document["failed"]) == (5, 2)
    tests = tmp_path / "tests" / "things_test.py"
    tests.write_text(JAX_TESTS.replace('self.fail("as told")', "pass").replace("os._exit(7)", "pass"))
    document = json.loads(conformance(tmp_path, "jax", tmp_path, "--again").stdout)
    assert (document["executed"], document["passed"], document["skipped"]) == (5, 4, 1)
    assert outcomes(tmp_path, "jax")["test_bad"] == outcomes(tmp_path, "jax")["test_crash"] == "passed"


def test_programs_with_expected_values_are_compared(tmp_path):
    (tmp_path / "tests" / "interpret").mkdir(parents=True)
    (tmp_path / "testdata").mkdir()
    (tmp_path / "tests" / "interpret" / "two.mlir").write_text(INTERPRETED)
    (tmp_path / "testdata" / "doubled.mlir").write_text(TESTDATA)
    (tmp_path / "testdata" / "halved.mlir").write_text(TESTDATA.replace("[2.0, 4.0]", "[0.5, 1.0]"))
    document = json.loads(conformance(tmp_path, "stablehlo", tmp_path).stdout)
    assert outcomes(tmp_path, "stablehlo") == {
        "right": "passed", "wrong": "failed", "doubled": "passed", "halved": "failed",
        "within_its_own_tolerance": "passed", "on_two_devices": "skipped",
        "subnormals_stay_where_constants_are_computed": "passed"}
    assert (document["passed"], document["failed"]) == (4, 2)


MANY_TESTS = """
import unittest

class Many(unittest.TestCase):
    pass

for i in range(40):
    setattr(Many, f"test_{i}", lambda self: None)
"""


def test_a_fraction_is_a_sample_that_a_larger_one_goes_on_from(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "many_test.py").write_text(MANY_TESTS)
    results = tmp_path / "out" / "jax.jsonl"

    def run(fraction, *more):
        conformance(tmp_path, "jax", tmp_path, "--fraction", fraction, *more)
        return [json.loads(line)["case"] for line in results.read_text().splitlines() if "case" in line]

    quarter = run("1/4")
    assert len(quarter) == 10
    assert run("1/4") == quarter
    half = run("1/2")
    assert half[:10] == quarter and len(set(half)) == len(half) == 20
    assert run("1/4") == half  # what a larger fraction finished is finished
    assert set(run("1/4", "--fresh")) == set(quarter)
    assert len(run("1/40", "--fresh")) == worker.LEAST_CASES
    assert len(run("1/40", "--fresh", "--least", "2")) == 2
    assert len(run("1")) == 40


@pytest.mark.parametrize("args, said", [
    (("jax", "/no/such/folder"), "jax needs the path of a checkout: /no/such/folder is not a folder"),
    (("jax", "."), "no unit of jax is left to run"),
    (("poetry",), "invalid choice: 'poetry'"),
    (("jax", ".", "--fraction", "3/2"), "more than 0, at most 1"),
    (("docs", ".", "--fraction", "1/2"), "docs has no --fraction"),
])
def test_wrong_arguments_are_refused_in_words(tmp_path, args, said):
    done = conformance(tmp_path, *args)
    assert done.returncode == 2 and said in done.stderr


def check_harnesses(unit, n_least):
    worker = runner.Worker("harness", "", unit, ())
    results = list(iter(lambda: worker.message(300), None))
    assert results[-1].get("end"), worker.last_words()
    cases = [r for r in results if "outcome" in r]
    assert len(cases) > n_least
    assert [r for r in cases if r["outcome"] not in ("passed", "skipped")] == []


@pytest.mark.parametrize("k", range(1, 5))
def test_some_harnesses_of_each_primitive_agree_with_the_cpu(k):
    check_harnesses(f"sample {k}/4", 120)


@pytest.mark.part(100)
@pytest.mark.parametrize("k", range(1, 49))
def test_the_harnesses_that_come_with_jax_agree_with_the_cpu(k):
    """All of them take ten minutes: VTRN_SWEEP=all, or python -m vtrn.conformance harness."""
    check_harnesses(f"#{k}/48", 100)


def test_a_part_of_the_harnesses_agrees_with_the_cpu(tmp_path):
    done = conformance(tmp_path, "harness", "--only", "clamp,rem")
    document = json.loads(done.stdout)
    assert document["failed"] == 0 and document["passed"] > 20, done.stderr
