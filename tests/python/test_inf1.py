"""Inferentia1: programs run on it, products are cast as its array needs, and what the times rest on is said."""

import json
import subprocess

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import capi
from chip_run import export
from paths import BUILD

from vtrn.serve import machine

VTRN = BUILD / "src/cli/vtrn"


def run(f, *args):
    device = capi.Device(chip="inf1", threads=2)
    try:
        executable = device.compile(export(f, *args))
        got = executable(*args)
        profile = executable.profile()
        assert profile.n_reference_ops == 0 and profile.step_ns > 0
        executable.destroy()
        return got, profile
    finally:
        device.close()


@pytest.mark.parametrize("size", [(1, 1, 1), (31, 33, 127), (129, 128, 513), (1, 1000, 511)])
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
def test_products_are_of_bf16_or_fp16(rng, monkeypatch, size, kind):
    monkeypatch.delenv("NEURON_CC_FLAGS", raising=False)
    m, k, n = size
    dtype = {"fp32": np.float32, "bf16": ml_dtypes.bfloat16, "fp16": np.float16}[kind]
    x, w = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    f = lambda x, w: jnp.matmul(x, w, preferred_element_type=jnp.float32)  # noqa: E731
    rounded = {"fp32": ml_dtypes.bfloat16, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}[kind]
    a, b = (np.float64(v.astype(rounded)) for v in (x, w))
    bound = 2e-6 * (np.abs(a) @ np.abs(b)) + 1e-30
    assert (np.abs(run(f, x, w)[0][0] - a @ b) <= bound).all()
    if kind == "fp32":
        monkeypatch.setenv("NEURON_CC_FLAGS", "--auto-cast-type=fp16")
        a, b = (np.float64(v.astype(np.float16)) for v in (x, w))
        assert (np.abs(run(f, x, w)[0][0] - a @ b) <= bound).all()


def test_what_is_no_product_stays_fp32(rng, monkeypatch):
    monkeypatch.delenv("NEURON_CC_FLAGS", raising=False)
    x = rng.standard_normal((130, 70)).astype(np.float32)
    (transposed, sums, columns, soft), _ = run(lambda x: (x.T + 0, x.sum(1), x.sum(0), jax.nn.softmax(x)), x)
    np.testing.assert_array_equal(transposed, x.T)
    np.testing.assert_allclose(sums, x.sum(1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(columns, x.sum(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(soft, jax.nn.softmax(x), rtol=1e-5)


def test_int8_weights_are_read_as_they_are(rng, monkeypatch):
    monkeypatch.delenv("NEURON_CC_FLAGS", raising=False)
    x, w = rng.standard_normal((8, 512)).astype(np.float16), rng.integers(-127, 128, (512, 256)).astype(np.int8)
    (got,), profile = run(lambda x, w: jnp.matmul(x, w.astype(x.dtype), preferred_element_type=jnp.float32), x, w)
    np.testing.assert_allclose(got, np.float64(x) @ w, rtol=1e-4, atol=0.05)
    assert profile.hbm_read_bytes <= 1.05 * (x.nbytes + w.nbytes) + 4096


def test_types_that_its_array_lacks_are_refused(rng, monkeypatch):
    x = rng.standard_normal((4, 4)).astype(np.float32)
    for kind in ("tf32", "fp8_e4m3"):
        monkeypatch.setenv("NEURON_CC_FLAGS", f"--auto-cast=matmult --auto-cast-type={kind}")
        with pytest.raises(capi.VtrnError, match="NeuronCore-v1 takes bf16 and fp16"):
            run(lambda x: x @ x, x)
    monkeypatch.delenv("NEURON_CC_FLAGS")
    with pytest.raises(capi.VtrnError, match="unsupported"):
        run(lambda x: jnp.matmul(x, x, preferred_element_type=jnp.float32), x.astype(ml_dtypes.float8_e4m3))


def test_times_say_what_they_rest_on(rng, tmp_path):
    path = tmp_path / "f.mlirbc"
    x = rng.standard_normal((256, 256)).astype(np.float32)
    path.write_bytes(export(lambda x: x @ x, x))
    text = subprocess.run([VTRN, "time", path, "--chip", "inf1"], capture_output=True, text=True, check=True).stdout
    assert "takes no fp32" in text and "assumed" in text
    assert "are assumed" in machine.rests_on("inf1")
    assert machine.rests_on("inf2") is None
    timed = [json.loads(subprocess.run([VTRN, "time", path, "--chip", c, "--json"], capture_output=True, text=True,
                                       check=True).stdout)["step_ns"] for c in ("inf1", "inf2")]  # fmt: skip
    assert timed[0] > timed[1]
