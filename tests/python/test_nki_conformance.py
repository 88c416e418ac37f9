"""The suites docs and samples of the conformance runner, on a tree of our own."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)

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
