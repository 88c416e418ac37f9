"""auto_cast: fp32 products in a narrower type, by compile options, NEURON_CC_FLAGS and the command."""

import subprocess

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import capi
from chip_run import export
from paths import BUILD

pytestmark = pytest.mark.part(2)
VTRN = BUILD / "src/cli/vtrn"


def tf32(x):
    """Ten bits of the mantissa, ties to even."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0xFFF + ((bits >> 13) & 1)) & 0xFFFFE000
    return bits.astype(np.uint32).view(np.float32)


ROUND = {
    "bf16": lambda x: x.astype(ml_dtypes.bfloat16), "fp16": lambda x: x.astype(np.float16), "tf32": tf32,
    "fp8_e4m3": lambda x: x.astype(ml_dtypes.float8_e4m3),
}  # fmt: skip


def compiled(monkeypatch, flags, chip, f, *args):
    monkeypatch.setenv("NEURON_CC_FLAGS", flags)
    device = capi.Device(chip=chip, threads=2)
    try:
        executable = device.compile(export(f, *args))
        results = executable(*args)
        assert executable.profile().n_reference_ops == 0
        executable.destroy()
        return results
    finally:
        device.close()


@pytest.mark.parametrize("chip", ["inf2", "trn2", "trn3"])
@pytest.mark.parametrize("kind", ROUND)
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 576, 192), (33, 127, 513), (129, 1000, 31)])
def test_matmult_rounds_operands_and_sums_in_fp32(rng, monkeypatch, chip, kind, size):
    m, k, n = size
    x, w = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
    flags = f"--model-type transformer --auto-cast=matmult -O1 --auto-cast-type {kind}"
    got, other = compiled(monkeypatch, flags, chip, lambda x, w: (x @ w, x * 3), x, w)
    a, b = (np.float64(np.float32(ROUND[kind](v))) for v in (x, w))
    assert (np.abs(got - a @ b) <= 2e-6 * (np.abs(a) @ np.abs(b)) + 1e-30).all()
    np.testing.assert_array_equal(other, x * 3)


@pytest.mark.parametrize("kind", ROUND)
def test_convolutions_are_cast_too(rng, monkeypatch, kind):
    x, w = rng.standard_normal((2, 8, 9, 9)).astype(np.float32), rng.standard_normal((5, 8, 3, 3)).astype(np.float32)
    conv = lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME")  # noqa: E731
    got = compiled(monkeypatch, f"--auto-cast matmult --auto-cast-type={kind}", "inf2", conv, x, w)[0]
    want = np.asarray(conv(*(np.float32(ROUND[kind](v)) for v in (x, w))))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_all_rounds_what_every_operation_gives(rng, monkeypatch, kind):
    """Outputs are fp32 as before; constants and reductions are of the type."""
    x, w = rng.standard_normal((33, 100)).astype(np.float32), rng.standard_normal((100, 70)).astype(np.float32)

    def f(x, w):
        y = jnp.tanh(x @ w) + 1.2345
        return y, y.sum(1), jnp.argmax(y, 1), (y > 1).astype(jnp.float32), x

    got = compiled(monkeypatch, f"--auto-cast all --auto-cast-type {kind}", "inf2", f, x, w)
    dtype = jnp.bfloat16 if kind == "bf16" else jnp.float16
    wide = f(x, w)
    ulp = 2.0**-8 if kind == "bf16" else 2.0**-11
    largest = 2 * ulp * (np.abs(x) @ np.abs(w)) + 4 * ulp  # operands and product, tanh and sum; tanh is flatter than 1
    assert (np.abs(got[0] - wide[0]) <= largest).all()
    assert (np.abs(got[1] - wide[1]) <= largest.sum(1)).all()
    assert got[0].dtype == got[1].dtype == np.float32
    np.testing.assert_array_equal(got[4], x)  # an argument that is an output is not rounded
    assert not np.array_equal(got[0], compiled(monkeypatch, "", "inf2", f, x, w)[0])
    assert np.array_equal(got[1], np.float32(got[1].astype(dtype)))


def test_all_refuses_what_it_cannot_cast(rng, monkeypatch):
    x = rng.standard_normal((4, 4)).astype(np.float32)
    loop = lambda x: jax.lax.fori_loop(0, x.astype(jnp.int32)[0, 0], lambda i, y: y * 2, x)  # noqa: E731
    with pytest.raises(capi.VtrnError, match="--auto-cast all: .*while.* is control flow; --auto-cast matmult"):
        compiled(monkeypatch, "--auto-cast all", "inf2", loop, x)
    for kind in ("tf32", "fp8_e4m3"):
        with pytest.raises(capi.VtrnError, match="only the PE array takes it"):
            compiled(monkeypatch, f"--auto-cast all --auto-cast-type {kind}", "inf2", lambda x: x + 1, x)
    bits = compiled(monkeypatch, "--auto-cast all", "inf2", lambda x: jax.lax.bitcast_convert_type(x, jnp.int32), x)[0]
    np.testing.assert_array_equal(bits, x.view(np.int32))


def test_products_in_loops_are_cast(rng, monkeypatch):
    x, w = (rng.standard_normal((20, 20)).astype(np.float32) for _ in range(2))
    loop = lambda x, w: jax.lax.fori_loop(0, 3, lambda i, y: y @ w * 0.1, x)  # noqa: E731
    got = compiled(monkeypatch, "--auto-cast matmult --auto-cast-type fp8_e4m3", "inf2", loop, x, w)[0]
    want, rounded = x, np.float32(ROUND["fp8_e4m3"](w))
    for _ in range(3):
        want = np.float32(ROUND["fp8_e4m3"](want)) @ rounded * np.float32(0.1)
    np.testing.assert_allclose(got, want, rtol=0.1, atol=0.02)  # a value near a tie may be rounded the other way


def test_wrong_values_are_refused_and_other_flags_are_not(rng, monkeypatch, tmp_path):
    x = rng.standard_normal((4, 4)).astype(np.float32)
    for flags, part in (("--auto-cast=some", "'some'; there are none, matmult and all"), ("--auto-cast", "''; there are none"),
                        ("--auto-cast-type fp9", "'fp9'; there are bf16")):  # fmt: skip
        with pytest.raises(capi.VtrnError, match=part):
            compiled(monkeypatch, flags, "inf2", lambda x: x + 1, x)
    for flags in ("--auto-cast-typed=x -O3", "--model-type=unet-inference --enable-fast-loading-neuron-binaries", "auto-cast"):
        compiled(monkeypatch, flags, "inf2", lambda x: x + 1, x)
    monkeypatch.delenv("NEURON_CC_FLAGS")
    path = tmp_path / "f.mlirbc"
    path.write_bytes(export(lambda x: x @ x, x))
    dump = lambda *a: subprocess.run([VTRN, "compile", path, "--dump", "graph", *a], capture_output=True, text=True)  # noqa: E731
    assert "bf16" not in dump().stdout
    assert "bf16" in dump("--auto-cast", "matmult").stdout
    assert "f16" in dump("--auto-cast", "all", "--auto-cast-type", "fp16").stdout
    wrong = dump("--auto-cast", "most")
    assert wrong.returncode != 0 and "there are none, matmult and all" in wrong.stderr


def test_jax_compiles_with_it_and_the_option_goes_before_the_environment(rng, monkeypatch):
    neuron = jax.devices("neuron")[0]
    x = rng.standard_normal((40, 50)).astype(np.float32)
    w = rng.standard_normal((50, 60)).astype(np.float32)
    args = [jax.device_put(v, neuron) for v in (x, w)]
    lowered = jax.jit(jnp.matmul).lower(*args)
    rounded = {k: np.float32(ROUND[k](x)) @ np.float32(ROUND[k](w)) for k in ROUND}
    for kind in ROUND:
        got = lowered.compile(compiler_options={"auto_cast": "matmult", "auto_cast_type": kind})(*args)
        np.testing.assert_allclose(got, rounded[kind], rtol=1e-4, atol=1e-4)
    monkeypatch.setenv("NEURON_CC_FLAGS", "--auto-cast matmult --auto-cast-type fp8_e4m3")
    got = lowered.compile(compiler_options={"auto_cast": "none"})(*args)
    np.testing.assert_allclose(got, x @ w, rtol=1e-4, atol=1e-4)
    with pytest.raises(Exception, match="there are none, matmult and all"):
        lowered.compile(compiler_options={"auto_cast": "yes"})


@pytest.mark.parametrize("kind", ROUND)
def test_none_changes_no_bit_whatever_the_type(rng, monkeypatch, kind):
    x, w = rng.standard_normal((33, 100)).astype(np.float32), rng.standard_normal((100, 70)).astype(np.float32)
    f = lambda x, w: (jnp.tanh(x @ w), jax.nn.softmax(x))  # noqa: E731
    plain = compiled(monkeypatch, "", "inf2", f, x, w)
    for flags in (f"--auto-cast=none --auto-cast-type={kind}", f"--auto-cast-type {kind}"):
        for a, b in zip(plain, compiled(monkeypatch, flags, "inf2", f, x, w)):
            np.testing.assert_array_equal(a, b)
    narrow = compiled(monkeypatch, f"--auto-cast=matmult --auto-cast-type={kind}", "inf2", f, x, w)
    assert not np.array_equal(narrow[0], plain[0])
    np.testing.assert_array_equal(narrow[1], plain[1])  # no product
