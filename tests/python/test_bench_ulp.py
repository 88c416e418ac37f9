"""bench/run ulp: what it measures is near, and it notices what is not."""

import importlib.util
import json
import os
import subprocess
import sys

import conftest
import numpy as np
import pytest
from paths import ROOT

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
pytest.importorskip("jax")
pytest.importorskip("scipy")


def test_rows_of_functions_that_round_once():
    done = subprocess.run([sys.executable, ROOT / "bench/ulp.py", "--json", "--points", "3000",
                           "--only", "sqrt,cbrt,sin,power,sum_1000"], capture_output=True, text=True,
                          env={**os.environ, "JAX_PLATFORMS": "neuron,cpu"}, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = found["rows"]
    assert len(rows) == found["n_rows"] == 13
    for name, row in rows.items():
        assert 0 < row["mean"] <= row["max"] < 4, name
        assert row["is_worse"] == (row["max"] > max(1, row["xla_max"])) == (name in found["worse"])
    assert rows["sqrt.fp32"]["max"] <= 0.5001 and rows["power.fp32"]["max"] <= 0.5001
    assert rows["cbrt.fp32"]["max"] <= 1.05 and rows["sin.fp32"]["max"] <= 1


def test_errors_are_in_units_in_the_last_place():
    spec = importlib.util.spec_from_file_location("bench_ulp", ROOT / "bench/ulp.py")
    ulp = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ulp)
    exact = np.array([1.0, 1.5, 2.0, 0.999999, 1e-60, 1e60, 3.0])
    got = np.float32([1 + 2**-23, 1.5 - 2**-22, 2 + 2**-22, 0.999999, 0, np.inf, np.nan])
    error = ulp.errors(got, exact, np.float32)
    np.testing.assert_allclose(error, [1, 2, 1, 0, 0, 0, np.inf], atol=0.51)
    np.testing.assert_array_equal(error[:3], [1, 2, 1])
    x = ulp.points((-1, 1), np.float32, 4000, np.random.default_rng(0)).astype(np.float64)
    assert len(x) > 1000 and np.all(np.abs(x) < 1) and np.all(np.abs(x) >= 2.0**-126)
    assert (x < 0).any() and (x > 0).any() and np.all(np.diff(x) > 0)
